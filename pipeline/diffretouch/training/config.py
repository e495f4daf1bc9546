"""The training configuration: one documented dataclass, filled from a YAML recipe and command-line overrides."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass
class ModelConfig:
    """An untrained small model. Defaults: 3.8 M parameters, about 20 ms per UNet call at 32 x 32 on two CPU cores."""

    sample_size: int = 32  # latent side
    block_out_channels: list[int] = field(default_factory=lambda: [32, 64, 128])
    layers_per_block: int = 1
    attention_levels: int = 1  # how many of the lowest resolutions attend; attention at the top only costs time
    attention_head_dim: int = 16  # channels per head
    norm_num_groups: int = 16
    head_hidden_channels: list[int] = field(default_factory=lambda: [64])  # one stride-2 convolution each
    head_mid_channels: int = 96
    grid_depth: int = 8
    # A larger end than Stable Diffusion's 0.012: retouching lives in the lowest frequencies, which at 0.012 still
    # show through the noise of the last timestep, so that sampling from pure noise would drift to the average style.
    beta_start: float = 0.00085
    beta_end: float = 0.02
    conditioning_resize: str = "area"


@dataclass
class TrainingConfig:
    """Everything a training run depends on; the same configuration and data give the same weights on one CPU."""

    # What and where
    dataset: str = ""  # folder in the data set schema
    output_dir: str = "runs/diffretouch"
    pretrained_model: str | None = None  # folder or Hub id to start from; None = an untrained `model`
    model: ModelConfig = field(default_factory=ModelConfig)
    seed: int = 0

    # How long
    max_train_steps: int = 6000  # optimiser steps
    train_batch_size: int = 16  # pairs per step, over all processes
    learning_rate: float = 5e-4  # peak; AdamW
    lr_warmup_steps: int = 200  # linear rise, then cosine to zero
    adam_weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    mixed_precision: str = "no"  # "no" | "fp16" | "bf16"; bf16 is slower than fp32 on most CPUs
    ema_decay: float = 0.999  # of the weights that are validated and saved; ramps up over the first steps

    # Loss
    beta: float = 10.0  # weight of the pixel loss; the paper's 0.01 is for a pretrained Stable Diffusion
    contrastive: str = "signed"  # "signed" | "published" | "none"
    contrastive_weight: float = 0.3  # lambda
    contrastive_temperature: float = 0.1  # tau of the published form
    contrastive_warmup_steps: int = 300  # reconstruction alone first, while pictures are still noise
    contrastive_batch_size: int = 4  # pairs of each batch that also run the positive and the negative branch
    timestep_power: float = 1.5  # t = min + (max - min) u^power: above 1, low noise, where grids are read, counts more

    # Conditions
    condition_dropout: float = 0.15  # share of pairs trained with c = 0: any expert, which noise then picks
    attribute_dropout: float = 0.3  # chance of each other c_i to be 0: sliders have to work one at a time
    horizontal_flip: bool = True

    # Pictures
    pixel_size: int = 96  # side of the squashed pictures that the pixel and contrastive losses see

    # Keeping watch
    checkpointing_steps: int = 500
    checkpoints_total_limit: int = 2
    validation_steps: int = 500
    num_validation_photos: int = 8
    logging_steps: int = 50


def load_config(recipe: str | Path | None, overrides: list[str]) -> TrainingConfig:
    """A configuration from a YAML recipe (or None for the defaults) and `key=value` overrides (`model.beta_end=0.02`).

    Raises:
        FileNotFoundError: if there is no such recipe.
        ValueError: on an unknown key, a value of the wrong type, or values that do not go together.
    """
    values: dict[str, Any] = {}
    if recipe is not None:
        values = yaml.safe_load(Path(recipe).read_text()) or {}
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise ValueError(f"An override has to be key=value, got {override!r}.")
        *parents, leaf = key.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = yaml.safe_load(value)
    config = _fill(TrainingConfig, values, "")
    _check(config)
    return config


def save_config(config: TrainingConfig, path: Path) -> None:
    """Write the whole configuration as a recipe that `load_config` reads back."""
    path.write_text(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))


def _fill(cls: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"`{prefix.rstrip('.') or 'recipe'}` has to be a mapping, got {values!r}.")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"Unknown recipe key {prefix + unknown[0]!r}; known are {sorted(hints)}.")
    filled = {}
    for name, value in values.items():
        kind = hints[name]
        if dataclasses.is_dataclass(kind):
            filled[name] = _fill(kind, value, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            filled[name] = _convert(kind, value, prefix + name)
    return cls(**filled)


def _convert(kind: Any, value: Any, name: str) -> Any:
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(option for option in typing.get_args(kind) if option is not types.NoneType)
    if typing.get_origin(kind) is list:
        (entry,) = typing.get_args(kind)
        if isinstance(value, list):
            return [_convert(entry, item, name) for item in value]
    elif kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except ValueError:
            pass
    elif type(value) is kind:
        return value
    raise ValueError(f"`{name}` has to be of type {getattr(kind, '__name__', kind)}, got {value!r}.")


def _check(config: TrainingConfig) -> None:
    counts = ("max_train_steps", "train_batch_size", "checkpointing_steps", "validation_steps", "logging_steps")
    for name in (*counts, "checkpoints_total_limit", "pixel_size"):
        if getattr(config, name) < 1:
            raise ValueError(f"`{name}` has to be at least 1, got {getattr(config, name)}.")
    if config.contrastive not in ("signed", "published", "none"):
        raise ValueError(f'`contrastive` has to be "signed", "published" or "none", got {config.contrastive!r}.')
    if not 0 <= config.contrastive_batch_size <= config.train_batch_size:
        raise ValueError(
            f"`contrastive_batch_size` has to be in [0, {config.train_batch_size}], got {config.contrastive_batch_size}."
        )
    for name in ("condition_dropout", "attribute_dropout", "ema_decay"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"`{name}` has to be in [0, 1], got {getattr(config, name)}.")
    if not config.learning_rate > 0:
        raise ValueError(f"`learning_rate` has to be positive, got {config.learning_rate}.")
