"""Synthetic experts: five retouching styles that adapt to the photo, and plausible camera failings to retouch.

No registry holds MIT-Adobe FiveK or PPR10K, so the bundled model learns from good photos: `degrade` makes the
low-quality input, `Expert.retouch` the target. Both work in linear light first, then in CIELAB. Pictures are
np (H, W, 3) uint8 sRGB on both sides.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.color import lab2rgb, rgb2lab

_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)


@dataclass(frozen=True)
class Expert:
    """One consistent taste. Every amount is a pull towards an intent, so what is done depends on the photo.

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

    def retouch(self, photo: np.ndarray) -> np.ndarray:
        """This expert's version of a good photo; deterministic."""
        light = self._expose(self._balance(to_linear(photo)))
        lab = rgb2lab(to_srgb(roll_off_highlights(light))).astype(np.float32)
        lab[..., 0] = self._tone(lab[..., 0])
        lab[..., 1:] *= self._chroma_gain(lab)[..., None]
        return quantise(lab_to_srgb(lab))

    def _balance(self, light: np.ndarray) -> np.ndarray:
        means = np.maximum(light.mean((0, 1)), 1e-4)
        grey_world = np.clip(means.mean() / means, 0.5, 2.0)
        # A photo that is warm already (evening, lamps) carries more warmth than one in flat daylight.
        warmth = self.warmth * np.clip(1 + 0.5 * np.log2(means[0] / means[2]), 0.6, 1.4)
        tint = np.array([2 ** (warmth / 2), 1.0, 2 ** (-warmth / 2)])
        gains = grey_world**self.neutrality * tint
        return light * (gains / (gains @ _LUMINANCE)).astype(np.float32)

    def _expose(self, light: np.ndarray) -> np.ndarray:
        measured = np.exp(np.log(light @ _LUMINANCE + 0.005).mean())
        stops = 0.7 * np.log2((self.key + 0.005) / measured)
        return light * np.float32(2 ** np.clip(stops, -1.5, 1.5))

    def _tone(self, lightness: np.ndarray) -> np.ndarray:
        black, median, white = np.percentile(lightness, (0.5, 50, 99.5))
        # Halfway to full black and white: foggy photos stay a little foggy.
        stretched = (lightness - 0.5 * black) * (100 / max(30.0, 0.5 * white + 50 - 0.5 * black))
        unit = np.clip(stretched / 100, 0, 1)
        pivot = np.clip(median / 100, 0.25, 0.75)
        below = pivot * (unit / pivot) ** 2
        above = 1 - (1 - pivot) * ((1 - unit) / (1 - pivot)) ** 2
        curved = unit + self.contrast * (np.where(unit < pivot, below, above) - unit)
        lifted = 100 * curved + self.shadows * 6.75 * curved * (1 - curved) ** 2
        sigma = max(lifted.shape) / 20
        return lifted + self.clarity * (lifted - gaussian_filter(lifted, sigma, mode="reflect"))

    def _chroma_gain(self, lab: np.ndarray) -> np.ndarray:
        chroma = np.hypot(lab[..., 1], lab[..., 2])
        wanted = np.clip((self.chroma / max(4.0, float(chroma.mean()))) ** 0.6, 0.55, 1.7)
        # What is vivid already moves less, so saturated flowers keep their petals.
        return 1 + (wanted - 1) * np.exp(-chroma / 60)


EXPERTS = (
    Expert("A", "natural: clean whites, mid-grey exposure, honest colour", 0.155, 0.6, 0.05, 0.20, 2, 17, 0.10),
    Expert("B", "airy: bright, open shadows, soft contrast, pale cool colour", 0.25, 0.6, -0.12, -0.12, 6, 12, 0.0),
    Expert("C", "golden: warm and rich, gentle contrast", 0.165, 0.4, 0.42, 0.22, 2, 21, 0.05),
    Expert("D", "dramatic: dark, deep contrast, cool and restrained", 0.115, 0.5, -0.30, 0.50, 0, 13, 0.25),
    Expert("E", "vivid: crisp, saturated, bright enough to pop", 0.17, 0.7, 0.0, 0.50, 0, 27, 0.20),
)


def degrade(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A plausible low-quality version of a good photo: exposure, uneven light, cast, flatness, dull colour; 8 bit.

    Exposure, light and white balance fail in linear light before the sensor clips; tone and colour fail after.
    """
    stops = np.clip(rng.normal(-0.6, 0.8), -2.0, 1.0) + _uneven_light(photo.shape[:2], rng)
    cast = 2 ** (np.clip(rng.normal(0, 0.25, 2), -0.6, 0.6) @ np.array([[0.5, 0.0, -0.5], [-0.15, 0.3, -0.15]]))
    light = to_linear(photo) * (2 ** stops[..., None] * cast).astype(np.float32)
    lab = rgb2lab(to_srgb(np.clip(light, 0, 1))).astype(np.float32)
    lab[..., 1:] *= rng.uniform(0.4, 1.1)
    flatness, fog, gamma = rng.uniform(0.6, 1.1), rng.uniform(0, 10), rng.uniform(0.85, 1.2)
    middle = float(lab[..., 0].mean())
    lightness = np.clip(middle + flatness * (lab[..., 0] - middle), 0, 100)
    lab[..., 0] = fog + (100 - fog) * (lightness / 100) ** gamma
    return quantise(lab_to_srgb(lab))


def _uneven_light(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Smooth exposure error in stops: a gradient across the picture (window, flash, haze), half of the time."""
    amount, angle, centre = rng.uniform(0, 0.7) * rng.integers(0, 2), rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.7)
    y, x = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    across = (x * np.cos(angle) + y * np.sin(angle) + 1) / 2
    return amount * np.tanh(3 * (across - centre)).astype(np.float32)


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


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """CIELAB (D65) -> sRGB in [0, 1]; colours outside the gamut are clipped."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Conversion from CIE-LAB", category=UserWarning)
        return lab2rgb(lab)


def quantise(picture: np.ndarray) -> np.ndarray:
    """Float picture -> uint8, clipped and rounded."""
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
