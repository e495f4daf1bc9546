"""What several test files generate: pictures like photos, small data sets, the smallest recipe, a small UNet."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from diffusers import UNet2DConditionModel

from diffretouch.data.dataset import write_parquet
from diffretouch.data.light import to_linear
from diffretouch.data.scenes import scene_of, synthetic_rows


def scene(seed: int, height: int = 48, width: int = 72) -> np.ndarray:
    """(height, width, 3) uint8 with a lit gradient, coloured areas, texture, highlight and shadow; one per seed."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    sky, ground = (rng.uniform(low, high) + rng.uniform(-0.1, 0.1, 3) for low, high in ((0.45, 0.65), (0.25, 0.45)))
    horizon = 1 / (1 + np.exp(30 * (y - rng.uniform(0.35, 0.65))))
    light = horizon[..., None] * sky + (1 - horizon[..., None]) * ground
    for _ in range(4):
        centre, size, colour = rng.uniform(0.1, 0.9, 2), rng.uniform(0.08, 0.2), rng.uniform(0, 1, 3)
        blob = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * size**2))[..., None]
        light = light * (1 - 0.8 * blob) + 0.8 * blob * colour
    light = light * (1 + 0.03 * rng.standard_normal((height, width, 1)))
    light[: height // 12, : width // 8] = 0.98
    light[-height // 12 :, -width // 8 :] = 0.02
    return np.round(np.clip(light, 0, 1) * 255).astype(np.uint8)


def scene_light(seed: int, height: int = 48, width: int = 72) -> np.ndarray:
    """`scene` as linear light, (height, width, 3) float32 in [0, 1]."""
    return to_linear(scene(seed, height, width))


def write_data_set(folder: Path, photos: dict[str, int], num_inputs: int = 1) -> Path:
    """A data set in the schema with `photos` = how many of each split, 36 x 24 pixels each."""
    (folder / "data").mkdir(parents=True)
    for split, count in photos.items():
        batches = [
            synthetic_rows(scene_of(scene_light(seed, 24, 36), None), f"{split}-{seed}", num_inputs, seed=0)
            for seed in range(count)
        ]
        write_parquet(batches, folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


# The smallest recipe that has everything: attention, two resolutions, all losses, checkpoints, validation.
TINY_RECIPE = {
    "model.sample_size": 8,
    "model.block_out_channels": [8, 16],
    "model.norm_num_groups": 4,
    "model.attention_head_dim": 2,
    "model.head_hidden_channels": [8],
    "model.head_mid_channels": 8,
    "model.statistics": True,
    "model.num_features": 5,
    "model.grid_depth": 4,
    "max_train_steps": 6,
    "train_batch_size": 4,
    "contrastive_batch_size": 2,
    "contrastive_warmup_steps": 2,
    "lr_warmup_steps": 2,
    "pixel_size": 16,
    "checkpointing_steps": 2,
    "validation_steps": 3,
    "num_validation_photos": 1,
    "logging_steps": 2,
    "report_to": "none",
}


def overrides(**changes: object) -> list[str]:
    """`TINY_RECIPE` as key=value overrides, with `changes` (`model_x` means `model.x`)."""
    settings = {**TINY_RECIPE, **{re.sub("^model_", "model.", name): value for name, value in changes.items()}}
    return [f"{name}={value}" for name, value in settings.items()]


def published_style_unet() -> UNet2DConditionModel:
    """A small UNet that the published checkpoint layout can express."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=7,
        out_channels=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=[2, 4],
        cross_attention_dim=4,
        use_linear_projection=True,
    )
