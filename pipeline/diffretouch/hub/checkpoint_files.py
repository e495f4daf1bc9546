"""Checkpoints and weights as files: read without running what is in them, written whole or not at all."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

VARIANCE_TYPES = ("fixed_small", "fixed_large")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# What the shapes of a checkpoint do not tell; `revert_to_original` records it under this name.
RECORD = "diffretouch"
PIPELINE_DEFAULTS = (
    "default_num_inference_steps",
    "min_timestep",
    "conditioning_size",
    "conditioning_resize",
    "attributes",
    "provenance",
    "fast_timesteps",
    "noise_offset",
)

_LISTED_KEYS = 8

# How PyTorch's restricted unpickler names what it will not load.
_REFUSED_CLASS = re.compile(r"GLOBAL (\w[\w.]*)")


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state dict, mapped to the file where its format allows, and what `revert_to_original` recorded."""
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"`path` has to be a checkpoint file, got {source}.")
    contents, record = _read_safetensors(source) if _is_safetensors(source) else _read_pickle(source)
    _check_record(record)
    odd = [str(key) for key, value in contents.items() if not isinstance(value, torch.Tensor)]
    if odd or not contents:
        raise ValueError(f"`path` has to hold a state dict of tensors, got {source} with {some_of(odd) or 'nothing'}.")
    return contents, record


def _check_record(record: Any) -> None:
    """A file may claim anything; let through only what `revert_to_original` writes."""
    kinds: dict[str, Any] = {
        "heads": list,
        "sample_size": int,
        "variance_type": str,
        "scaling_factor": (int, float),
        "pipeline": dict,
    }
    well_formed = (
        isinstance(record, dict)
        and all(isinstance(value, kinds.get(name, ())) for name, value in record.items())
        and record.get("variance_type", "fixed_small") in VARIANCE_TYPES
        and set(record.get("pipeline", ())) <= set(PIPELINE_DEFAULTS)
    )
    if not well_formed:
        raise ValueError(f"`path` has to carry a record that `revert_to_original` wrote, or none, got {record}.")


def _is_safetensors(source: Path) -> bool:
    with source.open("rb") as file:
        return source.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _read_safetensors(source: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with safe_open(source, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get(RECORD, "{}"))
            return {key: file.get_tensor(key) for key in file.keys()}, record  # noqa: SIM118 (not a dict)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(_unreadable(source, error)) from error


def _read_pickle(source: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        contents = _load_without_code(source)
    # What a damaged file raises depends on where it was damaged.
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError) as error:
        asked = _REFUSED_CLASS.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
        raise ValueError(_way_out(source, asked.group(1)) if asked else _unreadable(source, error)) from error
    if not isinstance(contents, dict):
        raise ValueError(f"`path` has to hold a state dict, got {source} with a {type(contents).__name__}.")
    record = contents.get(RECORD, {})
    state = contents.get("state_dict", {key: value for key, value in contents.items() if key != RECORD})
    if not isinstance(state, dict):
        raise ValueError(f"`path` has to hold a state dict, got {source} with a {type(state).__name__} of that name.")
    return state, record


def _way_out(source: Path, asked: str) -> str:
    return (
        f"`path` has to hold plain tensors, got {source}, whose pickle asks for {asked}; nothing of it was run. Where "
        "the file is trusted and its libraries are installed, save its state dict alone, "
        '`safetensors.torch.save_file(checkpoint["state_dict"], "weights.safetensors")`, and convert that file.'
    )


def _unreadable(source: Path, error: Exception) -> str:
    # PyTorch puts advice to load the file unsafely in front of the reason.
    reason = " ".join(str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the doc")[0].split())
    return (
        f"`path` has to be a readable checkpoint, got {source}, which is cut short, damaged or of another format "
        f"({reason[:120] or type(error).__name__})."
    )


def _load_without_code(source: Path) -> Any:
    # Only zip files, which PyTorch has written since 1.6, can be mapped; older ones are read whole.
    with source.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    return torch.load(source, map_location="cpu", weights_only=True, mmap=is_zip)


def check_fits(state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    over = [
        name
        for name, tensor in state.items()
        if torch.finfo(tensor.dtype).max > largest and tensor.abs().max() > largest
    ]
    if over:
        raise ValueError(f"`dtype` has to hold every weight, got {dtype}, too small for {some_of(over)}.")


def write_weights(
    model: ModelMixin, folder: Path, dtype: torch.dtype, variant: str | None, max_shard_size: int | str
) -> None:
    """Weights and index under the names diffusers looks for, cast one shard at a time."""
    ending = f".{variant}.safetensors" if variant else ".safetensors"
    state = model.state_dict()
    check_fits(state, dtype)
    plan = split_torch_state_dict_into_shards(
        {name: torch.empty(tensor.shape, dtype=dtype, device="meta") for name, tensor in state.items()},
        filename_pattern="diffusion_pytorch_model{suffix}" + ending,
        max_shard_size=max_shard_size,
    )
    for filename, names in plan.filename_to_tensors.items():
        # Not bound to a name, so that it is freed before the next one is cast.
        save_file({name: state[name].to(dtype) for name in names}, folder / filename, metadata={"format": "pt"})
        (folder / filename).chmod(0o666 & ~_umask())  # safetensors keeps its files to their owner
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        infix = f".{variant}" if variant else ""
        name = f"diffusion_pytorch_model.safetensors.index{infix}.json"
        (folder / name).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


@contextmanager
def folder_in_one_piece(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place if all goes well, and disappears if not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial)
        raise


@contextmanager
def file_in_one_piece(target: Path) -> Iterator[Path]:
    """A file beside `target` that takes its place if all goes well, and disappears if not."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        os.replace(partial, target)
    except BaseException:
        partial.unlink()
        raise


def _umask() -> int:
    # There is no way to read it but to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` has to be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def check_dtype(dtype: Any) -> None:
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"`dtype` has to be one of {types_allowed()} or None, got {dtype!r}.")


def types_allowed() -> str:
    return ", ".join(map(str, DTYPES))


def some_of(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED_KEYS} more" if len(names) > _LISTED_KEYS else ""
    return ", ".join(names[:_LISTED_KEYS]) + more
