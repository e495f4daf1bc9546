"""A grid head fitted to pairs by least squares, as a start for training: steps then have little left to do.

Behind its convolutions the head is linear, so that, with the UNet as it is, a retouch is linear in the head's weights
for each pixel. Ridge regression finds them in seconds. So that sliders keep their say, what they do with the base is
asked for as well: for every photo once with one of them up, once with it down.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F

from ..attributes import ATTRIBUTES
from ..look.fit import delta_e
from ..model.modeling_affine_grid import AffineGridHead, smoothed
from ..model.pipeline_diffretouch import DiffRetouchPipeline
from .same_style import same_style

_TIES = (0.03, 0.1, 0.3, 1.0)  # how much weights count against errors, in units of features that spread by one
_FOLDS = 8
_STRIDE = 5  # of the pixels that are fitted to
_SLIDERS_COUNT = 0.5


class FirstHead(NamedTuple):
    """The linear part of a head, how far from held-back targets it ends, and the pairs (N,) bool it was fitted to."""

    weights: dict[str, torch.Tensor]
    error: float
    kept: np.ndarray


class _Rows(NamedTuple):
    features: np.ndarray  # (n, C)
    depths: np.ndarray  # (n, D), weight of each depth
    colours: np.ndarray  # (n, 4), RGB in [-1, 1] and one


@torch.no_grad()
def first_head(
    pipe: DiffRetouchPipeline, photos: np.ndarray, targets: np.ndarray, judged: bool = True
) -> FirstHead | None:
    """The head nearest to the targets, both (N, p, p, 3) uint8; None where a head is too narrow to hold it, and for a
    single pair, of which nothing can be held back. If `judged`, pairs of another style (`same_style`) do not count."""
    head: AffineGridHead = pipe.grid_head
    if head.mid.in_channels > head.mid.out_channels or len(photos) < 2:
        return None
    at_rest, still = _retouched(pipe, photos, {})
    moved = []
    for sign in (1.0, -1.0):
        sliders = {name: [sign * (n % 4 == k) for n in range(len(photos))] for k, name in enumerate(ATTRIBUTES)}
        moved.append(_retouched(pipe, photos, sliders))
    rest = [_rows(head, *pair) for pair in zip(at_rest, photos, strict=True)]
    wanted = [_signed(target) - row.colours[:, :3] for target, row in zip(targets, rest, strict=True)]
    mean, basis = _whitening(np.concatenate([row.features for row in rest]))
    designs = [_design(row, mean, basis) for row in rest]
    normals = [_normal(x, y) for x, y in zip(designs, wanted, strict=True)]
    for features, pictures in moved:
        for n, photo in enumerate(photos):
            y = wanted[n] + pictures[n] - still[n]
            more = _normal(_design(_rows(head, features[n], photo), mean, basis), y)
            normals[n] = normals[n][0] + _SLIDERS_COUNT * more[0], normals[n][1] + _SLIDERS_COUNT * more[1]
    colours = [row.colours[:, :3] for row in rest]
    ridge = _Ridge(designs, colours, wanted, normals, _prior(len(mean), head.config.grid_depth))
    kept = same_style(ridge.held_back, ridge.edits()) if judged else np.ones(len(photos), bool)
    tie, error = ridge.strongest(kept)
    return FirstHead(_as_weights(head, ridge.solution(kept, tie), mean, basis), error, kept)


class _Ridge(NamedTuple):
    """The fit of a head to some of N pairs; lists hold an array of each pair."""

    designs: list[np.ndarray]  # (n, unknowns)
    colours: list[np.ndarray]  # (n, 3) before, in [-1, 1]
    wanted: list[np.ndarray]  # (n, 3) by how much they change
    normals: list[tuple[np.ndarray, np.ndarray]]
    prior: np.ndarray

    def solution(self, chosen: np.ndarray, tie: float) -> np.ndarray:
        """(unknowns, 3), fitted to the pairs `chosen` (N,) bool."""
        matrix, right = (sum(parts) for parts in zip(*(self.normals[n] for n in np.flatnonzero(chosen)), strict=True))
        return scipy.linalg.solve(matrix + tie * int(chosen.sum()) * self.prior, right, assume_a="pos")

    def held_back(self, chosen: np.ndarray, tie: float = _TIES[1]) -> np.ndarray:
        """(N,): mean Delta E 2000 of each pair, chosen or not, by a head fitted to the chosen ones of other folds."""
        errors = np.zeros(len(self.designs))
        folds = np.arange(len(errors)) % min(_FOLDS, len(errors))
        for fold in np.unique(folds):
            solution = self.solution(chosen & (folds != fold), tie)
            for n in np.flatnonzero(folds == fold).tolist():
                errors[n] = self._apart(n, self.designs[n] @ solution)
        return errors

    def strongest(self, chosen: np.ndarray) -> tuple[float, float]:
        """A tie and the mean error of held-back pairs under it: the strongest within a standard error of the best's
        (Breiman et al. 1984), for photos that are unlike the pairs are the first to suffer from a weak one."""
        errors = {tie: self.held_back(chosen, tie)[chosen] for tie in _TIES}
        best = min(errors.values(), key=lambda error: float(error.mean()))
        enough = best.mean() + best.std() / np.sqrt(len(best))
        tie = max(tie for tie, error in errors.items() if error.mean() <= enough)
        return tie, float(errors[tie].mean())

    def edits(self) -> np.ndarray:
        """(N,): mean Delta E 2000 between before and after."""
        return np.array([self._apart(n, np.zeros(3)) for n in range(len(self.designs))])

    def _apart(self, n: int, change: np.ndarray) -> float:
        pictures = (np.clip((self.colours[n] + by) / 2 + 0.5, 0, 1) for by in (change, self.wanted[n]))
        return float(delta_e(*pictures).mean())


def _retouched(pipe: DiffRetouchPipeline, photos: np.ndarray, sliders: dict[str, Any]) -> tuple[torch.Tensor, Any]:
    """What the head's linear part sees of each photo (N, C, h, w), and its retouch where pixels are fitted to."""
    seen: list[torch.Tensor] = []
    pictures: list[np.ndarray] = []
    hook = pipe.grid_head.mid.register_forward_pre_hook(lambda _, given: seen.append(given[0].float()))
    try:
        for start in range(0, len(photos), 16):
            part = slice(start, start + 16)
            chosen = {name: values[part] for name, values in sliders.items()}
            grids = pipe(list(photos[part]), output_type="grid", **chosen).grids
            pictures += [_signed(grid.apply(photo)) for grid, photo in zip(grids or [], photos[part], strict=True)]
    finally:
        hook.remove()
    return torch.cat(seen), pictures


def _signed(picture: np.ndarray) -> np.ndarray:
    """uint8 -> the pixels that are fitted to, (n, 3) in [-1, 1]."""
    return picture[::_STRIDE, ::_STRIDE].reshape(-1, 3).astype(np.float32) / 127.5 - 1


def _rows(head: AffineGridHead, features: torch.Tensor, photo: np.ndarray) -> _Rows:
    maps = features[None]
    if head.config.smoothing:
        maps = smoothed(maps, head.config.smoothing)
    maps = F.interpolate(maps, photo.shape[:2], mode="bilinear")[0, :, ::_STRIDE, ::_STRIDE]
    colours = _signed(photo)
    guide = head.guide(torch.from_numpy(colours.T)[None, :, :, None])[0, 0, :, 0].numpy()
    depth = head.config.grid_depth
    place = np.clip(guide * depth - 0.5, 0, depth - 1)
    depths = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(depth)))
    ones = np.ones((len(colours), 1), np.float32)
    return _Rows(maps.flatten(1).T.numpy(), depths, np.concatenate([colours, ones], 1))


def _whitening(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (C,) and the basis (C, C) in which features spread by one each; directions that hardly vary stay small."""
    mean = features.mean(0)
    spread, axes = np.linalg.eigh(np.cov((features - mean).T))
    return mean, axes / np.sqrt(spread + 1e-3 * spread.max())


def _design(rows: _Rows, mean: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """(n, (C + 1) D 4): what a retouch is linear in."""
    features = np.concatenate([(rows.features - mean) @ basis, np.ones((len(rows.features), 1))], 1)
    spread = features[:, :, None, None] * rows.depths[:, None, :, None] * rows.colours[:, None, None, :]
    return spread.reshape(len(features), -1).astype(np.float32)


def _normal(design: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and right side of a pair, which counts one in all."""
    count = len(design)
    return (design.T @ design).astype(np.float64) / count, (design.T @ wanted).astype(np.float64) / count


def _prior(channels: int, depth: int) -> np.ndarray:
    """Neighbouring depths are alike, and what does not depend on the photo is nearly free."""
    steps = np.diff(np.eye(depth), axis=0)
    free = np.ones(channels + 1)
    free[-1] = 0.02
    return np.kron(np.diag(free), np.kron(steps.T @ steps + 0.1 * np.eye(depth), np.eye(4)))


def _as_weights(
    head: AffineGridHead, solution: np.ndarray, mean: np.ndarray, basis: np.ndarray
) -> dict[str, torch.Tensor]:
    """The solution ((C + 1) D 4, 3) as the weights of `mid` and `out`."""
    channels, depth = len(mean), head.config.grid_depth
    affine = solution.reshape(channels + 1, depth, 4, 3).transpose(3, 2, 1, 0).reshape(12 * depth, channels + 1)
    bias = affine[:, -1].copy().reshape(12, depth)
    bias[[0, 5, 10]] += 1
    weights = {
        name: torch.zeros_like(value) for name, value in head.state_dict().items() if name[:4] in ("mid.", "out.")
    }
    weights["mid.weight"][:channels, :, 0, 0] = torch.from_numpy(basis.T)
    weights["mid.bias"][:channels] = torch.from_numpy(-mean @ basis)
    weights["out.weight"][:, :channels, 0, 0] = torch.from_numpy(affine[:, :-1])
    weights["out.bias"][:] = torch.from_numpy(bias.ravel())
    return weights
