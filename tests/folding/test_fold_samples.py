"""Models that take other paths on other data, folded with several samples."""

from __future__ import annotations

import itertools
import math
import operator
from types import SimpleNamespace

import pytest
import torch
from fold_nets import Net, device_of, randomise
from torch import nn
from torch.nn import functional as F  # noqa: N812

from deployfold.errors import FoldError
from deployfold.folding import fold

POSITIVE = (torch.rand(1, 3, 8, 8) + 1.0,)
NEGATIVE = (-torch.rand(1, 3, 8, 8) - 1.0,)


def two_branches() -> nn.Module:
    def forward(self, x):
        return self.one(self.conv(x)) if x.mean() > 0 else self.two(self.other(x))

    return randomise(
        Net(
            forward,
            conv=nn.Conv2d(3, 4, 3),
            other=nn.Conv2d(3, 4, 3),
            one=nn.BatchNorm2d(4),
            two=nn.BatchNorm2d(4),
        )
    )


def hidden_consumer() -> nn.Module:
    """On small data, the convolution's output is also read past the BatchNorm."""

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) if x.mean() > 0 else self.norm(y) + y

    return randomise(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))


def test_every_path_that_a_sample_takes_is_folded():
    model = two_branches()
    alone = fold(model, POSITIVE)
    assert alone.batchnorms_after == 1
    assert [left.name for left in alone.left] == ["two"]
    both = fold(model, POSITIVE, more_inputs=[NEGATIVE])
    assert both.batchnorms_after == 0
    assert both.verification.inputs == 3
    with torch.no_grad():
        assert torch.equal(both.verification.outputs[0], model(*POSITIVE)), "for reference.npz"
        for sample in (POSITIVE, NEGATIVE):
            torch.testing.assert_close(both.model(*sample), model(*sample), atol=1e-5, rtol=1e-4)


def test_an_operator_seen_in_one_sample_limits_the_fold():
    model = hidden_consumer()
    result = fold(model, POSITIVE, more_inputs=[NEGATIVE])
    assert result.batchnorms_after == 1
    assert "norm" in result.left[0].name
    # Without the sample, the comparison on it is what tells.
    assert fold(model, POSITIVE).batchnorms_after == 0


def test_a_sample_of_the_same_path_costs_no_fold():
    """Merging branches needs a block that runs once; equal passes count once."""

    def forward(self, x):
        return torch.relu(self.one(self.wide(x)) + self.two(self.narrow(x)) + self.three(x))

    norms = {name: nn.BatchNorm2d(4) for name in ("one", "two", "three")}
    convs = {"wide": nn.Conv2d(4, 4, 3, padding=1), "narrow": nn.Conv2d(4, 4, 1)}
    model = randomise(Net(forward, **norms, **convs), positive=True)
    samples = [(torch.randn(1, 4, 8, 8),) for _ in range(3)]
    result = fold(model, samples[0], more_inputs=samples[1:])
    assert result.batchnorms_after == 0
    assert "branch" in {item.kind for item in result.folded}
    assert result.parameters_after == fold(model, samples[0]).parameters_after


def test_a_sample_of_another_size_is_folded_where_the_passes_agree():
    model = randomise(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    )
    result = fold(model, (torch.randn(1, 3, 8, 8),), more_inputs=[(torch.randn(2, 3, 12, 9),)])
    assert result.batchnorms_after == 0


def test_a_sample_that_the_model_refuses_is_named():
    with pytest.raises(FoldError, match="1x5x8x8"):
        fold(two_branches(), POSITIVE, more_inputs=[(torch.randn(1, 5, 8, 8),)])


def batch_dependent(alone: bool) -> nn.Module:
    """The convolution's output is also read past the BatchNorm, for one sample or for more."""

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) if (len(x) == 1) is alone else self.norm(y) + y

    return randomise(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))


@pytest.mark.parametrize("traced", [1, 3])
def test_code_that_branches_on_the_batch_size_is_traced_at_another(traced):
    model = batch_dependent(alone=traced == 1)
    result = fold(model, (torch.randn(traced, 3, 8, 8),))
    assert result.batchnorms_after == 1
    assert any("another batch size" in note for note in result.notes)
    for batch in (1, 2, 3):
        sample = torch.randn(batch, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(result.model(sample), model(sample), atol=1e-5, rtol=1e-4)


def test_code_that_branches_on_a_size_is_traced_at_other_sizes():
    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) if x.shape[-1] == 8 else self.norm(y) + y

    model = randomise(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    result = fold(model, POSITIVE)
    assert result.batchnorms_after == 1
    assert any("another batch size or input size" in note for note in result.notes)
    wider = (torch.randn(1, 3, 8, 12),)
    assert fold(model, POSITIVE, check_inputs=[wider]).batchnorms_after == 1
    plain = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    result = fold(plain, POSITIVE, check_inputs=[wider])
    assert (result.batchnorms_after, result.verification.inputs) == (0, 3)
    assert not result.notes


def test_a_model_of_one_batch_size_is_compared_there():
    def strict(self, x):
        assert len(x) == 1
        return self.norm(self.conv(x))

    fixed = Net(strict, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4))
    result = fold(randomise(fixed), POSITIVE)
    assert (result.batchnorms_after, result.verification.inputs) == (0, 2)
    assert not result.notes


def test_code_that_looks_inside_a_merged_branch_is_folded_without_merging():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
            self.two = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

        def forward(self, x):
            y = self.one(x) + self.two(x)
            return y * self.two[0].kernel_size[0]

    result = fold(randomise(Block()), POSITIVE)
    assert isinstance(result.model.two[0], nn.Conv2d)
    assert result.batchnorms_after == 0
    (note,) = result.notes
    assert "not merged" in note
    assert "kernel_size" in note

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Block(), Plain()

        def forward(self, x):
            return self.second(self.first(x).relu())

    class Plain(Block):
        def __init__(self):
            super().__init__()
            self.one = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
            self.two = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

        def forward(self, x):
            return self.one(x) + self.two(x)

    result = fold(randomise(Two()), POSITIVE)
    assert [item.name for item in result.folded if item.kind == "branch"] == ["second.two.0"]


# Other shapes.


class PadsIfOdd(nn.Module):
    """As Swin's patch merging: pads to an even size, then a 2x2 convolution of stride 2."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.reduce = nn.Conv2d(4, 6, 2, stride=2)

    def forward(self, x):
        y = self.norm(torch.relu(self.stem(x)))
        height, width = y.shape[-2] % 2, y.shape[-1] % 2
        if height or width:
            y = F.pad(y, (0, width, 0, height))
        return self.reduce(y)


@pytest.mark.parametrize("size", [8, 9])
def test_padding_of_odd_sizes_is_met(size):
    model = randomise(PadsIfOdd())
    result = fold(model, (torch.randn(1, 3, size, size),))
    assert "padding" in result.left[0].reason
    for other in (7, 8, 9, 10):
        x = torch.randn(1, 3, other, other)
        with torch.no_grad():
            torch.testing.assert_close(result.model(x), model(x), atol=1e-5, rtol=1e-4)


BRANCHES = {
    "far larger": lambda x: x.shape[-1] > 60,
    "far smaller": lambda x: x.size(-1) < 9,
    "many numbers": lambda x: x.numel() > 20_000,
    "a ratio": lambda x: x.shape[-1] / x.shape[0] > 30,
    "a multiple": lambda x: not x.shape[-2] % 6,
    "a batch": lambda x: x.shape[0] >= 4,
    "a quotient": lambda x: x.size(-1) // 32 == 1,
    "bits": lambda x: x.shape[-1] >> 5,
    "the second on one line": lambda x: x.shape[-1] > 4 and x.shape[-1] > 60,
    "a size with its least": lambda x: min(x.shape[2], 64) != x.shape[2],
    "a cut length": lambda x: x[..., :64].shape != x.shape,
    "a first piece": lambda x: x.split(64, 3)[0].shape != x.shape,
    "a quotient that is zero": lambda x: x.repeat(1, 1, 1, 1 + x.shape[3] // 64).shape != x.shape,
    "a pooled length": lambda x: F.adaptive_avg_pool2d(x, 23).shape == x.shape,
    "the last turn of a loop": lambda x: sum(x.shape[-1] > limit for limit in (4, 8, 60)) == 3,
}


def branching(condition) -> nn.Module:
    def forward(self, x):
        y = self.norm(torch.sigmoid(x))
        return self.conv(F.pad(y, (0, 1)) if condition(y) else y)

    return randomise(Net(forward, norm=nn.BatchNorm2d(4), conv=nn.Conv2d(4, 2, 3)))


def at_least(number: int, limit: int) -> bool:
    return number >= limit


def tiles(x):
    return x.split(8, 3)


def has_last(pieces) -> bool:
    try:
        pieces[4]
    except IndexError:
        return False
    return True


def turns(pieces) -> int:
    count = 0
    for _ in pieces:
        count += 1
    return count


def halvings(x) -> int:
    size, count = x.shape[-1], 0
    while size > 30:
        size //= 2
        count += 1
    return count


def chosen(x) -> bool:
    choices = [False, True]
    return choices[x.shape[-1] // 64]


def numbers_up_to(size):
    yield from range(size)


def held(x, holder) -> bool:
    holder["size"] = int(x.shape[-1])
    return is_large(holder)


def is_large(holder) -> bool:
    return holder["size"] > 60


def kept_by_an_object(x) -> bool:
    shape = SimpleNamespace()
    shape.width = int(x.shape[-1])
    return at_least(shape.width, 60)


def refused(x) -> bool:
    try:
        x.new_zeros(60)[: x.shape[-1]].reshape(x.shape[-1])
    except RuntimeError:
        return True
    return False


WIDTHS: dict = {}
LAST = 0


def kept_in_a_global_dictionary(x) -> bool:
    WIDTHS["last"] = int(x.shape[-1])
    return global_width() > 60


def global_width() -> int:
    return WIDTHS["last"]


def kept_as_it_is(x) -> bool:
    WIDTHS["last"] = x.shape[-1]
    return int(global_width()) > 60


def kept_in_a_global(x) -> bool:
    global LAST
    LAST = int(x.shape[-1])
    return (lambda: LAST > 60)()


def kept_in_a_list(x) -> bool:
    widths = SimpleNamespace(all=[])
    widths.all.append(int(x.shape[-1]))
    return any_wide(widths)


def any_wide(widths) -> bool:
    return widths.all[-1] > 60


def kept_by_name(x) -> bool:
    holder = SimpleNamespace()
    setattr(holder, "wide", int(x.shape[-1]))  # noqa: B010
    holder.__dict__["height"] = int(x.shape[-2])
    return (lambda one: one.wide + one.height > 120)(holder)


def kept_by_a_closure(x) -> bool:
    width = {}
    width.update(last=int(x.shape[-1]))

    def is_wide():
        return width["last"] > 60

    return is_wide()


class Limit:
    most = 60

    def is_above(self, width) -> bool:
        return width > self.most


LIMIT = Limit()


def refused_by_a_layer(x) -> bool:
    try:
        return F.unfold(x, 25).dim() == 3
    except RuntimeError:
        return False


PLAIN = {
    "a global": kept_in_a_global,
    "a global dictionary": kept_in_a_global_dictionary,
    "a size in a global dictionary": kept_as_it_is,
    "a list of an object": kept_in_a_list,
    "setattr": kept_by_name,
    "a closure": kept_by_a_closure,
    "a method of a global": lambda x: LIMIT.is_above(int(x.shape[-1])),
    "arguments by name": lambda x: is_large(dict(size=int(x.shape[-1]))),  # noqa: C408
    "an error in a layer": refused_by_a_layer,
    "a layout": lambda x: x[..., :60].is_contiguous() is False,
    "all strides": lambda x: x.stride()[1] > 3600,
    "a storage": lambda x: x.untyped_storage().nbytes() > 20_000,
    "an offset": lambda x: x[:, :, 1].storage_offset() > 60,
    "a tensor of the shape": lambda x: bool((torch._shape_as_tensor(x) > 60).any()),
    "a slice": lambda x: slice(None, 60).indices(x.shape[-1])[1] == 60,
    "a dictionary": lambda x: held(x, {}),
    "an object": kept_by_an_object,
    "a generator": lambda x: any(i > 60 for i in numbers_up_to(int(x.shape[-1]))),
    "a list of that length": lambda x: ([0] * x.shape[-1])[60:],
    "an error with a size": refused,
    "a length": lambda x: len(x) > 3,
    "an integer": lambda x: int(x.shape[-1] * 1.5) > 60,
    "a logarithm": lambda x: math.log2(x.shape[-1]) > 5,
    "a range": lambda x: [i for i in range(x.shape[-1]) if i > 60],
    "text": lambda x: {"40": True}.get(str(x.shape[-1])),
    "text by %": lambda x: "%d" % x.shape[-1] == "40",  # noqa: UP031
    "joined text": lambda x: "x".join(map(str, x.shape[2:])) == "40x40",
    "a hash": lambda x: hash(x.shape[-1]) == 40,
    "turns of a loop": lambda x: halvings(x) > 1,
    "an item of a list": chosen,
    "bytes": lambda x: x.stride(1) > 3000,
    "an argument": lambda x: at_least(int(x.shape[-1]), 60),
    "a result": lambda x: turns([tile + 1 for tile in tiles(x)]) > 6,
    "pieces": lambda x: len(x.split(8, 3)) > 6,
    "rows": lambda x: [i for i, _ in enumerate(x[0, 0]) if i > 60],
    "the rest of the pieces": lambda x: tiles(x)[6:],
    "a piece that is missing": lambda x: has_last(tiles(x)),
    "no turn": lambda x: [i + 1 for i in range(x.shape[-1] // 8 - 5)],
    "an error": lambda x: caught(x),
    "a function without source": lambda x: operator.gt(int(x.shape[-1]), 60),
    "some of the pieces": lambda x: [1 for _ in itertools.islice(tiles(x), 6, None)],
    "an item": lambda x: (0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1)[x.shape[-1] // 8],
}


def caught(x) -> bool:
    try:
        return bool(x.narrow(3, 60, 1).shape)
    except (IndexError, RuntimeError):
        return False


def test_a_branch_in_a_function_without_source_is_noted():
    names: dict = {}
    exec("def condition(x):\n    return True if x.stride(1) > 3000 else False", names)
    result = fold(branching(names["condition"]), (torch.randn(1, 4, 20, 20),))
    assert "branches on a number computed from sizes (<string>:1)" in result.notes[-1]


@pytest.mark.parametrize("branch", PLAIN)
def test_a_branch_on_a_number_computed_from_a_size_is_met_and_noted(branch):
    """No number reports how it is compared here; the source of the code shows it."""
    result = fold(branching(PLAIN[branch]), (torch.randn(1, 4, 20, 20),))
    assert result.batchnorms_after == 1
    assert "branches on a number computed from sizes (test_fold_samples.py:" in result.notes[-1]


UNPROVED = {
    "more than 1000": lambda x: x.shape[-1] > 1000,
    "a size with its least": lambda x: min(x.shape[2], 1000) != x.shape[2],
    "a cut length": lambda x: x[:, ..., -1000:].shape != x.shape,
    "a pooled length": lambda x: F.adaptive_avg_pool2d(x, 200).shape == x.shape,
}
UNMET = {
    "a number": lambda x: int(x.shape[-1]) == 1234,
    "a key": lambda x: {1234: True}.get(x.shape[-1]),
    "a set": lambda x: x.shape[-1] in {1234},
    "a tensor": lambda x: torch.tensor(x.shape).max() > 1000,
    "pieces": lambda x: len(x.chunk(1234, 3)) == 1234,
}
QUIET = {
    "the number of axes": lambda x: len(x.shape) == 3 or len(x.size()) == 3,
    "a tensor's type": lambda x: (x[0, 0, 0, 0] * int(x.shape[-1])).dtype == torch.int8,
    "as many pieces": lambda x: torch.cat([piece * 2 for piece in x.split(8, 3)], 3) is None,
    "a check": lambda x: _refuse_above(x, 1000),
    "a cache": lambda x: _cached({}, x.shape[-1]) is None,
    "arithmetic": lambda x: F.interpolate(x, (int(x.shape[-1] * 2), 4)) is None,
}


def _cached(cache, size):
    if size not in cache:
        cache[size] = torch.zeros(1)
    return cache[size]


def _refuse_above(x, limit):
    assert int(x.shape[-1]) <= limit
    if len(x) > limit:
        raise ValueError(f"at most {limit}")


@pytest.mark.parametrize("branch", UNMET | QUIET)
def test_a_computed_number_is_noted_where_the_code_branches_on_it(branch):
    result = fold(branching((UNMET | QUIET)[branch]), (torch.randn(1, 4, 20, 20),))
    assert result.batchnorms_after == 0
    noted = [note for note in result.notes if "computed from sizes" in note]
    assert len(noted) == (branch in UNMET)


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_on_a_size_far_from_the_example_is_met(branch):
    """Padding with zeros behind the BatchNorm forbids the fold, at whatever size it happens."""
    result = fold(branching(BRANCHES[branch]), (torch.randn(1, 4, 20, 20),))
    assert result.batchnorms_after == 1
    assert any("traced at" in note for note in result.notes)


@pytest.mark.parametrize(
    ("limit", "sizes"), [(9, "1x4x5x5"), (1, None)], ids=["changes an answer", "changes none"]
)
def test_a_size_is_kept_where_it_changes_an_answer(limit, sizes):
    """Every size tried far away runs other operators here, which alone does not count."""

    def forward(self, x):
        y = self.norm(self.conv(x))
        for _ in range(1 + x.shape[-1] // 16):
            y = torch.relu(y)
        self.small = x.shape[-1] < limit  # at 10x10 and at 5x5 the operators are the same
        return y

    net = Net(forward, norm=nn.BatchNorm2d(2), conv=nn.Conv2d(4, 2, 1))
    notes = fold(randomise(net), (torch.randn(1, 4, 20, 20),)).notes
    traced = [note for note in notes if "traced at" in note]
    assert [sizes in note and "1x4x80x80" not in note for note in traced] == [True] * bool(sizes)


@pytest.mark.parametrize("branch", UNPROVED)
def test_a_branch_on_a_size_that_was_not_met_is_noted(branch):
    result = fold(branching(UNPROVED[branch]), (torch.randn(1, 4, 20, 20),))
    assert result.batchnorms_after == 0
    (note,) = result.notes
    assert "compares a size with a number or another size (test_fold_samples.py:" in note


@pytest.mark.parametrize(
    "condition",
    [
        lambda x: max(x.shape[-1], 1000) == 0,  # functions of torch check their own sizes
        lambda x: x.shape != torch.relu(x).shape,
        lambda x: x[..., :-1].shape == x[..., 1:].shape,
        lambda x: x.shape == x[..., ::2].shape,
    ],
)
def test_sizes_that_grow_together_are_not_noted(condition):
    assert not fold(branching(condition), (torch.randn(1, 4, 20, 20),)).notes


def test_two_inputs_keep_the_ratio_of_their_sizes():
    """No input whose sizes are both one larger is accepted here."""

    def forward(self, x, half):
        x = x + F.interpolate(half, scale_factor=2)
        y = self.norm(torch.sigmoid(x))
        return self.conv(F.pad(y, (0, 1)) if x.shape[-1] > 60 else y)

    model = randomise(Net(forward, norm=nn.BatchNorm2d(4), conv=nn.Conv2d(4, 2, 3)))
    inputs = (torch.randn(1, 4, 20, 20), torch.randn(1, 4, 10, 10))
    assert fold(model, inputs).batchnorms_after == 1


def test_two_inputs_are_tried_with_different_sizes():
    def forward(self, x, other):
        y = self.norm(torch.sigmoid(x))
        return self.conv(y if y.shape == other.shape else F.pad(y, (0, 1))), torch.relu(other)

    model = randomise(Net(forward, norm=nn.BatchNorm2d(4), conv=nn.Conv2d(4, 2, 3)))
    assert fold(model, (torch.randn(1, 4, 9, 9), torch.randn(1, 4, 9, 9))).batchnorms_after == 1


class PadsIfWide(nn.Module):
    def forward(self, y):
        return F.pad(y, (0, 1)) if self.width > 60 else y


class PadsByGlobal(nn.Module):
    def forward(self, y):
        return F.pad(y, (0, 1)) if global_width() > 60 else y


class Keeps(nn.Module):
    """Keeps a number in an attribute, chooses a module by it, and compares with a stored size."""

    def __init__(self, late: str):
        super().__init__()
        self.norm, self.conv, self.late = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3), late
        self.pads = nn.ModuleList(nn.ZeroPad2d((0, i // 5, 0, 0)) for i in range(9))
        self.padding = PadsIfWide()
        self.register_buffer("table", torch.zeros(40))

    def forward(self, x):
        self.count = int(x.shape[-1] / 8)
        return self.conv(getattr(self, self.late)(self.norm(torch.sigmoid(x))))

    def branch(self, y):
        return F.pad(y, (0, 1)) if self.count > 4 else y

    def choice(self, y):
        return self.pads[min(self.count, 8)](y)

    def stored(self, y):
        return F.pad(y, (0, 1)) if y.shape[-1:] == self.table.shape else y

    def child(self, y):
        self.padding.width = int(y.shape[-1])
        return self.padding(y)

    def bound(self, y):
        return F.pad(y, (0, max(0, y.shape[-1] - 1000)))


@pytest.mark.parametrize("late", ["branch", "choice", "stored", "child"])
def test_a_size_is_followed_into_other_methods(late):
    assert fold(randomise(Keeps(late)), (torch.randn(1, 4, 20, 20),)).batchnorms_after == 1


def test_a_size_is_followed_into_another_module():
    """The module that compares the global reads no size, and the source does not show its call."""

    def forward(self, x):
        y = self.norm(torch.sigmoid(x))
        WIDTHS["last"] = int(y.shape[-1])
        return self.steps(y)

    steps = nn.Sequential(PadsByGlobal(), nn.Conv2d(4, 2, 3))
    net = randomise(Net(forward, norm=nn.BatchNorm2d(4), steps=steps))
    assert fold(net, (torch.randn(1, 4, 20, 20),)).batchnorms_after == 1


def test_a_cache_that_the_forward_fills_is_not_noted():
    def forward(self, x):
        key = tuple(x.shape)
        if key not in self.found:
            self.found[key] = torch.zeros(key[-1])
        return self.norm(self.conv(x)) + self.found[key]

    model = Net(forward, conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4))
    model.found = {}
    result = fold(randomise(model), POSITIVE)
    assert (result.batchnorms_after, result.notes) == (0, ())


def test_a_bound_that_was_not_met_is_noted():
    (note, *_) = fold(randomise(Keeps("bound")), (torch.randn(1, 4, 20, 20),)).notes
    assert "compares a size with a number or another size (test_fold_samples.py:" in note


def test_a_factor_that_is_a_size_is_met():
    def forward(self, x):
        return self.norm(self.conv(x) * x.shape[-1])

    model = randomise(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    assert fold(model, POSITIVE).batchnorms_after == 1


@pytest.mark.parametrize("shape", [(2, 4, 10), (2, 10, 4)])
def test_other_lengths_of_sequences_are_met(shape):
    """The channels lie before the length, or behind it."""
    channels_last = shape[-1] == 4

    def forward(self, x):
        x = x.transpose(1, 2) if channels_last else x
        y = self.conv(x)
        return self.norm(y) if y.shape[-1] < 9 else self.norm(y) + y

    model = randomise(Net(forward, conv=nn.Conv1d(4, 4, 3), norm=nn.BatchNorm1d(4)))
    assert fold(model, (torch.randn(shape),)).batchnorms_after == 1


def test_a_fixed_size_is_folded_there():
    def forward(self, x):
        assert x.shape[-1] == 8
        return self.norm(self.conv(x))

    model = randomise(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    result = fold(model, POSITIVE)
    assert (result.batchnorms_after, result.verification.inputs) == (0, 2)
    assert not result.notes


def test_a_branch_on_the_data_is_noted():
    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y if x.max().item() > 100 else self.norm(y)

    model = randomise(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    (note,) = fold(model, POSITIVE).notes
    assert "item in the forward" in note
    assert "more_inputs" in note
    large = (torch.full((1, 3, 8, 8), 101.0),)
    assert fold(model, POSITIVE, more_inputs=[large]).batchnorms_after == 1


def test_an_input_without_numbers_is_refused():
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    with pytest.raises(FoldError, match="nothing can be proved"):
        fold(model, (torch.randn(0, 3, 8, 8),))


@pytest.mark.parametrize(("least", "other"), [(1, 33), (40, 65), (70, 129)])
def test_the_smallest_size_that_the_model_takes_is_compared(least, other):
    compared = set()

    def forward(self, x):
        assert x.shape[-1] >= least
        if device_of(x) != "meta":
            compared.add((len(x), int(x.shape[-1])))
        return self.norm(self.conv(x))

    model = randomise(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    fold(model, (torch.randn(1, 3, 128, 128),))
    assert compared == {(1, 128), (2, other)}
