"""Defaults, then a profile, then flags; and sentences that name the line."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployfold.config.build_options import build_options
from deployfold.config.build_profiles import merge, read_profile, shipped
from deployfold.config.flag_values import is_function
from deployfold.config.make_spec import make_spec
from deployfold.config.precision import Precision
from deployfold.errors import UsageError

KEYS = [one.key for one in build_options()]


def profile(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_profiles_are_valid_and_say_what_they_are_for(name):
    merged = merge(name, {"calib": "random"})
    assert merged.description
    assert merged.spec("model.pt").precisions


def test_the_named_profiles_ship():
    wanted = "server-fp16 edge-int8 jetson-orin-int8 rtx-portable latency throughput".split()
    assert sorted(wanted) == sorted(shipped())


def test_flags_override_the_profile_and_the_profile_the_defaults(tmp_path):
    path = profile(tmp_path, 'fp16 = true\nworkspace = 512\ntarget = ["l4"]\n')
    merged = merge(path, {"workspace": 1024})
    spec = merged.spec("model.pt")
    assert spec.precisions == (Precision.FP16,)
    assert spec.workspace_mib == 1024
    assert spec.targets == ("l4",)
    assert merged.origins["workspace"] == "flag"
    assert merged.origins["fp16"] == f"profile {path}"
    assert merged.origins["timeout"] == "default"
    assert set(merged.origins) == set(KEYS)


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("fp16 = true\nwork-space = 3\n", 2, "unknown key 'work-space'"),
        ('fp16 = "yes"\n', 1, "'fp16'"),
        ("\n\nworkspace = 0\n", 3, "'workspace'"),
        ("workspace = 1.5\n", 1, "'workspace'"),
        ('io = "fp8"\n', 1, "'io'"),
        ("held-back = 1.0\n", 1, "'held-back'"),
        ("[calib]\nsource = 1\n", 1, "'calib'"),
        ("timeout = nan\n", 1, "'timeout'"),
        ("seed = 1979-05-27\n", 1, "'seed'"),
    ],
)
def test_bad_profiles_are_refused_with_their_line(tmp_path, text, line, part):
    with pytest.raises(UsageError) as caught:
        merge(profile(tmp_path, text), {})
    assert f"mine.toml, line {line}" in caught.value.message
    assert part in caught.value.message
    assert "\n" not in caught.value.message


def test_a_near_miss_is_suggested(tmp_path):
    with pytest.raises(UsageError) as caught:
        merge(profile(tmp_path, "max-second = 3.0\n"), {})
    assert caught.value.hint == "Did you mean max-seconds?"
    with pytest.raises(UsageError) as caught:
        merge("server-fp61", {})
    assert "Did you mean server-fp16?" in str(caught.value.hint)


def test_invalid_toml_is_refused(tmp_path):
    for text in ("fp16 =", "\x00", "fp16 = true\nfp16 = true\n"):
        with pytest.raises(UsageError, match="not a readable build profile"):
            merge(profile(tmp_path, text), {})
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not a readable build profile"):
        merge(str(tmp_path / "mine.toml"), {})


@pytest.mark.parametrize("key", ["calib", "arch", "input-data", "reestimate-bn"])
def test_a_profile_runs_no_code_that_its_user_did_not_name(tmp_path, key):
    for code in ("os.path:join", "os:path.join", "my-net:build", "2d:build"):
        with pytest.raises(UsageError, match="run code"):
            merge(profile(tmp_path, f'{key} = "{code}"\n'), {})
    assert merge(None, {key: "os.path:join"}).origins[key] == "flag"
    assert read_profile(profile(tmp_path, 'arch = "timm:resnet18"\n'))["arch"] == "timm:resnet18"


def test_paths_in_a_profile_are_relative_to_it(tmp_path):
    keys = ("calib", "input-data", "reestimate-bn", "preprocess", "timing-cache")
    text = "".join(f'{key} = "pictures"\n' for key in keys)
    found = read_profile(profile(tmp_path, text + 'labels = "/abs/labels.csv"\n'))
    assert {found[key] for key in keys} == {str(tmp_path / "pictures")}
    assert found["labels"] == "/abs/labels.csv"
    assert read_profile(profile(tmp_path, 'calib = "random"\n'))["calib"] == "random"


def test_a_path_in_a_profile_never_becomes_the_name_of_a_function(tmp_path, monkeypatch):
    """The folder of a profile in the working directory is ``.``, and pathlib drops the ``./``."""
    monkeypatch.chdir(tmp_path)
    profile(tmp_path, 'calib = "./os:getcwd"\ninput-data = "./os:getcwd"\n')
    found = read_profile("mine.toml")
    assert not any(is_function(found[key]) for key in ("calib", "input-data"))


def test_int8_without_data_is_an_error_with_the_way_out():
    with pytest.raises(UsageError) as caught:
        make_spec("model.pt", {"int8": True})
    assert "--calib random" in str(caught.value.hint)


def test_calibration_reaches_the_spec():
    written = {
        "int8": True, "calib": "pictures", "calib-samples": 8, "held-back": 0.5, "seed": 3,
        "crop": "224x160", "mean": "0.5,0.5,0.5", "min-sqnr": 25.0, "rest-precision": "fp32",
    }  # fmt: skip
    spec = make_spec("model.pt", written)
    assert spec.precisions == (Precision.INT8,)
    assert spec.rest_precision is Precision.FP32
    assert spec.calibration is not None
    assert (spec.calibration.samples, spec.calibration.held_back, spec.calibration.seed) == (
        8,
        0.5,
        3,
    )
    assert spec.calibration.preprocess.crop == (224, 160)
    assert spec.calibration.preprocess.mean == (0.5, 0.5, 0.5)
    assert spec.guard.min_sqnr_db == 25.0


@pytest.mark.parametrize(
    ("key", "text"), [("crop", "0"), ("crop", "a"), ("mean", "1,b"), ("std", "0,1,1")]
)
def test_malformed_image_settings_are_refused(key, text):
    with pytest.raises(UsageError, match=key):
        make_spec("model.pt", {key: text})


@given(st.dictionaries(st.sampled_from(KEYS), st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.lists(st.text(max_size=4), max_size=2),
), max_size=3))  # fmt: skip
def test_any_flags_give_settings_or_a_sentence(flags):
    with suppress(UsageError):
        merged = merge(None, flags)
        assert all(merged.origins[key] == "flag" for key in flags)
