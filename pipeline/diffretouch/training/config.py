"""The training configuration: one documented dataclass, filled from a YAML recipe and command-line overrides."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..files import write_atomically

# What a LoRA run may train whole.
WHOLE_MODULES = ("grid_head", "conv_in", "conv_out")


@dataclass
class ModelConfig:
    """An untrained small model. Defaults: 3.8 M parameters, about 20 ms per UNet call at 32 x 32 on two CPU cores."""

    sample_size: int = 32  # latent side
    block_out_channels: list[int] = field(default_factory=lambda: [32, 64, 128])
    layers_per_block: int = 1
    attention_levels: int = 1  # how many of the lowest resolutions attend; attention at the top only costs time
    attention_head_dim: int = 16  # heads per attention: diffusers' UNet takes their number under this name
    norm_num_groups: int = 16
    head_hidden_channels: list[int] = field(default_factory=lambda: [64])  # one stride-2 convolution each
    head_mid_channels: int = 96
    # Deviation, in cells, of the Gaussian that smooths the grid over places; 0 = as published
    head_smoothing: float = 0.0
    head_bias: bool = True  # as published; False: no features, no retouch
    num_features: int = 4  # from the UNet to the grid head
    # The photo's statistics and c go into every residual block, by the UNet's class embedding: group normalisation
    # takes exposure and colour of light away. False = as published.
    statistics: bool = False
    grid_depth: int = 8
    guide_threshold_range: list[float] = field(default_factory=lambda: [-1.0, 1.0])  # knots of an untrained guide
    # A larger end than Stable Diffusion's 0.012: retouching lives in the lowest frequencies, which at 0.012 still
    # show through the noise of the last timestep, so that sampling from pure noise would drift to the average style.
    beta_start: float = 0.00085
    beta_end: float = 0.02
    # Ends in pure noise (Lin et al. 2024), so that nothing of the answer shows where sampling starts; velocity alone.
    rescale_betas_zero_snr: bool = False
    # Noise that is common to a whole picture, beside the independent part: what a style does to a whole picture shows
    # through independent noise to the last timestep, and sampling would have nothing to decide.
    noise_offset: float = 0.0
    # "epsilon" is the method's; near pure noise a small network's error in it is multiplied by the inverse signal
    # and becomes a drift of the whole picture. The velocity is the picture itself there.
    prediction_type: str = "v_prediction"  # "epsilon" | "v_prediction"
    conditioning_resize: str = "area"
    # Sampling goes from pure noise to here, where the picture is read off; training covers the same range.
    min_timestep: int = 200
    default_num_inference_steps: int = 20


@dataclass
class TrainingConfig:
    """Everything a training run depends on; the same configuration and data give the same weights on one CPU.

    Names are those of diffusers' training scripts where these have the setting.
    """

    # What and where
    dataset: str = ""  # folder or Hub id of a data set in the schema
    streaming: bool = False  # read rows as they come, once; keeps no copy of the data set beside `cache_dir`
    bad_rows: str = "stop"  # "stop" | "skip": what broken pictures and missing values do
    output_dir: str = "runs/diffretouch"
    cache_dir: str | None = None  # encoded pictures, kept between runs; None = `output_dir`/cache
    pretrained_model: str | None = None  # "bundled", a folder or a Hub id to start from; None = an untrained `model`
    model: ModelConfig = field(default_factory=ModelConfig)
    seed: int = 0

    # Which weights: all of them, or low-rank updates of the UNet and a few whole modules
    lora_rank: int | None = None  # None = every weight
    lora_alpha: float | None = None  # updates count alpha / rank; None = `lora_rank`, so that the rank sets no scale
    # Ends of names in the UNet: attention, but for the query and key of cross-attention, which with one context token
    # have nothing to choose from. Residual blocks follow with conv1, conv2 and conv_shortcut.
    lora_target_modules: list[str] = field(default_factory=lambda: ["attn1.to_q", "attn1.to_k", "to_v", "to_out.0"])
    # Trained whole and saved with the adapter, any of grid_head, conv_in, conv_out. The head makes every grid from
    # four features, too few to bend towards a new style by low rank.
    lora_train_whole: list[str] = field(default_factory=lambda: ["grid_head", "conv_in", "conv_out"])
    # First fit a look to the pairs, and keep it in the adapter where it is nearer to held-back targets than nothing.
    # Where the look alone is nearest, no step is trained: LoRA could only unlearn what the model does by itself.
    fit_look: bool = False
    # Leave out pairs that a head fitted to the others tells to be of another style than most (`same_style`).
    judge_pairs: bool = True
    # Of training pairs; below it the look is all that is learned. 8 in `my_style`: fewer pairs are learned by heart.
    fewest_pairs: int = 1

    # How long
    max_train_steps: int = 6000  # optimiser steps
    train_batch_size: int = 16  # pairs per optimiser step, over all processes and accumulated parts
    gradient_accumulation_steps: int = 1  # parts of each process' share; changes memory, not the result
    gradient_checkpointing: bool = False  # less memory for a third more time
    learning_rate: float = 5e-4  # peak; AdamW
    lr_scheduler: str = "cosine"  # "cosine" | "linear" to zero | "constant_with_warmup" | "constant", no warm-up
    lr_warmup_steps: int = 200  # linear rise
    use_8bit_adam: bool = False  # optimiser state in 8 bits; needs bitsandbytes
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    adam_weight_decay: float = 1e-4
    # Of what reads the photo's statistics and c, instead of the above: hundreds of numbers are soon known by heart.
    statistics_weight_decay: float | None = None
    max_grad_norm: float = 1.0
    mixed_precision: str = "no"  # "no" | "fp16" | "bf16"; bf16 is slower than fp32 on most CPUs
    use_ema: bool = True  # validate and save averaged weights
    ema_decay: float = 0.999  # ramps up over the first steps

    # Loss
    beta: float = 10.0  # weight of the pixel loss; the paper's 0.01 is for a pretrained Stable Diffusion
    pixel_loss: str = "mse"  # "mse" | "l1"; a good `beta` for the second is a fifth of the first's
    snr_gamma: float | None = None  # min-SNR weighting of the noise loss (Hang et al. 2023, who use 5); None = even
    # "signed" asks for the right way under -c; "linear" for the whole way of one slider, along what sampling sees;
    # "published" only for another score under -c
    contrastive: str = "signed"  # "linear" | "signed" | "published" | "none"
    contrastive_weight: float = 0.3  # lambda
    contrastive_temperature: float = 0.1  # tau of the published form
    contrastive_warmup_steps: int = 300  # reconstruction alone first, while pictures are still noise
    contrastive_batch_size: int = 4  # pairs of each batch that also run the positive and the negative branch
    contrastive_alone: float = 0.5  # share of these pairs, of "linear", whose one slider moves while the others are 0
    contrastive_every: int = 1  # only at every so manieth step, weighted as many times
    # Pairs of each batch that are also retouched as in use, sampled from pure noise at c = 0; their last call learns.
    sampled_batch_size: int = 0
    # Weight, beside the pixel loss, of how far a second pass in use ends from the first; 0 saves its cost.
    settling_weight: float = 0.0
    timestep_power: float = 1.5  # t = min + (max - min) u^power: above 1, low noise, where grids are read, counts more
    # Share of pairs at the last timestep, pure noise: where sampling starts, which no other timestep teaches.
    pure_noise_share: float = 0.0

    # Conditions
    condition_dropout: float = 0.15  # share of pairs trained with c = 0: any expert, which noise then picks
    attribute_dropout: float = 0.3  # chance of each other c_i to be 0: sliders have to work one at a time
    condition_jitter: float = 0.25  # half-width of uniform noise on c: five experts leave gaps on a slider's way
    horizontal_flip: bool = True

    # Pictures
    pixel_size: int = 96  # side of the squashed pictures that the pixel and contrastive losses see

    # Keeping watch
    checkpointing_steps: int = 500
    checkpoints_total_limit: int = 2
    validation_steps: int = 500
    num_validation_photos: int = 8
    # What `output_dir`/best is best at; per expert of a photo: "delta_e_c0", all sliders at 0, or "delta_e_oracle"
    metric_for_best_model: str = "delta_e_c0"
    # Validations without a better one after which a run stops; `final` is then the best, not the last
    patience: int | None = None
    logging_steps: int = 50
    report_to: str = "tensorboard"  # "tensorboard" | "wandb" | "trackio" | "none"

    # The Hub
    push_to_hub: bool = False  # the final model or adapter, once the run is complete
    hub_model_id: str | None = None  # None = the name of `output_dir`, in your own namespace


def load_config(recipe: str | Path | None, overrides: list[str]) -> TrainingConfig:
    """A configuration from a YAML recipe (or None for the defaults) and `key=value` overrides (`model.beta_end=0.02`).

    Raises:
        FileNotFoundError: if there is no such recipe.
        ValueError: on an unknown key, a value of the wrong type, or values that do not go together.
    """
    values = {} if recipe is None else _read_yaml(Path(recipe).read_text(encoding="utf-8"), str(recipe)) or {}
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise ValueError(f"An override has to be key=value, got {override!r}.")
        values = _with_override(values, key.split("."), _read_yaml(value, key))
    config = _fill(TrainingConfig, values, "")
    _check(config)
    return config


def _read_yaml(text: str, name: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"`{name}` has to be YAML: {' '.join(str(error).split())}.") from error


def _with_override(values: Any, path: list[str], value: Any) -> Any:
    """`values` with `value` at the keys `path`."""
    if not path:
        return value
    if not isinstance(values, dict):
        raise ValueError(f"The override of `{path[0]}` has to go into a mapping, got {values!r}.")
    return {**values, path[0]: _with_override(values.get(path[0], {}), path[1:], value)}


def save_config(config: TrainingConfig, path: Path) -> None:
    """Write the whole configuration as a recipe that `load_config` reads back."""
    write_atomically(path, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False).encode())


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
        with suppress(ValueError):  # YAML reads 1e-4 as text
            if math.isfinite(float(value)):
                return float(value)
    elif type(value) is kind:
        return value
    raise ValueError(f"`{name}` has to be of type {getattr(kind, '__name__', kind)}, got {value!r}.")


# (lowest, highest) of each number that has bounds; what is open on one side has an infinite end.
_BOUNDS = {
    "seed": (0, 2**32 - 1),
    "lora_rank": (1, math.inf),
    "max_train_steps": (1, math.inf),
    "fewest_pairs": (1, math.inf),
    "patience": (1, math.inf),
    "train_batch_size": (1, math.inf),
    "gradient_accumulation_steps": (1, math.inf),
    "lr_warmup_steps": (0, math.inf),
    "adam_beta1": (0, 1),
    "adam_beta2": (0, 1),
    "adam_weight_decay": (0, math.inf),
    "statistics_weight_decay": (0, math.inf),
    "ema_decay": (0, 1),
    "beta": (0, math.inf),
    "contrastive_weight": (0, math.inf),
    "settling_weight": (0, math.inf),
    "pure_noise_share": (0, 1),
    "contrastive_warmup_steps": (0, math.inf),
    "contrastive_every": (1, math.inf),
    "contrastive_alone": (0, 1),
    "condition_dropout": (0, 1),
    "attribute_dropout": (0, 1),
    "condition_jitter": (0, 1),
    "pixel_size": (1, math.inf),
    "checkpointing_steps": (1, math.inf),
    "checkpoints_total_limit": (1, math.inf),
    "validation_steps": (1, math.inf),
    "num_validation_photos": (1, math.inf),
    "logging_steps": (1, math.inf),
    "model.sample_size": (1, math.inf),
    "model.layers_per_block": (1, math.inf),
    "model.attention_head_dim": (1, math.inf),
    "model.norm_num_groups": (1, math.inf),
    "model.head_mid_channels": (1, math.inf),
    "model.head_smoothing": (0, 10),
    "model.noise_offset": (0, 10),
    "model.num_features": (1, math.inf),
    "model.grid_depth": (1, math.inf),
    "model.min_timestep": (0, 998),
    "model.default_num_inference_steps": (1, 1000),
}
_POSITIVE = (
    "lora_alpha",
    "learning_rate",
    "max_grad_norm",
    "snr_gamma",
    "contrastive_temperature",
    "timestep_power",
    "model.beta_start",
)
_CHOICES = {
    "bad_rows": ("stop", "skip"),
    "lr_scheduler": ("cosine", "linear", "constant_with_warmup", "constant"),
    "contrastive": ("linear", "signed", "published", "none"),
    "pixel_loss": ("mse", "l1"),
    "mixed_precision": ("no", "fp16", "bf16"),
    "metric_for_best_model": ("delta_e_c0", "delta_e_oracle"),
    "report_to": ("tensorboard", "wandb", "trackio", "none"),
    "model.prediction_type": ("epsilon", "v_prediction"),
}


def _check(config: TrainingConfig) -> None:
    value = {**vars(config), **{f"model.{name}": setting for name, setting in vars(config.model).items()}}
    for name, (low, high) in _BOUNDS.items():
        if value[name] is not None and not low <= value[name] <= high:
            allowed = f"at least {low}" if high == math.inf else f"in [{low}, {high}]"
            raise ValueError(f"`{name}` has to be {allowed}, got {value[name]}.")
    for name in _POSITIVE:
        if value[name] is not None and value[name] <= 0:
            raise ValueError(f"`{name}` has to be positive, got {value[name]}.")
    for name, choices in _CHOICES.items():
        if value[name] not in choices:
            raise ValueError(f"`{name}` has to be one of {choices}, got {value[name]!r}.")
    if not config.lora_target_modules:
        raise ValueError("`lora_target_modules` has to name at least one kind of module, got none.")
    if not set(config.lora_train_whole) <= set(WHOLE_MODULES):
        raise ValueError(f"`lora_train_whole` has to be a list from {WHOLE_MODULES}, got {config.lora_train_whole}.")
    all_pairs = config.train_batch_size
    for name in ("contrastive_batch_size", "sampled_batch_size"):
        if not 0 <= value[name] <= all_pairs:
            raise ValueError(f"`{name}` has to be in [0, {all_pairs}], got {value[name]}.")
    if config.settling_weight and not config.sampled_batch_size:
        raise ValueError(
            "`settling_weight` has to be 0 without `sampled_batch_size`, whose pictures it retouches again."
        )
    if config.fit_look and config.lora_rank is None:
        raise ValueError("`fit_look` has to be false to train every weight, got true: an adapter holds the look.")
    _check_model(config.model)


def _check_model(model: ModelConfig) -> None:
    channels, groups, levels = model.block_out_channels, model.norm_num_groups, len(model.block_out_channels)
    if not channels or min(channels) < 1 or any(width % groups for width in channels):
        raise ValueError(
            f"`model.block_out_channels` has to hold multiples of {groups} (norm_num_groups), got {channels}."
        )
    if not 0 <= model.attention_levels <= levels:
        raise ValueError(f"`model.attention_levels` has to be in [0, {levels}], got {model.attention_levels}.")
    if model.sample_size % 2 ** (levels - 1):
        raise ValueError(f"`model.sample_size` has to be a multiple of {2 ** (levels - 1)}, got {model.sample_size}.")
    if model.rescale_betas_zero_snr and model.prediction_type != "v_prediction":
        raise ValueError(
            "`model.prediction_type` has to be v_prediction with `model.rescale_betas_zero_snr`, got "
            f"{model.prediction_type}."
        )
    hidden = model.head_hidden_channels
    if any(width < 1 for width in hidden):
        raise ValueError(f"`model.head_hidden_channels` has to hold positive widths, got {hidden}.")
    knots = model.guide_threshold_range
    if len(knots) != 2 or not knots[0] < knots[1]:
        raise ValueError(f"`model.guide_threshold_range` has to be two rising numbers, got {knots}.")
    if not model.beta_start <= model.beta_end < 1:
        raise ValueError(f"`model.beta_end` has to be in [{model.beta_start:g}, 1), got {model.beta_end:g}.")
