"""Options that would do nothing are refused before any work, with what they need."""

from __future__ import annotations

import pytest

from deployfold.config.build_options import build_options
from deployfold.config.build_profiles import merge
from deployfold.config.conflicts import LAYERS, NEEDS, check_used, used
from deployfold.config.make_spec import make_spec
from deployfold.errors import UsageError

DATA = {"calib": "pictures"}


def check(**written):
    keys = {key.replace("_", "-"): value for key, value in written.items()}
    options = {key: value for key, value in keys.items() if key != LAYERS}
    check_used(keys, make_spec("net.pt", options))


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"fp16": True, "calib": "x"}, "--calib has no effect: no precision .* calibrated"),
        ({"calib_samples": 8, "int4": True}, "--calib-samples .* no calibration data"),
        ({"fp16": True, LAYERS: True}, "--layers .* quantised"),
        ({"fp16": True, "min_sqnr": 30.0}, "--min-sqnr .* quantised"),
        ({"int4": True, "min_sqnr": 30.0, "no_guard": True}, "--min-sqnr .* --no-guard"),
        ({"int4": True, "residual_qdq": True}, "--residual-qdq .* activations"),
        ({"int8_weights": True, "tune": True}, "--tune .* activations"),
        ({"int8": True, "tune": True, "no_engine": True, **DATA}, "--tune .* --no-engine"),
        ({"io": "fp16"}, "--io .* no other precision"),
        ({"labels": "x"}, "--labels .* no data"),
        ({"no_engine": True, "workspace": 64}, "--workspace .* --no-engine"),
        ({"no_engine": True, "target": ["l4"]}, "--target .* --no-engine"),
        ({"no_gpu_fallback": True}, "--no-gpu-fallback .* DLA"),
        ({"no_measure": True, "min_speedup": 2.0}, "--min-speedup .* --no-measure"),
        ({"no_measure": True, "cold_start": True}, "--cold-start .* --no-measure"),
    ],
)
def test_an_option_without_effect_is_an_error(written, words):
    with pytest.raises(UsageError, match=words) as caught:
        check(**written)
    assert caught.value.hint


@pytest.mark.parametrize(
    "written",
    [
        {},
        {
            "int8": True,
            "calib_samples": 8,
            "held_back": 0.5,
            "min_sqnr": 30.0,
            LAYERS: True,
            **DATA,
        },
        {"int4": True, "min_sqnr": 30.0},
        {"fp8": True, "residual_qdq": True, "no_guard": True, **DATA},
        {"fp16": True, "io": "fp16"},
        {"input_data": "x.npz", "labels": "x"},
        {"workspace": 64, "dla_core": 0, "no_gpu_fallback": True},
        {"no_engine": True, "no_measure": True, "threads": 1, "max_seconds": 1.0},
    ],
)
def test_options_with_an_effect_pass(written):
    check(**written)


def test_every_key_of_a_need_is_an_option():
    known = {one.key for one in build_options()} | {LAYERS}
    assert {key for need in NEEDS for key in need.keys} <= known


def test_a_profile_may_set_what_a_build_does_not_use():
    merged = merge("edge-int8", {"calib": "pictures"})
    check_used(["calib"], merged.spec("net.pt"))
    half = {key: value for key, value in merged.values.items() if key == "min-sqnr"}
    check_used([], make_spec("net.pt", {"fp16": True, **half}))


def test_a_generated_command_has_only_what_is_used():
    written = {"fp16": True, "calib": "pictures", "min-sqnr": 20.0, "threads": 1}
    assert used(written) == {"fp16": True, "threads": 1}
    assert used({**written, "int8": True}) == {**written, "int8": True}
    clash = {"dynamic-batch": "1:2:4", "shapes": ["1x3:2x3:4x3"], "calib": "pictures"}
    assert used(clash) == clash, "the command itself tells of a contradiction"
