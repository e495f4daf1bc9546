"""A look from photos before and after an edit: opened, brought into register, compared with each other, then fitted.

    found = look_from_pairs([("IMG_1.CR3", "IMG_1.jpg"), ("IMG_2.CR3", "IMG_2.jpg")])
    found.look.save("my-look.safetensors")
    print(*found.notes, found.summary, sep="\\n")

Crops, quarter turns and scale are undone (`registration`). Pairs that show different things, that are the same
picture twice, or that contradict the others are left out, and a pair that came the wrong way round is turned; the
notes say so. The fit itself is look/fit.py, and then look/lut.py, which adds what only a table can hold.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from ..look.agree import Verdict, verdicts
from ..look.fit import Error, Fit, Pixels, at_strength, delta_e, fit_pixels
from ..look.look import Look
from ..look.lut import SMOOTHNESS, Lut, LutError, fit_lut, look_table
from ..model.modeling_affine_grid import AffineGrid
from ..photo import Photo, PhotoError, open_photo
from .registration import register, same_picture

_VIEW = 1280  # pixels of the long side that pairs are brought into register at
_FITTED = 768  # and that they are compared at: grain, JPEG noise and a pixel's shift are averaged away
_MOST_PIXELS, _LEAST_OF_A_PAIR = 1 << 16, 1 << 10
_FOLDS = 8
# Of a table that departs from a look: a third of what `fit_lut` takes by itself is 1 to 4% nearer on unseen photos,
# from 1, 5 and 21 pairs of a fixed edit.
TABLE_SMOOTHNESS = SMOOTHNESS / 3
_TABLE_SIZE, _TRIED_SIZE = 33, 17  # of the look, and of those that tell its error, which are as near in half the time
_TOLD_LOCAL = 0.03  # of the pixels
_ADAPTS = 0.25  # of the edit, from which another photo will not get what these got


class PairError(ValueError):
    """A pair, or all of them, cannot tell of an edit; one line says why."""


@dataclass(frozen=True, eq=False)
class LookFromPairs:
    """A look, and what is known of it.

    Attributes:
        fit: the chain of affine transforms that the look is, or its table departs from, with the errors of the look.
        has_table: whether a table is nearer than the chain on what was held back.
        pixels: what it was fitted to.
        names: of the pairs that it was fitted to.
        notes: what was left out, turned round or masked, one line each.
        left_out: {name of a pair: why it was}.
    """

    fit: Fit
    has_table: bool
    pixels: Pixels
    names: tuple[str, ...]
    notes: tuple[str, ...]
    left_out: dict[str, str]

    @property
    def look(self) -> Look:
        """The look; the same for every place of a photo."""
        return self.at_strength(1.0)

    @property
    def adapts(self) -> bool:
        """Whether so much of the edit depends on the photo, or the place in it, that one look is not enough."""
        return self.fit.unexplained >= _ADAPTS

    @property
    def error(self) -> Error:
        """Delta E 2000 on held-back pairs, or on held-back parts of the only one; local edits left out."""
        return self.fit.error

    @property
    def summary(self) -> str:
        """The look's own error, and how much of the edit it cannot hold, in one line."""
        several = len(self.names) > 1
        where = f"held-back pairs of {len(self.names)}" if several else "held-back parts of one pair"
        missed = f"{100 * self.fit.unexplained:.0f}% of this edit"
        if not self.adapts:
            rest = f"{missed} is more than one look can hold"
        elif several:
            rest = f"{missed} depends on the photo or the place: learn a style instead"
        else:
            rest = f"{missed} depends on the place: no one look can hold it"
        edit = float(self.fit.edit.mean())
        return (
            f"Delta E 2000 on {where}: {self.error.mean:.2f} on average, {self.error.p95:.2f} at 95%, "
            f"of an edit of {edit:.2f}; {rest}"
        )

    def at_strength(self, strength: float) -> Look:
        """The look blended with the identity, 0 = no change, 1 = as edited."""
        table = self.lut(_TABLE_SIZE, strength).table if self.has_table else None
        return Look(at_strength(self.fit.look, strength), table)

    def lut(self, size: int, strength: float = 1.0) -> Lut:
        """The look as a table of `size` nodes a side; its error is that of the look, at strength 1."""
        return (self._table if size == _TABLE_SIZE else self._fitted(size)).at_strength(strength)

    @functools.cached_property
    def _table(self) -> Lut:
        return self._fitted(_TABLE_SIZE)

    def _fitted(self, size: int) -> Lut:
        kept, look = self.pixels[self.fit.kept], self.fit.look
        table = _table_of(kept, look, size).table if self.has_table else look_table(look, size)
        return Lut(table, LutError(*self.error), f"the edits of {len(self.names)} photos, on held-back pixels")


def fit_look(pairs: Iterable[tuple[Any, Any]]) -> Look:
    """The look that does to every photo what was done to these.

    Robust against crops, scale, clipped pixels, JPEG noise, local edits and single pairs of another edit. What one
    look cannot hold, such as an exposure chosen for each photo, is averaged; `look_from_pairs` says how much that is.

    Args:
        pairs: (before, after), each a path, a `Photo`, a PIL image or an array (H, W, 3) of uint8 or uint16.

    Raises:
        PhotoError: if a file of the only pair cannot be opened; of several pairs, those that can be are used.
        ValueError: if no pair can be used: the same picture twice, pictures that show different things, none at all.
        ImportError: without scikit-image.

    Example:
        >>> from diffretouch import fit_look, open_photo
        >>> before = open_photo("photo.jpg").pixels
        >>> darker = (before * 0.6).astype(before.dtype)
        >>> look = fit_look([("photo.jpg", darker)])
        >>> look
        Look(AffineGrid(12x8x1x1, device=cpu), table of 33)
        >>> bool(abs(look.apply(before).mean() / darker.mean() - 1) < 0.01)
        True
        >>> look.save("darker.safetensors")
    """
    return look_from_pairs(pairs).look


def look_from_pairs(pairs: Iterable[tuple[Any, Any]], opened: Callable[[Any], Photo] = open_photo) -> LookFromPairs:
    """`fit_look` with its errors and notes; the same arguments.

    Args:
        opened: opens the paths, for those who set limits of their own; raises a `PhotoError` where it cannot.
    """
    names, views = [], []
    refused: dict[str, Exception] = {}
    for number, (before, after) in enumerate(pairs, start=1):
        name = f"{_name(before, f'before {number}')} and {_name(after, f'after {number}')}"
        try:
            views.append(_view(name, before, after, opened))
            names.append(name)
        except (PairError, PhotoError) as error:
            refused[name] = error
    if not views:
        raise _all_refused(list(refused.values()))
    samples = [_sampled(view, len(views)) for view in views]
    notes = [f"left out: {error}" for error in refused.values()]
    kept, contradicting = _agreeing(names, samples, notes)
    pixels = _together([samples[number] for number in kept])
    fit, has_table = _fit(pixels)
    local = 1 - float(fit.kept.mean())
    if local > _TOLD_LOCAL:
        notes.append(f"{100 * local:.0f}% of the pixels were edited unlike the rest of their colour, and do not count")
    left_out = {name: str(error).removeprefix(name).strip() for name, error in refused.items()}
    left_out |= {names[number]: "edited unlike the others" for number in contradicting}
    return LookFromPairs(fit, has_table, pixels, tuple(names[number] for number in kept), tuple(notes), left_out)


def _table_of(pixels: Pixels, start: AffineGrid, size: int) -> Lut:
    return fit_lut(pixels.before, pixels.after, size, start, TABLE_SMOOTHNESS)


def _fit(pixels: Pixels) -> tuple[Fit, bool]:
    """The chain of affine transforms, and whether a table that departs from it is nearer on the folds that neither was
    fitted to; if so, with its errors there. Of one fold, on itself."""
    fit = fit_pixels(pixels)
    held_back = np.empty_like(fit.held_back)
    for fold, start in fit.without.items():
        own = pixels.folds == fold
        others = fit.kept & ~own
        table = _table_of(pixels[others if others.any() else own], start, _TRIED_SIZE)
        held_back[own] = delta_e(table.apply(pixels.before[None, own])[0], pixels.after[own])
    with_table = replace(fit, held_back=held_back)
    return (with_table, True) if with_table.error.mean < fit.error.mean else (fit, False)


def _all_refused(refused: Sequence[Exception]) -> Exception:
    if not refused:
        return PairError("`pairs` has to hold at least one photo before and after an edit, got none")
    if len(refused) == 1:
        return refused[0]
    return PairError(f"{refused[0]} (and so on for all {len(refused)} pairs)")


def _name(picture: Any, unnamed: str) -> str:
    return os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else unnamed


def _view(name: str, before: Any, after: Any, opened: Callable[[Any], Photo]) -> tuple[np.ndarray, np.ndarray]:
    """(h, w, 3) uint8 before and after, showing the same at the same places.

    Raises:
        PairError: if they do not show the same, or are the same.
        PhotoError: if one cannot be opened.
    """
    first, second = (_reduced(side, opened) for side in (before, after))
    framing = register(first, second)
    if not framing.safe:
        why = "were straightened or warped" if framing.agreement > 0.6 else "do not show the same"
        raise PairError(f"{name} {why} (agreement {framing.agreement:.2f} of 1)")
    scale = min(1.0, _FITTED / max(second.shape[:2]))
    height, width = (max(2, round(side * scale)) for side in second.shape[:2])
    smaller = PIL.Image.fromarray(second).resize((width, height), PIL.Image.Resampling.LANCZOS, reducing_gap=3.0)
    view = framing.crop(first, (width, height)), np.asarray(smaller)
    if same_picture(*view):
        raise PairError(f"{name} are the same picture: there is no edit to learn")
    return view


def _reduced(picture: Any, opened: Callable[[Any], Photo]) -> np.ndarray:
    """sRGB (h, w, 3) uint8 of at most some `_VIEW` pixels."""
    if isinstance(picture, (str, os.PathLike)):
        picture = opened(picture)
    if isinstance(picture, PIL.Image.Image):
        picture = np.asarray(picture.convert("RGB"))
    if isinstance(picture, np.ndarray):
        picture = Photo(picture)
    pixels = picture.model_view()
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((_VIEW, _VIEW), PIL.Image.Resampling.BOX, reducing_gap=None)
    return np.asarray(image)


def _unit(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 255


def _sampled(view: tuple[np.ndarray, np.ndarray], num_pairs: int) -> Pixels:
    """Pixels spread evenly over a pair, in four folds of an 8 x 8 chequer; a pair counts 1 in all."""
    height, width = view[0].shape[:2]
    count = height * width
    wanted = min(count, max(_LEAST_OF_A_PAIR, _MOST_PIXELS // num_pairs))
    places = np.sort(np.random.default_rng(0).choice(count, wanted, replace=False))
    rows, columns = places // width * 8 // height, places % width * 8 // width
    before, after = (_unit(side.reshape(-1, 3)[places]) for side in view)
    return Pixels(before, after, (rows % 2 * 2 + columns % 2).astype(np.int64), np.full(wanted, 1 / wanted, "f4"))


def _agreeing(names: Sequence[str], samples: list[Pixels], notes: list[str]) -> tuple[list[int], list[int]]:
    """Which pairs to use, and which not; turns in `samples` those round that came the wrong way."""
    kept: list[int] = []
    other: list[int] = []
    for number, verdict in enumerate(verdicts([(sample.before, sample.after) for sample in samples])):
        if verdict is Verdict.CONTRADICTS:
            other.append(number)
            continue
        kept.append(number)
        if verdict is Verdict.SWAPPED:
            sample = samples[number]
            samples[number] = Pixels(sample.after, sample.before, sample.folds, sample.weights)
            notes.append(f"{names[number]} came the wrong way round, as the other pairs tell: used turned round")
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        told = "; ".join(names[number] for number in other[:3])
        notes.append(f"left out: {told}{more}, edited unlike the others")
    return kept, other


def _together(samples: Sequence[Pixels]) -> Pixels:
    """One array of all; whole pairs are held back where there are several."""
    if len(samples) == 1:
        return samples[0]
    folds = [np.full(len(sample.folds), number % _FOLDS) for number, sample in enumerate(samples)]
    before, after, weights = (
        np.concatenate([getattr(sample, side) for sample in samples]) for side in ("before", "after", "weights")
    )
    return Pixels(before, after, np.concatenate(folds), weights)


def pairs_of_folders(before: Path, after: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Files of two folders paired by `match_names`, and one line on those that have no partner.

    Raises:
        PairError: if no file has a partner.
        OSError: if a folder cannot be read.
    """
    from .matching import PHOTO_SUFFIXES, match_names

    both = [
        [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.suffix.lower() in PHOTO_SUFFIXES]
        for folder in (before, after)
    ]
    matched, unused = match_names(*both)
    if not matched:
        raise PairError(f"no photo of {before} has a retouched version of its name in {after}")
    files = [line.partition(":")[0] for line in unused]
    more = f" and {len(files) - 5} more" if len(files) > 5 else ""
    notes = [f"without a partner: {', '.join(files[:5])}{more}"] if files else []
    return [(before / first, after / second) for first, second in matched.values()], notes
