"""Starting from Stable Diffusion: an untrained DiffRetouch that keeps what it knows.

pipeline_from_stable_diffusion("stabilityai/stable-diffusion-2-1-base")
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

from ..model.modeling_affine_grid import AffineGridHead
from ..model.pipeline_diffretouch import DiffRetouchPipeline
from .checkpoint_files import VARIANCE_TYPES, check_choice
from .published_layout import SD_SCHEDULE

_SD_LICENCES = {768: "creativeml-openrail-m", 1024: "openrail++"}  # by context width: SD 1.x, SD 2.x


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

    Example:
        >>> from diffretouch import pipeline_from_stable_diffusion
        >>> pipe = pipeline_from_stable_diffusion("stabilityai/stable-diffusion-2-1")  # doctest: +SKIP
    """
    check_choice("variance_type", variance_type, VARIANCE_TYPES)
    schedule = DDPMScheduler.load_config(source, subfolder="scheduler", **_hub_only(loading))
    unet = UNet2DConditionModel.from_pretrained(source, subfolder="unet", **loading)
    _check_stable_diffusion(unet, schedule)
    vae = AutoencoderKL.from_pretrained(source, subfolder="vae", **loading) if with_vae else None
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = AffineGridHead().to(unet.dtype)
    scheduler = DDPMScheduler(
        **{field: schedule.get(field, default) for field, default in SD_SCHEDULE.items()},
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
