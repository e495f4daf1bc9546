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


def check_saved_settings(provenance: Any, fast_timesteps: Any) -> None:
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
