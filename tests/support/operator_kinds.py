"""Small graphs, one for each kind of thing in ONNX that lowering can trip over.

Each begins with a matrix product, so that there is a layer to quantise: ``h = x @ w``, of the shape
(4, 32). The kinds come from ONNX's operator list: optional outputs, sequences and optionals,
subgraphs, initialisers and inputs as outputs, outputs named twice, missing inputs, and operators
whose output has a type of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from lower_toys import FLOAT, normal
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from deployfold.exporting.session import open_session, run_session

WIDTH = 32


@dataclass(frozen=True)
class Kind:
    """Nodes behind ``h``; outputs by name with their element type, ``None`` to infer the shape."""

    nodes: Sequence[NodeProto]
    outputs: Mapping[str, int] | Sequence[tuple[str, int]] = field(
        default_factory=lambda: {"y": FLOAT}
    )
    weights: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


def _node(op_type: str, inputs: Sequence[str], outputs: Sequence[str], **more: object) -> NodeProto:
    name = f"n_{op_type}_{next((one for one in outputs if one), 'none')}"
    return helper.make_node(op_type, list(inputs), list(outputs), name=name, **more)


def _branch(name: str, nodes: Sequence[NodeProto], output: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, FLOAT, None)])


def _recurrent(op_type: str, gates: int, outputs: Sequence[str], used: str) -> Kind:
    nodes = [
        _node("Unsqueeze", ["h", "axis"], ["steps"]),
        _node(op_type, ["steps", "rw", "rr"], outputs, hidden_size=8),
        _node("Relu", [used], ["y"]),
    ]
    weights = {
        "axis": np.array([1], np.int64),
        "rw": normal((1, gates * 8, WIDTH), 3) * 0.1,
        "rr": normal((1, gates * 8, 8), 4) * 0.1,
    }
    return Kind(nodes, weights=weights)


def _sequence() -> Kind:
    return Kind(
        [
            _node("SplitToSequence", ["h", "half"], ["parts"], axis=1),
            _node("SequenceAt", ["parts", "zero"], ["first"]),
            _node("SequenceAt", ["parts", "one"], ["second"]),
            _node("Add", ["first", "second"], ["y"]),
        ],
        weights={
            "half": np.int64(WIDTH // 2), "zero": np.int64(0), "one": np.int64(1),
        },
    )  # fmt: skip


def _built_sequence() -> Kind:
    return Kind(
        [
            _node("Relu", ["h"], ["r"]),
            _node("SequenceConstruct", ["h", "r"], ["both"]),
            _node("ConcatFromSequence", ["both"], ["y"], axis=1),
        ]
    )


def _optional() -> Kind:
    return Kind(
        [_node("Optional", ["h"], ["maybe"]), _node("OptionalGetElement", ["maybe"], ["y"])]
    )


def _if() -> Kind:
    return Kind(
        [
            _node("ReduceSum", ["h"], ["total"], keepdims=0),
            _node("Greater", ["total", "nought"], ["positive"]),
            _node(
                "If", ["positive"], ["chosen"],
                then_branch=_branch("then", [_node("Mul", ["h", "two"], ["t"])], "t"),
                else_branch=_branch("else", [_node("Sub", ["h", "two"], ["e"])], "e"),
            ),
            _node("Relu", ["chosen"], ["y"]),
        ],
        weights={"nought": np.float32(-1e3), "two": np.float32(2)},
    )  # fmt: skip


def _loop() -> Kind:
    body = helper.make_graph(
        [
            _node("Add", ["state", "h"], ["next"]),
            _node("Identity", ["going"], ["still"]),
            _node("Identity", ["next"], ["each"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, None),
            helper.make_tensor_value_info("each", FLOAT, None),
        ],
    )
    nodes = [
        _node("Loop", ["turns", "", "h"], ["last", "all"], body=body),
        _node("Relu", ["last"], ["y"]),
        _node("Neg", ["all"], ["z"]),
    ]
    return Kind(nodes, {"y": FLOAT, "z": FLOAT}, {"turns": np.int64(3)})


def _scan() -> Kind:
    body = helper.make_graph(
        [_node("Add", ["state", "row"], ["next"]), _node("Identity", ["next"], ["each"])],
        "body",
        [helper.make_tensor_value_info(name, FLOAT, [WIDTH]) for name in ("state", "row")],
        [helper.make_tensor_value_info(name, FLOAT, [WIDTH]) for name in ("next", "each")],
    )
    return Kind(
        [_node("Scan", ["start", "h"], ["last", "y"], body=body, num_scan_inputs=1)],
        {"y": FLOAT, "last": FLOAT},
        {"start": np.zeros(WIDTH, np.float32)},
    )


KINDS: dict[str, Callable[[], Kind]] = {
    "plain": lambda: Kind([_node("Relu", ["h"], ["y"])]),
    "initialiser among the outputs": lambda: Kind(
        [_node("Relu", ["h"], ["y"])], {"y": FLOAT, "anchors": FLOAT}, {"anchors": normal((4,), 5)}
    ),
    "initialiser that is read and given": lambda: Kind(
        [_node("Add", ["h", "anchors"], ["y"])],
        {"y": FLOAT, "anchors": FLOAT},
        {"anchors": normal((WIDTH,), 5)},
    ),
    "constant node among the outputs": lambda: Kind(
        [
            _node("Relu", ["h"], ["y"]),
            _node("Constant", [], ["ones"], value=numpy_helper.from_array(np.ones(3, np.float32))),
        ],
        {"y": FLOAT, "ones": FLOAT},
    ),
    "integer initialiser among the outputs": lambda: Kind(
        [_node("Relu", ["h"], ["y"])],
        {"y": FLOAT, "strides": TensorProto.INT64},
        {"strides": np.arange(4)},
    ),
    "input among the outputs": lambda: Kind(
        [_node("Relu", ["h"], ["y"])], {"y": FLOAT, "x": FLOAT}
    ),
    "output read inside": lambda: Kind(
        [_node("Relu", ["h"], ["y"]), _node("Neg", ["y"], ["z"])], {"y": FLOAT, "z": FLOAT}
    ),
    "copies as outputs": lambda: Kind(
        [
            _node("Relu", ["h"], ["r"]),
            _node("Identity", ["r"], ["y"]),
            _node("Identity", ["r"], ["z"]),
        ],
        {"y": FLOAT, "z": FLOAT},
    ),
    "output named twice": lambda: Kind(
        [_node("Relu", ["h"], ["y"])], [("y", FLOAT), ("y", FLOAT)]
    ),
    "GRU, last state alone": lambda: _recurrent("GRU", 3, ["", "last"], "last"),
    "GRU, all states alone": lambda: _recurrent("GRU", 3, ["all"], "all"),
    "LSTM, last state alone": lambda: _recurrent("LSTM", 4, ["", "last"], "last"),
    "LSTM, last cell alone": lambda: _recurrent("LSTM", 4, ["", "", "cell"], "cell"),
    "RNN, last state alone": lambda: _recurrent("RNN", 1, ["", "last"], "last"),
    "TopK, indices alone": lambda: Kind(
        [_node("TopK", ["h", "k"], ["t", "y"])], {"y": TensorProto.INT64}, {"k": np.array([3])}
    ),
    "TopK, values alone": lambda: Kind(
        [_node("TopK", ["h", "k"], ["t", "i"]), _node("Neg", ["t"], ["y"])],
        weights={"k": np.array([3])},
    ),
    "LayerNormalization with its mean": lambda: Kind(
        [
            _node("LayerNormalization", ["h", "scale"], ["y", "mean"]),
            _node("Neg", ["mean"], ["z"]),
        ],
        {"y": FLOAT, "z": FLOAT},
        {"scale": np.ones(WIDTH, np.float32)},
    ),
    "Dropout with a mask": lambda: Kind(
        [_node("Dropout", ["h"], ["d", "mask"]), _node("Relu", ["d"], ["y"])],
        {"y": FLOAT, "mask": TensorProto.BOOL},
    ),
    "Unique, counts alone": lambda: Kind(
        [_node("Unique", ["h"], ["values", "", "", "counts"]), _node("Relu", ["values"], ["y"])],
        {"y": FLOAT},
    ),
    "SplitToSequence": _sequence,
    "SequenceConstruct": _built_sequence,
    "Optional": _optional,
    "If": _if,
    "Loop": _loop,
    "Scan": _scan,
    "Clip without a lower bound": lambda: Kind(
        [_node("Clip", ["h", "", "high"], ["y"])], weights={"high": np.float32(1)}
    ),
    "cast from positions": lambda: Kind(
        [
            _node("Shape", ["h"], ["shape"]),
            _node("Cast", ["shape"], ["sizes"], to=FLOAT),
            _node("ReduceProd", ["sizes"], ["count"], keepdims=0),
            _node("Div", ["h", "count"], ["y"]),
        ]
    ),
    "ConstantOfShape": lambda: Kind(
        [
            _node("Shape", ["h"], ["shape"]),
            _node(
                "ConstantOfShape", ["shape"], ["full"],
                value=numpy_helper.from_array(np.full(1, 0.5, np.float32)),
            ),
            _node("Add", ["h", "full"], ["y"]),
        ]
    ),
    "Range and Where": lambda: Kind(
        [
            _node("Range", ["zero", "wide", "one"], ["places"]),
            _node("Greater", ["h", "places"], ["above"]),
            _node("Where", ["above", "h", "places"], ["y"]),
        ],
        weights={"zero": np.float32(0), "wide": np.float32(WIDTH), "one": np.float32(1)},
    ),
    "class numbers": lambda: Kind(
        [_node("ArgMax", ["h"], ["y"], axis=1)], {"y": TensorProto.INT64}
    ),
}  # fmt: skip


def write_kind(kind: Kind, path: Path) -> Path:
    """The graph as a valid ONNX file with input ``x`` of the shape (4, 32)."""
    outputs = list(kind.outputs.items() if isinstance(kind.outputs, Mapping) else kind.outputs)
    weights = {"w": normal((WIDTH, WIDTH), 1) * 0.2, **kind.weights}

    def model(ranks: Sequence[int | None]) -> onnx.ModelProto:
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["h"], name="layer"), *kind.nodes],
            "kind",
            [helper.make_tensor_value_info("x", FLOAT, [4, WIDTH])],
            [
                helper.make_tensor_value_info(name, dtype, None if rank is None else [None] * rank)
                for (name, dtype), rank in zip(outputs, ranks, strict=True)
            ],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
        )
        opsets = [helper.make_opsetid("", 20)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    session = open_session(model([None] * len(outputs)).SerializeToString(), optimize=False)
    given = run_session(session, {"x": normal((4, WIDTH))})
    found = model([np.ndim(array) for array in given])
    if len(dict(outputs)) == len(outputs):
        onnx.checker.check_model(found, full_check=True)
    onnx.save(found, str(path))
    return path
