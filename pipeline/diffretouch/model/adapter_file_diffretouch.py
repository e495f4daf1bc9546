"""The file of an adapter: read, checked against itself and against the base it is loaded into.

This file travels with every model on the Hub, so it imports nothing of the package.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch

OLDEST_DIFFUSERS = "0.37"
"""What a model that travels with its code needs. This file is the first that such a model imports, so it says so."""

if [int(part) for part in diffusers.__version__.split(".")[:2]] < [int(part) for part in OLDEST_DIFFUSERS.split(".")]:
    raise ImportError(
        f"This model needs diffusers {OLDEST_DIFFUSERS} or newer, got {diffusers.__version__}: "
        "pip install --upgrade diffusers"
    )

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE  # noqa: E402
from huggingface_hub.errors import (  # noqa: E402
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError, safe_open  # noqa: E402

ADAPTER_FILE = LORA_WEIGHT_NAME_SAFE
"""The one file of an adapter."""

WHOLE_PARTS = ("grid_head.", "unet.conv_in.", "unet.conv_out.")
"""What the names of tensors that are trained whole begin with."""

BASE_METADATA_KEY = "diffretouch_base"

# Settings of peft that change what the tensors mean.
_UNSUPPORTED = ("use_dora", "use_rslora", "lora_bias", "rank_pattern", "alpha_pattern", "modules_to_save")


@dataclass(frozen=True)
class Adapter:
    """An adapter that was read: `layers` by "<UNet layer>.lora_A.weight", `whole` by "grid_head.*" and the like."""

    layers: dict[str, torch.Tensor]
    whole: dict[str, torch.Tensor]
    rank: int
    alpha: float


def layer_of(name: str) -> str:
    """ "a.to_q.lora_A.weight" -> "a.to_q"."""
    return name.rpartition(".lora_")[0]


def read_adapter(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        lora, base = (json.loads(header.get(key, "null")) for key in (LORA_ADAPTER_METADATA_KEY, BASE_METADATA_KEY))
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"`source` has to be a whole safetensors file, got {path}, which is damaged or of another kind."
        ) from error
    if not isinstance(lora, dict):
        raise ValueError(f"`source` has to state rank and alpha of its LoRA layers, got {path}, which does not.")
    if base is not None and not describes_base(base):
        raise ValueError(f"`source` has to state what base it is for, got {path}, whose metadata is damaged.")
    settings = {name.removeprefix("unet."): value for name, value in lora.items()}
    parse_adapter(tensors, settings, "source")
    return tensors, {"lora": settings, "base": base}


def describes_base(base: Any) -> bool:
    """Whether this is what `lora_base_metadata` returns, maybe with more in it."""
    if not isinstance(base, Mapping) or not {"model", "attributes", "provenance", "weights"} <= base.keys():
        return False
    weights, provenance = base["weights"], base["provenance"]
    return (
        isinstance(base["model"], str)
        and isinstance(base["attributes"], list)
        and isinstance(weights, list)
        and all(isinstance(weight, (int, float)) for weight in weights)
        and (provenance is None or isinstance(provenance, dict))
    )


def parse_adapter(tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any] | None, argument: str) -> Adapter:
    """Check what needs no model; `settings` is a `LoraConfig` as a dict, None = alpha is the rank."""
    layers, whole = {}, {}
    for name, tensor in tensors.items():
        if name.startswith("unet.") and name.endswith((".lora_A.weight", ".lora_B.weight")):
            layers[name.removeprefix("unet.")] = tensor
        elif name.startswith(WHOLE_PARTS) and ".lora_" not in name and ".base_layer." not in name:
            whole[name] = tensor
        else:
            parts = ", ".join(f"{part}*" for part in WHOLE_PARTS)
            raise ValueError(f"`{argument}` has to hold LoRA layers of the UNet and {parts} only, got {name!r}.")
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ValueError(f"`{argument}` has to hold finite floating-point tensors, got {name} that is not.")
    ranks = sorted({tensor.shape[0] for name, tensor in layers.items() if "lora_A" in name and tensor.ndim})
    if len(ranks) != 1:
        raise ValueError(f"`{argument}` has to hold LoRA layers of one rank, got {ranks or 'none'}.")
    if settings is None:
        return Adapter(layers, whole, ranks[0], float(ranks[0]))
    unsupported = [name for name in _UNSUPPORTED if settings.get(name)]
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if unsupported:
        raise ValueError(f"`{argument}` has to be plain LoRA of one rank and alpha, got {', '.join(unsupported)}.")
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not math.isfinite(alpha) or rank != ranks[0]:
        raise ValueError(
            f"`{argument}` has to state its rank, {ranks[0]}, and a finite alpha, got {rank!r} and {alpha!r}."
        )
    return Adapter(layers, whole, ranks[0], float(alpha))


def check_fit(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse an adapter whose tensors are not those that a base of these shapes needs, all of them and no others."""
    expected: dict[str, tuple[int, ...]] = {}
    for layer in {layer_of(name) for name in adapter.layers}:
        weight = shapes.get(f"unet.{layer}.weight", ())
        if len(weight) not in (2, 4):  # linear and convolution
            raise ValueError(
                f"`source` has to fit the layers of this base, got LoRA for {layer}, which it does not have."
            )
        expected[f"{layer}.lora_A.weight"] = (adapter.rank, *weight[1:])
        expected[f"{layer}.lora_B.weight"] = (weight[0], adapter.rank, *[1] * (len(weight) - 2))
    parts = tuple(part for part in WHOLE_PARTS if any(name.startswith(part) for name in adapter.whole))
    expected |= {name: shape for name, shape in shapes.items() if name.startswith(parts)}
    got = {name: tuple(tensor.shape) for name, tensor in (adapter.layers | adapter.whole).items()}
    wrong = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
    if wrong:
        first = wrong[0]
        raise ValueError(
            f"`source` has to fit this base in every tensor, got {len(wrong)} that do not: {first} is "
            f"{got.get(first, 'missing')} instead of {expected.get(first, 'absent')}."
        )


@contextmanager
def one_sentence(source: str, weight_name: str) -> Iterator[None]:
    """Turn the client's errors, which are paragraphs with URLs, into one sentence on what to do."""
    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"`source` has to be a folder, file, Hub id or dict, got {source!r}.") from error
    except RepositoryNotFoundError as error:
        raise OSError(
            f"There is no {source} here, and the Hub shows none to this user: check the name; if it is private, log "
            "in with `hf auth login` or pass `token`."
        ) from error
    except LocalEntryNotFoundError as error:
        raise OSError(
            f"There is no {source} here or in the cache, and the Hub was not asked or not reached."
        ) from error
    except EntryNotFoundError as error:
        raise OSError(f"`source` has to hold {weight_name}, got {source} on the Hub without it.") from error
    except HfHubHTTPError as error:
        raise OSError(f"The Hub refused {source}: {error.server_message or error.response.status_code}.") from error
