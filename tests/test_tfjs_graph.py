"""The interpreter of TensorFlow.js graphs: every operation against numpy, fusing, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tfjs_graphs import float32, gelu, layer_norm, linear, node, number, numbers, text, write_graph

from diffretouch.data import tfjs_graph
from diffretouch.data.tfjs_graph import GraphError, TfjsGraph

PICTURE = torch.zeros(1, 2, 2, 3)


def ints(*values: Any) -> np.ndarray:
    return np.array(values[0] if len(values) == 1 else values, np.int32)


def evaluate(path: Path, op: str, inputs: list[np.ndarray], **attributes: Any) -> np.ndarray:
    """What the interpreter makes of one operation on constants."""
    names = [f"c{k}" for k in range(len(inputs))]
    write_graph(path / "model.json", [node("out", op, *names, **attributes)], dict(zip(names, inputs, strict=True)))
    return TfjsGraph.read(path / "model.json")(PICTURE).numpy()


X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
Y = np.random.default_rng(1).standard_normal((3, 1)).astype(np.float32)
N, M = ints([-7, 5, 64, 0, 3]), ints([2, -3, 64, 5, 4])
YES, NO = np.array([True, True, False]), np.array([True, False, False])

CASES: list[tuple[str, list[np.ndarray], dict[str, Any], Any]] = [
    ("Abs", [X], {}, np.abs(X)),
    ("Abs", [N], {}, np.abs(N)),
    ("AddV2", [X, Y], {}, X + Y),
    ("AddV2", [N, M], {}, N + M),
    ("BroadcastTo", [Y, ints(2, 3, 4)], {}, np.broadcast_to(Y, (2, 3, 4))),
    ("Cast", [N], {"DstT": {"type": "DT_FLOAT"}}, N.astype(np.float32)),
    ("Cast", [3 * X], {"DstT": {"type": "DT_INT32"}}, (3 * X).astype(np.int32)),
    ("Cast", [YES], {"DstT": {"type": "DT_INT32"}}, YES.astype(np.int32)),
    ("ConcatV2", [X, 2 * X, ints(1)], {}, np.concatenate([X, 2 * X], axis=1)),
    ("ConcatV2", [X, 2 * X, ints(-1)], {}, np.concatenate([X, 2 * X], axis=-1)),
    ("Einsum", [X, X], {"equation": text("abc,dbc->ad")}, np.einsum("abc,dbc->ad", X, X)),
    ("Exp", [X], {}, np.exp(X)),
    ("ExpandDims", [X, ints(1)], {}, X[:, None]),
    ("ExpandDims", [ints(7), ints(0)], {}, ints([7])),
    ("Floor", [X], {}, np.floor(X)),
    ("FloorDiv", [N, M], {}, N // M),
    ("FloorMod", [N, M], {}, N % M),
    ("GatherV2", [X, ints(2, 0, 1), ints(1)], {}, X[:, [2, 0, 1]]),
    ("GatherV2", [X, ints([[3, 0]]), ints(-1)], {"batch_dims": number(0)}, X[..., [[3, 0]]]),
    ("Greater", [N, M], {}, N > M),
    ("GreaterEqual", [N, M], {}, N >= M),
    ("Identity", [X], {}, X),
    ("Less", [N, M], {}, N < M),
    ("LessEqual", [N, M], {}, N <= M),
    ("LogicalAnd", [YES, NO], {}, YES & NO),
    ("Maximum", [X, Y], {}, np.maximum(X, Y)),
    ("Minimum", [N, M], {}, np.minimum(N, M)),
    ("Mul", [X, Y], {}, X * Y),
    ("Mul", [N, M], {}, N * M),
    ("Neg", [X], {}, -X),
    ("NotEqual", [N, M], {}, N != M),
    ("Pack", [ints(4), ints(5), ints(6)], {"axis": number(0)}, ints(4, 5, 6)),
    ("Pack", [X, -X], {"axis": number(1)}, np.stack([X, -X], axis=1)),
    ("Range", [ints(2), ints(11), ints(3)], {}, np.arange(2, 11, 3, dtype=np.int32)),
    ("RealDiv", [X, Y], {}, X / Y),
    ("Reciprocal", [X], {}, 1 / X),
    ("Reshape", [X, ints(4, -1)], {}, X.reshape(4, -1)),
    ("Rsqrt", [np.abs(X)], {}, 1 / np.sqrt(np.abs(X))),
    ("SelectV2", [YES, float32(1, 2, 3), float32(4, 5, 6)], {}, float32(1, 2, 6)),
    ("Shape", [X], {}, ints(2, 3, 4)),
    ("Sign", [N], {}, np.sign(N)),
    ("Square", [X], {}, X**2),
    ("Squeeze", [X[:, :1, :, None]], {"squeeze_dims": numbers(-2 + 4 - 1)}, X[:, 0, :, None]),
    ("Squeeze", [X[:, :1, :, None]], {"squeeze_dims": numbers()}, X[:, 0]),
    ("StridedSlice", [X, ints(0, 1, 0), ints(2, 3, 4), ints(1, 1, 2)], {}, X[0:2, 1:3, 0:4:2]),
    ("StridedSlice", [X, ints(1, -2), ints(2, 9), ints(1, 1)], {"shrink_axis_mask": number(1)}, X[1, -2:9]),
    ("StridedSlice", [X, ints(1, 1), ints(1, 2), ints(1, 1)], {"begin_mask": number(2)}, X[1:1, :2]),
    ("StridedSlice", [X, ints(1, 1), ints(1, 2), ints(1, 1)], {"end_mask": number(1)}, X[1:, 1:2]),
    ("Sub", [X, Y], {}, X - Y),
    ("Sum", [X, ints([0, 2])], {}, X.sum((0, 2))),
    ("Sum", [X, ints(-1)], {"keep_dims": {"b": True}}, X.sum(-1, keepdims=True)),
    ("Sum", [N, ints([0])], {"keep_dims": {"b": False}}, ints(65)),
    ("Tanh", [X], {}, np.tanh(X)),
    ("Transpose", [X, ints(2, 0, 1)], {}, X.transpose(2, 0, 1)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "expected"), CASES, ids=[f"{op}-{k}" for k, (op, *_) in enumerate(CASES)]
)
def test_an_operation_is_what_numpy_says(tmp_path, op, inputs, attributes, expected):
    found = evaluate(tmp_path, op, inputs, **attributes)
    expected = np.asarray(expected)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_every_operation_has_a_case():
    tested = {op for op, *_ in CASES} | {"Conv2D", "Conv2DBackpropInput"}
    assert tested == tfjs_graph._OPERATIONS.keys() - {"Gelu", "LayerNorm", "Linear"}


def slow_conv(x: np.ndarray, kernel: np.ndarray, step: int, same: bool) -> np.ndarray:
    """TensorFlow's convolution, value by value: the picture (B, H, W, C) is padded less above and left than below."""
    side = kernel.shape[0]
    if same:
        missing = [max((-(-size // step) - 1) * step + side - size, 0) for size in x.shape[1:3]]
        x = np.pad(x, ((0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)))
    rows, columns = ((size - side) // step + 1 for size in x.shape[1:3])
    out = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for row in range(rows):
        for column in range(columns):
            window = x[:, row * step : row * step + side, column * step : column * step + side]
            out[:, row, column] = np.einsum("bhwc,hwcd->bd", window, kernel)
    return out


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("side", "step"), [(1, 1), (1, 2), (3, 1), (2, 1), (4, 2), (3, 2)])
def test_a_convolution_is_what_a_loop_says(tmp_path, side, step, padding):
    rng = np.random.default_rng(side)
    x = rng.standard_normal((2, 7, 10, 3)).astype(np.float32)
    kernel = rng.standard_normal((side, side, 3, 5)).astype(np.float32)
    settings = {"padding": text(padding), "strides": numbers(1, step, step, 1), "dilations": numbers(1, 1, 1, 1)}
    found = evaluate(tmp_path, "Conv2D", [x, kernel], data_format=text("NHWC"), **settings)
    np.testing.assert_allclose(found, slow_conv(x, kernel, step, padding == "SAME"), rtol=1e-4, atol=1e-5)


def test_a_transposed_convolution_spreads_each_value_over_the_kernel(tmp_path):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1, 3, 4, 2)).astype(np.float32)
    kernel = rng.standard_normal((2, 2, 5, 2)).astype(np.float32)  # height, width, out, in
    expected = np.zeros((1, 6, 8, 5))
    for row in range(3):
        for column in range(4):
            expected[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += np.einsum(
                "bi,hwoi->bhwo", x[:, row, column], kernel
            )
    settings = {"padding": text("VALID"), "strides": numbers(1, 2, 2, 1)}
    found = evaluate(tmp_path, "Conv2DBackpropInput", [ints(1, 6, 8, 5), kernel, x], **settings)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(GraphError, match=r"gives \(1, 6, 8, 5\), the graph wants \(1, 7, 8, 5\)"):
        evaluate(tmp_path, "Conv2DBackpropInput", [ints(1, 7, 8, 5), kernel, x], **settings)


K = np.ones((1, 1, 3, 3), np.float32)
SAME, STEP = {"padding": text("SAME")}, {"strides": numbers(1, 1, 1, 1)}
ONES = np.ones((1, 2, 2, 3), np.float32)
SLICE = [X, ints([0]), ints([1]), ints([1])]


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "said"),
    [
        ("Conv2D", [ONES, K], {**SAME, **STEP, "dilations": numbers(1, 2, 2, 1)}, "dilated"),
        ("Conv2D", [ONES, K], {**STEP, "padding": text("EXPLICIT")}, "padded otherwise"),
        ("Conv2D", [ONES, K], {**SAME, **STEP, "data_format": text("NCHW")}, "not NHWC"),
        ("Conv2DBackpropInput", [ints(1, 2, 2, 3), K, ONES], {**SAME, **STEP}, "not VALID"),
        ("Cast", [X], {"DstT": {"type": "DT_HALF"}}, "a cast to DT_HALF"),
        ("GatherV2", [X, ints([0]), ints(1)], {"batch_dims": number(1)}, "batch dimensions"),
        ("StridedSlice", SLICE, {"new_axis_mask": number(1)}, "new axis"),
        ("StridedSlice", SLICE, {"ellipsis_mask": number(1)}, "ellipsis"),
        ("StridedSlice", [*SLICE[:3], ints([-1])], {}, "backwards"),
        ("Softmax", [X], {}, r"operation Softmax is not supported \(out\)"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(tmp_path, op, inputs, attributes, said):
    with pytest.raises(GraphError, match=said):
        evaluate(tmp_path, op, inputs, **attributes)


# ---- the picture ----------------------------------------------------------------------------------------------------


def test_a_graph_follows_the_pictures_size_and_may_read_it_twice(tmp_path):
    nodes = [
        node("shape", "Shape", "x:0"),
        node("flat", "Reshape", "x", "shape", "^x"),
        node("out", "AddV2", "flat", "x"),
    ]
    graph = TfjsGraph.read(write_graph(tmp_path / "model.json", nodes, {}))
    for height, width in ((2, 5), (7, 3), (2, 5)):
        picture = torch.rand(1, height, width, 3)
        torch.testing.assert_close(graph(picture), 2 * picture)


def test_one_value_of_many_readers_lives_as_long_as_they_do(tmp_path):
    nodes = [node("a", "Square", "x"), *(node(f"b{k}", "AddV2", f"b{k - 1}" if k else "a", "a") for k in range(9))]
    graph = TfjsGraph.read(write_graph(tmp_path / "model.json", nodes, {}, output="b8"))
    picture = torch.rand(1, 4, 4, 3)
    torch.testing.assert_close(graph(picture), 10 * picture**2)


@pytest.mark.parametrize(
    "picture", [torch.zeros(4, 4, 3), torch.zeros(1, 4, 4, 3, dtype=torch.uint8), np.zeros((1, 4, 4, 3), np.float32)]
)
def test_another_picture_than_float32_of_four_dimensions_is_refused(tmp_path, picture):
    graph = TfjsGraph.read(write_graph(tmp_path / "model.json", [node("out", "Identity", "x")], {}))
    with pytest.raises(TypeError, match=r"`picture` has to be a float32 tensor \(B, H, W, C\), got "):
        graph(picture)


# ---- fusing ---------------------------------------------------------------------------------------------------------


def both(path: Path, nodes: list[dict], constants: dict, output: str = "out") -> tuple[TfjsGraph, TfjsGraph]:
    """The graph fused, and as it stands; they have to agree on a picture of values of either sign."""
    write_graph(path / "model.json", nodes, constants, output)
    fused, plain = (TfjsGraph.read(path / "model.json", fuse=fuse) for fuse in (True, False))
    picture = torch.from_numpy(np.random.default_rng(5).normal(0.2, 1, (2, 6, 5, 3)).astype(np.float32))
    # The graph's variance, E[x^2] - E[x]^2, loses digits where the channels are nearly alike.
    torch.testing.assert_close(fused(picture), plain(picture), rtol=2e-4, atol=2e-4)
    return fused, plain


@pytest.mark.parametrize(("spell", "op"), [(layer_norm, "LayerNorm"), (gelu, "Gelu"), (linear, "Linear")])
def test_a_pattern_is_run_as_one_operation_and_gives_the_same(tmp_path, spell, op):
    fused, plain = both(tmp_path, *spell())
    assert [fused.nodes[name].op for name in fused.order] == [op]
    assert len(plain.order) > 1


@pytest.mark.parametrize(("spell", "op"), [(layer_norm, "LayerNorm"), (gelu, "Gelu"), (linear, "Linear")])
def test_a_pattern_is_found_with_the_inputs_of_sums_and_products_swapped(tmp_path, spell, op):
    nodes, constants = spell()
    for entry in nodes:
        if entry["op"] in ("AddV2", "Mul", "Maximum"):
            entry["input"].reverse()
    fused, _ = both(tmp_path, nodes, constants)
    assert [fused.nodes[name].op for name in fused.order] == [op]


def test_patterns_that_follow_each_other_are_all_found(tmp_path):
    nodes, constants = [], {}
    for spell, source, output in ((layer_norm, "x", "a"), (linear, "a", "b"), (gelu, "b", "out")):
        further, values = spell(source, output)
        nodes, constants = nodes + further, {**constants, **values}
    fused, _ = both(tmp_path, nodes, constants)
    assert [fused.nodes[name].op for name in fused.order] == ["LayerNorm", "Linear", "Gelu"]


@pytest.mark.parametrize(
    ("spell", "constant", "value"),
    [
        (layer_norm, "share", float32(0.25)),
        (layer_norm, "tiny", float32(1e-3)),
        (layer_norm, "zero", float32(0.5)),
        (layer_norm, "scale", float32(2.0)),
        (layer_norm, "bias", np.full((1, 1, 5, 1), 2, np.float32)),
        (gelu, "half", float32(0.4)),
        (gelu, "root", float32(0.7)),
        (gelu, "cubic", float32(0.05)),
        (gelu, "unit", float32(0.9)),
        (linear, "offset", np.full((1, 6, 1, 3), 2, np.float32)),
    ],
)
def test_what_only_resembles_a_pattern_is_left_as_it_stands(tmp_path, spell, constant, value):
    nodes, constants = spell()
    fused, plain = both(tmp_path, nodes, {**constants, constant: value})
    assert fused.order == plain.order


def test_a_norm_of_one_value_by_the_mean_of_another_is_left_as_it_stands(tmp_path):
    nodes, constants = layer_norm()
    nodes = [node("other", "Exp", "x"), *nodes]
    (centred,) = [entry for entry in nodes if entry["name"] == "centred"]
    centred["input"][0] = "other"
    fused, plain = both(tmp_path, nodes, constants)
    assert fused.order == plain.order


def test_what_others_read_of_a_pattern_is_still_run(tmp_path):
    nodes, constants = gelu(output="gelu")
    fused, _ = both(tmp_path, [*nodes, node("out", "AddV2", "gelu", "tanh")], constants)
    assert {"Gelu", "Tanh"} < {fused.nodes[name].op for name in fused.order}


# ---- damaged files --------------------------------------------------------------------------------------------------


def change(path: Path, **parts: Any) -> Path:
    """The model.json with some of its parts replaced."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))
    return path


@pytest.fixture
def model(tmp_path) -> Path:
    return write_graph(tmp_path / "model.json", *linear())


@pytest.mark.parametrize(
    ("size", "said"), [(23, "the shards end at byte 47, before the weights do"), (28, "4 bytes more")]
)
def test_shards_of_another_length_are_refused(model, size, said):
    shard = model.with_name("shard2of2.bin")
    shard.write_bytes(shard.read_bytes().ljust(size, b"\0")[:size])
    with pytest.raises(GraphError, match=said):
        TfjsGraph.read(model)


def test_a_missing_shard_is_named(model):
    model.with_name("shard2of2.bin").unlink()
    with pytest.raises(FileNotFoundError, match="shard2of2.bin"):
        TfjsGraph.read(model)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"modelTopology": {"node": [{"op": "Const"}]}}'])
def test_what_is_no_model_is_refused_in_one_line(model, text):
    model.write_text(text)
    with pytest.raises(GraphError, match=r"^model.json is no whole graph model \(.*\)$"):
        TfjsGraph.read(model)


@pytest.mark.parametrize(
    ("change_of_entry", "said"),
    [
        ({"quantization": {"dtype": "uint8"}}, "got quantized"),
        ({"dtype": "float16"}, "got float16"),
        ({"name": "b"}, "KeyError"),
    ],
)
def test_weights_that_cannot_be_read_are_refused(model, change_of_entry, said):
    (group,) = json.loads(model.read_text())["weightsManifest"]
    group["weights"][0].update(change_of_entry)
    with pytest.raises(GraphError, match=said):
        TfjsGraph.read(change(model, weightsManifest=[group]))


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([node("out", "AddV2", "x", "gone")], "no node gone"),
        ([node("out", "AddV2", "x", "b"), node("b", "Exp", "out")], "a cycle"),
        ([node("y", "Placeholder"), node("out", "AddV2", "x", "y")], "one input, got 2"),
        ([node("b", "Exp", "x")], "no node out"),
    ],
)
def test_a_graph_that_is_not_whole_is_refused(tmp_path, nodes, said):
    path = write_graph(tmp_path / "model.json", nodes, {})
    with pytest.raises(GraphError, match=said):
        TfjsGraph.read(path)


def test_a_graph_of_two_outputs_is_refused(model):
    outputs = {"a": {"name": "out:0"}, "b": {"name": "product:0"}}
    with pytest.raises(GraphError, match="one output, got 2"):
        TfjsGraph.read(change(model, signature={"outputs": outputs}))
