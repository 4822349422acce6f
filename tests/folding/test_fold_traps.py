"""Hand-made modules that other folders get silently wrong, or miss."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import dataclass
from types import MethodType

import pytest
import torch
from fold_nets import Net, folded, outputs_of, randomise, reason
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import _get_current_dispatch_mode

from deployfold.errors import FoldError
from deployfold.folding import attempts as fold_attempts
from deployfold.folding import fold


def image(channels: int = 3, size: int = 8) -> torch.Tensor:
    return torch.randn(2, channels, size, size)


# Shared modules and tensors.


def test_one_of_two_norms_behind_a_shared_conv_is_left():
    """pytorch#104593, #197539: folded twice, silently wrong. The other takes up the inverse."""
    model = Net(
        lambda self, x: self.one(self.conv(x)) + self.two(self.conv(x)),
        conv=nn.Conv2d(3, 4, 3),
        one=nn.BatchNorm2d(4),
        two=nn.BatchNorm2d(4),
    )
    result = folded(randomise(model), image(), gone=1, left=1)
    assert set(result.folded[0].into) == {"conv", "two"}
    assert "2 places" in result.left[0].reason


def test_of_two_norms_over_one_output_one_is_left():
    """The other takes up the inverse of what the convolution takes up."""

    def forward(self, x):
        y = self.conv(x)
        return self.one(y).relu() + self.two(y).relu()

    model = Net(forward, conv=nn.Conv2d(3, 4, 3), one=nn.BatchNorm2d(4), two=nn.BatchNorm2d(4))
    folded(randomise(model), image(), gone=1, left=1)


def test_pair_called_twice_is_folded_once():
    block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
    model = Net(lambda self, x: self.block(self.block(x).relu()), block=block)
    folded(randomise(model), image(), gone=1)


def test_norm_called_on_two_convs_is_folded_into_both():
    model = Net(
        lambda self, x: self.norm(self.a(x)) + self.norm(self.b(x)),
        a=nn.Conv2d(3, 4, 3),
        b=nn.Conv2d(3, 4, 3, bias=False),
        norm=nn.BatchNorm2d(4),
    )
    assert set(folded(randomise(model), image(), gone=1).folded[0].into) == {"a", "b"}


def test_norm_called_on_a_conv_and_on_an_activation_is_left():
    model = Net(
        lambda self, x: self.norm(self.norm(self.conv(x)).relu()),
        conv=nn.Conv2d(3, 4, 3),
        norm=nn.BatchNorm2d(4),
    )
    folded(randomise(model), image(), gone=0, left=1)


def test_module_registered_under_two_names():
    model = Net(
        lambda self, x: self.norm(self.conv(x)), conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)
    )
    model.alias = model.norm
    result = folded(randomise(model), image(), gone=1)
    assert isinstance(result.model.alias, nn.Identity)


def test_tied_weights_are_left():
    model = Net(
        lambda self, x: self.norm(self.a(x)) + self.b(x),
        a=nn.Linear(4, 4),
        b=nn.Linear(4, 4),
        norm=nn.BatchNorm1d(4),
    )
    model.b.weight = model.a.weight
    why = reason(folded(randomise(model), torch.randn(3, 4), gone=0, left=1))
    assert "a and b have one weight, and would need different scales" in why


@pytest.mark.parametrize("biases", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("norms", ["one", "one scale", "two scales"])
def test_a_tied_weight_takes_one_scale_and_each_bias_its_shift(norms, biases):
    model = Net(
        lambda self, x: (self.one(self.a(x)), self.other(self.b(x))),
        a=nn.Conv2d(3, 4, 3, bias=biases[0]),
        b=nn.Conv2d(3, 4, 3, bias=biases[1], dilation=2),
        one=nn.BatchNorm2d(4),
        other=nn.BatchNorm2d(4),
    )
    model.b.weight = model.a.weight
    randomise(model)
    if norms == "one scale":
        model.other.weight, model.other.running_var = model.one.weight, model.one.running_var
    elif norms == "one":
        model.other = model.one
    left = int(norms == "two scales")
    result = folded(model, image(), gone=1 + (norms == "one scale"), left=left)
    assert result.model.a.weight is result.model.b.weight
    assert result.model.a.bias is not result.model.b.bias
    assert not left or "different scales" in reason(result)


@pytest.mark.parametrize("bias", [True, False])
def test_a_tied_weight_behind_two_norms_of_one_scale(bias):
    model = Net(
        lambda self, x: (self.a(self.one(x.tanh())), self.b(self.other(x.sin()))),
        a=nn.Linear(3, 4),
        b=nn.Linear(3, 4, bias=bias),
        one=nn.BatchNorm1d(3),
        other=nn.BatchNorm1d(3),
    )
    model.b.weight = model.a.weight
    randomise(model)
    model.other.weight, model.other.running_var = model.one.weight, model.one.running_var
    folded(model, torch.randn(4, 3), gone=2)


def test_a_layer_that_one_pass_runs_on_a_constant_is_left():
    """The other pass alone would let the layer take up what comes before it."""

    def forward(self, x):
        y = self.norm(torch.sigmoid(x)) if x.shape[-1] == 8 else torch.zeros_like(x)
        return self.conv(y)

    model = randomise(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(3)))
    result = folded(model, image(), gone=0, left=1)
    assert "conv also runs on a constant" in reason(result)
    assert not any("bug" in note for note in result.notes)


def test_channels_chosen_by_a_list_carry_a_norm():
    def forward(self, x):
        return self.norm(self.conv(x)[:, [3, 0, 2]])

    model = Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(3))
    folded(randomise(model), image(), gone=1)


def test_numbers_that_the_code_itself_reads_are_not_out_of_reach():
    def forward(self, x):
        return self.conv(x) * self.norm.weight.sum()

    model = Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4))
    assert "other code reads" in reason(folded(randomise(model), image(), gone=0, left=1))


def test_weight_also_read_elsewhere_is_left():
    model = Net(
        lambda self, x: self.norm(self.conv(x)) * self.conv.weight.mean(),
        conv=nn.Conv2d(3, 4, 3),
        norm=nn.BatchNorm2d(4),
    )
    assert "also used" in reason(folded(randomise(model), image(), gone=0, left=1))


# Readers that are easy to miss.


def test_output_read_through_data_is_left():
    def forward(self, x):
        y = self.conv(x)
        return self.norm(y), y.data.mean()

    model = Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4))
    assert "also feeds" in reason(folded(randomise(model), image(), gone=0, left=1))


def test_output_that_the_model_returns_is_left():
    def forward(self, x):
        y = self.conv(x)
        return {"raw": y, "out": self.norm(y)}

    model = Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4))
    assert "also an output" in reason(folded(randomise(model), image(), gone=0, left=1))


def test_write_through_a_view_is_seen():
    def forward(self, x):
        y = self.conv(x)
        y[:, 0] = 1.0
        return self.norm(y)

    model = Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4))
    folded(randomise(model), image(), gone=0, left=1)


def test_in_place_activation_between_is_seen():
    model = Net(
        lambda self, x: self.norm(self.conv(x).relu_()),
        conv=nn.Conv2d(3, 4, 3),
        norm=nn.BatchNorm2d(4),
    )
    folded(randomise(model), image(), gone=0, left=1)


def test_in_place_activation_after_the_norm_is_fine():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    folded(randomise(model), image(), gone=1)


@pytest.mark.parametrize("place", ["conv", "norm"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_are_respected(place, kind):
    model = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4)})
    net = Net(lambda self, x: self.norm(self.conv(x)), **dict(model.items()))
    getattr(net.get_submodule(place), kind)(_ignore)
    # A pre-hook on the convolution sees its input only, which folding does not change.
    gone = int((place, kind) == ("conv", "register_forward_pre_hook"))
    result = folded(randomise(net), image(), gone=gone, left=1 - gone)
    if not gone:
        assert "hook" in reason(result)


def _ignore(*arguments: object) -> None:
    return None


@pytest.mark.parametrize(
    "asked",
    [
        lambda norm: bool(norm._forward_hooks),
        lambda norm: torch.is_inference_mode_enabled(),
        lambda norm: _get_current_dispatch_mode() is not None,
    ],
    ids=["hooks", "inference mode", "dispatch mode"],
)
def test_a_forward_that_behaves_while_it_is_traced_is_noticed(asked):
    """A failed proof is not blamed on the rounding of a model that magnifies none."""

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) if asked(self.norm) else self.norm(y) + y

    model = randomise(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    folded(model, image(), gone=0, left=1)


def test_hook_that_changes_the_output_is_part_of_the_dataflow():
    net = Net(
        lambda self, x: self.norm(self.conv(x)), conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)
    )
    net.conv.register_forward_hook(lambda module, arguments, result: result.relu())
    folded(randomise(net), image(), gone=0, left=1)


# Layers that are not what their class says.


class DoubledConv(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight * 2, self.bias)


class BiaslessConv(nn.Conv2d):
    """Has a bias attribute and never reads it."""

    def forward(self, x):
        return F.conv2d(x, self.weight)


class MutatingConv(nn.Conv2d):
    def forward(self, x):
        self.weight.data.mul_(0.5)
        return super().forward(x)


def test_conv_that_changes_its_weight_is_left():
    model = nn.Sequential(DoubledConv(3, 4, 3), nn.BatchNorm2d(4))
    assert "computed in forward" in reason(folded(randomise(model), image(), gone=0, left=1))


def test_conv_that_ignores_a_new_bias_gets_it_all_the_same():
    model = nn.Sequential(BiaslessConv(3, 4, 3, bias=False), nn.BatchNorm2d(4))
    folded(randomise(model), image(), gone=1)


def test_conv_that_writes_to_its_weight_is_left_and_restored():
    model = randomise(nn.Sequential(MutatingConv(3, 4, 3), nn.BatchNorm2d(4)))
    before = model[0].weight.clone()
    from deployfold.folding.graph.trace import trace
    from deployfold.folding.rules.match import match

    plan = match(trace(model, (image(),)), model)
    assert torch.equal(model[0].weight, before)
    assert "written to in forward" in plan.left[0].reason


@pytest.mark.parametrize("normalise", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_old_style_weight_norm_that_is_kept_is_left_with_the_way_out(normalise):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = randomise(nn.Sequential(normalise(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)))
    kept = fold(model, (image(),), keep_parametrizations=True)
    assert "remove_" in reason(kept)


def test_parametrized_weight_that_is_kept_is_left_with_the_way_out():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    model = randomise(nn.Sequential(conv, nn.BatchNorm2d(4)))
    kept = fold(model, (image(),), keep_parametrizations=True)
    assert "remove_parametrizations" in reason(kept)


# Every way of being BatchNorm.


class Functional(nn.Module):
    def __init__(self, threshold: float | None = None):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.threshold = threshold

    def forward(self, x):
        y = self.conv(x)
        if self.threshold is not None and y.sum() > self.threshold:
            return y
        norm = self.norm
        return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()


def test_functional_batch_norm_is_folded():
    """pytorch#122070."""
    result = folded(randomise(Functional()), image(), gone=1)
    assert "batch_norm" not in str(result.model.graph)
    assert result.batchnorms_after == 0
    assert result.parameters_before - result.parameters_after == 4


class ManyFunctional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.gamma = nn.Parameter(torch.rand(4))
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("var", torch.rand(4) + 0.5)

    def forward(self, x):
        y = F.conv2d(x, self.weight)
        return F.batch_norm(y, self.mean, self.var, self.gamma, None)


def test_functional_layer_and_norm_with_one_parameter_missing():
    result = folded(ManyFunctional().eval(), image(), gone=1)
    assert result.parameters_after == result.parameters_before  # a bias came, gamma went


def test_functional_batch_norm_that_fx_cannot_trace_is_left():
    model = randomise(Functional(threshold=1e9))
    assert "torch.fx cannot trace" in reason(folded(model, image(), gone=0, left=1))


def test_data_dependent_branch_is_folded_where_it_was_taken():
    def forward(self, x):
        if x.sum() > 0:
            return self.one(self.conv(x))
        return self.two(self.other(x))

    model = Net(
        forward,
        conv=nn.Conv2d(3, 4, 3),
        other=nn.Conv2d(3, 4, 3),
        one=nn.BatchNorm2d(4),
        two=nn.BatchNorm2d(4),
    )
    result = folded(randomise(model), image().abs(), gone=1, left=1)
    assert result.left[0].name == "two"
    assert "did not reach" in result.left[0].reason


def test_sync_batch_norm_is_folded():
    folded(randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4))), image(), gone=1)


def test_lazy_batch_norm_is_folded_once_it_is_materialised():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())
    with pytest.raises(FoldError, match="not initialised"):
        fold(model.eval(), (image(),))
    model(image())
    folded(randomise(model), image(), gone=1)


def test_frozen_batch_norm_of_torchvision_is_folded():
    ops = pytest.importorskip("torchvision.ops")
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), ops.FrozenBatchNorm2d(4), nn.ReLU())
    result = folded(randomise(model), image(), gone=1)
    assert isinstance(result.model[1], nn.Identity)


def test_fused_class_of_timm_keeps_its_activation():
    layers = pytest.importorskip("timm.layers")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), layers.BatchNormAct2d(4))
    result = folded(randomise(model), image(), gone=1)
    assert isinstance(result.model[1], nn.ReLU)


class FusedNorm(nn.BatchNorm2d):
    def forward(self, x):
        return F.leaky_relu(super().forward(x), 0.2)


class ScaledNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x * 2)


def test_fused_class_with_a_functional_activation_keeps_it():
    result = folded(randomise(nn.Sequential(nn.Conv2d(3, 4, 3), FusedNorm(4))), image(), gone=1)
    assert isinstance(result.model[1], nn.LeakyReLU)
    assert result.model[1].negative_slope == 0.2


def test_subclass_that_does_more_is_left():
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), ScaledNorm(4)))
    assert "does more" in reason(folded(model, image(), gone=0, left=1))


def test_a_forward_replaced_on_one_module_is_respected():
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    norm = model[1]
    norm.forward = MethodType(lambda self, x: nn.BatchNorm2d.forward(self, x) * 2, norm)
    result = fold(model, (torch.randn(1, 3, 8, 8),))
    assert result.left[0].reason == "its class BatchNorm2d runs mul after its batch norm"
    assert result.notes == ()

    model = randomise(Functional())
    whole = MethodType(lambda self, x: Functional.forward(self, x) + 1, model)
    model.forward = whole
    result = fold(model, (torch.randn(1, 3, 8, 8),))
    assert "was replaced on this module" in result.left[0].reason


def test_a_norm_that_torchs_own_forward_reads_stays_without_a_note():
    """Torch's encoder passes the weights of its norms to a fused kernel."""
    result = fold(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), (torch.randn(2, 5, 8),)
    )
    assert result.notes == ()


def test_instance_norm_is_not_folded_as_batch_norm():
    norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    result = folded(randomise(nn.Sequential(nn.Conv2d(3, 4, 3), norm)), image(), gone=0)
    assert isinstance(result.model[1], nn.InstanceNorm2d)


def test_training_mode_is_left():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = fold(model, (image(),))
    assert "training mode" in reason(result)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_of_a_partly_frozen_model_what_is_frozen_is_folded():
    model = randomise(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    ).train()
    model[1].eval()
    result = fold(model, (image(),))
    assert [item.name for item in result.folded] == ["1"]
    assert (result.left[0].name, result.model[3].training) == ("3", True)
    assert "training mode" in reason(result)


def test_no_running_statistics_is_left():
    model = randomise(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    )
    assert "no running statistics" in reason(folded(model, image(), gone=0, left=1))


@pytest.mark.parametrize(
    ("name", "number", "why"),
    [
        ("running_var", 0.0, "not positive"),
        ("running_var", -1.0, "not positive"),
        ("running_var", float("nan"), "running_var holds inf or NaN"),
        ("weight", float("inf"), "weight holds inf or NaN"),
    ],
)
def test_statistics_without_meaning_are_left(name, number, why):
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.0)))
    getattr(model[1], name).data[1] = number
    assert why in reason(fold(model, (image(),)))


def test_a_model_whose_outputs_are_nan_is_refused_with_the_cause():
    """NaN equals NaN whatever was folded."""
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)))
    model[1].running_var[1] = -1.0
    with pytest.raises(FoldError, match="nothing can be proved") as caught:
        fold(model, (image(),))
    assert caught.value.hint.startswith("1: its running_var gives inf or NaN")


def test_gamma_of_zero_is_fine():
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    nn.init.zeros_(model[1].weight)
    folded(model, image(), gone=1)


def test_float16_overflow_is_an_error_with_a_way_out():
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    model[1].running_var.fill_(1e-7)
    model[1].eps = 0.0
    nn.init.constant_(model[0].weight, 1e3)
    nn.init.constant_(model[1].weight, 1.0)
    with pytest.raises(FoldError, match="float16"):
        fold(model.half(), (image().half(),))


# Modules and results out of the ordinary.


class CalledNorm(nn.BatchNorm2d):
    def __call__(self, x):
        return super().__call__(x).relu()


def held_by_a_function() -> nn.Module:
    norm = randomise(nn.BatchNorm2d(4))
    return Net(lambda self, x: norm(self.conv(x)), conv=nn.Conv2d(3, 4, 3))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), CalledNorm(4)), "has a __call__ of its own"),
        (held_by_a_function(), "weight is no parameter or buffer of a registered module"),
    ],
    ids=["its own __call__", "held by a function"],
)
def test_the_reason_of_an_unusual_norm_is_true(model, why):
    assert why in reason(fold(randomise(model), (image(),)))


@torch.jit.script
def doubled_if_wide(x: torch.Tensor) -> torch.Tensor:
    return x * 2 if x.size(-1) > 1000 else x


def test_torchscript_inside_a_model_is_left_with_a_note():
    def forward(self, x):
        return self.script(doubled_if_wide(self.norm(self.conv(x))))

    script = torch.jit.script(randomise(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))))
    model = Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4))
    model = randomise(model).double()
    model.script = script.double()
    result = folded(model, image().double(), gone=1, left=1)
    assert "in TorchScript" in result.notes[-1]
    assert "doubled_if_wide" in result.notes[-1]


def test_a_result_with_slots_is_compared():
    @dataclass(slots=True)
    class Result:
        features: torch.Tensor

    model = Net(lambda self, x: Result(self.norm(self.conv(x))), conv=nn.Conv2d(3, 4, 3))
    model.norm = nn.BatchNorm2d(4)
    folded(randomise(model), image(), gone=1)


# What a folded model is good for.


def test_folded_model_can_be_pickled_scripted_exported_and_trained():
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    result = folded(randomise(block), image(), gone=1)
    (expected,) = outputs_of(result.model, image())
    assert torch.equal(
        outputs_of(pickle.loads(pickle.dumps(result.model)), image())[0] * 0, expected * 0
    )
    x = image()
    torch.testing.assert_close(torch.jit.script(result.model)(x), result.model(x))
    torch.testing.assert_close(torch.export.export(result.model, (x,)).module()(x), result.model(x))
    optimizer = torch.optim.SGD(result.model.parameters(), lr=0.1)
    result.model(x).sum().backward()
    optimizer.step()
    assert all(parameter.grad is not None for parameter in result.model.parameters())


@pytest.mark.parametrize("inside", [False, True])
def test_a_compiled_model_is_folded_without_its_compiler(inside):
    from torch._dynamo.utils import counters  # takes a second that the other tests need not

    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    counters["frames"].clear()
    compiled = nn.Sequential(torch.compile(model)) if inside else torch.compile(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = fold(compiled, (image(),))
    assert result.batchnorms_after == 0
    assert not counters["frames"]
    assert type(result.model[0] if inside else result.model) is type(torch.compile(model))


def test_a_forward_that_counts_its_calls_is_noticed():
    class Counting(nn.Module):
        calls = 0

        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            Counting.calls += 1
            return self.norm(self.conv(x)) + Counting.calls

    with pytest.raises(FoldError, match="differs from the original"):
        fold(randomise(Counting()), (image(),))


def test_a_forward_that_fails_is_an_error_with_the_input_shape():
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    with pytest.raises(FoldError, match=r"2x5x8x8") as caught:
        fold(model, (image(5),))
    assert "--input" in caught.value.hint


def test_a_forward_that_computes_gradients_is_not_called_a_failing_one():
    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.norm(self.conv(x)).sum(), x)[0]

    model = randomise(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    with pytest.raises(FoldError, match=r"runs, but fails in torch\.inference_mode") as caught:
        fold(model, (image(),))
    assert "computes gradients" in caught.value.hint


def test_a_model_that_cannot_be_copied_is_refused():
    import threading

    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    model.lock = threading.Lock()
    with pytest.raises(FoldError, match="cannot be copied"):
        fold(model, (image(),))


def test_a_cache_that_an_earlier_forward_has_filled_is_copied():
    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.shift, self.caches = nn.Parameter(torch.randn(4, 1, 1)), {}

        def forward(self, x):
            if x.device not in self.caches:
                self.caches[x.device] = self.shift.exp()
            return self.norm(self.conv(x)) + self.caches[x.device]

    model = randomise(Caching())
    model(image())  # with gradients: torch refuses to deep-copy what this computes
    result = fold(model, (image(),))
    assert result.batchnorms_after == 0


def test_the_users_model_is_never_run():
    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.cache = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), None

        def forward(self, x):
            if self.cache is None:
                self.cache = torch.ones_like(x)
            return self.norm(self.conv(x + self.cache))

    model = randomise(Caching())
    result = fold(model, (image(),))
    assert model.cache is None
    assert result.model.cache is None  # no inference tensor that would break training
    result.model(image()).sum().backward()


def test_inputs_in_lists_and_dictionaries():
    model = Net(
        lambda self, images, options: self.norm(self.conv(images[0] * options["scale"])),
        conv=nn.Conv2d(3, 4, 3),
        norm=nn.BatchNorm2d(4),
    )
    result = fold(randomise(model), ([image()], {"scale": torch.tensor(2.0)}))
    assert [item.name for item in result.folded] == ["norm"]


def test_a_tensor_made_behind_torchs_back_is_not_a_constant():
    model = Net(
        lambda self, x: self.norm(self.conv(torch.from_numpy(x.numpy() * 2))),
        conv=nn.Conv2d(3, 4, 3),
        norm=nn.BatchNorm2d(4),
    )
    folded(randomise(model), image(), gone=1)


# Code that looks inside.


class LooksAtStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(self.one(x))) * self.norm.running_var.mean()


class LooksAtClass(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.layers = nn.ModuleList([nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()])

    def forward(self, x):
        x = self.one(x)
        for layer in self.layers:
            x = layer(x) * (2 if isinstance(layer, nn.BatchNorm2d) else 1)
        return x


class ReadsBehindTorch(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(self.one(x))
        return self.norm(y) * abs(y.tolist()[0][0][0][0])


@pytest.mark.parametrize(
    ("kind", "read"), [(LooksAtStatistics, "running_var"), (LooksAtClass, "__class__")]
)
def test_layers_whose_values_the_code_reads_are_left_and_the_rest_folded(kind, read, monkeypatch):
    attempts = []
    plan = fold_attempts.match
    monkeypatch.setattr(
        fold_attempts,
        "match",
        lambda *args, **options: attempts.append(1) or plan(*args, **options),
    )
    result = folded(randomise(kind()), image(), gone=1, left=1)
    assert "the model's code reads its" in reason(result)
    assert read in reason(result)
    assert not result.notes
    assert len(attempts) <= 3


def test_reads_outside_torch_are_seen_and_the_rest_is_folded():
    result = folded(randomise(ReadsBehindTorch()), image(), gone=1, left=1)
    assert "tolist" in reason(result)
    (note,) = result.notes
    assert "tolist in the forward" in note
    assert "not proved" in note


def test_detached_tensor_is_left_as_numpy_sees_it():
    def forward(self, x):
        y = self.conv(x)
        seen = float(y.detach().numpy().std())
        return self.norm(y).relu() * seen

    model = Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4))
    assert "detach" in reason(folded(randomise(model), image(), gone=0, left=1))
