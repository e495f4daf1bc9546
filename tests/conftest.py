"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

# Workers share the cores: OpenMP threads that wait for each other would triple the time. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402
from diffusers import DDPMScheduler, UNet2DConditionModel  # noqa: E402

from diffretouch import AffineGridHead, DiffRetouchPipeline, FixedLatentCodec  # noqa: E402


@pytest.fixture(scope="session")
def tiny_pipeline() -> Callable[..., DiffRetouchPipeline]:
    """A factory of pipelines from the real classes at tiny size, equal random weights every time.

    Unlike a fresh model's, the weights are large enough for sliders, seeds and photos to show in the result.
    Keyword arguments replace components or set the configuration; `variance_type` is the scheduler's.
    """

    def build(variance_type: str = "fixed_small", **arguments: Any) -> DiffRetouchPipeline:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            unet = UNet2DConditionModel(
                sample_size=8,
                in_channels=7,
                out_channels=8,
                layers_per_block=1,
                block_out_channels=(8, 16),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                attention_head_dim=2,
                norm_num_groups=4,
                cross_attention_dim=4,
            )
            head = AffineGridHead(hidden_channels=(8,), mid_channels=8, grid_depth=4, guide_knots=4)
            for name, module in unet.named_modules():
                if name.endswith("attn2.to_v"):
                    torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(head.out.weight, std=0.2)
            torch.nn.init.normal_(head.guide.slopes, std=0.3)
        scheduler = DDPMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            variance_type=variance_type,
            clip_sample=False,
        )
        components = {"unet": unet, "scheduler": scheduler, "grid_head": head, "vae": FixedLatentCodec()}
        defaults = {"default_num_inference_steps": 2, "conditioning_size": 32}
        pipe = DiffRetouchPipeline(**{**components, **defaults, **arguments})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return build
