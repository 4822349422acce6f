"""The builder and the runners use only names of the real Python API of three libraries."""

from __future__ import annotations

import ast
import dataclasses
import json
from typing import Any

import pytest
from tensorrt_contract import (
    PACKAGE,
    PARTIAL,
    PASSING_ON,
    SOURCES,
    TABLE,
    Use,
    all_uses,
    problems,
    read_listing,
    uses,
)

APIS: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
USES = all_uses()


def test_the_table_is_of_all_three_libraries() -> None:
    assert [title.rpartition(".")[0] for title in APIS] == [
        "tensorrt 10.16.1",
        "tensorrt 11.4.0",
        "tensorrt_rtx 1.7.1",
    ]


@pytest.mark.parametrize("title", APIS)
def test_every_name_that_is_used_is_there_and_takes_what_it_is_given(title: str) -> None:
    assert problems(USES, APIS[title], title) == []


def test_every_used_name_was_found() -> None:
    names = {use.name for use in USES}
    assert {
        "Builder",
        "Builder.build_serialized_network",
        "IBuilderConfig.set_compute_capability",
        "IBuilderConfig.create_timing_cache",
        "OnnxParser.parse_from_file",
        "ParserError.node_operator",
        "LayerType.CONVOLUTION",
        "LayerInformationFormat.ONELINE",
        "BuilderFlag.STRIP_PLAN",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "IExecutionContext.execute_async_v3",
        "ILogger.Severity.ERROR",
        "IProgressMonitor.step_complete",
        "Runtime.get_engine_validity",
        "IRuntimeConfig.cuda_graph_strategy",
        "IRuntimeCache.serialize",
        "IExecutionContext.is_stream_capturable",
    } <= names
    assert {use.where.partition(":")[0] for use in USES} >= set(SOURCES)


def test_every_module_that_holds_the_library_is_read() -> None:
    """By convention the library is called ``trt`` wherever a module has it."""
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(
            getattr(node, "arg", None) == "trt" or getattr(node, "id", None) == "trt"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
    }
    assert {"compiling/tensorrt/builder.py", "runtimes/tensorrt_file.py"} <= found
    assert found - {*SOURCES, *PASSING_ON} == set()
    for name in PASSING_ON:
        assert not uses((PACKAGE / name).read_text(encoding="utf-8"), name)


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.where}-{use.name}")
def test_a_wrong_name_in_any_place_is_noticed(use: Use) -> None:
    wrong = dataclasses.replace(use, member=f"{use.member}x")
    missed = [title for title, api in APIS.items() if not problems([wrong], api, title)]
    # A function that asks with hasattr is held against the libraries that have what it asks for.
    assert len(missed) < len(APIS)
    assert not missed or use.guards or use.owner in PARTIAL


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("config.set_flag(", "config.set_flags("),
        ("trt.BuilderFlag.GPU_FALLBACK", "trt.BuilderFlag.GPU_FALL_BACK"),
        ("config.add_optimization_profile(profile)", "config.add_optimization_profile()"),
        ("config.set_compute_capability(member, index)", "config.set_compute_capability(member)"),
        ("trt.DeviceType.DLA", "trt.DeviceTypes.DLA"),
    ],
)
def test_a_wrong_line_in_the_source_is_noticed(right: str, wrong: str) -> None:
    source = (PACKAGE / "compiling/tensorrt/builder_config.py").read_text(encoding="utf-8")
    assert right in source
    found = uses(source.replace(right, wrong), "configure.py")
    assert any(problems(found, api, title) for title, api in APIS.items())


def test_the_library_that_is_installed_has_what_its_table_says() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    (api,) = (api for title, api in APIS.items() if title.startswith("tensorrt_rtx"))
    for name in api:
        value = trt
        for part in name.split("."):
            value = getattr(value, part)  # AttributeError: the table is wrong
    for use in USES:
        if use.name not in api:
            owner = getattr(trt, use.owner) if use.owner else trt
            assert not hasattr(owner, use.member), use.name


def test_a_listing_is_read() -> None:
    title, api = read_listing(
        "# tensorrt 1.2.3: from somewhere\n"
        "enum Flag: A=0, B=1\n"
        "class Thing\n"
        "    1. __init__(self: Thing) -> None\n"
        "    2. __init__(self: Thing, x: typing.SupportsInt, y: list[int] = 0) -> None\n"
        "    run(self: Thing, name: str, f: a::b = <C.D: 2>) -> bool\n"
        "    .size  (property)\n"
    )
    assert title == "tensorrt 1.2.3"
    assert api == {
        "Flag": [],
        "Flag.A": [],
        "Flag.B": [],
        "Thing": [[], ["x", "y="]],
        "Thing.run": [["name", "f="]],
        "Thing.size": [],
    }
