"""The look in an adapter: what a style does to every photo alike, beside the LoRA layers that learn the rest.

A look is a table of colours that comes after the model's own retouch G, of which a share s is kept at c = 0:

    retouch = table(I + s (G(0) - I) + U (G(c) - G(0)))

so that sliders move the photo as far as without it: U takes back what the table does to colour differences on average,
or a look that fades colours would fade what is asked for as well. What comes out is one affine bilateral grid per
photo again, the nearest to that chain on the photo's own colours: it is saved, blended and applied as any other.

This file travels with every model on the Hub, so it imports nothing of the package but its neighbours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

TABLE_SIZE = 33
"""Nodes per side of the table."""

LOOK_TENSORS = {"look.table": (TABLE_SIZE, TABLE_SIZE, TABLE_SIZE, 3), "look.share": ()}
"""By the names they have in the file of an adapter: RGB in [0, 1] by blue, green and red index; s in [0, 1]."""

# Of the fit: pixels of the photo a side; colours a side that stand for what the photo does not have, and what they
# count beside it; how far neighbouring transforms are held together.
_PIXELS, _COLOURS, _COLOURS_WEIGHT, _TIE = 72, 6, 3e-3, 1e-4

_MOST_GAIN = 1.5  # of U: a look in black and white leaves nothing that could be brought back


@dataclass(frozen=True, eq=False)
class AdapterLook:
    """A look in effect.

    Args:
        table: (S, S, S, 3) float32, as in `LOOK_TENSORS`; blended ones may leave [0, 1].
        share: s, how much of the model's retouch at c = 0 is kept.
    """

    table: torch.Tensor
    share: float

    def applied(self, pictures: torch.Tensor) -> torch.Tensor:
        """The table at pictures (B, 3, H, W) in [-1, 1] -> the same kind; beyond the range it goes on with slope 1, so
        that every pixel keeps its gradient in training."""
        inside = pictures.clamp(-1, 1)
        nodes = self.table.to(pictures).permute(3, 0, 1, 2)[None].expand(len(pictures), -1, -1, -1, -1)
        where = inside.permute(0, 2, 3, 1)[:, None]  # (B, 1, H, W, 3): red is the last axis of the table
        found = F.grid_sample(nodes, where, mode="bilinear", padding_mode="border", align_corners=True)
        return found[:, :, 0] * 2 - 1 + (pictures - inside)

    def kept(self, coefficients: torch.Tensor, at_rest: torch.Tensor) -> torch.Tensor:
        """Coefficients under c and at c = 0, both (N, 12, D, h, w), -> those that the table comes after."""
        asked = (coefficients - at_rest).unflatten(1, (3, 4))
        taken_back = torch.einsum("jk,nkidhw->njidhw", self._taken_back.to(asked), asked).flatten(1, 2)
        identity = _identity_like(at_rest)
        return identity + self.share * (at_rest - identity) + taken_back

    @functools.cached_property
    def _taken_back(self) -> torch.Tensor:
        """U (3, 3): the inverse of the linear part of what the table does over all colours, where that fades."""
        colours, made = (nodes.flatten(0, 2).double() for nodes in (_same(self.table), self.table))
        slopes = torch.linalg.lstsq(colours - colours.mean(0), made - made.mean(0)).solution.T
        left, sizes, right = torch.linalg.svd(slopes)
        return (right.T * (1 / sizes).clamp(1, _MOST_GAIN)) @ left.T

    def after(self, grid: Any, view: torch.Tensor) -> Any:
        """The `AffineGrid` nearest to `grid` and then the table, on the photo that `view` (3, S, S) in [0, 1] shows.

        Each depth d of the grid gets a colour transform of its own, G'_d = A_d G_d, the same at all places. The A_d
        are those of least squares over the photo's pixels, and, for little, over all colours.
        """
        device = grid.coefficients.device
        small = F.interpolate(view[None].to(device, torch.float32), (_PIXELS, _PIXELS), mode="area") * 2 - 1
        axis = torch.linspace(-1, 1, _COLOURS, device=device)
        colours = torch.cartesian_prod(axis, axis, axis).T[None, :, :, None]  # (1, 3, n, 1)
        coefficients = grid.coefficients[None]
        average = coefficients.mean((3, 4), keepdim=True)
        normal = right = torch.zeros(1, 1, dtype=torch.float64, device=device)
        for cells, pixels, weight in ((coefficients, small, 1.0), (average, colours, _COLOURS_WEIGHT)):
            parts = _parts(cells, grid.guide(pixels), pixels)  # (N, D, 4)
            wanted = self.applied(parts[..., :3].sum(1).T[None, :, :, None])[0, :, :, 0].T  # (N, 3)
            features = parts.flatten(1).double()
            normal = normal + weight / len(features) * features.T @ features
            right = right + weight / len(features) * features.T @ wanted.double()
        depth = coefficients.shape[2]
        ties = _ties(depth, device)
        start = torch.eye(4, 3, dtype=torch.float64, device=device).repeat(depth, 1)
        change = torch.linalg.solve(normal + _TIE * ties, right - normal @ start).view(depth, 4, 3)
        chain = (change + start.view(depth, 4, 3)).to(coefficients)
        rows = grid.coefficients.unflatten(0, (3, 4))  # (3, 4, D, h, w)
        composed = torch.einsum("dij,ikdhw->jkdhw", chain[:, :3], rows)
        composed[:, 3] += chain[:, 3].T[:, :, None, None]
        return type(grid)(composed.flatten(0, 1), grid.guide)


def features_at_rest(
    look: AdapterLook | None, features: torch.Tensor, condition: torch.Tensor, denoise: Callable[..., Any]
) -> torch.Tensor:
    """Features (N, C, h, w) at c = 0, where a look keeps but a share of what the model does without being asked.

    They cost a second denoising only where c (N, 1, 4) asks for something. `denoise` takes c and returns latents and
    features.
    """
    if look is None or look.share == 1 or not condition.any():
        return features
    return denoise(torch.zeros_like(condition))[1]


def _same(table: torch.Tensor) -> torch.Tensor:
    """The table (S, S, S, 3) that changes nothing."""
    axis = torch.linspace(0, 1, len(table), device=table.device)
    blue, green, red = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([red, green, blue], -1)


def _identity_like(coefficients: torch.Tensor) -> torch.Tensor:
    identity = torch.zeros_like(coefficients)
    identity[:, [0, 5, 10]] = 1
    return identity


def _parts(coefficients: torch.Tensor, guide: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """What each depth of a grid (1, 12, D, h, w) has in pixels (1, 3, H, W) at guide (1, 1, H, W): (H W, D, 4), its
    share of the retouched colour and its weight."""
    depth = coefficients.shape[2]
    height, width = pixels.shape[2:]
    cells = F.interpolate(coefficients[0].flatten(0, 1)[None], (height, width), mode="bilinear")
    rows = cells.view(3, 4, depth, height, width)
    colours = torch.einsum("jkdhw,khw->jdhw", rows[:, :3], pixels[0]) + rows[:, 3]
    place = (guide[0, 0] * depth - 0.5).clamp(0, depth - 1)
    weights = (1 - (place - torch.arange(depth, device=place.device).view(-1, 1, 1)).abs()).clamp_min(0)  # (D, H, W)
    return torch.cat([colours * weights, weights[None]]).permute(2, 3, 1, 0).flatten(0, 1)


def _ties(depth: int, device: torch.device) -> torch.Tensor:
    """(4 D, 4 D): squared differences of neighbouring transforms, and a little of their size."""
    steps = torch.diff(torch.eye(depth, dtype=torch.float64, device=device), dim=0)
    ties = steps.T @ steps + 1e-2 * torch.eye(depth, dtype=torch.float64, device=device)
    return torch.kron(ties, torch.eye(4, dtype=torch.float64, device=device))


def blended(looks: Iterable[tuple[float, Mapping[str, torch.Tensor]]]) -> AdapterLook | None:
    """identity + sum_i w_i (look_i - identity) of the looks (w_i, tensors) in effect; None if there are none."""
    looks = list(looks)
    if not looks:
        return None
    same = {"look.table": _same(torch.empty(LOOK_TENSORS["look.table"])), "look.share": torch.ones(())}
    # In this form a look at weight 1 is itself, bit for bit.
    left = 1 - sum(weight for weight, _ in looks)
    mixed = {
        name: sum((weight * look[name].float() for weight, look in looks), left * identity)
        for name, identity in same.items()
    }
    return AdapterLook(mixed["look.table"], float(mixed["look.share"]))


def check_look(look: Mapping[str, torch.Tensor], argument: str) -> None:
    """Raise ValueError, which begins with `argument`, unless these are the tensors of a look, all of them, or none."""
    shapes = {name: tuple(tensor.shape) for name, tensor in look.items()}
    if look and shapes != LOOK_TENSORS:
        raise ValueError(f"{argument} has to hold a look of {LOOK_TENSORS}, got {shapes}.")
    for name, tensor in look.items():
        if not 0 <= float(tensor.min()) <= float(tensor.max()) <= 1:
            raise ValueError(f"{argument} has to hold a look within [0, 1], got {name} that leaves it.")
