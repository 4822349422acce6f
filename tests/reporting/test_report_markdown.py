"""The Markdown, read back by a Markdown parser."""

from __future__ import annotations

from rendered import HOSTILE, hostile_report, parse, tables
from report_sample import full_report, sample_report

from deployfold.reporting.markdown import escape, render_markdown
from deployfold.reporting.text import clean


def test_the_table_holds_every_row_and_column() -> None:
    text = render_markdown(sample_report())
    comparison, fold = tables(parse(text))
    assert comparison[0][:3] == ["artifact", "parameters", "BN"]
    assert [row[0] for row in comparison[1:]] == [
        "PyTorch",
        "PyTorch, folded",
        "TorchScript",
        "torch.export",
        "ONNX Runtime",
        "ONNX Runtime fp16 ¹",
        "TensorRT-RTX fp16 sm_89",
    ]
    assert comparison[5][7] == "2.06× [2.04, 2.09]"
    assert comparison[7][7] == "not measured ²"
    assert "**2.06× \\[2.04, 2.09\\]**" in text
    assert len(fold) == 1 + 53
    assert fold[1] == ["head.bn", "left", "its layer's output also goes to head.add"]
    assert "² built for sm\\_89; measure it there: deployfold bench DIR" in text


def test_every_stage_says_what_it_took() -> None:
    stages = tables(parse(render_markdown(full_report())))[-1]
    assert stages == [
        ["stage", "seconds", "peak memory"],
        ["load", "2.6", "1.204 GB"],
        ["fold", "1.9", "1.640 GB"],
        ["measure", "31.4", "–"],
    ]
    assert "stages" not in render_markdown(sample_report())


def test_hostile_names_change_nothing_but_the_text() -> None:
    tokens = parse(render_markdown(hostile_report()))
    comparison, fold = tables(tokens)
    assert {len(row) for row in comparison} == {10}
    assert {len(row) for row in fold} == {3}
    assert comparison[1][0].startswith(clean(HOSTILE))
    kinds = {child.type for token in tokens for child in token.children or []}
    assert not kinds & {"link_open", "image", "html_inline", "em_open", "code_inline"}


def test_escaped_text_is_read_back_as_it_was() -> None:
    for name in ("a|b", "![x](http://e)", "<b>&amp;</b>", "__init__", "`x`", "a\\|b", "#1 ~~x~~"):
        (token,) = [t for t in parse(f"x {escape(name)}") if t.type == "inline"]
        assert "".join(child.content for child in token.children or []) == f"x {name}"
    assert "\n" not in escape("a\nb\r\nc")


def test_markdown_begins_with_the_recommendation() -> None:
    second = parse(render_markdown(sample_report()))[4]
    assert second.content.startswith("**ONNX Runtime: 2.06× as fast as PyTorch here ")
