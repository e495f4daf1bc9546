"""Checks of what a pipeline is given: one sentence that names the parameter, what is allowed and what came.

This file travels with every model on the Hub, so it imports nothing of the package but its neighbours.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import torch

from .photo_statistics_diffretouch import NUM_LABELS

SLIDER_RANGE = 1.5
OUTPUT_TYPES = ("pil", "np", "pt", "grid", "latent")
BASES = ("photo", "decoded")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
CONDITIONING_RESIZES = ("nearest", "area")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def check_number(name: str, value: Any, low: float, high: float) -> None:
    if not is_number(value):
        raise TypeError(f"`{name}` has to be a number in [{low:g}, {high:g}], got {type(value).__name__}.")
    if not low <= value <= high:
        raise ValueError(f"`{name}` has to be a number in [{low:g}, {high:g}], got {value}.")


def check_components(unet: Any, scheduler: Any, grid_head: Any) -> None:
    for name, component in (("unet", unet), ("scheduler", scheduler), ("grid_head", grid_head)):
        if component is None:
            raise ValueError(f"`{name}` has to be given, only `vae` is optional, got None.")
    channels = (unet.config.in_channels, unet.config.out_channels)
    latent_channels = channels[0] - 3
    allowed = (channels[0], latent_channels + grid_head.config.in_channels)
    if latent_channels < 1 or channels != allowed:
        raise ValueError(
            "`unet` has to take the latents and 3 photo channels and to return the latents and the grid head's "
            f"{grid_head.config.in_channels} features, got {channels[0]} channels in and {channels[1]} out."
        )
    kind, labels = unet.config.class_embed_type, unet.config.projection_class_embeddings_input_dim
    if kind is not None and (kind, labels) != ("projection", NUM_LABELS):
        raise ValueError(
            f"`unet` has to have no class embedding, or a projection of {NUM_LABELS} numbers (a photo's statistics "
            f"and c), got {kind} of {labels}."
        )


def check_saved_settings(conditioning_resize: Any, provenance: Any, fast_timesteps: Any) -> None:
    if conditioning_resize not in CONDITIONING_RESIZES:
        raise ValueError(
            f"`conditioning_resize` has to be one of {CONDITIONING_RESIZES}, got {conditioning_resize!r}."
        )
    if not all(isinstance(text, str) for pair in (provenance or {}).items() for text in pair):
        raise ValueError(f"`provenance` has to be None or a dict of strings, got {provenance}.")
    named = isinstance(fast_timesteps, str) and re.fullmatch(r"\d+(,\d+)*", fast_timesteps)
    if fast_timesteps is not None and not named:
        raise ValueError(
            f"`fast_timesteps` has to be None or a string of integers joined by commas, got {fast_timesteps!r}."
        )


def check_slider(name: str, value: Any, num_photos: int) -> None:
    if not isinstance(value, (list, tuple)) and not (isinstance(value, np.ndarray) and value.ndim == 1):
        check_number(name, value, -SLIDER_RANGE, SLIDER_RANGE)
        return
    if len(value) != num_photos:
        raise ValueError(f"`{name}` has to be a number or one per photo ({num_photos}), got {len(value)} of them.")
    for entry in value:
        check_number(name, entry, -SLIDER_RANGE, SLIDER_RANGE)


def check_count(name: str, value: Any, least: int, most: int | None) -> None:
    allowed = f"an integer of at least {least}" if most is None else f"an integer in [{least}, {most}]"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"`{name}` has to be {allowed}, got {type(value).__name__}.")
    if value < least or (most is not None and value > most):
        raise ValueError(f"`{name}` has to be {allowed}, got {value}.")


def check_generator(generator: Any, batch_size: int) -> None:
    if generator is None:
        return
    for entry in generator if isinstance(generator, list) else [generator]:
        if not isinstance(entry, torch.Generator):
            kind = type(entry).__name__
            raise TypeError(f"`generator` has to be None, a torch.Generator or a list of them, got {kind}.")
    if isinstance(generator, list) and len(generator) != batch_size:
        raise ValueError(f"`generator` has to be one, or one per output image ({batch_size}), got {len(generator)}.")


def check_prediction_type(scheduler: Any) -> None:
    prediction_type = getattr(scheduler.config, "prediction_type", None)
    if prediction_type not in PREDICTION_TYPES:
        kind = type(scheduler).__name__
        raise ValueError(
            f"`scheduler` has to predict one of {PREDICTION_TYPES}, got {kind} that predicts {prediction_type}."
        )


def check_timesteps(scheduler: Any, timesteps: Any) -> None:
    most = scheduler.config.num_train_timesteps
    if "timesteps" not in inspect.signature(scheduler.set_timesteps).parameters:
        raise ValueError(f"`timesteps` has to be None for {type(scheduler).__name__}, which has a fixed spacing.")
    if not isinstance(timesteps, (list, tuple, np.ndarray, range)):
        raise TypeError(f"`timesteps` has to be a list of integers, got {type(timesteps).__name__}.")
    values = list(timesteps)
    integers = all(isinstance(t, (int, np.integer)) and not isinstance(t, bool) for t in values)
    inside = integers and values and all(0 <= t < most for t in values)
    if not inside or any(a <= b for a, b in zip(values[:-1], values[1:], strict=True)):
        raise ValueError(f"`timesteps` has to be descending integers in [0, {most - 1}], got {values}.")


def check_latents(latents: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(latents, torch.Tensor):
        raise TypeError(f"`latents` has to be a torch.Tensor, got {type(latents).__name__}.")
    if latents.shape != shape:
        raise ValueError(f"`latents` has to be of shape {shape}, got {tuple(latents.shape)}.")
    if not torch.isfinite(latents).all():
        raise ValueError("`latents` has to be finite, got NaN or infinite values.")


def check_output(output_type: Any, base: Any, vae: Any) -> None:
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"`output_type` has to be one of {OUTPUT_TYPES}, got {output_type!r}.")
    if base not in BASES:
        raise ValueError(f"`base` has to be one of {BASES}, got {base!r}.")
    if base == "decoded" and vae is None:
        raise ValueError('`base` has to be "photo" for a pipeline without a `vae`, got "decoded".')


def check_callback(callback: Any, tensor_inputs: Any, allowed: list[str]) -> None:
    if callback is not None and not callable(callback):
        raise TypeError(f"`callback_on_step_end` has to be None or callable, got {type(callback).__name__}.")
    if not isinstance(tensor_inputs, (list, tuple)) or any(name not in allowed for name in tensor_inputs):
        raise ValueError(
            f"`callback_on_step_end_tensor_inputs` has to be a list from {allowed}, got {tensor_inputs!r}."
        )


def attention_arguments(given: Any) -> tuple[float, dict[str, Any]]:
    """`cross_attention_kwargs` of a call -> the scale of its LoRA adapters, and what its UNet gets."""
    if given is not None and not isinstance(given, dict):
        raise TypeError(f"`cross_attention_kwargs` has to be None or a dict, got {type(given).__name__}.")
    arguments = dict(given or {})
    scale = arguments.pop("scale", 1.0)
    if not is_number(scale) or not np.isfinite(scale):
        raise ValueError(f"`cross_attention_kwargs` has to hold a finite number as `scale`, got {scale!r}.")
    return scale, arguments
