"""Two documented styles that no expert of the bundled model has; both turn sRGB uint8 (H, W, 3) into the same.

`faded_film` is a fixed edit of every pixel in OKLab (Ottosson 2020), from linear light and back:

1. an S-curve on lightness around 0.6, as film has: shadows fall, highlights roll off;
2. faded blacks: lightness 0 becomes 0.2, white becomes 0.97;
3. chroma times 0.75;
4. split toning: shadows move towards teal, highlights towards orange, by how dark or light they are.

`studio_print` depends on the photo and the place, so that no table can hold it:

1. exposure: the photo's log-average light goes to a key of 0.16, by a gain of at most two stops either way;
2. white balance, half way: each channel goes by the square root of what would make the photo's average grey;
3. highlights are held back: light above 0.6 rolls off into white instead of clipping;
4. in OKLab, by colour: blue (skies) gets 0.05 darker and a quarter more chroma, skin 0.03 lighter and a tenth less
   chroma, everything else loses a tenth of its chroma; all by smooth windows on hue that need some chroma;
5. borders: light falls by a third towards the corners, as the fourth power of the distance from the middle.
"""

from __future__ import annotations

import numpy as np

from diffretouch.data.light import quantise, roll_off_highlights, to_linear, to_srgb

# Linear sRGB -> cone responses -> OKLab (Ottosson 2020).
_RGB_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_TEAL = np.array([-0.035, -0.030])  # (a, b) added to the darkest tones
_ORANGE = np.array([0.022, 0.045])  # (a, b) added to the lightest tones

_KEY, _MOST_GAIN = 0.16, 4.0
_SKY, _SKIN = np.radians(250), np.radians(52)  # hues in OKLab
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def faded_film(photo: np.ndarray) -> np.ndarray:
    """The fixed style, see the file's first lines."""
    lab = _to_oklab(to_linear(photo))
    lightness = _film_curve(lab[..., 0])
    chroma = 0.75 * lab[..., 1:] + (1 - lightness[..., None]) ** 2 * _TEAL + lightness[..., None] ** 2 * _ORANGE
    return _from_oklab(np.concatenate([(0.2 + 0.77 * lightness)[..., None], chroma], axis=-1))


def _film_curve(lightness: np.ndarray, pivot: float = 0.6, gamma: float = 1.6) -> np.ndarray:
    """Two power curves that meet at `pivot` with slope `gamma`; [0, 1] -> [0, 1]."""
    unit = np.clip(lightness, 0, 1)
    below = pivot * (unit / pivot) ** gamma
    above = 1 - (1 - pivot) * ((1 - unit) / (1 - pivot)) ** gamma
    return np.where(unit < pivot, below, above)


def studio_print(photo: np.ndarray) -> np.ndarray:
    """The adaptive style, see the file's first lines."""
    light = to_linear(photo).astype(np.float64)
    luminance = light @ _LUMINANCE
    gain = np.clip(_KEY / np.exp(np.log(luminance + 1e-3).mean()), 1 / _MOST_GAIN, _MOST_GAIN)
    means = light.reshape(-1, 3).mean(0) + 1e-3
    balance = np.sqrt(means @ _LUMINANCE / means)
    lab = _to_oklab(roll_off_highlights(light * gain * balance, knee=0.6))
    sky, skin = _window(lab, _SKY, 0.9), _window(lab, _SKIN, 0.5)
    lab[..., 0] += 0.03 * skin - 0.05 * sky
    lab[..., 1:] *= (0.9 + 0.35 * sky)[..., None]
    height, width = photo.shape[:2]
    down, across = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    falloff = 1 - ((down**2 + across**2) / 2) ** 2 / 3
    return _from_oklab(lab, falloff[..., None])


def _window(lab: np.ndarray, hue: float, width: float) -> np.ndarray:
    """How much a colour is of that hue, 0 to 1: a cosine bell of `width` radians each way, rising with chroma."""
    apart = np.angle(np.exp(1j * (np.arctan2(lab[..., 2], lab[..., 1]) - hue)))
    bell = 0.5 + 0.5 * np.cos(np.pi * np.clip(apart / width, -1, 1))
    return bell * np.clip(np.hypot(lab[..., 1], lab[..., 2]) / 0.06, 0, 1)


def _to_oklab(light: np.ndarray) -> np.ndarray:
    return np.cbrt(light @ _RGB_TO_LMS.T) @ _LMS_TO_LAB.T  # (H, W, 3)


def _from_oklab(lab: np.ndarray, falloff: np.ndarray | float = 1.0) -> np.ndarray:
    light = (lab @ np.linalg.inv(_LMS_TO_LAB).T) ** 3 @ np.linalg.inv(_RGB_TO_LMS).T
    return quantise(to_srgb(np.clip(light * falloff, 0, 1)))
