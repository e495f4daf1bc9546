"""Plausible camera failings of good photos, other scenes made from them, and drawn pages.

No registry holds MIT-Adobe FiveK or PPR10K, so the bundled model learns from good photos: here is what makes the
low-quality input, `experts` has what makes the target. All take a scene's linear light, np (H, W, 3) float32 with sRGB
primaries, 1 = a display's white and highlights above it where the source has them (`to_linear` of an 8-bit photo has
none).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .experts import documentness, is_colourless
from .light import lab_of, lab_to_srgb, quantise, roll_off_highlights, to_srgb

Taste = Callable[[np.ndarray], np.ndarray]
"""What a teacher makes of a picture as it is (`Teacher.answer`): uint8 (H, W, 3) -> float32 in [0, 1]."""

_CAST_AXES = np.array([[0.5, 0.0, -0.5], [-0.15, 0.3, -0.15]])  # red-blue, green-magenta, in stops per channel


# ---- other scenes ---------------------------------------------------------------------------------------------------

# Turns and stretches of colour keep the mean of the channels, so grey stays grey.
_GREY = np.ones((3, 3)) / 3
_TURN = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)


@dataclass(frozen=True)
class Scene:
    """A good photo and what the natural expert makes of it, both sRGB float32 (H, W, 3) in [0, 1].

    Args:
        light: the photo's linear light, highlights above 1 where its source has them.
        photo: the same as a finished picture.
        natural: `experts.natural` of it.
    """

    light: np.ndarray
    photo: np.ndarray
    natural: np.ndarray


def finished(light: np.ndarray) -> np.ndarray:
    """A good photo's linear light (H, W, 3) as a finished sRGB picture, float32 in [0, 1]; highlights roll off."""
    return to_srgb(np.clip(roll_off_highlights(light) if light.max() > 1 else light, 0, 1)).astype(np.float32)


def vary(scene: Scene, rng: np.random.Generator) -> Scene:
    """Another scene that might have been taken in the place of this one.

    A few hundred photos are soon known by heart; part of the frame, in other colours, is another photo. What the
    teacher did stays right for it, because all three pictures change alike; one in twelve turns black-and-white.
    """
    height, width = scene.light.shape[:2]
    high, wide = (max(1, round(side * rng.uniform(0.4, 1))) for side in (height, width))
    top, left = rng.integers(0, height - high + 1), rng.integers(0, width - wide + 1)
    angle, chroma = np.clip(rng.normal(0, 0.15), -0.4, 0.4), rng.uniform(0.75, 1.25) * (rng.uniform() >= 1 / 12)
    colours = _GREY + chroma * (np.cos(angle) * (np.eye(3) - _GREY) + np.sin(angle) * _TURN)
    mirrored = slice(None, None, -1 if rng.uniform() < 0.5 else 1)

    def varied(picture: np.ndarray, most: float) -> np.ndarray:
        part = picture[top : top + high, left : left + wide][:, mirrored]
        return np.clip(part @ colours.T, 0, most).astype(np.float32)

    return Scene(varied(scene.light, np.inf), varied(scene.photo, 1), varied(scene.natural, 1))


# ---- what comes in --------------------------------------------------------------------------------------------------


def photo_to_retouch(
    scene: Scene, rng: np.random.Generator, underexposure: float = 1.0, taste: Taste | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What may come to be retouched of a scene: the picture (H, W, 3) uint8, and the natural retouch of it, in [0, 1].

    Most are a camera's flat rendition or fail in some way. What is fine already has to be recognised: one in eight
    (half of the pages) fails a little, one in twelve is the natural retouch itself, which wants nothing, and one in
    eight is the finished photo, which wants most of the way there: after a third of it, as much again would be asked
    of every further pass.
    """
    kind, photo, natural = rng.uniform(), scene.photo, scene.natural
    page = documentness(lab_of(np.clip(scene.light, 0, 1))[..., 0])
    if kind < 0.12:
        return quantise(photo), photo + 0.7 * (natural - photo)
    if kind < 0.2:
        return quantise(natural), natural
    if kind < 0.32 + 0.38 * page:
        return degrade(scene.light, rng, 0.3), natural
    return camera_photo(scene, rng, underexposure, taste)


def camera_photo(
    scene: Scene, rng: np.random.Generator, underexposure: float = 1.0, taste: Taste | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A camera's flat rendition of a scene, or one that fails: as `photo_to_retouch`, finished ones left out."""
    if rng.uniform() >= 0.5:
        return degrade(scene.light, rng), scene.natural
    picture = flat_rendition(scene.light, rng, underexposure)
    return picture, scene.natural if taste is None else _tasted(scene, picture, taste)


def _tasted(scene: Scene, picture: np.ndarray, taste: Taste) -> np.ndarray:
    """What is wanted of a flat rendition: six tenths of the way from the natural retouch to what `taste` makes of it.

    The natural retouch knows the photo behind the rendition, the teacher what a real expert makes of such renditions:
    on real pairs something between the two is nearer to the expert than either. Pages and black-and-white pictures
    the teacher has hardly seen.
    """
    lab = lab_of(scene.natural)
    if documentness(lab[..., 0]) > 0.3 or is_colourless(lab):
        return scene.natural
    return scene.natural + np.float32(0.6) * (taste(picture) - scene.natural)


# ---- camera failings ------------------------------------------------------------------------------------------------


def flat_rendition(light: np.ndarray, rng: np.random.Generator, underexposure: float = 1.0) -> np.ndarray:
    """What a raw converter shows before anyone has touched a slider: dark, flat, dull, its white balance nearly right.

    Such are the inputs of MIT-Adobe FiveK. Linear light (H, W, 3) -> uint8.
    """
    exposure = underexposure * np.clip(rng.normal(-1.0, 0.8), -2.8, 0.5)
    stops = exposure + np.clip(rng.normal(0, 0.15, 2), -0.4, 0.4) @ _CAST_AXES
    exposed = light * 2.0**stops
    exposed /= max(1, np.percentile(exposed.max(-1), 90))
    lab = lab_of(_sense(exposed.astype(np.float32), rng))
    middle, fog = float(lab[..., 0].mean()), rng.uniform(0, 5)
    flat = np.clip(middle + rng.uniform(0.75, 1.05) * (lab[..., 0] - middle), 0, 100)
    lab[..., 0] = fog + (100 - fog) / 100 * flat
    lab[..., 1:] *= rng.uniform(0.5, 0.95)
    return quantise(lab_to_srgb(lab))


def degrade(light: np.ndarray, rng: np.random.Generator, amount: float = 1.0) -> np.ndarray:
    """A plausible low-quality version of a good photo, given as linear light: (H, W, 3) -> uint8.

    As a camera fails, in its order: exposure and light (uneven, mixed, haze) in the scene, clipping and noise in the
    sensor, white balance, then a tone curve, dull colour and 8 bits in the file. A meter leaves three quarters of the
    picture below white: nobody retouches a frame with nothing on it. `amount` scales all that.
    """
    shape = light.shape[:2]
    stops = np.clip(rng.normal(-0.6, 0.8), -2.2, 1.0) + 0.7 * rng.uniform() * _gradient(shape, rng)
    exposed = light * np.float32(2.0) ** (amount * stops[..., None]) * _casts(shape, rng) ** amount
    exposed /= max(1, np.percentile(exposed.max(-1), 75))
    veil = amount * rng.uniform(0, 0.12) * rng.integers(0, 2)
    hazy = exposed * (1 - veil) + veil * rng.uniform(0.5, 1.0)
    lab = lab_of(_sense(hazy, rng))
    lab[..., 1:] *= 1 + amount * (rng.uniform(0.4, 1.1) - 1)
    lab[..., 0] = _camera_curve(lab[..., 0], amount, rng)
    return quantise(lab_to_srgb(lab))


def _gradient(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A smooth step across the picture (window, flash, shade), (H, W) around [-1, 1]; flat two thirds of the time."""
    angle, centre, there = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.7), rng.uniform() < 0.3
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
    flatness, fog, gamma = 1 + amount * rng.uniform(-0.4, 0.15), amount * rng.uniform(0, 7), rng.uniform(0.85, 1.2)
    middle = float(lightness.mean())
    flat = np.clip(middle + flatness * (lightness - middle), 0, 100)
    return fog + (100 - fog) * (flat / 100) ** (gamma**amount)


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
