"""The models that the shapes of a checkpoint describe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.modeling_utils import ModelMixin

from ..model.modeling_affine_grid import AffineGridHead
from .published_layout import HEAD, UNET, VAE

_SCALING_FACTOR = 0.18215


def shapes_of(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


Shapes = Mapping[str, tuple[int, ...]]


def components_from_shapes(
    shapes: Shapes, record: Mapping[str, Any], with_vae: bool, attention_head_dim: int | None
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


def _shape(shapes: Shapes, key: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that the architecture is read from."""
    if len(shapes.get(key, ())) != dimensions:
        found = f"of shape {shapes[key]}" if key in shapes else "missing"
        raise _UnreadableArchitecture(
            f"`path` has to hold a DiffRetouch model, got a file in which `{key}` is {found}.{hint(shapes)}"
        )
    return shapes[key]


def hint(shapes: Shapes) -> str:
    if not any(key.startswith(HEAD) for key in shapes):
        return (
            " It has no grid head: if it is a Stable Diffusion model, start from it with "
            "`pipeline_from_stable_diffusion`."
        )
    if not any(key.startswith(VAE) for key in shapes):
        return " It has no VAE: `with_vae=False` converts the rest."
    return ""


def _unet_config(shapes: Shapes, record: Mapping[str, Any], attention_head_dim: int | None) -> dict[str, Any]:
    base, in_channels, *_ = _shape(shapes, f"{UNET}input_blocks.0.0.weight", 4)
    levels = _unet_levels(shapes)
    channels = [widths[0] for widths, _ in levels]
    attention = [has_attention for _, has_attention in levels]
    middle = f"{UNET}middle_block.1."
    projection = shapes.get(f"{middle}proj_in.weight", (0, 0))
    linear = len(projection) == 2
    return {
        "sample_size": record.get("sample_size", 64),
        "in_channels": in_channels,
        "out_channels": _shape(shapes, f"{UNET}out.2.weight", 4)[0],
        "block_out_channels": tuple(channels),
        "layers_per_block": len(levels[0][0]),
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
        "transformer_layers_per_block": _count(shapes, f"{middle}transformer_blocks."),
        "cross_attention_dim": _shape(shapes, f"{middle}transformer_blocks.0.attn2.to_k.weight", 2)[1],
        "use_linear_projection": linear,
        "attention_head_dim": _heads(channels, linear, record, attention_head_dim),
    }


def _unet_levels(shapes: Shapes) -> list[tuple[list[int], bool]]:
    """Per resolution: the widths of its residual blocks, and whether transformers follow them."""
    levels: list[tuple[list[int], bool]] = [([], False)]
    for number in range(1, 1 + _count(shapes, f"{UNET}input_blocks.")):
        block = f"{UNET}input_blocks.{number}"
        if f"{block}.0.op.weight" in shapes:
            levels.append(([], False))
        elif any(key.startswith(f"{block}.") for key in shapes):
            widths, has_attention = levels[-1]
            widths.append(_shape(shapes, f"{block}.0.out_layers.3.weight", 4)[0])
            has_attention |= any(key.startswith(f"{block}.1.") for key in shapes)
            levels[-1] = (widths, has_attention)
    for level, (widths, _) in enumerate(levels):
        if not widths:
            _shape(shapes, f"{UNET}input_blocks (level {level})", 4)
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


def _vae_config(shapes: Shapes, record: Mapping[str, Any]) -> dict[str, Any]:
    levels = _count(shapes, f"{VAE}encoder.down.")
    channels = tuple(
        _shape(shapes, f"{VAE}encoder.down.{level}.block.0.conv1.weight", 4)[0] for level in range(max(levels, 1))
    )
    return {
        "in_channels": _shape(shapes, f"{VAE}encoder.conv_in.weight", 4)[1],
        "out_channels": _shape(shapes, f"{VAE}decoder.conv_out.weight", 4)[0],
        "latent_channels": _shape(shapes, f"{VAE}post_quant_conv.weight", 4)[0],
        "block_out_channels": channels,
        "layers_per_block": _count(shapes, f"{VAE}encoder.down.0.block."),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "sample_size": 512,
        "scaling_factor": record.get("scaling_factor", _SCALING_FACTOR),
    }


def _head_config(shapes: Shapes) -> dict[str, Any]:
    coefficients = f"{HEAD}coefficients."
    downs = len({key.split(".")[2] for key in shapes if key.startswith(f"{coefficients}splat")})
    widths = [_shape(shapes, f"{coefficients}splat{i + 1}.0.weight", 4) for i in range(max(downs, 1))]
    return {
        "in_channels": widths[0][1],
        "hidden_channels": tuple(width[0] for width in widths),
        "mid_channels": _shape(shapes, f"{coefficients}pred1.0.weight", 4)[0],
        "grid_depth": _shape(shapes, f"{coefficients}pred2.0.weight", 4)[0] // 12,
        "guide_knots": _shape(shapes, f"{HEAD}guide.thresholds", 4)[-1],
        "guide_threshold_range": (0.0, 1.0),
    }


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbers follow `prefix` among the keys."""
    return len({key.removeprefix(prefix).split(".")[0] for key in shapes if key.startswith(prefix)})
