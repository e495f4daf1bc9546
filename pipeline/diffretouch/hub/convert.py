"""Bridges between this library's pipeline folders, the published checkpoint layout, and Stable Diffusion.

    convert_checkpoint_to_folder("official.ckpt", "my-model")        # published layout -> pipeline folder, streaming
    convert_original_checkpoint("official.ckpt")                     # published layout -> pipeline in memory
    revert_to_original("my-model", "for-the-original-code.ckpt")     # and the way back, bit by bit
    pipeline_from_stable_diffusion("stabilityai/stable-diffusion-2-1-base")   # an untrained DiffRetouch

Converting is strict: every tensor of the file is used exactly once, has the shape the architecture asks for and is
finite, or nothing is converted and one error says what is wrong. Pickled code is never run.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.modeling_utils import ModelMixin
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..model.modeling_affine_grid import AffineGridHead
from ..model.pipeline_diffretouch import DiffRetouchPipeline

VARIANCE_TYPES = ("fixed_small", "fixed_large")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
VARIANTS = {"fp16": torch.float16, "bf16": torch.bfloat16}

_UNET, _VAE, _HEAD = "model.diffusion_model.", "first_stage_model.", "hdrdecoder."
# What the shapes of a checkpoint do not tell; `revert_to_original` records it under this name.
_RECORD = "diffretouch"
_SCALING_FACTOR = 0.18215
_STEPS, _BETA_START, _BETA_END = 1000, 0.00085, 0.012
_SD_SCHEDULE = {
    "num_train_timesteps": _STEPS,
    "beta_start": _BETA_START,
    "beta_end": _BETA_END,
    "beta_schedule": "scaled_linear",
}
_PIPELINE_DEFAULTS = (
    "default_num_inference_steps",
    "min_timestep",
    "conditioning_size",
    "conditioning_resize",
    "attributes",
    "provenance",
    "fast_timesteps",
    "noise_offset",
)
# What a model card says of weights in a file that this library did not write.
_PUBLISHED = {
    "source": "a checkpoint in the layout of the DiffRetouch release",
    "license": "other",
    "license_name": "diffretouch-release-non-commercial",
    "notice": "The released weights are for non-commercial use only; the same holds for everything made from them.",
}
_SD_LICENCES = {768: "creativeml-openrail-m", 1024: "openrail++"}  # by context width: SD 1.x, SD 2.x
# The configuration fields that change what a model computes, and that the published layout fixes.
_MATTERS = {
    "unet": (
        "act_fn",
        "addition_embed_type",
        "attention_type",
        "center_input_sample",
        "class_embed_type",
        "cross_attention_norm",
        "dual_cross_attention",
        "flip_sin_to_cos",
        "freq_shift",
        "mid_block_scale_factor",
        "norm_eps",
        "norm_num_groups",
        "only_cross_attention",
        "resnet_skip_time_act",
        "resnet_time_scale_shift",
        "time_embedding_act_fn",
        "time_embedding_type",
        "timestep_post_act",
        "downsample_padding",
        "attention_head_dim",
        "resnet_out_scale_factor",
    ),
    "grid_head": (),
    "vae": ("act_fn", "norm_num_groups", "shift_factor", "latents_mean", "latents_std"),
}
_LISTED_KEYS = 8
# How PyTorch's restricted unpickler names what it will not load.
_REFUSED_CLASS = re.compile(r"GLOBAL (\w[\w.]*)")


def convert_original_checkpoint(
    path: str | os.PathLike[str],
    *,
    variance_type: str | None = None,
    dtype: torch.dtype | None = None,
    with_vae: bool = True,
    attention_head_dim: int | None = None,
) -> DiffRetouchPipeline:
    """Read a checkpoint of the published layout into a pipeline.

    The architecture (widths, layers, attention levels, context width, grid size, VAE widths) is read from the
    tensors' shapes. The weights stay mapped to the file until they are cast, moved or written to, so do not overwrite
    the file in place while the pipeline lives.

    Args:
        path: a `torch.save` file that holds `{"state_dict": ...}` or the state dict itself, or a .safetensors file.
        variance_type: "fixed_small" (models trained on FiveK) or "fixed_large" (on PPR10K): the variance of the
            ancestral sampler. None: what `revert_to_original` recorded in the file, else "fixed_small".
        dtype: floating type of the pipeline. None: as stored (the widest, where a file mixes them).
        with_vae: False leaves the VAE out, which retouching does not need; its tensors may then be missing.
        attention_head_dim: channels of one attention head, which no shape tells. None: what `revert_to_original`
            recorded, else Stable Diffusion's rule: with linear projections 64 for 320 base channels and base / 2 for
            smaller relatives, with 1x1-convolution projections (SD 1.x) 8 heads.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, needs unsafe unpickling, or does not hold exactly such a model.
    """
    _check_choice("variance_type", variance_type, (None, *VARIANCE_TYPES))
    _check_dtype(dtype)
    state, record = _read_checkpoint(path)
    if not with_vae:
        state = {key: tensor for key, tensor in state.items() if not key.startswith(_VAE)}
    components = _components_from_shapes(_shapes(state), record, with_vae, attention_head_dim)
    _fill(components, state, dtype)
    scheduler = _scheduler(variance_type or record.get("variance_type", "fixed_small"))
    settings = {"provenance": _PUBLISHED, **record.get("pipeline", {})}
    return DiffRetouchPipeline(scheduler=scheduler, **components, **settings)


def convert_checkpoint_to_folder(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    variance_type: str | None = None,
    dtype: torch.dtype | None = None,
    with_vae: bool = True,
    attention_head_dim: int | None = None,
    variants: Sequence[str] = (),
    max_shard_size: int | str = "1GB",
) -> None:
    """Convert a checkpoint of the published layout to a pipeline folder without holding a second copy of it.

    Beyond the mapped file at most one shard is in memory. The folder appears whole or not at all.

    Args:
        path, variance_type, dtype, with_vae, attention_head_dim: as in `convert_original_checkpoint`.
        folder: the pipeline folder to make; it must not exist, or be empty.
        variants: further copies of the weights for `from_pretrained(variant=...)`, out of "fp16" and "bf16".
        max_shard_size: bytes per weight file, as an int or like "500MB".

    Raises:
        FileExistsError: if `folder` holds something.
        FileNotFoundError, ValueError: as in `convert_original_checkpoint`.
    """
    for variant in variants:
        _check_choice("variants", variant, tuple(VARIANTS))
    _check_dtype(dtype)
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"`folder` has to be new or empty, got {target}.")
    pipeline = convert_original_checkpoint(
        path, variance_type=variance_type, with_vae=with_vae, attention_head_dim=attention_head_dim
    )
    with _folder_in_one_piece(target) as partial:
        for name, model in _models(pipeline).items():
            model.save_config(partial / name)
            _write_weights(model, partial / name, dtype or model.dtype, None, max_shard_size)
            for variant in variants:
                _write_weights(model, partial / name, VARIANTS[variant], variant, max_shard_size)
        pipeline.scheduler.save_pretrained(partial / "scheduler")
        pipeline.save_config(partial)


def revert_to_original(
    pipeline: DiffRetouchPipeline | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    with_vae: bool = True,
) -> None:
    """Write a pipeline in the published layout; converting the file again gives the same model bit by bit.

    What the layout's shapes do not tell (heads per level, the VAE's scale, the sampler's variance, the pipeline's
    defaults) is recorded beside the tensors, where this library finds it and the original code does not look.

    Args:
        pipeline: a pipeline, or the folder or Hub id of one.
        path: a name ending in .safetensors gives that format, any other a `torch.save` of `{"state_dict": ...}`.
        dtype: floating type of the weights in the file. None: the pipeline's own; folders are loaded as float32.
        with_vae: False leaves the VAE out.

    Raises:
        ValueError: if the model is not of the published family, so that the layout cannot hold it, or `dtype` is too
            small for a weight.
    """
    _check_dtype(dtype)
    source = pipeline if isinstance(pipeline, DiffRetouchPipeline) else DiffRetouchPipeline.from_pretrained(pipeline)
    components = _models(source)
    if not with_vae:
        components.pop("vae", None)
    _check_kinds(components)
    record = _record(source)
    state = {key: slot.tensor.cpu().reshape(slot.shape) for key, slot in _layout(components).items()}
    _check_expressible(components, source.scheduler, _shapes(state), record)
    if dtype is not None:
        _check_fits(state, dtype)
        state = {key: tensor.to(dtype) for key, tensor in state.items()}
    state = {key: tensor.contiguous() for key, tensor in (state | _schedule_buffers()).items()}
    with _file_in_one_piece(Path(path)) as partial:
        if Path(path).suffix == ".safetensors":
            save_file(state, partial, metadata={"format": "pt", _RECORD: json.dumps(record)})
        else:
            torch.save({"state_dict": state, _RECORD: record}, partial)


def pipeline_from_stable_diffusion(
    source: str | os.PathLike[str],
    *,
    variance_type: str = "fixed_small",
    with_vae: bool = True,
    seed: int = 0,
    **loading: Any,
) -> DiffRetouchPipeline:
    """Make an untrained DiffRetouch from a Stable Diffusion 1.x or 2.x, whether it predicts noise or velocity.

    - `conv_in` 4 -> 7: the three channels of the photo start at zero.
    - `conv_out` 4 -> 8: the affine features get a fresh random filter each, so that the grid head sees the photo's
      features from the first step; the head itself starts near the identity.
    - Cross-attention keys and values are re-made for the four sliders, at zero. One context token makes attention
      equal to `to_out(to_v(c))`: the keys never matter, and values learn from zero because `to_out` is kept.
    - Everything else is Stable Diffusion's, the noise schedule too.

    So before training, for every photo, every c and every t, the prediction equals Stable Diffusion's for the
    same latents with an all-zero context (`encoder_hidden_states=torch.zeros(...)`, of any length): there, too,
    cross-attention adds nothing but the bias of `to_out`. It does not equal the prediction for an empty *prompt*,
    whose embedding is not zero.

    Args:
        source: Hub id or folder with `unet`, `scheduler` and `vae`.
        variance_type: "fixed_small" or "fixed_large", the variance of the ancestral sampler.
        with_vae: False leaves the VAE out; training needs it.
        seed: of the new filters and the grid head.
        loading: passed to `from_pretrained` of each part (`dtype`, `variant`, `revision`, `token`, ...).

    Raises:
        ValueError: if the model is of another kind (inpainting, SDXL, ...).
    """
    _check_choice("variance_type", variance_type, VARIANCE_TYPES)
    schedule = DDPMScheduler.load_config(source, subfolder="scheduler", **_hub_only(loading))
    unet = UNet2DConditionModel.from_pretrained(source, subfolder="unet", **loading)
    _check_stable_diffusion(unet, schedule)
    vae = AutoencoderKL.from_pretrained(source, subfolder="vae", **loading) if with_vae else None
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = AffineGridHead().to(unet.dtype)
    scheduler = DDPMScheduler(
        **{field: schedule.get(field, default) for field, default in _SD_SCHEDULE.items()},
        prediction_type=schedule.get("prediction_type", "epsilon"),
        variance_type=variance_type,
        clip_sample=False,
    )
    provenance = {"source": "Stable Diffusion"}
    if not os.path.isdir(source):
        provenance["base_model"] = str(source)
    if unet.config.cross_attention_dim in _SD_LICENCES:
        provenance["license"] = _SD_LICENCES[unet.config.cross_attention_dim]
    return DiffRetouchPipeline(_retouching_unet(unet, generator), scheduler, head, vae, provenance=provenance)


# --- Stable Diffusion -----------------------------------------------------------------------------------------------


def _check_stable_diffusion(unet: UNet2DConditionModel, schedule: Mapping[str, Any]) -> None:
    config = unet.config
    needed: dict[str, Any] = {"in_channels": 4, "out_channels": 4}
    needed |= dict.fromkeys(("addition_embed_type", "class_embed_type", "encoder_hid_dim_type"))
    wrong = [f"{field}={config[field]}" for field, value in needed.items() if config[field] != value]
    if wrong:
        raise ValueError(
            f"`source` has to be a text-to-image Stable Diffusion 1.x or 2.x, got a UNet with {', '.join(wrong)}."
        )
    if schedule.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
        raise ValueError(
            "`source` has to be a model that predicts noise or velocity, got one with "
            f"prediction_type={schedule['prediction_type']}."
        )


def _hub_only(loading: Mapping[str, Any]) -> dict[str, Any]:
    """The loading arguments that concern where files come from, which is all that a configuration file takes."""
    names = ("revision", "token", "cache_dir", "local_files_only", "force_download", "proxies")
    return {name: loading[name] for name in names if name in loading}


def _retouching_unet(unet: UNet2DConditionModel, generator: torch.Generator) -> UNet2DConditionModel:
    condition_channels = 4
    public = {field: value for field, value in unet.config.items() if not field.startswith("_")}
    changed = {"in_channels": 7, "out_channels": 8, "cross_attention_dim": condition_channels}
    state = unet.state_dict()
    photo_filters = state["conv_in.weight"].new_zeros(state["conv_in.weight"].shape[0], 3, 3, 3)
    state["conv_in.weight"] = torch.cat([state["conv_in.weight"], photo_filters], dim=1)
    for part in ("weight", "bias"):
        old = state[f"conv_out.{part}"]
        # The spread PyTorch gives a fresh convolution.
        bound = 1 / math.sqrt(state["conv_out.weight"][0].numel())
        new = torch.empty(old.shape).uniform_(-bound, bound, generator=generator)
        state[f"conv_out.{part}"] = torch.cat([old, new.to(old)])
    for key, tensor in state.items():
        if key.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            state[key] = tensor.new_zeros(tensor.shape[0], condition_channels)
    with torch.device("meta"):
        wider = UNet2DConditionModel.from_config(public | changed)
    wider.load_state_dict(state, assign=True)
    return wider.eval()


# --- Names: diffusers -> published layout ---------------------------------------------------------------------------

_UNET_INNER: dict[str, dict[str, str]] = {
    "resnets": {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    },
    "attentions": {},
    "downsamplers": {"conv": "op"},
    "upsamplers": {},
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_INNER = {
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_HEAD_CONVOLUTIONS = {"mid": "pred1", "out": "pred2"}
_GUIDE = {"matrix": "M", "matrix_bias": "M_bias", "thresholds": "thresholds", "slopes": "slopes", "bias": "bias"}
_BLOCK = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class _Slot:
    """Where one tensor of the published layout lives in the pipeline."""

    component: str
    name: str
    shape: tuple[int, ...]  # in the published layout; the pipeline's own has the same elements in the same order
    tensor: torch.Tensor


def _layout(components: Mapping[str, ModelMixin]) -> dict[str, _Slot]:
    """Published key -> slot, for every tensor of the pipeline's models."""
    makers: dict[str, Callable[[Any], Callable[[str], str]]] = {
        "unet": _unet_names,
        "vae": _vae_names,
        "grid_head": lambda head: _head_name,
    }
    slots: dict[str, _Slot] = {}
    for component, model in components.items():
        published_name = makers[component](model)
        for name, tensor in model.state_dict().items():
            slots[published_name(name)] = _Slot(component, name, _published_shape(component, name, tensor), tensor)
    return slots


def _published_shape(component: str, name: str, tensor: torch.Tensor) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    if component == "vae" and re.search(r"attentions\.0\.to_\w+(\.0)?\.weight$", name):
        return (*shape, 1, 1)  # 1x1 convolutions there, linear layers here
    if name == "guide.thresholds":
        return (1, 1, *shape)
    if name == "guide.slopes":
        return (1, 1, 1, *shape)
    return shape


def _unet_names(unet: UNet2DConditionModel) -> Callable[[str], str]:
    stride = unet.config.layers_per_block + 1  # numbered blocks per level: the residual blocks and what resamples

    def published(name: str) -> str:
        module, _, part = name.rpartition(".")
        if module in _UNET_ENDS:
            return f"{_UNET}{_UNET_ENDS[module]}.{part}"
        if match := _MIDDLE.fullmatch(name):
            kind, index, rest = match.groups()
            place = f"middle_block.{2 * int(index) + (kind == 'attentions')}"
        elif match := _BLOCK.fullmatch(name):
            side, level, kind, index, rest = match.groups()
            place = block_place(side, int(level), kind, int(index))
        else:
            raise ValueError(_no_place("unet", name))
        return f"{_UNET}{place}.{_swap_first(rest, _UNET_INNER[kind])}"

    def block_place(side: str, level: int, kind: str, index: int) -> str:
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * stride}.0"
        if kind == "upsamplers":
            behind = 2 if "CrossAttn" in unet.config.up_block_types[level] else 1
            return f"output_blocks.{(level + 1) * stride - 1}.{behind}"
        number = level * stride + index
        block = f"input_blocks.{number + 1}" if side == "down_blocks" else f"output_blocks.{number}"
        return f"{block}.{int(kind == 'attentions')}"

    return published


def _vae_names(vae: AutoencoderKL) -> Callable[[str], str]:
    last = len(vae.config.block_out_channels) - 1

    def published(name: str) -> str:
        half, _, inner = name.partition(".")
        if half in ("quant_conv", "post_quant_conv"):
            return f"{_VAE}{name}"
        if match := _MIDDLE.fullmatch(inner):
            kind, index, rest = match.groups()
            place = "mid.attn_1" if kind == "attentions" else f"mid.block_{int(index) + 1}"
        elif match := _BLOCK.fullmatch(inner):
            side, level, kind, index, rest = match.groups()
            outer = f"down.{level}" if side == "down_blocks" else f"up.{last - int(level)}"
            units = {"resnets": f"block.{index}", "downsamplers": "downsample", "upsamplers": "upsample"}
            if kind not in units:
                raise ValueError(_no_place("vae", name))
            place = f"{outer}.{units[kind]}"
        else:
            return f"{_VAE}{half}.{inner.replace('conv_norm_out', 'norm_out')}"
        return f"{_VAE}{half}.{place}.{_swap_first(rest, _VAE_INNER)}"

    return published


def _head_name(name: str) -> str:
    module, _, part = name.rpartition(".")
    if module == "guide":
        return f"{_HEAD}guide.{_GUIDE[part]}"
    if module.startswith("down."):
        return f"{_HEAD}coefficients.splat{int(module.removeprefix('down.')) + 1}.0.{part}"
    return f"{_HEAD}coefficients.{_HEAD_CONVOLUTIONS[module]}.0.{part}"


def _no_place(component: str, name: str) -> str:
    return f"`pipeline` has to be of the published family, got a {component} with `{name}`, which has no place there."


def _swap_first(name: str, names: Mapping[str, str]) -> str:
    """`name` with its leading module renamed, where `names` knows it."""
    for ours, theirs in names.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    return name


# --- Reading a checkpoint -------------------------------------------------------------------------------------------


def _read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state dict, mapped to the file where its format allows, and what `revert_to_original` recorded."""
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"`path` has to be a checkpoint file, got {source}.")
    contents, record = _read_safetensors(source) if _is_safetensors(source) else _read_pickle(source)
    _check_record(record)
    odd = [str(key) for key, value in contents.items() if not isinstance(value, torch.Tensor)]
    if odd or not contents:
        raise ValueError(f"`path` has to hold a state dict of tensors, got {source} with {_some(odd) or 'nothing'}.")
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
        and set(record.get("pipeline", ())) <= set(_PIPELINE_DEFAULTS)
    )
    if not well_formed:
        raise ValueError(f"`path` has to carry a record that `revert_to_original` wrote, or none, got {record}.")


def _is_safetensors(source: Path) -> bool:
    with source.open("rb") as file:
        return source.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _read_safetensors(source: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with safe_open(source, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get(_RECORD, "{}"))
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
    record = contents.get(_RECORD, {})
    state = contents.get("state_dict", {key: value for key, value in contents.items() if key != _RECORD})
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


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


# --- Architecture from shapes ---------------------------------------------------------------------------------------

_Shapes = Mapping[str, tuple[int, ...]]


def _components_from_shapes(
    shapes: _Shapes, record: Mapping[str, Any], with_vae: bool, attention_head_dim: int | None
) -> dict[str, ModelMixin]:
    """The models a checkpoint's shapes describe, without weights."""
    try:
        with torch.device("meta"):
            components: dict[str, ModelMixin] = {
                "grid_head": AffineGridHead(**_head_config(shapes)),
                "unet": UNet2DConditionModel(**_unet_config(shapes, record, attention_head_dim)),
            }
            if with_vae:
                components["vae"] = AutoencoderKL(**_vae_config(shapes, record))
    except _UnreadableArchitecture:
        raise
    except (ValueError, TypeError, KeyError, IndexError, ZeroDivisionError, RuntimeError) as error:
        raise ValueError(f"`path` has to hold a DiffRetouch model, got shapes no such model has: {error}") from error
    return components


class _UnreadableArchitecture(ValueError):
    pass


def _shape(shapes: _Shapes, key: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that the architecture is read from."""
    if len(shapes.get(key, ())) != dimensions:
        found = f"of shape {shapes[key]}" if key in shapes else "missing"
        raise _UnreadableArchitecture(
            f"`path` has to hold a DiffRetouch model, got a file in which `{key}` is {found}.{_hint(shapes)}"
        )
    return shapes[key]


def _hint(shapes: _Shapes) -> str:
    if not any(key.startswith(_HEAD) for key in shapes):
        return (
            " It has no grid head: if it is a Stable Diffusion model, start from it with "
            "`pipeline_from_stable_diffusion`."
        )
    if not any(key.startswith(_VAE) for key in shapes):
        return " It has no VAE: `with_vae=False` converts the rest."
    return ""


def _unet_config(shapes: _Shapes, record: Mapping[str, Any], attention_head_dim: int | None) -> dict[str, Any]:
    base, in_channels, *_ = _shape(shapes, f"{_UNET}input_blocks.0.0.weight", 4)
    levels = _unet_levels(shapes)
    channels = [widths[0] for widths, _ in levels]
    attention = [has_attention for _, has_attention in levels]
    middle = f"{_UNET}middle_block.1."
    projection = shapes.get(f"{middle}proj_in.weight", (0, 0))
    linear = len(projection) == 2
    return {
        "sample_size": record.get("sample_size", 64),
        "in_channels": in_channels,
        "out_channels": _shape(shapes, f"{_UNET}out.2.weight", 4)[0],
        "block_out_channels": tuple(channels),
        "layers_per_block": len(levels[0][0]),
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
        "transformer_layers_per_block": _count(shapes, f"{middle}transformer_blocks."),
        "cross_attention_dim": _shape(shapes, f"{middle}transformer_blocks.0.attn2.to_k.weight", 2)[1],
        "use_linear_projection": linear,
        "attention_head_dim": _heads(channels, linear, record, attention_head_dim),
    }


def _unet_levels(shapes: _Shapes) -> list[tuple[list[int], bool]]:
    """Per resolution: the widths of its residual blocks, and whether transformers follow them."""
    levels: list[tuple[list[int], bool]] = [([], False)]
    for number in range(1, 1 + _count(shapes, f"{_UNET}input_blocks.")):
        block = f"{_UNET}input_blocks.{number}"
        if f"{block}.0.op.weight" in shapes:
            levels.append(([], False))
        elif any(key.startswith(f"{block}.") for key in shapes):
            widths, has_attention = levels[-1]
            widths.append(_shape(shapes, f"{block}.0.out_layers.3.weight", 4)[0])
            has_attention |= any(key.startswith(f"{block}.1.") for key in shapes)
            levels[-1] = (widths, has_attention)
    for level, (widths, _) in enumerate(levels):
        if not widths:
            _shape(shapes, f"{_UNET}input_blocks (level {level})", 4)
    return levels


def _heads(
    channels: Sequence[int], linear: bool, record: Mapping[str, Any], attention_head_dim: int | None
) -> list[int]:
    """Heads per level, the number diffusers calls `attention_head_dim`."""
    if attention_head_dim is None and "heads" in record:
        return record["heads"]
    if attention_head_dim is None and not linear:
        return [8] * len(channels)
    width = attention_head_dim
    if width is None:
        width = 64 if channels[0] >= 320 else channels[0] // 2
    if width < 1 or any(channel % width for channel in channels):
        raise _UnreadableArchitecture(f"`attention_head_dim` has to divide the widths {channels}, got {width}.")
    return [channel // width for channel in channels]


def _vae_config(shapes: _Shapes, record: Mapping[str, Any]) -> dict[str, Any]:
    levels = _count(shapes, f"{_VAE}encoder.down.")
    channels = tuple(
        _shape(shapes, f"{_VAE}encoder.down.{level}.block.0.conv1.weight", 4)[0] for level in range(max(levels, 1))
    )
    return {
        "in_channels": _shape(shapes, f"{_VAE}encoder.conv_in.weight", 4)[1],
        "out_channels": _shape(shapes, f"{_VAE}decoder.conv_out.weight", 4)[0],
        "latent_channels": _shape(shapes, f"{_VAE}post_quant_conv.weight", 4)[0],
        "block_out_channels": channels,
        "layers_per_block": _count(shapes, f"{_VAE}encoder.down.0.block."),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "sample_size": 512,
        "scaling_factor": record.get("scaling_factor", _SCALING_FACTOR),
    }


def _head_config(shapes: _Shapes) -> dict[str, Any]:
    coefficients = f"{_HEAD}coefficients."
    downs = len({key.split(".")[2] for key in shapes if key.startswith(f"{coefficients}splat")})
    widths = [_shape(shapes, f"{coefficients}splat{i + 1}.0.weight", 4) for i in range(max(downs, 1))]
    return {
        "in_channels": widths[0][1],
        "hidden_channels": tuple(width[0] for width in widths),
        "mid_channels": _shape(shapes, f"{coefficients}pred1.0.weight", 4)[0],
        "grid_depth": _shape(shapes, f"{coefficients}pred2.0.weight", 4)[0] // 12,
        "guide_knots": _shape(shapes, f"{_HEAD}guide.thresholds", 4)[-1],
        "guide_threshold_range": (0.0, 1.0),
    }


def _count(shapes: _Shapes, prefix: str) -> int:
    """How many numbers follow `prefix` among the keys."""
    return len({key.removeprefix(prefix).split(".")[0] for key in shapes if key.startswith(prefix)})


# --- Filling, exactly -----------------------------------------------------------------------------------------------


def _fill(components: Mapping[str, ModelMixin], state: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> None:
    """Give every model its tensors, once all of them are accounted for."""
    slots = _layout(components)
    schedule = _schedule_buffers()
    expected = {key: slot.shape for key, slot in slots.items()} | _shapes(schedule)
    _check_keys(expected, _shapes(state))
    _check_values(state)
    _check_schedule(schedule, state)
    dtype = dtype or reduce(torch.promote_types, (state[key].dtype for key in slots))
    _check_fits(state, dtype)
    for component, model in components.items():
        filled = {
            slot.name: state[key].to(dtype).reshape(slot.tensor.shape)
            for key, slot in slots.items()
            if slot.component == component
        }
        model.load_state_dict(filled, assign=True)
        model.eval()


def _check_keys(expected: _Shapes, found: _Shapes) -> None:
    misshapen = [
        f"{key} {found[key]} instead of {shape}" for key, shape in expected.items() if found.get(key, shape) != shape
    ]
    problems = {
        "missing": [key for key in expected if key not in found],
        "left over": [key for key in found if key not in expected],
        "of the wrong shape": misshapen,
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in problems.items() if keys)
        raise ValueError(
            f"`path` has to hold exactly one DiffRetouch model, got a file with tensors {listed}.{_hint(found)}"
        )


def _check_values(state: Mapping[str, torch.Tensor]) -> None:
    others = [f"{key} ({tensor.dtype})" for key, tensor in state.items() if tensor.dtype not in DTYPES]
    if others:
        raise ValueError(f"`path` has to hold tensors of type {_types()}, got {_some(others)}.")
    broken = [key for key, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"`path` has to hold finite values, got NaN or infinite ones in {_some(broken)}.")


def _check_schedule(schedule: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
    wrong = []
    for key, known in schedule.items():
        # Files cast to half precision carry their schedule in it, too.
        relative = max(1e-5, 4 * torch.finfo(state[key].dtype).eps)
        if not torch.allclose(state[key].float(), known, rtol=relative, atol=1e-7):
            wrong.append(key)
    if wrong:
        raise ValueError(f"`path` has to hold Stable Diffusion's noise schedule, got another in {_some(wrong)}.")


def _check_fits(state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    over = [
        name
        for name, tensor in state.items()
        if torch.finfo(tensor.dtype).max > largest and tensor.abs().max() > largest
    ]
    if over:
        raise ValueError(f"`dtype` has to hold every weight, got {dtype}, too small for {_some(over)}.")


def _scheduler(variance_type: str) -> DDPMScheduler:
    return DDPMScheduler(**_SD_SCHEDULE, variance_type=variance_type, clip_sample=False)


def _schedule_buffers() -> dict[str, torch.Tensor]:
    """The twelve float32 vectors (1000,) of the ancestral sampler that the published layout stores (DDPM, eq. 4-7)."""
    betas = torch.linspace(_BETA_START**0.5, _BETA_END**0.5, _STEPS, dtype=torch.float64) ** 2
    alphas = 1 - betas
    cumulative = alphas.cumprod(0)
    previous = torch.cat([cumulative.new_ones(1), cumulative[:-1]])
    variance = betas * (1 - previous) / (1 - cumulative)
    buffers = {
        "betas": betas,
        "alphas_cumprod": cumulative,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": cumulative.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - cumulative).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - cumulative).log(),
        "sqrt_recip_alphas_cumprod": (1 / cumulative).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / cumulative - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * previous.sqrt() / (1 - cumulative),
        "posterior_mean_coef2": (1 - previous) * alphas.sqrt() / (1 - cumulative),
    }
    return {name: buffer.float() for name, buffer in buffers.items()}


# --- The way back ---------------------------------------------------------------------------------------------------


def _models(pipeline: DiffRetouchPipeline) -> dict[str, Any]:
    return {name: model for name, model in pipeline.components.items() if isinstance(model, torch.nn.Module)}


def _check_kinds(components: Mapping[str, Any]) -> None:
    kinds = {"unet": UNet2DConditionModel, "grid_head": AffineGridHead, "vae": AutoencoderKL}
    for component, model in components.items():
        if not isinstance(model, kinds[component]):
            raise ValueError(
                f"`pipeline` has to have a `{component}` of class {kinds[component].__name__}, got "
                f"{type(model).__name__}.{' `with_vae=False` leaves it out.' if component == 'vae' else ''}"
            )
    if not isinstance(components["unet"].config.layers_per_block, int):
        raise ValueError("`pipeline` has to have a UNet with one number of layers for all levels, got several.")


def _record(pipeline: DiffRetouchPipeline) -> dict[str, Any]:
    config = pipeline.unet.config
    # Swapped in samplers know other variances, or none.
    variance_type = pipeline.scheduler.config.get("variance_type")
    record = {
        "heads": list(_per_level(config.attention_head_dim, config)),
        "sample_size": config.sample_size,
        "variance_type": variance_type if variance_type in VARIANCE_TYPES else "fixed_small",
        "pipeline": {name: pipeline.config[name] for name in _PIPELINE_DEFAULTS},
    }
    if isinstance(pipeline.vae, AutoencoderKL):
        record["scaling_factor"] = pipeline.vae.config.scaling_factor
    return record


def _per_level(value: Any, config: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * len(config["block_out_channels"])


def _check_expressible(
    components: Mapping[str, Any], scheduler: Any, shapes: _Shapes, record: Mapping[str, Any]
) -> None:
    """Raise unless the published layout rebuilds exactly these models."""
    try:
        rebuilt = _components_from_shapes(shapes, record, "vae" in components, None)
    except ValueError as error:
        raise ValueError(f"`pipeline` has to be of the published family, got one that is not: {error}") from error
    expected = {key: slot.shape for key, slot in _layout(rebuilt).items()}
    differing = [key for key in expected.keys() | shapes.keys() if expected.get(key) != shapes.get(key)]
    differing += [
        f"{component}.{field} = {model.config[field]}"
        for component, model in components.items()
        for field, value in rebuilt[component].config.items()
        if field in _MATTERS[component] and not _same(model.config[field], value, model.config)
    ]
    if scheduler.config.get("prediction_type", "epsilon") != "epsilon":
        differing.append(f"scheduler.prediction_type = {scheduler.config['prediction_type']}")
    known = _schedule_buffers()["alphas_cumprod"]
    if scheduler.alphas_cumprod.shape != known.shape or not torch.allclose(
        scheduler.alphas_cumprod.cpu().float(), known, rtol=1e-5
    ):
        differing.append("scheduler with another noise schedule")
    if differing:
        raise ValueError(f"`pipeline` has to be of the published family, got one with {_some(differing)}.")


def _same(one: Any, other: Any, config: Mapping[str, Any]) -> bool:
    if isinstance(one, (list, tuple)) or isinstance(other, (list, tuple)):
        return _per_level(one, config) == _per_level(other, config)
    return one == other


# --- Files ----------------------------------------------------------------------------------------------------------


def _write_weights(
    model: ModelMixin, folder: Path, dtype: torch.dtype, variant: str | None, max_shard_size: int | str
) -> None:
    """Weights and index under the names diffusers looks for, cast one shard at a time."""
    ending = f".{variant}.safetensors" if variant else ".safetensors"
    state = model.state_dict()
    _check_fits(state, dtype)
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
def _folder_in_one_piece(target: Path) -> Iterator[Path]:
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
def _file_in_one_piece(target: Path) -> Iterator[Path]:
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


# --- Small things ---------------------------------------------------------------------------------------------------


def _check_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` has to be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def _check_dtype(dtype: Any) -> None:
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"`dtype` has to be one of {_types()} or None, got {dtype!r}.")


def _types() -> str:
    return ", ".join(map(str, DTYPES))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED_KEYS} more" if len(names) > _LISTED_KEYS else ""
    return ", ".join(names[:_LISTED_KEYS]) + more
