"""Synthetic experts: five retouching styles that adapt to the photo, and plausible camera failings to retouch.

No registry holds MIT-Adobe FiveK or PPR10K, so the bundled model learns from good photos: `degrade` makes the
low-quality input, `Expert.retouch` the target. Both take the scene's linear light, np (H, W, 3) float32 with sRGB
primaries, 1 = a display's white and highlights above it where the source has them (`to_linear` of an 8-bit photo has
none), and return sRGB, np (H, W, 3) uint8.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from skimage.color import lab2rgb, rgb2lab

_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
_CAST_AXES = np.array([[0.5, 0.0, -0.5], [-0.15, 0.3, -0.15]])  # red-blue, green-magenta, in stops per channel


# ---- experts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expert:
    """One consistent taste. Every amount is a pull towards an intent, so what is done depends on the photo.

    What the experts have in common is their craft: highlights roll off instead of clipping, skin and skies get less
    colour and no local contrast, and a page of text or a drawing is left nearly as it is (`subjects`, `documentness`).

    Args:
        name: letter of the expert, as in MIT-Adobe FiveK.
        intent: what a photographer would say about the style.
        key: geometric mean luminance aimed at (linear light; 0.18 is mid-grey).
        neutrality: 0 keeps the photo's cast, 1 removes it entirely (grey world).
        warmth: colour temperature shift in stops of the red/blue ratio, positive = warmer.
        contrast: strength of the S-curve around the photo's own median, negative = flatter.
        shadows: lift of the dark tones in CIELAB lightness at its strongest point.
        chroma: mean CIELAB chroma aimed at.
        clarity: gain of local contrast over about a twentieth of the picture.
    """

    name: str
    intent: str
    key: float
    neutrality: float
    warmth: float
    contrast: float
    shadows: float
    chroma: float
    clarity: float

    def retouch(self, light: np.ndarray) -> np.ndarray:
        """This expert's version of a good photo, given as linear light; deterministic."""
        restraint = 1 - 0.8 * documentness(light)
        lab = _lab(roll_off_highlights(self._expose(self._balance(light, restraint), restraint)))
        skin, sky = subjects(lab)
        lab[..., 0] = self._tone(lab[..., 0], np.maximum(skin, sky), restraint)
        lab[..., 1:] *= self._chroma_gain(lab, skin, sky, restraint)[..., None]
        return quantise(lab_to_srgb(lab))

    def _balance(self, light: np.ndarray, restraint: float) -> np.ndarray:
        to_grey = neutral_gains(light)
        # A photo that is warm already (evening, lamps) carries more warmth than one in flat daylight.
        warmth = restraint * self.warmth * np.clip(1 + 0.5 * np.log2(to_grey[2] / to_grey[0]), 0.6, 1.4)
        tint = np.array([2 ** (warmth / 2), 1.0, 2 ** (-warmth / 2)])
        gains = to_grey ** (restraint * self.neutrality) * tint
        return light * (gains / (gains @ _LUMINANCE)).astype(np.float32)

    def _expose(self, light: np.ndarray, restraint: float) -> np.ndarray:
        luminance = light @ _LUMINANCE
        measured = np.exp(np.log(np.minimum(luminance, 1) + 0.005).mean())
        stops = np.clip(0.8 * np.log2((self.key + 0.005) / measured), -1.5, 1.5)
        # What is bright already may not be pushed over the edge to lift the rest.
        room = max(0.0, np.log2(1.6 / max(1e-3, float(np.percentile(luminance, 95)))))
        return light * np.float32(2 ** (restraint * min(stops, room)))

    def _tone(self, lightness: np.ndarray, protected: np.ndarray, restraint: float) -> np.ndarray:
        black, median, white = np.percentile(lightness, (0.5, 50, 99.5))
        # Halfway to full black and white: foggy photos stay a little foggy.
        stretched = (lightness - 0.5 * black) * (100 / max(30.0, 0.5 * white + 50 - 0.5 * black))
        unit = np.clip((lightness + restraint * (stretched - lightness)) / 100, 0, 1)
        pivot = np.clip(median / 100, 0.25, 0.75)
        below = pivot * (unit / pivot) ** 2
        above = 1 - (1 - pivot) * ((1 - unit) / (1 - pivot)) ** 2
        curved = unit + restraint * self.contrast * (np.where(unit < pivot, below, above) - unit)
        lifted = 100 * curved + restraint * self.shadows * 6.75 * curved * (1 - curved) ** 2
        local = lifted - gaussian_filter(lifted, max(lifted.shape) / 20, mode="reflect")
        return lifted + restraint * self.clarity * (1 - 0.8 * protected) * local

    def _chroma_gain(self, lab: np.ndarray, skin: np.ndarray, sky: np.ndarray, restraint: float) -> np.ndarray:
        chroma = np.hypot(lab[..., 1], lab[..., 2])
        wanted = np.clip((self.chroma / max(4.0, float(chroma.mean()))) ** 0.7, 0.5, 1.8)
        # What is vivid already moves less, so saturated flowers keep their petals; so do skin and skies.
        moved = np.exp(-chroma / 60) * (1 - 0.5 * skin) * (1 - 0.4 * sky)
        return 1 + restraint * (wanted - 1) * moved


EXPERTS = (
    Expert("A", "natural: clean whites, mid-grey exposure, honest colour", 0.155, 0.7, 0.05, 0.20, 2, 17, 0.10),
    Expert("B", "airy: bright, open shadows, soft contrast, pale cool colour", 0.25, 0.7, -0.14, -0.25, 6, 12, 0.0),
    Expert("C", "golden: warm and rich, gentle contrast", 0.165, 0.5, 0.42, 0.15, 2, 21, 0.05),
    Expert("D", "dramatic: dark, deep contrast, cool and restrained", 0.105, 0.6, -0.30, 0.50, 0, 13, 0.25),
    Expert("E", "vivid: crisp, saturated, bright enough to pop", 0.175, 0.7, 0.0, 0.55, 0, 28, 0.25),
)


def neutral_gains(light: np.ndarray) -> np.ndarray:
    """Gains (3,) that make what should be grey in linear light (H, W, 3) grey, each in [0.5, 2].

    Grey world over the nearly colourless pixels: a field of orange petals has none and says nothing about the light,
    so it keeps its colour.
    """
    pixels = np.minimum(light, 1).reshape(-1, 3)
    high, low = pixels.max(1), pixels.min(1)
    saturation = (high - low) / np.maximum(high, 1e-3)
    weights = np.exp(-((saturation / 0.4) ** 2)) * ((low > 0.01) & (high < 0.98))
    share = float(weights.mean())
    means = (weights @ pixels) / max(weights.sum(), 1e-6)
    if share < 1e-3:
        return np.ones(3)
    return np.clip(means.mean() / np.maximum(means, 1e-4), 0.5, 2.0) ** min(1.0, share / 0.15)


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


def documentness(light: np.ndarray) -> float:
    """How much linear light (H, W, 3) looks like a page, a screen or a drawing, in [0, 1]: by flat areas of few tones.

    1 where two of 32 tones cover 90% of the picture, 0 where they cover 65% or less.
    """
    lightness = _lab(np.clip(light, 0, 1))[..., 0]
    counts = np.sort(np.histogram(lightness, bins=32, range=(0, 100))[0])
    return float(np.clip((counts[-2:].sum() / counts.sum() - 0.65) / 0.25, 0, 1))


def _within(values: np.ndarray, zero: float, one: float, one_to: float, zero_from: float) -> np.ndarray:
    """Trapezoid membership: 0 up to `zero`, 1 between `one` and `one_to`, 0 from `zero_from` on."""
    rise, fall = (values - zero) / (one - zero), (zero_from - values) / (zero_from - one_to)
    return np.clip(np.minimum(rise, fall), 0, 1)


# ---- other scenes ---------------------------------------------------------------------------------------------------

# Turns and stretches of colour keep the mean of the channels, so grey stays grey.
_GREY = np.ones((3, 3)) / 3
_TURN = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)


def vary(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another good photo that might have been taken in the place of this one, both in linear light.

    A few hundred photos are soon known by heart; in part of the frame, in other light, of other colours and contrast
    the same place asks of every expert for a retouch of its own, as a new photo would.
    """
    height, width = light.shape[:2]
    high, wide = (max(1, round(side * rng.uniform(0.4, 1))) for side in (height, width))
    top, left = rng.integers(0, height - high + 1), rng.integers(0, width - wide + 1)
    part = light[top : top + high, left : left + wide]
    angle, chroma = np.clip(rng.normal(0, 0.3), -0.8, 0.8), rng.uniform(0.6, 1.5)
    colours = _GREY + chroma * (np.cos(angle) * (np.eye(3) - _GREY) + np.sin(angle) * _TURN)
    turned = np.maximum(part @ colours.T.astype(np.float32), 0)
    steep, gains = rng.uniform(0.8, 1.35), np.clip(rng.normal(0, 0.2, 2), -0.5, 0.5) @ _CAST_AXES
    stops = np.clip(rng.normal(0, 0.5), -1.5, 0.7) + gains
    return (0.18 * (turned / 0.18) ** steep * 2.0**stops).astype(np.float32)


# ---- camera failings ------------------------------------------------------------------------------------------------


def degrade(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A plausible low-quality version of a good photo, given as linear light.

    As a camera fails, in its order: exposure and light (uneven, mixed, haze) in the scene, clipping and noise in the
    sensor, white balance, then a tone curve, dull colour and 8 bits in the file. A meter leaves three quarters of the
    picture below white: nobody retouches a frame with nothing on it. One photo in eight, and half of the pages, fail
    by a quarter of all that only: what is fine already has to be recognised.
    """
    shape = light.shape[:2]
    amount = 0.25 if rng.uniform() < 0.12 + 0.38 * documentness(light) else 1.0
    stops = np.clip(rng.normal(-0.5, 0.8), -2.0, 1.0) + 0.7 * rng.uniform() * _gradient(shape, rng)
    exposed = light * np.float32(2.0) ** (amount * stops[..., None]) * _casts(shape, rng) ** amount
    exposed /= max(1, np.percentile(exposed.max(-1), 75))
    veil = amount * rng.uniform(0, 0.12) * rng.integers(0, 2)
    hazy = exposed * (1 - veil) + veil * rng.uniform(0.5, 1.0)
    lab = _lab(_sense(hazy, rng))
    lab[..., 1:] *= 1 + amount * (rng.uniform(0.4, 1.1) - 1)
    lab[..., 0] = _camera_curve(lab[..., 0], amount, rng)
    return quantise(lab_to_srgb(lab))


def _gradient(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A smooth step across the picture (window, flash, shade), (H, W) around [-1, 1]; flat half of the time."""
    angle, centre, there = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.7), rng.integers(0, 2)
    y, x = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    across = (x * np.cos(angle) + y * np.sin(angle) + 1) / 2
    return there * np.tanh(3 * (across - centre)).astype(np.float32)


def _casts(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Gains (H, W, 3) of a wrong white balance; where the light is mixed, it is another one across the picture."""
    balance = np.clip(rng.normal(0, 0.25, 2), -0.6, 0.6) @ _CAST_AXES
    mixed = np.clip(rng.normal(0, 0.12, 2), -0.3, 0.3) @ _CAST_AXES
    return (2.0 ** (balance + mixed * _gradient(shape, rng)[..., None])).astype(np.float32)


def _sense(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a sensor keeps of linear light: photon and read noise, blown highlights; (H, W, 3) in [0, 1]."""
    strength = 0.012 * rng.uniform() ** 3  # most photos are clean
    noise = rng.standard_normal(light.shape).astype(np.float32)
    return np.clip(light + strength * np.sqrt(np.maximum(light, 0) + 0.02) * noise, 0, 1)


def _camera_curve(lightness: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """CIELAB lightness (H, W) through a camera's taste: flat or hard, foggy blacks, lifted or sunken midtones."""
    flatness, fog, gamma = 1 + amount * rng.uniform(-0.4, 0.15), amount * rng.uniform(0, 10), rng.uniform(0.85, 1.2)
    middle = float(lightness.mean())
    flat = np.clip(middle + flatness * (lightness - middle), 0, 100)
    return fog + (100 - fog) * (flat / 100) ** (gamma**amount)


# ---- light and numbers ----------------------------------------------------------------------------------------------


def roll_off_highlights(light: np.ndarray, knee: float = 0.75) -> np.ndarray:
    """Compress linear light above `knee` smoothly into [knee, 1], as film does, instead of clipping it."""
    over = np.maximum(light - knee, 0)
    return np.minimum(light, knee) + (1 - knee) * (1 - np.exp(-over / (1 - knee)))


def to_linear(photo: np.ndarray) -> np.ndarray:
    """uint8 sRGB -> float32 linear light in [0, 1] (IEC 61966-2-1)."""
    values = np.arange(256, dtype=np.float32) / 255
    table = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)
    return table[photo]


def to_srgb(light: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] -> sRGB values in [0, 1]."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)


def _lab(light: np.ndarray) -> np.ndarray:
    """Linear light (H, W, 3) in [0, 1] -> CIELAB (D65), float32."""
    return rgb2lab(to_srgb(light)).astype(np.float32)


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """CIELAB (D65) -> sRGB in [0, 1]; colours outside the gamut are clipped."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Conversion from CIE-LAB", category=UserWarning)
        return lab2rgb(lab)


def quantise(picture: np.ndarray) -> np.ndarray:
    """Float picture -> uint8, clipped and rounded."""
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


# ---- pages ----------------------------------------------------------------------------------------------------------


def draw_page(rng: np.random.Generator, width: int = 320, height: int = 240) -> np.ndarray:
    """A page of made-up words, np (height, width, 3) uint8: what photographers' pictures of text teach, drawn.

    Ink on paper or light on dark, blocks of colour and rules, letters of 8 to 30 pixels.
    """
    ground, ink = rng.uniform(0.75, 1, 3), rng.uniform(0, 0.3, 3)
    if rng.integers(0, 2):
        ground, ink = ink, ground
    canvas = Image.new("RGB", (width, height), tuple(quantise(ground).tolist()))
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(0, 4)):
        left, top, wide, high = rng.integers((0, 0, 20, 2), (width, height, 120, 60)).tolist()
        pen.rectangle((left, top, left + wide, top + high), tuple(rng.integers(0, 256, 3).tolist()))
    letters, top, left = list("aabcdeeefghiijklmnoopqrsttuuvwxyzAEGHKMRST0123456789.,:()"), 6, int(rng.integers(4, 30))
    while top < height - 10:
        size = int(rng.integers(8, 31))
        words = ("".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(rng.integers(2, 12)))
        pen.text((left, top), " ".join(words), fill=tuple(quantise(ink).tolist()), font=ImageFont.load_default(size))
        top += round(1.4 * size)
    return np.asarray(canvas)
