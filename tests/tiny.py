"""A whole pipeline at tiny size."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from diffretouch import AffineGridHead, DiffRetouchPipeline, FixedLatentCodec

HEAD = {"hidden_channels": (8,), "mid_channels": 8, "grid_depth": 4, "guide_knots": 4}


def tiny_components(variance_type: str = "fixed_small") -> dict[str, Any]:
    """The real classes, with equal random weights every time.

    Unlike a fresh model's, the weights are large enough for sliders, seeds and photos to show in the result.
    """
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
        head = AffineGridHead(**HEAD)
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
    return {"unet": unet, "scheduler": scheduler, "grid_head": head, "vae": FixedLatentCodec()}


def build_tiny_pipeline(variance_type: str = "fixed_small", **arguments: Any) -> DiffRetouchPipeline:
    """Keyword arguments replace components or set the configuration; `variance_type` is the scheduler's."""
    defaults = {"default_num_inference_steps": 2, "conditioning_size": 32}
    pipe = DiffRetouchPipeline(**{**tiny_components(variance_type), **defaults, **arguments})
    pipe.set_progress_bar_config(disable=True)
    return pipe
