"""A retouch as one 3-D colour table (LUT), for every other photo and video program: `.cube` and HaldCLUT files.

    lut = grid_to_lut(grid, photo)                  # the table nearest to what the grid does to this photo
    lut.error                                       # LutError(mean=..., p95=...): what the table cannot follow
    lut.save_cube("look.cube")

A grid treats one colour differently in different places, a table cannot: it holds the average over the places where
the photo has that colour, and its error says how far that is from the retouch itself. The table works on the numbers
that the grid works on: sRGB, unless the photo's profile says otherwise.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F

from ..files import write_atomically
from ..model.modeling_affine_grid import AffineGrid, check_photo_array, check_photo_pil

CUBE_SIZES = (17, 33, 65)
"""Nodes per side that readers of .cube files expect; `grid_to_lut` makes others too."""

HALDCLUT_SIZES = (16, 25, 36, 49, 64)
"""Nodes per side for a HaldCLUT: squares, of levels 4 to 8."""

_MAX_SIZE = 129
_SAMPLE_PIXELS = 1 << 18  # of the photo: thousands for each part of its colours, and done in a second
_TILE_PIXELS = 1 << 17

# Of the fit, on a sample of _SAMPLE_PIXELS: how much a bend of the table counts against the pixels' errors, and over
# which part of the scale a correction that no pixel asks for fades out.
SMOOTHNESS = 128.0
_REACH = 0.25
_ITERATIONS, _TOLERANCE, _TINY = 200, 1e-3, np.finfo(np.float32).tiny
_COARSEST = 12


class LutError(NamedTuple):
    """CIEDE2000 between table and retouch over the photo's pixels: the mean, and what 95% of them stay under."""

    mean: float
    p95: float


@dataclass(frozen=True, eq=False)
class Lut:
    """A 3-D colour table.

    Args:
        table: (size, size, size, 3) float32 in [0, 1]: RGB by blue, green and red index, red fastest as in the files.
        error: how far it is from the retouch it stands for.
        origin: what it stands for, in words.
    """

    table: np.ndarray
    error: LutError
    origin: str = "a retouch that varies over the photo, on that photo"

    @property
    def size(self) -> int:
        """Nodes per side."""
        return len(self.table)

    @property
    def description(self) -> str:
        """The sentence that its files carry."""
        return (
            f"DiffRetouch look: the best fit of one table to {self.origin}. Delta E 2000 "
            f"between them: mean {self.error.mean:.2f}, 95% of the pixels below {self.error.p95:.2f}."
        )

    def at_strength(self, strength: float) -> Lut:
        """The table blended with the identity, 0 = no change, 1 = as it is; with the error it has at 1."""
        identity = _nodes(self.size).reshape(self.table.shape)
        return replace(self, table=np.clip(identity + np.float32(strength) * (self.table - identity), 0, 1))

    def apply(self, photo: Any) -> Any:
        """Look up a photo, trilinear and in float32, a band of rows at a time.

        Args:
            photo: PIL image of 8 bits per channel (returned as RGB) | np (H, W, 3) uint8, uint16 or float in [0, 1].

        Returns:
            The same kind, size and depth as given.

        Raises:
            TypeError, ValueError: on any other photo.
        """
        if isinstance(photo, PIL.Image.Image):
            check_photo_pil("photo", photo)
            return PIL.Image.fromarray(self.apply(np.asarray(photo.convert("RGB"))))
        if not isinstance(photo, np.ndarray):
            raise TypeError(f"`photo` has to be a PIL image or a numpy array, got {type(photo).__name__}.")
        check_photo_array("photo", photo)
        top = np.iinfo(photo.dtype).max if photo.dtype.kind == "u" else None
        out = np.empty_like(photo)
        rows = max(1, _TILE_PIXELS // photo.shape[1])
        for first in range(0, len(photo), rows):
            band = photo[first : first + rows].astype(np.float32) / np.float32(top or 1)
            values = _looked_up(self.table, band)
            out[first : first + rows] = np.round(values * top) if top else values
        return out

    def save_cube(self, path: str | os.PathLike[str]) -> None:
        """Write as a .cube text file of six decimals, atomically.

        Raises:
            OSError: if it cannot be written.
        """
        head = f'# {self.description}\nTITLE "DiffRetouch"\nLUT_3D_SIZE {self.size}\n'
        lines = "\n".join(f"{red:.6f} {green:.6f} {blue:.6f}" for red, green, blue in self.table.reshape(-1, 3))
        write_atomically(Path(path), f"{head}{lines}\n".encode())

    def save_haldclut(self, path: str | os.PathLike[str], bits: int = 16) -> None:
        """Write as a HaldCLUT, atomically: a PNG of 8 or 16 bits and level³ x level³ pixels, with level² = `size`.

        Raises:
            ValueError: if the table's size is not a square number, or there is no such depth.
            OSError: if it cannot be written.
        """
        level = math.isqrt(self.size)
        if level**2 != self.size:
            raise ValueError(f"`size` of a HaldCLUT has to be a square number (16, 25, 36, 49, 64), got {self.size}.")
        if bits not in (8, 16):
            raise ValueError(f"`bits` has to be 8 or 16, got {bits}.")
        nodes = np.round(self.table * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
        png = bytes(imagecodecs.png_encode(nodes.reshape(level**3, level**3, 3)))
        comment = b"tEXtComment\0" + self.description.encode("latin-1")
        chunk = struct.pack(">I", len(comment) - 4) + comment + struct.pack(">I", zlib.crc32(comment))
        header = 8 + 25  # signature and IHDR, which has to come first
        write_atomically(Path(path), png[:header] + chunk + png[header:])


def grid_to_lut(grid: AffineGrid, photo: np.ndarray, size: int = 33, strength: float = 1.0) -> Lut:
    """The table that comes nearest to `grid.apply(photo, strength)`.

    Starts from the average of the grid's transforms, over the places where the photo has pixels of their guide value;
    adds the smooth correction that brings the photo's own pixels nearest, by least squares in sRGB numbers, and that
    fades out where the photo has no colours. Fitted and measured on up to 262,144 pixels each, spread evenly, and not
    the same ones where the photo has enough.

    Args:
        grid: the retouch.
        photo: (H, W, 3) uint8, uint16 or float in [0, 1]: the photo whose colours count.
        size: nodes per side, 2 to 129; see `CUBE_SIZES` and `HALDCLUT_SIZES`.
        strength: of the retouch, as for `AffineGrid.apply`.

    Raises:
        TypeError, ValueError: on any other photo, size or strength.
        ImportError: without scikit-image, which measures the error.

    Example:
        >>> from diffretouch import AffineGrid, open_photo
        >>> photo = open_photo("photo.jpg").pixels[::8, ::8]
        >>> lut = grid_to_lut(AffineGrid.identity(), photo, size=17)
        >>> lut.table.shape, lut.error.mean < 0.01
        ((17, 17, 17, 3), True)
        >>> lut.save_cube("same.cube")
    """
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
        raise TypeError(f"`size` has to be a whole number from 2 to {_MAX_SIZE}, got {type(size).__name__}.")
    if not 2 <= size <= _MAX_SIZE:
        raise ValueError(f"`size` has to be a whole number from 2 to {_MAX_SIZE}, got {size}.")
    if not isinstance(photo, np.ndarray):
        raise TypeError(f"`photo` has to be a numpy array, got {type(photo).__name__}.")
    check_photo_array("photo", photo)
    step = math.ceil(math.sqrt(photo.shape[0] * photo.shape[1] / _SAMPLE_PIXELS))
    colours = _unit(photo[::step, ::step])
    targets = grid.apply(colours, strength)
    table = _average(grid, colours, strength, size)
    table += _correction(colours.reshape(-1, 3), (targets - _looked_up(table, colours)).reshape(-1, 3), size)
    table = np.clip(table, 0, 1)
    held_out = _unit(photo[min(step // 2, len(photo) - 1) :: step, min(step // 2, photo.shape[1] - 1) :: step])
    return Lut(table, _error(_looked_up(table, held_out), grid.apply(held_out, strength)))


def fit_lut(
    colours: np.ndarray,
    targets: np.ndarray,
    size: int = 33,
    start: AffineGrid | None = None,
    smoothness: float = SMOOTHNESS,
) -> Lut:
    """The smooth table that brings `colours` nearest to `targets`, both (N, 3) float32 in [0, 1], by least squares.

    Stays the identity, or what `start` does, where there are no colours. `error` is over the colours it was fitted to.

    Args:
        start: a retouch of one cell to depart from, such as `fit_look` finds.
        smoothness: how much a bend of the table counts against the pixels' errors.

    Example:
        >>> colours = np.random.default_rng(0).random((5000, 3), np.float32)
        >>> lut = fit_lut(colours, 0.5 * colours, size=17)
        >>> round(float(lut.apply(np.full((1, 1, 3), 0.8, np.float32)).mean()), 2)
        0.4
    """
    table = look_table(start, size) if start else _nodes(size).reshape(size, size, size, 3)
    made = _looked_up(table, colours[None])[0] if start else colours
    table = np.clip(table + _correction(colours, targets - made, size, smoothness), 0, 1)
    return Lut(table, _error(_looked_up(table, colours[None]), targets[None]))


def look_table(look: AffineGrid, size: int) -> np.ndarray:
    """The table (size, size, size, 3) of a retouch of one cell, which does the same everywhere."""
    return look.apply(_nodes(size)).reshape(size, size, size, 3)


def _unit(photo: np.ndarray) -> np.ndarray:
    """To float32 in [0, 1], C-contiguous."""
    top = np.iinfo(photo.dtype).max if photo.dtype.kind == "u" else 1
    return np.ascontiguousarray(photo, np.float32) / np.float32(top)


def _looked_up(table: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Trilinear: table (S, S, S, 3) at colours (h, w, 3) float32 in [0, 1] -> (h, w, 3)."""
    nodes = torch.from_numpy(table).permute(3, 0, 1, 2)[None]  # (1, 3, blue, green, red)
    where = torch.from_numpy(colours)[None, None] * 2 - 1  # (1, 1, h, w, 3): red is the last axis of the table
    values = F.grid_sample(nodes, where, mode="bilinear", padding_mode="border", align_corners=True)
    return values[0, :, 0].permute(1, 2, 0).numpy()


def _average(grid: AffineGrid, colours: np.ndarray, strength: float, size: int) -> np.ndarray:
    """The table of the grid without its two axes over the photo, cells weighted by the photo's pixels in them."""
    _, depth, rows, columns = grid.coefficients.shape
    pixels = torch.from_numpy(colours).permute(2, 0, 1)[None] * 2 - 1
    with torch.no_grad():
        guide = grid.to("cpu").guide(pixels)[0, 0].numpy()  # (h, w) in [0, 1]
    height, width = guide.shape
    bins = np.minimum((guide * depth).astype(np.int64), depth - 1)
    cells = (np.arange(height) * rows // height)[:, None] * columns + np.arange(width) * columns // width
    counts = np.bincount((bins * (rows * columns) + cells).ravel(), minlength=depth * rows * columns)
    # One more pixel everywhere: a bin that the photo does not reach takes the plain average.
    weights = torch.from_numpy(counts.reshape(depth, rows, columns) + 1.0).to(grid.coefficients)
    mean = (grid.coefficients * weights).sum((2, 3), keepdim=True) / weights.sum((1, 2))[:, None, None]
    return AffineGrid(mean, grid.guide).apply(_nodes(size), strength).reshape(size, size, size, 3)


def _nodes(size: int) -> np.ndarray:
    """(S, S * S, 3) float32: the colours of the nodes, red fastest."""
    axis = np.linspace(0, 1, size, dtype=np.float32)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.stack([red, green, blue], axis=-1).reshape(size, -1, 3)


def _correction(colours: np.ndarray, wanted: np.ndarray, size: int, smoothness: float = SMOOTHNESS) -> np.ndarray:
    """Least squares: nodes (S, S, S, 3) that are smooth and interpolate to `wanted` (N, 3) at `colours` (N, 3).

    Minimises sum |interpolated - wanted|^2 + smoothness * integral(|gradient|^2 + |value / reach|^2). The normal
    equations couple each node to its 26 neighbours: `matrix[offset][n]` is the entry of nodes n and n + offset.
    """
    strides = np.array([1, size, size**2])  # of red, green, blue
    position = colours.astype(np.float64) * (size - 1)
    base = np.minimum(position.astype(np.int64), size - 2)
    fraction = position - base
    corners = [np.array([c & 1, c >> 1 & 1, c >> 2]) for c in range(8)]
    weights = [np.where(corner, fraction, 1 - fraction).prod(1) for corner in corners]
    nodes = [(base + corner) @ strides for corner in corners]
    count, share = size**3, _SAMPLE_PIXELS / len(colours)  # a small photo counts as much as a large one
    matrix: dict[int, np.ndarray] = {}
    right = np.zeros((3, count))
    for node, weight, corner in zip(nodes, weights, corners, strict=True):
        for channel in range(3):
            right[channel] += share * np.bincount(node, weight * wanted[:, channel], count)
        for other, other_corner in zip(weights, corners, strict=True):
            offset = int((other_corner - corner) @ strides)
            matrix[offset] = matrix.get(offset, 0) + share * np.bincount(node, weight * other, count)
    bend = smoothness / size
    matrix[0] += bend / (_REACH * size) ** 2
    index = np.arange(count)
    for stride in strides:
        inner = index // stride % size < size - 1
        for offset, neighboured in ((stride, inner), (-stride, index // stride % size > 0)):
            matrix[0] += bend * neighboured
            matrix[int(offset)] -= bend * neighboured
    # What a table of half the size finds in a fraction of the time is most of it.
    start = np.zeros_like(right)
    if size > _COARSEST:
        start = _looked_up(_correction(colours, wanted, size // 2 + 1, smoothness), _nodes(size)).reshape(-1, 3).T
    rows = {offset: row.astype(np.float32) for offset, row in matrix.items()}
    solution = _solved(rows, right.astype(np.float32), start.astype(np.float32))
    return solution.T.reshape(size, size, size, 3)


def _solved(matrix: dict[int, np.ndarray], right: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Conjugate gradients with Jacobi preconditioning for each row of `right` (3, n) at once."""
    margin = max(matrix)

    def times(vector: np.ndarray) -> np.ndarray:
        padded = np.pad(vector, ((0, 0), (margin, margin)))
        return sum(row * padded[:, margin + o : margin + o + row.size] for o, row in matrix.items())

    def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("cn,cn->c", a, b)[:, None]

    goal = dot(right, right / matrix[0]) * _TOLERANCE**2
    solution = start.copy()
    residual = right - times(solution)
    scaled = residual / matrix[0]
    direction, energy = scaled, dot(residual, scaled)
    for _ in range(_ITERATIONS):
        if (energy <= goal).all():
            break
        moved = times(direction)
        length = energy / np.maximum(dot(direction, moved), _TINY)
        solution += length * direction
        residual -= length * moved
        scaled = residual / matrix[0]
        previous, energy = energy, dot(residual, scaled)
        direction = scaled + energy / np.maximum(previous, _TINY) * direction
    return solution


def _error(table: np.ndarray, retouch: np.ndarray) -> LutError:
    from skimage.color import deltaE_ciede2000, rgb2lab

    difference = deltaE_ciede2000(rgb2lab(table), rgb2lab(retouch))
    return LutError(float(difference.mean()), float(np.quantile(difference, 0.95)))
