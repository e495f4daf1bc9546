"""Five synthetic experts who share a real one's judgement and differ in taste.

`natural` is what an expert whom a teacher network has learned (`teacher`) makes of a good photo, mended where the
network is weak; each `Expert` then follows an intent of his own, in steps that leave black, white and grey where they
are. All pictures are sRGB, np (H, W, 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2lab

from .light import lab_to_srgb, quantise, to_linear_light

_COLOURLESS = 1.0  # mean chroma


@dataclass(frozen=True)
class Expert:
    """One consistent taste: steps away from the natural retouch.

    What the experts have in common is their craft: black and white stay where they are, so nothing clips that did not
    before; skin and skies get less colour, nights stay dark and high keys bright, black-and-white stays neutral, and a
    page of text is left nearly as it is (`subjects`, `documentness`).

    Args:
        name: letter of the expert, as in MIT-Adobe FiveK.
        intent: what a photographer would say about the style.
        exposure: shift of the middle of CIELAB lightness; black and white stay.
        contrast: strength of the S-curve around the picture's own median, negative = flatter.
        shadows: lift of the dark tones in CIELAB lightness at its strongest point.
        chroma: factor of CIELAB chroma; what is vivid already moves less.
        warmth: shift of CIELAB b* in the middle tones, a third as much of a*; positive = warmer.
    """

    name: str
    intent: str
    exposure: float = 0.0
    contrast: float = 0.0
    shadows: float = 0.0
    chroma: float = 1.0
    warmth: float = 0.0

    def retouch(self, natural: np.ndarray) -> np.ndarray:
        """This expert's version, uint8, of a natural retouch (H, W, 3) in [0, 1]; deterministic."""
        lab = rgb2lab(natural).astype(np.float32)
        restraint = 1 - 0.8 * documentness(lab[..., 0])
        skin, sky = subjects(lab)
        toned = self._tone(lab[..., 0], restraint)
        # What gets darker keeps its saturation, not its chroma, which would leave the gamut.
        lab[..., 1:] *= np.minimum(1, toned / np.maximum(lab[..., 0], 1e-3))[..., None]
        lab[..., 0] = toned
        if not is_colourless(lab):
            lab[..., 1:] = self._colour(lab, skin, sky, restraint * _room_for_colour(natural))
        return quantise(lab_to_srgb(lab))

    def _tone(self, lightness: np.ndarray, restraint: float) -> np.ndarray:
        unit = np.clip(lightness / 100, 0, 1)
        mean, median = float(unit.mean()), float(np.median(unit))
        # A night is not lifted, nor a high key pulled down.
        room = np.clip(mean / 0.4, 0.2, 1) if self.exposure > 0 else np.clip((1 - mean) / 0.4, 0.2, 1)
        shift = restraint * room * self.exposure / 100
        exposed = unit + shift * 4 * unit * (1 - unit)
        pivot = np.clip(median + shift, 0.25, 0.75)
        below = pivot * (exposed / pivot) ** 2
        above = 1 - (1 - pivot) * ((1 - exposed) / (1 - pivot)) ** 2
        curved = exposed + restraint * self.contrast * (np.where(exposed < pivot, below, above) - exposed)
        return 100 * curved + restraint * self.shadows * 6.75 * curved * (1 - curved) ** 2

    def _colour(self, lab: np.ndarray, skin: np.ndarray, sky: np.ndarray, restraint: np.ndarray) -> np.ndarray:
        chroma = np.hypot(lab[..., 1], lab[..., 2])
        moved = restraint * np.exp(-chroma / 60) * (1 - 0.5 * skin) * (1 - 0.4 * sky)
        coloured = lab[..., 1:] * (1 + (self.chroma - 1) * moved)[..., None]
        unit = np.clip(lab[..., 0] / 100, 0, 1)
        middle = restraint * self.warmth * np.clip(4 * unit * (1 - unit), 0, 1)
        return coloured + middle[..., None] * np.array([1 / 3, 1], np.float32)


def _room_for_colour(picture: np.ndarray) -> np.ndarray:
    """How much more colour each pixel (H, W, 3) in [0, 1] can take, (H, W) in [0, 1]: 0 at the edge of the gamut.

    1 where its colour could double in linear light, and where no channel is near white.
    """
    light = to_linear_light(picture)
    low, high, middle = light.min(-1), light.max(-1), light.mean(-1)
    left = np.minimum(low / np.maximum(middle - low, 1e-3), (1 - high) / np.maximum(high - middle, 1e-3))
    return np.clip(np.minimum(left, (1 - picture.max(-1)) / 0.1), 0, 1)


EXPERTS = (
    Expert("A", "natural: the teacher's own retouch"),
    Expert("B", "airy: bright, open shadows, soft contrast, pale cool colour", 8, -0.3, 4, 0.8, -4),
    Expert("C", "golden: warm and rich, gentle contrast", 1, 0.1, 1, 1.2, 10),
    Expert("D", "dramatic: dark, deep contrast, cool and restrained", -10, 0.4, 0, 0.8, -6),
    Expert("E", "vivid: crisp and saturated", 1, 0.4, 0, 1.6, 0),
)


def natural(photo: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """A teacher's `answer` to a good `photo`, mended: both (H, W, 3) in [0, 1] -> the same.

    Its whites stop short of the photo's, its blacks of an expert's, its blue skies turn grey-lavender, and it now and
    then lifts a night or pulls down a high key: whites go up to the photo's, blacks most of the way down, skies keep
    the photo's colour for the most part, and the mean lightness moves by a few steps at most.
    """
    before, after = (rgb2lab(picture).astype(np.float32) for picture in (photo, answer))
    after[..., 0] = _keep_key(before[..., 0], _stretch(before[..., 0], after[..., 0]))
    sky = subjects(before)[1][..., None]
    after[..., 1:] += 0.7 * sky * (before[..., 1:] - after[..., 1:])
    if is_colourless(before):
        after[..., 1:] = 0
    return np.clip(lab_to_srgb(after), 0, 1)


def _stretch(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Lightness `after` with its white brought up to that of `before`, at most 95, and its black nearer to 0.

    The middle stays, and nothing clips: a mist keeps a third of itself.
    """
    white, wanted = (max(1.0, float(np.percentile(lightness, 99.5))) for lightness in (after, before))
    black = float(np.percentile(after, 0.5))
    missing, excess = max(0.0, min(wanted, 95) - white), max(0.0, 0.65 * black - 1)
    bright, dark = np.clip((after / white - 0.4) / 0.6, 0, 1), np.clip(1 - after / 50, 0, 1)
    return np.clip(after + missing * bright**2 - excess * dark**2 / max(0.1, (1 - black / 50) ** 2), 0, 100)


def _keep_key(before: np.ndarray, after: np.ndarray, most: float = 6.0) -> np.ndarray:
    """Lightness `after` with its mean within `most` of the mean of `before`; black and white stay."""
    excess = after.mean() - before.mean()
    back = excess - np.clip(excess, -most, most)
    unit = np.clip(after / 100, 0, 1)
    room = max(0.1, float((4 * unit * (1 - unit)).mean()))
    return after - np.clip(back / room, -20, 20) * 4 * unit * (1 - unit)


def subjects(lab: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How likely CIELAB pixels (H, W, 3) are skin, and sky: two smooth maps (H, W) in [0, 1].

    By colour and place alone: skin is light orange of medium chroma (sand and pale wood are taken for it too), sky the
    smooth, bright, blue or colourless upper part.
    """
    lightness, a, b = np.moveaxis(lab, -1, 0)
    chroma, hue = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    skin = _within(hue, 15, 35, 65, 80) * _within(chroma, 8, 15, 40, 55) * _within(lightness, 20, 35, 85, 95)
    side = max(lightness.shape)
    detail = gaussian_filter(np.abs(lightness - gaussian_filter(lightness, side / 150)), side / 60)
    blue = np.maximum(_within(hue, 200, 230, 285, 305), _within(chroma, -1, 0, 6, 14))
    upper = np.linspace(1.2, -0.3, len(lightness)).clip(0, 1)[:, None]
    sky = blue * _within(lightness, 35, 60, 101, 102) * _within(detail, -1, 0, 1, 3) * upper
    # Wider than a grid's cell, so that a grid can follow.
    smooth = (gaussian_filter(one.astype(np.float32), side / 40).clip(0, 1) for one in (skin, sky))
    return next(smooth), next(smooth)


def is_colourless(lab: np.ndarray) -> bool:
    """Whether a picture of CIELAB pixels (H, W, 3) counts as black-and-white: JPEG leaves some chroma in grey."""
    return bool(np.hypot(lab[..., 1], lab[..., 2]).mean() < _COLOURLESS)


def documentness(lightness: np.ndarray) -> float:
    """How much a picture of CIELAB `lightness` (H, W) looks like a page, a screen or a drawing, in [0, 1].

    By flat areas of few tones: 1 where two of 32 tones cover 90% of the picture, 0 where they cover 65% or less.
    """
    counts = np.sort(np.histogram(lightness, bins=32, range=(0, 100))[0])
    return float(np.clip((counts[-2:].sum() / counts.sum() - 0.65) / 0.25, 0, 1))


def _within(values: np.ndarray, zero: float, one: float, one_to: float, zero_from: float) -> np.ndarray:
    """Trapezoid membership: 0 up to `zero`, 1 between `one` and `one_to`, 0 from `zero_from` on."""
    rise, fall = (values - zero) / (one - zero), (zero_from - values) / (zero_from - one_to)
    return np.clip(np.minimum(rise, fall), 0, 1)
