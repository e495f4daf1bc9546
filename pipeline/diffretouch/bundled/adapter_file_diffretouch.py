"""The file of an adapter: read, checked against itself and against the base it is loaded into.

This file travels with every model on the Hub, so it imports nothing of the package but its neighbours.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from huggingface_hub import hf_hub_download  # noqa: E402
from huggingface_hub.errors import (  # noqa: E402
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError, safe_open  # noqa: E402
from safetensors.torch import save  # noqa: E402

from .adapter_look_diffretouch import LOOK_TENSORS, check_look  # noqa: E402

ADAPTER_FILE = LORA_WEIGHT_NAME_SAFE
"""The one file of an adapter."""

WHOLE_PARTS = ("grid_head.", "unet.conv_in.", "unet.conv_out.")
"""What the names of tensors that are trained whole begin with."""

BASE_METADATA_KEY = "diffretouch_base"

# Settings of peft that change what the tensors mean.
_UNSUPPORTED = ("use_dora", "use_rslora", "lora_bias", "rank_pattern", "alpha_pattern", "modules_to_save")


@dataclass(frozen=True)
class Adapter:
    """An adapter that was read: `layers` by "<UNet layer>.lora_A.weight", `whole` by "grid_head.*" and the like, and
    `look` by `LOOK_TENSORS`."""

    layers: dict[str, torch.Tensor]
    whole: dict[str, torch.Tensor]
    rank: int
    alpha: float
    look: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def targets(self) -> list[str]:
        return sorted({layer_of(name) for name in self.layers})


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
            f"The adapter has to be a whole safetensors file, got {path}, which is damaged or of another kind."
        ) from error
    if base is None and is_for_other_networks(tensors):
        return tensors, {"lora": None, "base": None}
    if base is None and lora is None:  # of other software, which need not say more than the tensors do
        adapter = parse_adapter(tensors, None, "The adapter")
        lora = {"r": adapter.rank, "lora_alpha": adapter.alpha, "target_modules": adapter.targets}
    if not isinstance(lora, dict):
        raise ValueError(f"The adapter has to state rank and alpha of its LoRA layers, got {path}, which does not.")
    if base is not None and not describes_base(base):
        raise ValueError(f"The adapter has to state what base it is for, got {path}, whose metadata is damaged.")
    settings = {name.removeprefix("unet."): value for name, value in lora.items()}
    parse_adapter(tensors, settings, "The adapter")
    return tensors, {"lora": settings, "base": base}


def find_adapter(
    source: str | os.PathLike, weight_name: str, subfolder: str | None, hub_options: Mapping[str, Any]
) -> Path:
    """The file of an adapter given by its file, folder or Hub id, from which it is fetched."""
    if Path(source).is_file():
        return Path(source)
    if Path(source).is_dir():
        inside = Path(source, subfolder or "", weight_name)
        if not inside.is_file():
            raise FileNotFoundError(f"The adapter has to hold {weight_name}, got {inside.parent} without it.")
        return inside
    with one_sentence(str(source), weight_name):
        return Path(hf_hub_download(str(source), weight_name, subfolder=subfolder, **hub_options))


def write_adapter(
    path: Path, adapter: Adapter, base: Mapping[str, Any] | None, save_function: Callable[..., Any] | None
) -> None:
    """The file appears whole or not at all; `save_function` takes (tensors, path) and keeps no metadata."""
    layers = {f"unet.{name}": tensor for name, tensor in adapter.layers.items()}
    named = layers | adapter.whole | adapter.look
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
    lora = {"unet.r": adapter.rank, "unet.lora_alpha": adapter.alpha, "unet.target_modules": adapter.targets}
    metadata = {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(lora)}
    if base is not None:
        metadata[BASE_METADATA_KEY] = json.dumps(base)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        if save_function is None:
            partial.write_bytes(save(tensors, metadata))
        else:
            save_function(tensors, str(partial))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def is_for_other_networks(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether these are LoRA layers, but none of a UNet."""
    return all("lora" in name and not name.startswith(("unet.", *WHOLE_PARTS)) for name in tensors)


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
    """Check what needs no model; `settings` is a `LoraConfig` as a dict, None = alpha is the rank. Errors begin with
    `argument`."""
    layers, whole, look = {}, {}, {}
    for name, tensor in tensors.items():
        if name.startswith("unet.") and name.endswith((".lora_A.weight", ".lora_B.weight")):
            layers[name.removeprefix("unet.")] = tensor
        elif name.startswith(WHOLE_PARTS) and ".lora_" not in name and ".base_layer." not in name:
            whole[name] = tensor
        elif name in LOOK_TENSORS:
            look[name] = tensor
        else:
            parts = ", ".join([*(f"{part}*" for part in WHOLE_PARTS), *LOOK_TENSORS])
            raise ValueError(f"{argument} has to hold LoRA layers of the UNet and {parts} only, got {name!r}.")
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ValueError(f"{argument} has to hold finite floating-point tensors, got {name} that is not.")
    check_look(look, argument)
    ranks = sorted({tensor.shape[0] for name, tensor in layers.items() if "lora_A" in name and tensor.ndim})
    if len(ranks) != 1:
        raise ValueError(f"{argument} has to hold LoRA layers of one rank, got {ranks or 'none'}.")
    if settings is None:
        return Adapter(layers, whole, ranks[0], float(ranks[0]), look)
    unsupported = [name for name in _UNSUPPORTED if settings.get(name)]
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if unsupported:
        raise ValueError(f"{argument} has to be plain LoRA of one rank and alpha, got {', '.join(unsupported)}.")
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not math.isfinite(alpha) or rank != ranks[0]:
        raise ValueError(
            f"{argument} has to state its rank, {ranks[0]}, and a finite alpha, got {rank!r} and {alpha!r}."
        )
    return Adapter(layers, whole, ranks[0], float(alpha), look)


def check_fit(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse an adapter whose tensors are not those that a base of these shapes needs, all of them and no others."""
    expected: dict[str, tuple[int, ...]] = {}
    for layer in adapter.targets:
        weight = shapes.get(f"unet.{layer}.weight", ())
        if len(weight) not in (2, 4):  # linear and convolution
            raise ValueError(
                f"The adapter has to fit the layers of this base, got LoRA for {layer}, which it does not have."
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
            f"The adapter has to fit this base in every tensor, got {len(wrong)} that do not: {first} is "
            f"{got.get(first, 'missing')} instead of {expected.get(first, 'absent')}."
        )


@contextmanager
def one_sentence(source: str, weight_name: str) -> Iterator[None]:
    """Turn the client's errors, which are paragraphs with URLs, into one sentence on what to do."""
    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"The adapter has to be a folder, file, Hub id or dict, got {source!r}.") from error
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
        raise OSError(f"The adapter has to hold {weight_name}, got {source} on the Hub without it.") from error
    except HfHubHTTPError as error:
        raise OSError(f"The Hub refused {source}: {error.server_message or error.response.status_code}.") from error
