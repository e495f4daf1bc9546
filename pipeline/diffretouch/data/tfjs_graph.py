"""TensorFlow.js graph models, run with torch on the CPU.

Such a model is a `model.json`, which has the graph's nodes and a manifest of the weights, beside shards of raw
little-endian weights. This runs the operations that MAXIM needs (`teacher`), as TensorFlow defines them
(https://www.tensorflow.org/api_docs/python/tf/raw_ops); a graph with any other is refused.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

Attributes = Mapping[str, Any]


class GraphError(ValueError):
    """A graph that is damaged, or asks for what is not supported: one sentence that says what."""


@dataclass(frozen=True)
class Node:
    """One operation of a graph.

    Args:
        op: its TensorFlow name.
        inputs: names of the nodes whose values it takes.
        attributes: as in `model.json`: whole numbers as text, text in base64.
    """

    op: str
    inputs: tuple[str, ...]
    attributes: Attributes = field(default_factory=dict)


class TfjsGraph:
    """A graph of one float input (B, H, W, C) and one output.

    Every node is evaluated at every call, even what depends on the picture's size alone: that is a few percent of
    MAXIM's time.

    Args:
        nodes: {name: node}; one of them is the "Placeholder".
        constants: {name: value} of the nodes that are "Const".
        output: name of the node whose value is asked for.
        fuse: run layer norms, GELUs and matrix products with a bias as one operation each, which saves a quarter of
            MAXIM's time.

    Raises:
        GraphError: if the graph is not whole, or an operation not supported.
    """

    def __init__(
        self, nodes: Mapping[str, Node], constants: Mapping[str, torch.Tensor], output: str, fuse: bool = True
    ) -> None:
        places = [name for name, node in nodes.items() if node.op == "Placeholder"]
        if len(places) != 1:
            raise GraphError(f"the graph has to have one input, got {len(places)}")
        self.entry, self.output, self.constants = places[0], output, constants
        self.nodes = _fused(nodes, constants) if fuse else nodes
        known = constants.keys() | {self.entry}
        self.order = [name for name in _ordered(self.nodes, output) if name not in known]
        for name in self.order:
            if self.nodes[name].op not in _OPERATIONS:
                raise GraphError(f"the operation {self.nodes[name].op} is not supported ({name})")
        last_use = {name: step for step, user in enumerate(self.order) for name in self.nodes[user].inputs}
        self._dying: list[list[str]] = [[] for _ in self.order]  # by step: values that nobody reads any more
        for name, step in last_use.items():
            if name not in known and name != output:
                self._dying[step].append(name)

    @classmethod
    def read(cls, path: Path, fuse: bool = True) -> TfjsGraph:
        """The graph of a `model.json` that has its shards beside it.

        Raises:
            GraphError: if the files are damaged or the graph is not supported.
            OSError: if one cannot be read.
        """
        data = path.read_bytes()
        try:
            model = json.loads(data)
            nodes = {entry["name"]: _node_of(entry) for entry in model["modelTopology"]["node"]}
            weights = _read_weights(model["weightsManifest"], path.parent)
            constants = {name: weights[name] for name, node in nodes.items() if node.op == "Const"}
            outputs = [entry["name"].removesuffix(":0") for entry in model["signature"]["outputs"].values()]
        except GraphError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GraphError(f"{path.name} is no whole graph model ({type(error).__name__}: {error})") from error
        if len(outputs) != 1:
            raise GraphError(f"the graph has to have one output, got {len(outputs)}")
        return cls(nodes, constants, outputs[0], fuse)

    @torch.inference_mode()
    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        """The output for a `picture` (B, H, W, C), float32 on the CPU.

        Raises:
            TypeError: if it is anything else.
            GraphError: if a node has attributes that are not supported.
        """
        if not isinstance(picture, torch.Tensor) or picture.dtype != torch.float32 or picture.ndim != 4:
            got = f"{picture.dtype} {tuple(picture.shape)}" if isinstance(picture, torch.Tensor) else type(picture)
            raise TypeError(f"`picture` has to be a float32 tensor (B, H, W, C), got {got}.")
        values = {**self.constants, self.entry: picture}
        for name, dying in zip(self.order, self._dying, strict=True):
            node = self.nodes[name]
            values[name] = _OPERATIONS[node.op](node.attributes, *[values[i] for i in node.inputs])
            for dead in dying:
                del values[dead]
        return values[self.output]


# ---- reading --------------------------------------------------------------------------------------------------------

_STORED = {"float32": np.dtype("<f4"), "int32": np.dtype("<i4"), "bool": np.dtype("?")}


def _node_of(entry: Mapping[str, Any]) -> Node:
    # "^name" only says what has to run first, which matters to operations with side effects: there are none here.
    inputs = [name.removesuffix(":0") for name in entry.get("input", []) if not name.startswith("^")]
    return Node(entry["op"], tuple(inputs), entry.get("attr", {}))


def _read_weights(manifest: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, torch.Tensor]:
    """{name: value} of all groups of a manifest; a group's values follow each other through its joined shards."""
    weights = {}
    for group in manifest:
        data = b"".join((folder / name).read_bytes() for name in group["paths"])
        at = 0
        for entry in group["weights"]:
            if "quantization" in entry or entry["dtype"] not in _STORED:
                kind = "quantized" if "quantization" in entry else entry["dtype"]
                raise GraphError(f"weights have to be float32, int32 or bool, got {kind} ({entry['name']})")
            stored = _STORED[entry["dtype"]]
            count = int(np.prod(entry["shape"], dtype=np.int64))
            if at + count * stored.itemsize > len(data):
                raise GraphError(f"the shards end at byte {len(data)}, before the weights do ({entry['name']})")
            values = np.frombuffer(data, stored, count, at).astype(stored.newbyteorder("="))
            weights[entry["name"]] = torch.from_numpy(values.reshape(entry["shape"]))
            at += count * stored.itemsize
        if at != len(data):
            raise GraphError(f"the shards have {len(data) - at} bytes more than the weights")
    return weights


def _ordered(nodes: Mapping[str, Node], output: str) -> list[str]:
    """The nodes that `output` needs, each after its inputs; depth first, so that few values wait at a time."""
    order: dict[str, None] = {}
    begun: set[str] = set()
    stack = [output]
    while stack:
        name = stack[-1]
        if name not in nodes:
            raise GraphError(f"the graph has no node {name}")
        waiting = [i for i in nodes[name].inputs if i not in order]
        if not waiting:
            order[stack.pop()] = None
        elif name in begun:
            raise GraphError(f"the graph has a cycle ({name})")
        else:
            begun.add(name)
            stack += waiting
    return list(order)


# ---- attributes -----------------------------------------------------------------------------------------------------

_TYPES = {"DT_FLOAT": torch.float32, "DT_INT32": torch.int32, "DT_BOOL": torch.bool}


def _text(attributes: Attributes, name: str) -> str:
    return base64.b64decode(attributes[name]["s"]).decode()


def _number(attributes: Attributes, name: str) -> int:
    return int(attributes.get(name, {}).get("i", 0))


def _numbers(attributes: Attributes, name: str) -> list[int]:
    return [int(number) for number in attributes[name]["list"].get("i", [])]


# ---- operations -----------------------------------------------------------------------------------------------------
# (attributes, *inputs) -> value; pictures are (B, H, W, C) as in TensorFlow.


def _cast(attributes: Attributes, x: torch.Tensor) -> torch.Tensor:
    kind = attributes["DstT"]["type"]
    if kind not in _TYPES:
        raise GraphError(f"a cast to {kind} is not supported")
    return x.to(_TYPES[kind])


def _sum(attributes: Attributes, x: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    keep = bool(attributes.get("keep_dims", {}).get("b", False))
    return x.sum(dim=axes.reshape(-1).tolist(), keepdim=keep, dtype=x.dtype)


def _gather(attributes: Attributes, x: torch.Tensor, indices: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    if _number(attributes, "batch_dims"):
        raise GraphError("a GatherV2 with batch dimensions is not supported")
    place = int(axis) % x.ndim
    taken = x.index_select(place, indices.reshape(-1))
    return taken.reshape(*x.shape[:place], *indices.shape, *x.shape[place + 1 :])


def _strided_slice(
    attributes: Attributes, x: torch.Tensor, begin: torch.Tensor, end: torch.Tensor, strides: torch.Tensor
) -> torch.Tensor:
    if _number(attributes, "ellipsis_mask") or _number(attributes, "new_axis_mask") or int(strides.min()) < 1:
        raise GraphError("a StridedSlice with an ellipsis, a new axis or a step backwards is not supported")
    open_begin, open_end, shrink = (_number(attributes, f"{mask}_mask") for mask in ("begin", "end", "shrink_axis"))
    index: list[int | slice] = []
    for axis, (first, last, step) in enumerate(zip(begin.tolist(), end.tolist(), strides.tolist(), strict=True)):
        whole = slice(None if open_begin >> axis & 1 else first, None if open_end >> axis & 1 else last, step)
        index.append(first if shrink >> axis & 1 else whole)
    return x[tuple(index)]


def _conv(attributes: Attributes, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Kernel (kh, kw, in, out)."""
    padding, strides = _text(attributes, "padding"), _numbers(attributes, "strides")[1:3]
    dilations = _numbers(attributes, "dilations") if "dilations" in attributes else []
    if padding not in ("SAME", "VALID") or any(d != 1 for d in dilations) or _not_nhwc(attributes):
        raise GraphError("a Conv2D that is dilated, padded otherwise than SAME or VALID, or not NHWC is not supported")
    tall, wide = kernel.shape[:2]
    if tall == wide == 1 and strides == [1, 1]:
        return x @ kernel[0, 0]
    x = x.permute(0, 3, 1, 2)
    if padding == "SAME":
        # An odd number of rows goes below, of columns to the right, which torch's own padding cannot.
        missing = [
            max((-(-size // step) - 1) * step + side - size, 0)
            for size, side, step in zip(x.shape[2:], (tall, wide), strides, strict=True)
        ]
        x = F.pad(x, (missing[1] // 2, -(-missing[1] // 2), missing[0] // 2, -(-missing[0] // 2)))
    return F.conv2d(x, kernel.permute(3, 2, 0, 1), stride=strides).permute(0, 2, 3, 1)


def _conv_transpose(attributes: Attributes, size: torch.Tensor, kernel: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Kernel (kh, kw, out, in); the result's (B, H, W, C) is given as `size`."""
    if _text(attributes, "padding") != "VALID" or _not_nhwc(attributes):
        raise GraphError("a Conv2DBackpropInput that is not VALID or not NHWC is not supported")
    strides = _numbers(attributes, "strides")[1:3]
    out = F.conv_transpose2d(x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), stride=strides).permute(0, 2, 3, 1)
    if list(out.shape) != size.tolist():
        raise GraphError(f"a Conv2DBackpropInput gives {tuple(out.shape)}, the graph wants {tuple(size.tolist())}")
    return out


def _not_nhwc(attributes: Attributes) -> bool:
    return "data_format" in attributes and _text(attributes, "data_format") != "NHWC"


def _squeeze(attributes: Attributes, x: torch.Tensor) -> torch.Tensor:
    axes = _numbers(attributes, "squeeze_dims") if "squeeze_dims" in attributes else []
    return x.squeeze(tuple(axes)) if axes else x.squeeze()


def _plain(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """An operation that has no use for its attributes."""
    return lambda attributes, *inputs: function(*inputs)


_OPERATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "Abs": _plain(torch.abs),
    "AddV2": _plain(torch.add),
    "BroadcastTo": _plain(lambda x, shape: x.expand(shape.tolist())),
    "Cast": _cast,
    "ConcatV2": _plain(lambda *inputs: torch.cat(inputs[:-1], dim=int(inputs[-1]))),
    "Conv2D": _conv,
    "Conv2DBackpropInput": _conv_transpose,
    "Einsum": lambda attributes, *inputs: torch.einsum(_text(attributes, "equation"), *inputs),
    "Exp": _plain(torch.exp),
    "ExpandDims": _plain(lambda x, axis: x.unsqueeze(int(axis))),
    "Floor": _plain(torch.floor),
    "FloorDiv": _plain(torch.floor_divide),
    "FloorMod": _plain(torch.remainder),
    "GatherV2": _gather,
    "Greater": _plain(torch.gt),
    "GreaterEqual": _plain(torch.ge),
    "Identity": _plain(lambda x: x),
    "Less": _plain(torch.lt),
    "LessEqual": _plain(torch.le),
    "LogicalAnd": _plain(torch.logical_and),
    "Maximum": _plain(torch.maximum),
    "Minimum": _plain(torch.minimum),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "NotEqual": _plain(torch.ne),
    "Pack": lambda attributes, *inputs: torch.stack(inputs, dim=_number(attributes, "axis")),
    "Range": _plain(lambda start, limit, step: torch.arange(int(start), int(limit), int(step), dtype=torch.int32)),
    "RealDiv": _plain(torch.div),
    "Reciprocal": _plain(torch.reciprocal),
    "Reshape": _plain(lambda x, shape: x.reshape(shape.tolist())),
    "Rsqrt": _plain(torch.rsqrt),
    "SelectV2": _plain(torch.where),
    "Shape": _plain(lambda x: torch.tensor(x.shape, dtype=torch.int32)),
    "Sign": _plain(torch.sign),
    "Square": _plain(torch.square),
    "Squeeze": _squeeze,
    "StridedSlice": _strided_slice,
    "Sub": _plain(torch.sub),
    "Sum": _sum,
    "Tanh": _plain(torch.tanh),
    "Transpose": _plain(lambda x, axes: x.permute(axes.tolist())),
    # Of `_fused`, not of TensorFlow:
    "Gelu": _plain(lambda x: F.gelu(x, approximate="tanh")),
    "LayerNorm": _plain(lambda x, scale, bias: F.layer_norm(x, x.shape[-1:], scale.flatten(), bias.flatten(), 1e-6)),
    "Linear": _plain(lambda x, weight, bias: F.linear(x, weight.T, bias.flatten())),
}


# ---- fusing ---------------------------------------------------------------------------------------------------------
# A pattern is (op, pattern of each input), a constant's value, a name for whatever stands there (the same whenever the
# name comes again), or None for anything.

Pattern = tuple | float | str | None

_GELU = (
    "Mul",
    ("Mul", "x", 0.5),
    (
        "AddV2",
        ("Tanh", ("Mul", ("AddV2", "x", ("Mul", ("Mul", "x", 0.044715), ("Square", "x"))), 0.7978846)),
        1.0,
    ),
)
_MEAN = ("Mul", ("Sum", "x", "axes"), "share")
_VARIANCE = ("Maximum", ("Sub", ("Mul", ("Sum", ("Square", "x"), "axes"), "share"), ("Square", _MEAN)), 0.0)
_ONE_CHANNEL = ("Pack", None, None, None, 1.0)
_LAYER_NORM = (
    "AddV2",
    (
        "Mul",
        ("Sub", "x", ("Reshape", _MEAN, _ONE_CHANNEL)),
        ("Mul", ("Rsqrt", ("AddV2", ("Reshape", _VARIANCE, _ONE_CHANNEL), 1e-6)), "scale"),
    ),
    "bias",
)
_LINEAR = ("AddV2", ("Einsum", "x", "weight"), "bias")
_COMMUTATIVE = frozenset({"AddV2", "Mul", "Maximum"})


def _fused(nodes: Mapping[str, Node], constants: Mapping[str, torch.Tensor]) -> dict[str, Node]:
    """The same graph with every node that ends a pattern replaced; what nobody reads then is never run.

    Only where the pattern is met node by node, constants included; everything else is left as it stands.
    """

    def channels(name: str) -> int:
        """How many values a constant has, all along the last axis; 0 for anything else."""
        value = constants.get(name)
        return value.numel() if value is not None and value.shape[-1:] == (value.numel(),) else 0

    fused = dict(nodes)
    for name, node in nodes.items():
        if node.op == "Mul":
            for found in _matches(_GELU, name, nodes, constants, {}):
                fused[name] = Node("Gelu", (found["x"],))
        if node.op != "AddV2":
            continue
        for found in _matches(_LAYER_NORM, name, nodes, constants, {}):
            scale, bias, axes = channels(found["scale"]), channels(found["bias"]), constants.get(found["axes"])
            mean = scale > 0 and axes is not None and axes.tolist() == [3]
            if mean and scale == bias and _is_constant(constants.get(found["share"]), 1 / scale):
                fused[name] = Node("LayerNorm", (found["x"], found["scale"], found["bias"]))
        for found in _matches(_LINEAR, name, nodes, constants, {}):
            weight, product = constants.get(found["weight"]), next(i for i in node.inputs if i != found["bias"])
            plain = _text(nodes[product].attributes, "equation") == "abcg,gf->abcf"
            if plain and weight is not None and channels(found["bias"]) == weight.shape[1]:
                fused[name] = Node("Linear", (found["x"], found["weight"], found["bias"]))
    return fused


def _matches(
    pattern: Pattern,
    name: str,
    nodes: Mapping[str, Node],
    constants: Mapping[str, torch.Tensor],
    found: Mapping[str, str],
) -> Iterator[Mapping[str, str]]:
    """The ways to read the value of node `name` as `pattern`, each {name in the pattern: node}, `found` included."""
    if pattern is None:
        yield found
    elif isinstance(pattern, str):
        if _same(found.get(pattern, name), name, constants):
            yield {**found, pattern: name}
    elif isinstance(pattern, float):
        if _is_constant(constants.get(name), pattern):
            yield found
    elif name in nodes and nodes[name].op == pattern[0] and len(nodes[name].inputs) == len(pattern) - 1:
        inputs = nodes[name].inputs
        for order in (inputs, inputs[::-1]) if pattern[0] in _COMMUTATIVE else (inputs,):
            ways: list[Mapping[str, str]] = [found]
            for part, source in zip(pattern[1:], order, strict=True):
                ways = [further for way in ways for further in _matches(part, source, nodes, constants, way)]
            yield from ways


def _same(one: str, other: str, constants: Mapping[str, torch.Tensor]) -> bool:
    """Whether two nodes are one, or constants of equal value."""
    return one == other or (one in constants and other in constants and torch.equal(constants[one], constants[other]))


def _is_constant(value: torch.Tensor | None, wanted: float) -> bool:
    return value is not None and value.numel() == 1 and abs(float(value) - wanted) <= 1e-6 * abs(wanted)
