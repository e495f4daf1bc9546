"""Photographs in linear light, cut from high dynamic range panoramas.

    panorama = read_exr("city.exr")
    Path("city.tif").write_bytes(encode_light(normalise(cut_view(panorama, parse_view("45,5,80x58")))))

Panoramas are equirectangular, np (H, 2 H, 3) float32 linear light: the middle column looks ahead, to the right is
positive, the upper edge is the zenith. Nothing here limits values to 1: what lies above is why they are used.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from os import PathLike

import numpy as np
import OpenEXR
import tifffile
from scipy.ndimage import grey_closing, map_coordinates

MID_GREY = 0.18
SUPERSAMPLING = 4
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
_VIEW = re.compile(r"(-?\d+),(-?\d+),(\d+)x(\d+)")
_MOST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class View:
    """Where a camera looks, in degrees.

    Attributes:
        heading: to the right of the panorama's middle.
        pitch: above the horizon.
        across, down: angles of view, in [1, 150].
    """

    heading: int
    pitch: int
    across: int
    down: int

    def __post_init__(self) -> None:
        for name in ("across", "down"):
            if not 1 <= getattr(self, name) <= 150:
                raise ValueError(f"`{name}` has to be in [1, 150] degrees, got {getattr(self, name)}.")


def parse_view(text: str) -> View:
    """A view written as HEADING,PITCH,ACROSSxDOWN in whole degrees: "45,-5,80x58"."""
    match = _VIEW.fullmatch(text)
    if match is None:
        raise ValueError(f"`text` has to be HEADING,PITCH,ACROSSxDOWN in whole degrees, got {text!r}.")
    return View(*(int(number) for number in match.groups()))


def read_exr(path: str | PathLike[str]) -> np.ndarray:
    """An OpenEXR picture as (H, W, 3) float32.

    Raises:
        ValueError: if the file cannot be read, or is no RGB picture.
    """
    try:
        with OpenEXR.File(str(path)) as file:
            channels = {name: channel.pixels for name, channel in file.channels().items()}
    except Exception as error:  # the library raises RuntimeError and others
        raise ValueError(f"`path` has to be an OpenEXR picture, got {path} ({error}).") from error
    if "RGB" not in channels:
        raise ValueError(f"`path` has to be an RGB picture, got the channels {sorted(channels)} in {path}.")
    return channels["RGB"].astype(np.float32)


def cut_view(panorama: np.ndarray, view: View) -> np.ndarray:
    """What a camera without lens distortion sees of a panorama, (h, w, 3) float32.

    The picture has as many columns as the panorama has in the angle of view, so nothing is enlarged on average, and
    each pixel is the mean of 4x4 bilinear samples, so nothing is aliased; the result is never negative.
    """
    height, width = panorama.shape[:2]
    columns = max(1, round(width * view.across / 360))
    focal = columns / 2 / np.tan(np.radians(view.across / 2))
    rows = max(1, round(2 * focal * np.tan(np.radians(view.down / 2))))
    longitude, latitude = _angles(view, rows, columns, focal)
    at = (
        np.clip((0.5 - latitude / np.pi) * height - 0.5, 0, height - 1),
        (longitude / (2 * np.pi) + 0.5) * width - 0.5,
    )
    # A column more on each side, so that samples between the last column and the first are between these two.
    wrapped = np.pad(fill_rings(panorama), ((0, 0), (1, 1), (0, 0)), mode="wrap")
    at = (at[0], at[1] % width + 1)
    fine = np.stack([map_coordinates(wrapped[..., c], at, order=1, mode="nearest") for c in range(3)], axis=-1)
    return fine.reshape(rows, SUPERSAMPLING, columns, SUPERSAMPLING, 3).mean((1, 3), dtype=np.float32)


def _angles(view: View, rows: int, columns: int, focal: float) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude in radians of the samples of a picture, each (4 rows, 4 columns)."""
    across = (np.arange(columns * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - columns / 2
    up = rows / 2 - (np.arange(rows * SUPERSAMPLING) + 0.5) / SUPERSAMPLING
    x, y = np.meshgrid(across / focal, up / focal)
    pitch = np.radians(view.pitch)
    ahead, above = np.cos(pitch) - y * np.sin(pitch), np.sin(pitch) + y * np.cos(pitch)
    return np.arctan2(x, ahead) + np.radians(view.heading), np.arctan2(above, np.hypot(x, ahead))


def fill_rings(light: np.ndarray, reach: int = 5) -> np.ndarray:
    """Linear light (H, W, 3) without negative values, which a sharp resize leaves in rings around lamps and the sun.

    Pixels with a negative channel get the grey closing over `reach` pixels: what surrounds the ring, not black.
    """
    closed = grey_closing(light, (reach, reach, 1), mode="nearest")
    return np.maximum(np.where((light < 0).any(-1, keepdims=True), closed, light), 0)


def normalise(light: np.ndarray) -> np.ndarray:
    """Linear light (H, W, 3) exposed so that its geometric mean luminance is 0.18, as a meter would."""
    luminance = light @ _LUMINANCE
    # Black pixels have no logarithm; the floor is far below anything that is seen.
    metered = np.exp(np.log(np.maximum(luminance, 1e-3 * np.median(luminance) + 1e-12)).mean())
    return light * np.float32(MID_GREY / metered)


def encode_light(light: np.ndarray) -> bytes:
    """Linear light (H, W, 3) as a float16 RGB TIFF, zlib; what is above float16's largest number becomes that."""
    buffer = io.BytesIO()
    pixels = np.minimum(light, _MOST).astype(np.float16)
    # No date or description: the same view gives the same bytes.
    tifffile.imwrite(buffer, pixels, photometric="rgb", compression="zlib", metadata=None, software=False)
    return buffer.getvalue()
