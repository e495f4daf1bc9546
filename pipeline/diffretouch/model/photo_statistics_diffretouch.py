"""What a colourist reads off a scope: the numbers by which the UNet knows a photo as a whole.

Group normalisation takes a picture's exposure and colour of light away; these numbers bring them back, as the UNet's
class embedding. This file travels with every model on the Hub, so it imports nothing of the package.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

NUM_STATISTICS = 138
NUM_LABELS = NUM_STATISTICS + 4
"""What a UNet that `class_labels` are for has as `projection_class_embeddings_input_dim`."""
STATISTICS_SIZE = 64
"""Side of the antialiased square view of a photo that the statistics are of."""


def statistics_view(photo: torch.Tensor) -> torch.Tensor:
    """Photos (B, 3, H, W) squashed to the antialiased `STATISTICS_SIZE` square."""
    size = (STATISTICS_SIZE, STATISTICS_SIZE)
    if photo.shape[-2:] == size:
        return photo
    return F.interpolate(photo, size, mode="bilinear", antialias=True, align_corners=False)


def class_labels(photos: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """Statistics of photos (P, 3, H, W) in [-1, 1] and c (N, 4), N a multiple of P, photo-major -> (N, 142)."""
    return labels_of(photo_statistics(statistics_view(photos)), condition)


def labels_of(statistics: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """Statistics of photos (P, 138) and c (N, 4), N a multiple of P, photo-major -> (N, 142)."""
    statistics = statistics.to(condition).repeat_interleave(len(condition) // len(statistics), 0)
    return torch.cat([statistics, condition], dim=1)


def photo_statistics(photo: torch.Tensor) -> torch.Tensor:
    """Numbers that sum up photos (B, 3, h, w) in [-1, 1], whatever is where in them -> (B, 138), around 0.

    11 quantiles per channel (linear and logarithmic) and of the saturation, the channels' covariance, the mean of
    what is nearly grey (linear and logarithmic) and its share; of its linear light the white balance found, the
    tones, and what saturation is left in that balance (`_light_statistics`). Measure them on the `STATISTICS_SIZE`
    view, as models are trained with.
    """
    unit = (photo.float() + 1) / 2
    pixels = unit.flatten(2)  # (B, 3, N)
    levels = torch.linspace(0.02, 0.98, 11, device=photo.device)
    tones = torch.quantile(pixels, levels, dim=2).permute(1, 0, 2).flatten(1)  # (B, 33)
    high, low = pixels.amax(1), pixels.amin(1)
    saturation = high - low
    centred = pixels - pixels.mean(2, keepdim=True)
    covariance = torch.einsum("bcn,bdn->bcd", centred, centred).flatten(1) / pixels.shape[2]
    greyness = torch.exp(-((saturation / (high + 1e-3) / 0.4) ** 2))  # (B, N)
    grey = (pixels * greyness[:, None]).sum(2) / greyness.sum(1, keepdim=True).clamp_min(1e-6)
    parts = [
        2 * tones - 1,
        torch.log(tones.clamp_min(0) + 0.02) + 1.5,
        2 * torch.quantile(saturation, levels, dim=1).T - 1,
        10 * covariance,
        2 * grey - 1,
        torch.log(grey.clamp_min(0) + 0.02) + 1.5,
        greyness.mean(1, keepdim=True),
        _light_statistics(pixels),
    ]
    return torch.cat(parts, dim=1)


def _light_statistics(pixels: torch.Tensor) -> torch.Tensor:
    """White balance, tones and balanced saturation of sRGB pixels (B, 3, N) in [0, 1] -> (B, 45).

    Grey is looked for three times, strictly and generously, each time in the light as balanced so far: a cast hides
    what is grey.
    """
    curve = ((pixels.clamp(0.04045, 1) + 0.055) / 1.055) ** 2.4
    light = torch.where(pixels <= 0.04045, pixels.clamp_min(0) / 12.92, curve)
    parts, balanced = [], light
    for width in (0.2, 0.4):
        total = light.new_zeros(*light.shape[:2], 1)
        for _ in range(3):
            stops, share = _towards_grey(light * torch.exp(total), width)
            total = total + stops[..., None]
            parts += [2 * stops, share]
        parts.append(2 * total[..., 0])
        balanced = light * torch.exp(total)
    luminance = (light * light.new_tensor([0.2126, 0.7152, 0.0722]).view(3, 1)).sum(1)  # (B, N)
    colours = balanced.clamp(1e-6, 1) ** (1 / 2.2)
    saturation = colours.amax(1) - colours.amin(1)
    levels = light.new_tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    tones = light.new_tensor([0.005, 0.1, 0.3, 0.5, 0.7, 0.9, 0.995])
    return torch.cat(
        [
            *parts,
            luminance.clamp_min(1e-3).log().mean(1, keepdim=True) / 2 + 1,
            luminance.mean(1, keepdim=True).clamp_min(1e-3).log() / 2 + 1,
            2 * torch.quantile(saturation, levels, dim=1).T - 1,
            2 * saturation.mean(1, keepdim=True),
            torch.quantile(torch.log(luminance + 0.005), tones, dim=1).T / 2 + 1,
        ],
        dim=1,
    )


def _towards_grey(light: torch.Tensor, width: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithmic gains (B, 3) that make the mean of what is nearly grey in light (B, 3, N) grey; its share (B, 1).

    `width`: saturation, (high - low) / high, up to which a pixel is believed. Few such pixels say little.
    """
    high, low = light.amax(1), light.amin(1)
    saturation = (high - low) / high.clamp_min(1e-3)
    weights = torch.exp(-((saturation / width) ** 2)) * ((low > 0.01) & (high < 0.98))  # (B, N)
    share = weights.mean(1, keepdim=True)
    mean = ((light * weights[:, None]).sum(2) / weights.sum(1, keepdim=True).clamp_min(1e-4)).clamp_min(1e-4)
    stops = torch.log(mean.mean(1, keepdim=True) / mean).clamp(-0.7, 0.7)
    return stops * (share / 0.15).clamp(max=1), share
