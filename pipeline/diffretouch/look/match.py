"""The retouch that brings a photo's tones and colours nearest to those of an example picture.

Two pictures that show different things have no pixels to compare, only what tones and colours they are made of: their
pixels as a cloud in CIELAB. Clouds are compared by the sliced Wasserstein distance (Rabin et al. 2011): along each of
some directions, how far the sorted pixels of one would have to be moved to become those of the other. Where all
colours are shifted by n Delta E (CIE 1976), the distance is n.

What is searched is what the experts would do: the styles of some seeds, then the four sliders in [-1, 1] around the
best one and around the middle one, then how much of that retouch (its strength, at most 1). So a match is a retouch
like any other, and where no retouch comes near, it says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..attributes import ATTRIBUTES
from ..model.modeling_affine_grid import AffineGrid
from ..model.pictures_diffretouch import is_grey, planes
from .fit import at_strength

SEEDS = 8
_ROUNDS, _FIRST_STEP = 4, 0.5
_STRENGTHS = (1.0, 0.75, 0.5, 0.25, 0.0)
_WORTH = 0.02  # of the distance: what a weaker retouch, or another style, has to gain

_SIDE = 128  # of the square on which tones are compared: grain and texture are averaged away
_DIRECTIONS, _QUANTILES = 24, 64

_LEAST_SIDE = 32  # pixels of a reference
_ONE_TONE, _PAPER = 0.9, 0.5  # of the picture, from which it is a flat colour, or a page
_SAME_TONE = 4.0  # Delta E
_NEAR = 4.0  # Delta E: up to it the pictures look of a kind


@dataclass(frozen=True, eq=False)
class Tones:
    """What tones and colours a picture is made of.

    Attributes:
        sorted: (quantiles, directions) float32: its pixels in CIELAB along some directions, in order.
        traits: (4,): means of lightness, chroma and b*, the standard deviation of lightness.
    """

    sorted: np.ndarray
    traits: np.ndarray

    def distance(self, other: Tones) -> float:
        """In Delta E (CIE 1976); 0 where both are made of the same."""
        # The mean of |cosine| over all directions is 1/2: so a shift of all colours counts whole.
        return 2 * float(np.abs(self.sorted - other.sorted).mean())


@dataclass(frozen=True, eq=False)
class Match:
    """The retouch nearest to an example, and how near that is.

    Attributes:
        grid: the retouch, its strength in it.
        sliders: the four, each in [-1, 1].
        seed: of the style.
        strength: in [0, 1], of the retouch that sliders and seed ask for.
        before, after: distance of the photo and of its retouch to the example, in Delta E; see `Tones.distance`.
        middle: that of the retouch with all sliders at 0.
        left: what the retouch still is more than the example, in a word ("lighter"); None where that is little.
    """

    grid: AffineGrid
    sliders: dict[str, float]
    seed: int
    strength: float
    before: float
    after: float
    middle: float
    left: str | None

    @property
    def closed(self) -> float:
        """Which part of the distance is gone, 0 to 1."""
        return max(0.0, 1 - self.after / self.before) if self.before > 0 else 1.0

    @property
    def figures(self) -> dict[str, Any]:
        """What was found and how near it is, as JSON."""
        apart = {"before": round(self.before, 2), "after": round(self.after, 2), "middle": round(self.middle, 2)}
        return {**self.sliders, "seed": self.seed, "strength": self.strength, "delta_e": apart}

    @property
    def settings(self) -> str:
        """What was found, as it would be asked for."""
        asked = [f"{name} {value:+.2f}" for name, value in self.sliders.items()]
        return ", ".join([*asked, f"seed {self.seed}", f"strength {self.strength:g}"])

    @property
    def nearness(self) -> str:
        """How near it came, in one line."""
        line = f"tones and colours {self.before:.1f} -> {self.after:.1f} Delta E apart"
        if self.after <= _NEAR:
            return f"{line}, which is near"
        rest = f"; it stays {self.left} than the example" if self.left else ""
        near = "as near as an expert's retouch comes" if self.closed >= 0.5 else "not near: no expert goes that far"
        return f"{line} ({100 * self.closed:.0f}% closed), {near}{rest}"

    @property
    def summary(self) -> str:
        """What was found and how near it came, in one line."""
        return f"matched by {self.settings}: {self.nearness}"


def match_look(pipe: Any, photo: Any, reference: Any, **call: Any) -> Match:
    """The retouch of a photo that brings its tones and colours nearest to an example's.

    Some 50 to 90 looks are tried. Black-and-white photos stay so: only brightness and contrast are searched.

    Args:
        pipe: a `DiffRetouchPipeline`.
        photo: one photo, as `image` of a call of it.
        reference: the example, likewise, or its `Tones`.
        call: further arguments of the calls, such as `num_inference_steps`.

    Raises:
        TypeError, ValueError: if either is no photo, or the reference is tiny, one flat colour or a page of text.
        ImportError: without scikit-image.

    Example:
        >>> from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline, match_look, open_photo
        >>> pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)
        >>> pipe.set_progress_bar_config(disable=True)
        >>> photo = open_photo("photo.jpg")
        >>> liked = (photo.pixels * 0.7).astype(photo.pixels.dtype)  # or open_photo("liked.jpg").model_view()
        >>> found = match_look(pipe, photo.model_view(), liked)
        >>> found.after < found.before
        True
        >>> photo.retouch(found.grid).pixels.shape
        (1080, 1920, 3)
    """
    wanted = reference if isinstance(reference, Tones) else reference_tones(pipe, reference)
    pipe.grid_head.check_photo("photo", photo)
    view = pipe.photo_view(photo)
    return _Search(pipe, view, wanted, call).run()


def reference_tones(pipe: Any, reference: Any) -> Tones:
    """The tones of an example, checked: see `match_look`."""
    pipe.grid_head.check_photo("reference", reference)
    height, width = planes(reference).shape[2:]
    if min(height, width) < _LEAST_SIDE:
        raise ValueError(f"`reference` has to have at least {_LEAST_SIDE} pixels on a side, got {width} x {height}.")
    view = pipe.photo_view(reference)
    _check_reference(_lab(_pixels(view, view.shape[2] // 2)))
    return tones(_pixels(view))


def tones(pixels: np.ndarray) -> Tones:
    """Of sRGB pixels (h, w, 3) float32 in [0, 1].

    Example:
        >>> grey, lighter = np.full((8, 8, 3), 0.5, np.float32), np.full((8, 8, 3), 0.6, np.float32)
        >>> round(tones(grey).distance(tones(lighter)), 1)
        9.8
    """
    lab = _lab(pixels)
    along = np.sort(lab @ _directions().T, axis=0)
    places = ((np.arange(_QUANTILES) + 0.5) / _QUANTILES * len(along)).astype(int)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    return Tones(along[places], np.array([lab[:, 0].mean(), chroma.mean(), lab[:, 2].mean(), lab[:, 0].std()]))


class _Search:
    """Batches of retouches of one photo, judged by their distance."""

    def __init__(self, pipe: Any, view: torch.Tensor, wanted: Tones, call: dict[str, Any]):
        self._pipe, self._view, self._wanted, self._call = pipe, view, wanted, call
        self._pixels = _pixels(view)
        # An expert gives no colour to a black-and-white photo.
        self._free = [1, 2] if is_grey(view[0]) else [0, 1, 2, 3]

    def run(self) -> Match:
        before = tones(self._pixels).distance(self._wanted)
        middles = self._tried(np.zeros((SEEDS, 4)), list(range(SEEDS)))
        ahead = int(np.argmin([found for found, _ in middles]))
        # What a style is ahead by with all sliders at 0, the middle one's sliders may do as well.
        found = {seed: self._sliders(seed, middles[seed]) for seed in {0, ahead}}
        seed = ahead if found[0][1][0] > found[ahead][1][0] * (1 + _WORTH) else 0
        place, (_, grid) = found[seed]
        strength, grid, made = self._weakened(grid)
        return Match(
            grid=grid,
            sliders={name: float(value) + 0.0 for name, value in zip(ATTRIBUTES, place, strict=True)},
            seed=seed,
            strength=strength,
            before=before,
            after=made.distance(self._wanted),
            middle=middles[0][0],
            left=_left(made, self._wanted),
        )

    def _sliders(self, seed: int, start: tuple[float, AffineGrid]) -> tuple[np.ndarray, tuple[float, AffineGrid]]:
        """Each slider a step to both sides, then all at once to where parabolas through these are lowest."""
        place, best, step = np.zeros(4), start, _FIRST_STEP
        for _ in range(_ROUNDS):
            sides = [self._moved(place, k, sign * step) for k in self._free for sign in (-1, 1)]
            found = self._tried(sides, [seed] * len(sides))
            aim = place.copy()
            for n, k in enumerate(self._free):
                below, above = found[2 * n][0] - best[0], found[2 * n + 1][0] - best[0]
                aim = self._moved(aim, k, step * _lowest(below, above))
            joint = [aim, np.round((place + aim) / 2, 2)]
            places, all_found = [*sides, *joint], [*found, *self._tried(joint, [seed] * 2)]
            lowest = int(np.argmin([distance for distance, _ in all_found]))
            if all_found[lowest][0] < best[0]:
                place, best = places[lowest], all_found[lowest]
            step *= 0.6
        return place, best

    @staticmethod
    def _moved(place: np.ndarray, slider: int, by: float) -> np.ndarray:
        moved = place.copy()
        moved[slider] = round(float(np.clip(moved[slider] + by, -1, 1)), 2)
        return moved

    def _tried(self, places: Any, seeds: list[int]) -> list[tuple[float, AffineGrid]]:
        """Distance and grid of the photo's retouch for each row of `places` (n, 4) and each seed."""
        sliders = dict(zip(ATTRIBUTES, np.asarray(places, float).T.tolist(), strict=True))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        call: dict[str, Any] = {**sliders, **self._call, "generator": generators, "output_type": "grid"}
        grids = [grid.to("cpu") for grid in self._pipe([self._view] * len(seeds), **call).grids]
        return [(self._made(grid).distance(self._wanted), grid) for grid in grids]

    def _made(self, grid: AffineGrid, strength: float = 1.0) -> Tones:
        return tones(grid.apply(self._pixels, strength))

    def _weakened(self, grid: AffineGrid) -> tuple[float, AffineGrid, Tones]:
        """Less of the retouch where that is nearer: the photo itself may be nearest."""
        made = {strength: self._made(grid, strength) for strength in _STRENGTHS}
        apart = {strength: found.distance(self._wanted) for strength, found in made.items()}
        strength = min(apart, key=lambda each: apart[each])
        if apart[1.0] <= apart[strength] * (1 + _WORTH):
            strength = 1.0
        return strength, at_strength(grid, strength), made[strength]


def _lowest(below: float, above: float) -> float:
    """Where a parabola that is 0 at 0 and these at -1 and 1 is lowest, in [-1.5, 1.5]."""
    curved = below + above
    if curved <= 1e-6:  # no valley: downhill
        return 1.0 if above < below else -1.0
    return float(np.clip((below - above) / (2 * curved), -1.5, 1.5))


def _directions() -> np.ndarray:
    """(directions, 3), spread evenly over half a sphere."""
    number = np.arange(_DIRECTIONS) + 0.5
    height, turn = number / _DIRECTIONS, np.pi * (1 + 5**0.5) * number
    around = np.sqrt(1 - height**2)
    return np.stack([height, around * np.cos(turn), around * np.sin(turn)], axis=1).astype(np.float32)


def _pixels(view: torch.Tensor, side: int = _SIDE) -> np.ndarray:
    """A view (1, 3, S, S) -> (side, side, 3)."""
    return F.adaptive_avg_pool2d(view.float().cpu(), side)[0].permute(1, 2, 0).contiguous().numpy()


def _lab(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) sRGB -> (h * w, 3) CIELAB."""
    from skimage.color import rgb2lab

    return rgb2lab(np.clip(pixels, 0, 1)).reshape(-1, 3).astype(np.float32)


def _check_reference(lab: np.ndarray) -> None:
    """Refuse what has no tones to speak of."""
    counts, edges = np.histogram(lab[:, 0], 50, (0, 100))
    tone = edges[int(counts.argmax())] + 1.0
    alike = lab[np.abs(lab[:, 0] - tone) < 1.5]
    centre = np.median(alike, axis=0) if len(alike) else lab.mean(0)
    share = float((np.linalg.norm(lab - centre, axis=1) < _SAME_TONE).mean())
    if share > _ONE_TONE:
        raise ValueError(f"`reference` has to be a photo, got a picture of which {100 * share:.0f}% is one colour.")
    if share > _PAPER and centre[0] > 60 and np.hypot(*centre[1:]) < 15:
        raise ValueError(f"`reference` has to be a photo, got a page or drawing: {100 * share:.0f}% is its paper.")


def _left(made: Tones, wanted: Tones) -> str | None:
    """The largest difference of the traits, in a word."""
    light, chroma, warm, contrast = made.traits - wanted.traits
    words = [
        (abs(light), "lighter" if light > 0 else "darker"),
        (abs(chroma), "more colourful" if chroma > 0 else "less colourful"),
        (abs(warm), "warmer" if warm > 0 else "cooler"),
        (abs(contrast), "harder in contrast" if contrast > 0 else "softer in contrast"),
    ]
    size, word = max(words)
    return word if size > 2 else None
