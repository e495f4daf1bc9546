"""Names and shapes of the published checkpoint layout, tensor by tensor, and its noise schedule."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.modeling_utils import ModelMixin

UNET, VAE, HEAD = "model.diffusion_model.", "first_stage_model.", "hdrdecoder."

_STEPS, _BETA_START, _BETA_END = 1000, 0.00085, 0.012

SD_SCHEDULE = {
    "num_train_timesteps": _STEPS,
    "beta_start": _BETA_START,
    "beta_end": _BETA_END,
    "beta_schedule": "scaled_linear",
}

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


def layout(components: Mapping[str, ModelMixin]) -> dict[str, _Slot]:
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
            return f"{UNET}{_UNET_ENDS[module]}.{part}"
        if match := _MIDDLE.fullmatch(name):
            kind, index, rest = match.groups()
            place = f"middle_block.{2 * int(index) + (kind == 'attentions')}"
        elif match := _BLOCK.fullmatch(name):
            side, level, kind, index, rest = match.groups()
            place = block_place(side, int(level), kind, int(index))
        else:
            raise ValueError(_no_place("unet", name))
        return f"{UNET}{place}.{_swap_first(rest, _UNET_INNER[kind])}"

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
            return f"{VAE}{name}"
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
            return f"{VAE}{half}.{inner.replace('conv_norm_out', 'norm_out')}"
        return f"{VAE}{half}.{place}.{_swap_first(rest, _VAE_INNER)}"

    return published


def _head_name(name: str) -> str:
    module, _, part = name.rpartition(".")
    if module == "guide":
        return f"{HEAD}guide.{_GUIDE[part]}"
    if module.startswith("down."):
        return f"{HEAD}coefficients.splat{int(module.removeprefix('down.')) + 1}.0.{part}"
    return f"{HEAD}coefficients.{_HEAD_CONVOLUTIONS[module]}.0.{part}"


def _no_place(component: str, name: str) -> str:
    return f"`pipeline` has to be of the published family, got a {component} with `{name}`, which has no place there."


def _swap_first(name: str, names: Mapping[str, str]) -> str:
    """`name` with its leading module renamed, where `names` knows it."""
    for ours, theirs in names.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    return name


def schedule_buffers() -> dict[str, torch.Tensor]:
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
