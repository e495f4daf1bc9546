"""Small TensorFlow.js graph models and npm packages, written as TensorFlow.js and npm write them."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffretouch.data.teacher import MODEL, Package


def text(value: str) -> dict[str, Any]:
    """An attribute that is text."""
    return {"s": base64.b64encode(value.encode()).decode()}


def number(value: int) -> dict[str, Any]:
    """An attribute that is a whole number."""
    return {"i": str(value)}


def numbers(*values: int) -> dict[str, Any]:
    """An attribute that is a list of whole numbers."""
    return {"list": {"i": [str(value) for value in values]} if values else {}}


def node(name: str, op: str, *inputs: str, **attributes: Any) -> dict[str, Any]:
    """An entry of a graph's list of nodes; `attributes` by `text`, `number` and `numbers`, or as they stand."""
    return {"name": name, "op": op, "input": list(inputs), "attr": attributes}


def write_graph(path: Path, nodes: list[dict[str, Any]], constants: Mapping[str, Any], output: str = "out") -> Path:
    """Write a graph of input "x" as `path`, its weights parted into two shards beside it; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {name: np.asarray(value) for name, value in constants.items()}
    data = b"".join(value.astype(value.dtype.newbyteorder("<")).tobytes() for value in values.values())
    shards = {"shard1of2.bin": data[: len(data) // 2], "shard2of2.bin": data[len(data) // 2 :]}
    for name, part in shards.items():
        (path.parent / name).write_bytes(part)
    entries = [{"name": n, "shape": list(value.shape), "dtype": str(value.dtype)} for n, value in values.items()]
    every = [node("x", "Placeholder"), *(node(name, "Const") for name in values), *nodes]
    model = {
        "format": "graph-model",
        "signature": {"outputs": {"output_0": {"name": f"{output}:0"}}},
        "modelTopology": {"node": every},
        "weightsManifest": [{"paths": list(shards), "weights": entries}],
    }
    path.write_text(json.dumps(model))
    return path


def float32(*values: Any) -> np.ndarray:
    """One number or list as float32."""
    return np.array(values[0] if len(values) == 1 else values, np.float32)


def mean_of(name: str, x: str, keep: bool = False) -> list[dict[str, Any]]:
    """Nodes whose last, `name`, is the mean of `x` over the constant "axes"; "share" is one over their number."""
    return [node(f"{name}/sum", "Sum", x, "axes", keep_dims={"b": keep}), node(name, "Mul", f"{name}/sum", "share")]


def layer_norm(x: str = "x", output: str = "out") -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A layer norm over 3 channels as the teacher's graph spells it, and its constants."""
    nodes = [
        node("shape", "Shape", "x"),
        *(
            node(f"shape/{k}", "StridedSlice", "shape", f"{k}", f"{k + 1}", "1", shrink_axis_mask=number(1))
            for k in range(3)
        ),
        node("one", "Pack", "shape/0", "shape/1", "shape/2", "single"),
        *mean_of("mean", x),
        node("mean/1", "Reshape", "mean", "one"),
        node("square", "Square", x),
        *mean_of("squares", "square"),
        node("mean/squared", "Square", "mean"),
        node("difference", "Sub", "squares", "mean/squared"),
        node("variance", "Maximum", "zero", "difference"),
        node("variance/1", "Reshape", "variance", "one"),
        node("safe", "AddV2", "variance/1", "tiny"),
        node("over", "Rsqrt", "safe"),
        node("scaled", "Mul", "over", "scale"),
        node("centred", "Sub", x, "mean/1"),
        node("normed", "Mul", "centred", "scaled"),
        node(output, "AddV2", "normed", "bias"),
    ]
    constants = {
        **{str(k): np.array([k], np.int32) for k in range(4)},
        "single": np.array(1, np.int32),
        "axes": np.array([3], np.int32),
        "share": float32(1 / 3),
        "zero": float32(0.0),
        "tiny": float32(1e-6),
        "scale": float32(0.5, 2.0, -1.0).reshape(1, 1, 1, 3),
        "bias": float32(0.1, 0.2, 0.3).reshape(1, 1, 1, 3),
    }
    return nodes, constants


def gelu(x: str = "x", output: str = "out") -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A GELU as the teacher's graph spells it, and its constants."""
    nodes = [
        node("half/x", "Mul", "half", x),
        node("part", "Mul", "cubic", x),
        node("squared", "Square", x),
        node("cube", "Mul", "part", "squared"),
        node("bent", "AddV2", x, "cube"),
        node("inner", "Mul", "root", "bent"),
        node("tanh", "Tanh", "inner"),
        node("up", "AddV2", "unit", "tanh"),
        node(output, "Mul", "half/x", "up"),
    ]
    constants = {"half": 0.5, "cubic": 0.044715, "root": math.sqrt(2 / math.pi), "unit": 1.0}
    return nodes, {name: float32(value) for name, value in constants.items()}


def linear(x: str = "x", output: str = "out", channels: int = 3) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A matrix product over channels with a bias as the teacher's graph spells it, and its constants."""
    nodes = [
        node("product", "Einsum", x, "matrix", equation=text("abcg,gf->abcf")),
        node(output, "AddV2", "product", "offset"),
    ]
    rng = np.random.default_rng(3)
    matrix = rng.uniform(-0.3, 0.3, (3, channels)) + 0.6 * np.eye(3, channels)
    return nodes, {"matrix": matrix.astype(np.float32), "offset": np.full((1, 1, 1, channels), 0.05, np.float32)}


def write_package(folder: Path, nodes: list[dict[str, Any]], constants: Mapping[str, Any]) -> Package:
    """Write an unpacked npm package "stand-in" 1.0.0 with a graph in the teacher's place; returns its description."""
    write_graph(folder / MODEL, nodes, constants)
    (folder / "package.json").write_text(json.dumps({"name": "stand-in", "version": "1.0.0"}))
    files = sorted(path for path in (folder / "models").iterdir())
    sha256 = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return Package("stand-in", "1.0.0", sha256)
