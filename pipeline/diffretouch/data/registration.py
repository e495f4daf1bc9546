"""How a retouched picture is framed: which part of the photo it shows, turned how, and whether it was warped.

Works on small views and on structure alone (luminance, normalised locally), so that neither tone nor colour matter:

    framing = register(before, after)             # uint8 pictures of any two sizes
    same = framing.crop(before, (640, 427))       # the part of `before` that `after` shows, at that size
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import PIL.Image
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import uniform_filter

from ..look.fit import delta_e

_COARSE = 192  # long side in pixels of the view that is searched whole
_FINE = ((384, 0.006, 4), (640, 0.002, 3))  # (long side, step of the scale, steps each way) of the refinements
_SMALLEST_CROP = 0.3  # of the photo's side; a smaller part of the view fits anywhere by chance
_SCALE_STEP = 0.97
_SAME_ASPECT = 0.01
_BLOCKS = 4  # each way
_REACH = 10  # pixels of the 512 view that a block is searched around its place
_CLEAR = 0.4  # agreement from which a view or a block counts as found
_SURE = 0.75  # agreement from which no other turn is tried
# Right framings have at least 0.88 on the example photos, also after strong edits; unrelated pictures at most 0.5,
# pictures straightened by 1.5 degrees at most 0.65, or parts of them displaced by more than a hundredth.
_LEAST_AGREEMENT = 0.6
_MOST_DISPLACED = 0.006


_SAME = 0.5  # Delta E 2000 below which nothing was edited; a JPEG of quality 95 is at 0.2 to 0.4
_NEGLIGIBLE = 0.003  # displacement below which a framing that is whole is not searched again

Box = tuple[float, float, float, float]  # left, top, right, bottom, in fractions of a picture
_WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Framing:
    """Where in the photo the retouched picture lies.

    Attributes:
        turn: quarter turns anticlockwise (`np.rot90`) that the photo needs first, 0 to 3.
        box: (left, top, right, bottom) in fractions of the turned photo.
        agreement: normalised correlation of the structures, 1 = the same picture.
        displaced: how far parts of the picture lie beside their place, as a fraction of the long side: the second
            largest of 16 blocks. 0 = only cropped and scaled; more by straightening or lens correction.
    """

    turn: int
    box: Box
    agreement: float
    displaced: float

    @property
    def safe(self) -> bool:
        """Whether `crop` gives a photo that fits the retouched picture in all its parts."""
        return self.agreement >= _LEAST_AGREEMENT and self.displaced <= _MOST_DISPLACED

    @property
    def whole(self) -> bool:
        """Whether the retouched picture shows the whole photo, as it came."""
        return self.turn == 0 and self.box == _WHOLE

    def crop(self, before: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The part of the photo (H, W, 3) uint8 that the retouched picture shows, at `size` (width, height)."""
        return np.array(_cut(PIL.Image.fromarray(before), self.turn, self.box, size))


def same_picture(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether nothing was edited between two pictures of one size, (H, W, 3) uint8, but for what files lose: that is
    averaged away."""
    small = (np.asarray(PIL.Image.fromarray(side).reduce(8), np.float32) for side in (before, after))
    sides = (side.reshape(-1, 3) / 255 for side in small)
    return bool(delta_e(*sides).mean() < _SAME)


def register(before: np.ndarray, after: np.ndarray) -> Framing:
    """Find the part of `before` that `after` shows, upright, in quarter turns, cropped and scaled.

    Args:
        before: the photo, (H, W, 3) uint8.
        after: its retouched version, (h, w, 3) uint8, of any size.

    Returns:
        The best framing found, good or not: look at `safe`. A negative's structure is the photo's.
    """
    framing = _register(before, after)
    if not framing.safe:
        inverted = _register(before, 255 - after)
        framing = inverted if inverted.safe else framing
    return framing


def _register(before: np.ndarray, after: np.ndarray) -> Framing:
    photo, retouched = (PIL.Image.fromarray(picture).convert("L") for picture in (before, after))
    # Everything below sees at most this much, which makes the cost independent of the photos' sizes.
    photo, retouched = (_at_most(picture, 2 * _FINE[-1][0]) for picture in (photo, retouched))
    framing = _search(photo, retouched, 0)
    if framing.agreement < _SURE:
        framing = max([framing, *(_search(photo, retouched, turn) for turn in (1, 2, 3))], key=lambda f: f.agreement)
    if framing.agreement < _CLEAR:
        return framing
    framing = replace(framing, displaced=_displaced(photo, retouched, framing))
    if framing.box != _WHOLE or framing.displaced > _NEGLIGIBLE:
        refined = _refine(photo, retouched, framing)
        refined = replace(refined, displaced=_displaced(photo, retouched, refined))
        framing = min(framing, refined, key=lambda f: f.displaced)
    return framing


def _at_most(picture: PIL.Image.Image, long_side: int) -> PIL.Image.Image:
    scale = min(1.0, long_side / max(picture.size))
    return picture.resize(_scaled(picture.size, scale), PIL.Image.Resampling.BILINEAR, reducing_gap=3.0)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _cut(picture: PIL.Image.Image, turn: int, box: Box, size: tuple[int, int]) -> PIL.Image.Image:
    if turn:
        picture = picture.transpose(PIL.Image.Transpose(turn + 1))  # ROTATE_90, 180, 270 are 2, 3, 4
    width, height = picture.size
    corners = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    return picture.resize(size, PIL.Image.Resampling.LANCZOS, box=corners, reducing_gap=3.0)


def _structure(picture: PIL.Image.Image) -> np.ndarray:
    """Luminance less its local mean, over its local spread: what a tone curve or a vignette leaves alone."""
    values = np.asarray(picture, dtype=np.float32)
    window = max(7, round(max(values.shape) / 16))
    detail = values - uniform_filter(values, window)
    # A running sum may come out a little below zero where the picture is flat.
    spread = np.sqrt(np.maximum(uniform_filter(detail * detail, window), 0))
    return detail / (spread + 4.0)


def _search(photo: PIL.Image.Image, retouched: PIL.Image.Image, turn: int) -> Framing:
    """The best crop of the whole photo, to within a few hundredths."""
    size = photo.size if turn % 2 == 0 else photo.size[::-1]
    view_size = _scaled(size, _COARSE / max(size))
    view = _View(_structure(_cut(photo, turn, _WHOLE, view_size)))
    largest = min(view_size[0] / retouched.width, view_size[1] / retouched.height)
    same_aspect = abs(view_size[0] / view_size[1] * retouched.height / retouched.width - 1) < _SAME_ASPECT
    best = Framing(turn, _WHOLE, -1.0, 0.0)
    fraction = 1.0
    while fraction >= _SMALLEST_CROP:
        whole = same_aspect and fraction == 1.0
        part = view_size if whole else _scaled(retouched.size, largest * fraction)
        found = view.find(_structure(retouched.resize(part, PIL.Image.Resampling.BILINEAR)))
        if found[0] > best.agreement:
            best = Framing(turn, _WHOLE if whole else _box(found[1:], part, view_size), found[0], 0.0)
        fraction *= _SCALE_STEP
    return best


class _View:
    """A structure to look for parts in, by normalised correlation (the correlation coefficient) at every place.

    Args:
        structure: (H, W) float32.
    """

    def __init__(self, structure: np.ndarray):
        self._height, self._width = structure.shape
        self._padded = [next_fast_len(side, real=True) for side in structure.shape]
        self._spectrum = rfft2(structure, self._padded)
        # Sums over any window in four look-ups.
        values = structure.astype(np.float64)
        self._sums, self._squares = (
            np.pad(power, ((1, 0), (1, 0))).cumsum(0).cumsum(1) for power in (values, values * values)
        )

    def find(self, part: np.ndarray) -> tuple[float, float, float]:
        """(agreement, left, top) of the place that is most like `part` (h, w), in fractions of a pixel."""
        height, width = part.shape
        if height > self._height or width > self._width or min(height, width) < 8 or part.std() < 1e-3:
            return -1.0, 0.0, 0.0
        part = part - part.mean()
        # Circular, but nothing wraps around at the places where the part lies inside.
        correlation = irfft2(self._spectrum * rfft2(part, self._padded).conj(), self._padded)
        places = correlation[: self._height - height + 1, : self._width - width + 1]
        variance = _windows(self._squares, height, width) - _windows(self._sums, height, width) ** 2 / part.size
        scores = places / (np.sqrt(np.maximum(variance, 1e-3)) * np.linalg.norm(part))
        top, left = divmod(int(np.argmax(scores)), scores.shape[1])
        return (
            float(scores[top, left]),
            left + _peak(scores[top, max(0, left - 1) : left + 2], left > 0),
            top + _peak(scores[max(0, top - 1) : top + 2, left], top > 0),
        )


def _windows(sums: np.ndarray, height: int, width: int) -> np.ndarray:
    return sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]


def _peak(three: np.ndarray, centred: bool) -> float:
    """Where between -0.5 and 0.5 the parabola through three neighbours has its top; 0 at a border."""
    if len(three) < 3 or not centred:
        return 0.0
    curvature = three[0] - 2 * three[1] + three[2]
    return 0.0 if curvature >= 0 else float(np.clip(0.5 * (three[0] - three[2]) / curvature, -0.5, 0.5))


def _box(place: tuple[float, float], part: tuple[int, int], view: tuple[int, int]) -> Box:
    left, top = place[0] / view[0], place[1] / view[1]
    return left, top, min(1.0, left + part[0] / view[0]), min(1.0, top + part[1] / view[1])


def _refine(photo: PIL.Image.Image, retouched: PIL.Image.Image, framing: Framing) -> Framing:
    """The same framing with its scale to 0.1% and its place to a fraction of a pixel of the last view."""
    size = photo.size if framing.turn % 2 == 0 else photo.size[::-1]
    for long_side, step, steps in _FINE:
        left, top, right, bottom = framing.box
        margin = 0.03 * max(right - left, bottom - top)
        around = (max(0.0, left - margin), max(0.0, top - margin), min(1.0, right + margin), min(1.0, bottom + margin))
        pixels = ((around[2] - around[0]) * size[0], (around[3] - around[1]) * size[1])
        scale = long_side / max(pixels)
        view_size = max(1, round(pixels[0] * scale)), max(1, round(pixels[1] * scale))
        view = _View(_structure(_cut(photo, framing.turn, around, view_size)))
        per_pixel = scale * (right - left) * size[0] / retouched.width
        best = replace(framing, agreement=-1.0)
        for number in range(-steps, steps + 1):
            part = _scaled(retouched.size, per_pixel * (1 + step * number))
            found = view.find(_structure(retouched.resize(part, PIL.Image.Resampling.BILINEAR)))
            if found[0] > best.agreement:
                inside = _box(found[1:], part, view_size)
                best = Framing(framing.turn, _within(around, inside), found[0], 0.0)
        framing = best if best.agreement > 0 else framing
    return framing


def _within(outer: Box, inner: Box) -> Box:
    width, height = outer[2] - outer[0], outer[3] - outer[1]
    left, right = (outer[0] + width * x for x in (inner[0], inner[2]))
    top, bottom = (outer[1] + height * y for y in (inner[1], inner[3]))
    return left, top, right, bottom


def _displaced(photo: PIL.Image.Image, retouched: PIL.Image.Image, framing: Framing) -> float:
    """See `Framing.displaced`: blocks of the aligned 512 views, each searched around its own place."""
    size = _scaled(retouched.size, 512 / max(retouched.size))
    before = _structure(_cut(photo, framing.turn, framing.box, size))
    after = _structure(retouched.resize(size, PIL.Image.Resampling.BILINEAR))
    rows = np.linspace(0, size[1], _BLOCKS + 1).astype(int)
    columns = np.linspace(0, size[0], _BLOCKS + 1).astype(int)
    distances = []
    for top, bottom in zip(rows[:-1], rows[1:], strict=True):
        for left, right in zip(columns[:-1], columns[1:], strict=True):
            inner = after[top + _REACH : bottom - _REACH, left + _REACH : right - _REACH]
            score, x, y = _View(before[top:bottom, left:right]).find(inner)
            if score > _CLEAR:
                distances.append(np.hypot(x - _REACH, y - _REACH))
    # The largest may be a block of repeating pattern that fits one period aside.
    return float(sorted(distances)[-2]) / 512 if len(distances) > 1 else 0.0
