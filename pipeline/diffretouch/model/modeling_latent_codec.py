"""A fixed latent codec with the interface of diffusers' `AutoencoderKL`, for small models.

This file travels with every model that uses it, so it imports nothing of the package.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

# Orthonormal opponent axes: luminance-like, red-blue (warmth), green-magenta. Retouching moves these apart.
_OPPONENTS = ((0.57735, 0.57735, 0.57735), (0.70711, 0.0, -0.70711), (-0.40825, 0.81650, -0.40825))

_BAND = 64  # rows of latents that a codec with tiling works on at once


class FixedLatentCodec(ModelMixin, AutoencoderMixin, ConfigMixin):
    """Latents that hold what a global or regional retouch decides: per patch the mean colour and the detail.

    Channels 0-2 are the patch's mean colour on opponent axes, channel 3 the logarithm of its RMS detail (what the
    contrast attribute measures), each brought to about unit variance by `shift` and `scale`. Nothing is learned, so
    a small UNet spends its capacity on retouching. The decoder returns the mean colours, enlarged: blurred by design,
    since the method never shows decoded pixels.

    `enable_slicing` works on one picture at a time and `enable_tiling` on a band of it at a time, which takes less
    memory and gives the same.

    Args:
        patch_size: pixels per latent, each way.
        shift, scale: per channel, latent = (raw - shift) / scale; the defaults are measured on retouched photos.
        scaling_factor: as in `AutoencoderKL`; 1, because `scale` already normalises.

    Example:
        >>> import torch
        >>> from diffretouch import FixedLatentCodec
        >>> codec = FixedLatentCodec()
        >>> latents = codec.encode(torch.zeros(1, 3, 64, 96)).latent_dist.mode()
        >>> latents.shape, codec.decode(latents).sample.shape
        (torch.Size([1, 4, 8, 12]), torch.Size([1, 3, 64, 96]))
    """

    @register_to_config
    def __init__(
        self,
        patch_size: int = 8,
        shift: tuple[float, float, float, float] = (-0.05, 0.05, 0.03, -2.5),
        scale: tuple[float, float, float, float] = (0.85, 0.25, 0.1, 1.15),
        scaling_factor: float = 1.0,
        latent_channels: int = 4,
    ):
        super().__init__()
        # Buffers alone would leave nothing to save; these keep dtype and device where diffusers looks for them.
        self.opponents = nn.Parameter(torch.tensor(_OPPONENTS), requires_grad=False)
        self.latent_shift = nn.Parameter(torch.tensor([float(s) for s in shift]), requires_grad=False)
        self.latent_scale = nn.Parameter(torch.tensor([float(s) for s in scale]), requires_grad=False)
        self.use_slicing = False
        self.use_tiling = False

    @apply_forward_hook
    def encode(
        self, x: torch.Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Pictures (B, 3, H, W) in [-1, 1], H and W multiples of `patch_size` -> `latent_dist` over
        (B, 4, H / patch_size, W / patch_size) with no spread: `sample()` equals `mode()`."""
        patch = self.config.patch_size
        if x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape or x.shape[2] % patch or x.shape[3] % patch:
            raise ValueError(
                f"`x` has to be of shape (B, 3, H, W) with sides that are multiples of {patch}, got {tuple(x.shape)}."
            )
        latents = self._in_parts(x, patch, 1, 0, self._encode)
        moments = torch.cat([latents, torch.zeros_like(latents)], dim=1)
        posterior = DiagonalGaussianDistribution(moments, deterministic=True)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        patch = self.config.patch_size
        colours = F.avg_pool2d(x, patch)  # (B, 3, h, w)
        # About the mean, not as a difference of squares: that would drown smooth patches in half-float rounding.
        deviation = x - F.interpolate(colours, scale_factor=patch, mode="nearest")
        variance = F.avg_pool2d(deviation.square(), patch).mean(1, keepdim=True)
        detail = 0.5 * torch.log(variance + 1e-4)  # (B, 1, h, w)
        raw = torch.cat([torch.einsum("bchw,dc->bdhw", colours, self.opponents), detail], dim=1)
        return (raw - self.latent_shift.view(4, 1, 1)) / self.latent_scale.view(4, 1, 1)

    @apply_forward_hook
    def decode(
        self, z: torch.Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Latents (B, 4, h, w) -> pictures (B, 3, h * patch_size, w * patch_size) in [-1, 1]; nothing is drawn from
        `generator`."""
        # Between two latents colours are interpolated: a band has to see its neighbours'.
        sample = self._in_parts(z, 1, self.config.patch_size, 1, self._decode)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def _decode(self, z: torch.Tensor) -> torch.Tensor:
        raw = z[:, :3] * self.latent_scale[:3].view(3, 1, 1) + self.latent_shift[:3].view(3, 1, 1)
        colours = torch.einsum("bdhw,dc->bchw", raw, self.opponents)
        enlarged = F.interpolate(colours, scale_factor=self.config.patch_size, mode="bilinear", align_corners=False)
        return enlarged.clamp(-1, 1)

    def forward(
        self,
        sample: torch.Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Pictures encoded and decoded again, as `AutoencoderKL` has it: blurred. The posterior has no spread, so
        `sample_posterior` and `generator` change nothing."""
        (posterior,) = self.encode(sample, return_dict=False)
        latents = posterior.sample(generator=generator) if sample_posterior else posterior.mode()
        return self.decode(latents, return_dict=return_dict, generator=generator)

    def _in_parts(
        self, maps: torch.Tensor, unit: int, patch: int, margin: int, work: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """`work`, which makes `patch` rows of every `unit` of them, on a picture or a band at a time where that is
        asked for; bands come with `margin` units of what surrounds them."""
        if self.use_slicing and len(maps) > 1:
            return torch.cat([self._in_parts(one, unit, patch, margin, work) for one in maps.split(1)])
        height = maps.shape[2] // unit
        if not self.use_tiling or height <= _BAND:
            return work(maps)
        bands = []
        for top in range(0, height, _BAND):
            first, bottom = max(0, top - margin), min(height, top + _BAND)
            done = work(maps[:, :, first * unit : (bottom + margin) * unit])
            bands.append(done[:, :, (top - first) * patch : (bottom - first) * patch])
        return torch.cat(bands, dim=2)
