"""The loader finds the architecture of a state dict; notes name what it guessed or adapted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deployfold.config.flag_values import is_function
from deployfold.errors import LoadError, UsageError
from deployfold.loading import load_model, resolve_inputs
from deployfold.loading.arch import create, match
from deployfold.loading.recognise import candidates, near
from deployfold.loading.skeleton import with_memory
from deployfold.loading.wrappers import unwrap

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")


def saved(content, path):
    torch.save(content, path)
    return str(path)


def test_another_number_of_classes_is_adapted_and_noted(tmp_path):
    net = torchvision.models.mobilenet_v3_small(weights=None, num_classes=7)
    path = saved(net.state_dict(), tmp_path / "weights.pt")
    loaded = load_model(path, arch="torchvision:mobilenet_v3_small")
    assert loaded.module.classifier[-1].out_features == 7
    assert any("7 classes" in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("torchvision:inception_v3", {"aux_logits": False, "init_weights": False}),
        ("torchvision:fcn_resnet50", {"aux_loss": True, "weights_backbone": None}),
        ("torchvision:regnet_y_400mf", {"num_classes": 3}),
        ("timm:vit_tiny_patch16_224", {"num_classes": 5}),
    ],
)
def test_variants_of_an_architecture_match(arch, options):
    zoo, _, name = arch.partition(":")
    with torch.device("meta") if zoo == "timm" or "regnet" not in name else torch.device("cpu"):
        net = (
            timm.create_model(name, **options)
            if zoo == "timm"
            else torchvision.models.get_model(name, weights=None, **options)
        )
    found = match(arch, {key: torch.zeros(t.shape) for key, t in net.state_dict().items()})
    assert found.problems == ()
    assert not any(tensor.is_meta for tensor in found.module.state_dict().values())


def test_a_network_built_without_numbers_gets_all_of_them_from_the_file(tmp_path):
    given = torchvision.models.shufflenet_v2_x0_5(weights=None)
    state = {key: value for key, value in given.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "shufflenet_v2_x0_5.pt")
    loaded = load_model(str(tmp_path / "shufflenet_v2_x0_5.pt")).module
    found = loaded.state_dict()
    assert found.keys() == given.state_dict().keys()
    assert all(torch.equal(value, found[key]) for key, value in given.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_a_network_that_computes_or_shares_tensors_is_not_built_without_numbers():
    def made() -> nn.Sequential:
        with torch.device("meta"):
            return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    plain, computed, tied = made(), made(), made()
    state = {key: torch.zeros(value.shape) for key, value in plain.state_dict().items()}
    computed.grid = [torch.arange(3)]
    tied[1].weight = tied[0].weight
    assert with_memory(plain, state) is not None
    assert with_memory(computed, state) is None
    assert with_memory(tied, state) is None


def test_missing_and_unexpected_keys_are_named(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    state["extra.weight"] = state.pop("layer1.0.conv1.weight")
    path = saved(state, tmp_path / "weights.pt")
    with pytest.raises(LoadError) as caught:
        load_model(path, arch="torchvision:resnet18")
    assert "layer1.0.conv1.weight is missing" in caught.value.message
    assert "extra.weight is unexpected" in caught.value.message


class Wrapped(nn.Module):
    """Keys of its own begin with a prefix that wrappers add, too."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(3, 2)

    def forward(self, x):
        return self.model(x)


def test_a_prefix_that_belongs_to_the_model_stays(tmp_path):
    net = Wrapped()
    path = saved({f"module.{k}": v for k, v in net.state_dict().items()}, tmp_path / "w.pt")
    loaded = load_model(path, arch=f"{__name__}:Wrapped")
    assert torch.equal(loaded.module.model.weight, net.model.weight)
    assert any("'module.'" in note for note in loaded.notes)


def test_averaged_weights_that_are_not_used_are_noted(tmp_path):
    state = Wrapped().state_dict()
    path = saved({"state_dict": state, "state_dict_ema": state, "epoch": 1}, tmp_path / "w.pt")
    notes = " ".join(load_model(path, arch=f"{__name__}:Wrapped").notes)
    assert "under 'state_dict'" in notes
    assert "averaged weights under 'state_dict_ema' are not used" in notes


def test_weights_of_averaged_model(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(Wrapped())
    path = saved(averaged.state_dict(), tmp_path / "w.pt")
    assert load_model(path, arch=f"{__name__}:Wrapped").kind == "state_dict"


def test_half_precision_weights_keep_their_dtype(tmp_path):
    path = saved(Wrapped().half().state_dict(), tmp_path / "w.pt")
    loaded = load_model(path, arch=f"{__name__}:Wrapped")
    assert loaded.module.model.weight.dtype == torch.float16
    assert resolve_inputs(loaded, None).tensors[0].dtype == "float16"


def test_a_wrapper_is_taken_off_and_noted(tmp_path):
    path = saved(nn.DataParallel(nn.Sequential(nn.Linear(3, 2))), tmp_path / "w.pt")
    loaded = load_model(path)
    assert isinstance(loaded.module, nn.Sequential)
    assert "DataParallel" in loaded.notes[0]


def test_wrappers_of_parts_are_taken_off_and_counted():
    body = nn.Sequential(torch.compile(nn.Linear(3, 2)), nn.DataParallel(nn.Linear(2, 2)))
    body[1].module.compile()
    inner, notes = unwrap(nn.DataParallel(body))
    assert [type(part) for part in inner] == [nn.Linear, nn.Linear]
    assert inner[1]._compiled_call_impl is None
    assert notes[0] == "The DataParallel wrapper around the model was removed."
    assert "1 OptimizedModule, 1 DataParallel, 1 torch.compile" in notes[1]


def test_pickled_module_of_the_zoo_gets_its_default_input(tmp_path):
    net = torchvision.models.inception_v3(weights=None, init_weights=False)
    loaded = load_model(saved(net, tmp_path / "inception_v3.pt"))
    spec = resolve_inputs(loaded, None)
    assert (loaded.kind, spec.origin) == ("module", "torchvision:inception_v3")
    assert spec.tensors[0].shape == (1, 3, 299, 299)


def test_optimizer_state_is_called_by_its_name(tmp_path):
    state = torch.optim.Adam(Wrapped().parameters()).state_dict()
    with pytest.raises(LoadError, match="the state of an optimizer"):
        load_model(saved(state, tmp_path / "adam.pt"))


def test_quantised_weights_are_refused(tmp_path):
    state = Wrapped().state_dict()
    state["model.weight"] = torch.quantize_per_tensor(state["model.weight"], 0.1, 0, torch.qint8)
    with pytest.raises(LoadError, match="quantised already"):
        load_model(saved(state, tmp_path / "w.pt"), arch=f"{__name__}:Wrapped")


def test_weights_in_the_cache_are_used_and_damaged_ones_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    url = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.url
    cached = tmp_path / "checkpoints" / url.rpartition("/")[2]
    net = torchvision.models.squeezenet1_1(weights=None)
    torch.save(net.state_dict(), cached)
    loaded = load_model("torchvision:squeezenet1_1")
    assert torch.equal(loaded.module.features[0].weight, net.features[0].weight)
    assert "trained weights" in loaded.notes[0]
    cached.write_bytes(cached.read_bytes()[:1000])
    with pytest.raises(LoadError):
        load_model("torchvision:squeezenet1_1")


def test_names_that_are_near_are_offered(tmp_path):
    assert candidates("my_resnet50-0676ba61.pth")[0] == "torchvision:resnet50"
    assert "torchvision:resnet50" in near("resnt50.pth")
    with pytest.raises(LoadError) as caught:
        load_model("resnt50")
    assert "torchvision:resnet50" in caught.value.hint


@pytest.mark.parametrize("body", ["raise RuntimeError('no')", "def net(:", "import nowhere_at_all"])
def test_the_module_of_a_factory_that_cannot_be_imported_is_an_error(body, tmp_path, monkeypatch):
    (tmp_path / "broken_factory.py").write_text(body)
    monkeypatch.chdir(tmp_path)
    path = saved(Wrapped().state_dict(), tmp_path / "w.pt")
    with pytest.raises(UsageError, match="cannot be imported"):
        load_model(path, arch="broken_factory:net")


@pytest.mark.parametrize("name", ["acting_code:net:more", "sub/acting_code:net", "acting_code:"])
def test_no_name_that_profiles_accept_imports_code(name, tmp_path, monkeypatch):
    """Profiles refuse what :func:`is_function` recognises, so nothing else may be imported."""
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        (folder / "acting_code.py").write_text("raise SystemExit('the code ran')")
    monkeypatch.chdir(tmp_path)
    path = saved(Wrapped().state_dict(), tmp_path / "w.pt")
    assert not is_function(name)
    with pytest.raises(UsageError, match="does not name an architecture"):
        load_model(path, arch=name)


def test_arch_is_refused_with_a_zoo_name_and_noted_with_a_module(tmp_path):
    with pytest.raises(UsageError, match="--arch"):
        load_model("torchvision:resnet18", arch="torchvision:resnet18")
    path = saved(nn.Sequential(nn.Linear(3, 2)), tmp_path / "w.pt")
    assert "--arch was not used" in load_model(path, arch="torchvision:resnet18").notes[0]


def test_an_allowed_global_must_exist(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(Wrapped(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"Wrapped", b"Wrapper"))
    with pytest.raises(UsageError, match="has no Wrapper"):
        load_model(str(path), allow_globals=(f"{__name__}.Wrapper",))


def seeding(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


@pytest.mark.parametrize("before", [3, 7])
def test_building_keeps_the_process_seed_and_obeys_that_of_the_code(before):
    torch.manual_seed(before)
    state = torch.get_rng_state()
    first, second = create("torchvision:squeezenet1_1"), create("torchvision:squeezenet1_1")
    assert torch.equal(first.features[0].weight, second.features[0].weight)
    seeded = create(f"{__name__}:seeding", seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(seeded.weight, seeding(7).weight)
