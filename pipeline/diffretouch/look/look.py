"""What a look file holds: one retouch for every photo, as an affine grid and, if it was fitted to pairs, as a table.

A table of colours (LUT) holds edits that no chain of affine transforms does: hues turned, single colours changed. It
is not looked up pixel by pixel. On each photo it becomes the affine grid that is nearest to it on that photo's own
colours, and that is applied as every other retouch is: as fast, in wide colour spaces, weakened, saved, as a LUT.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import PIL.Image
import torch
from safetensors import safe_open

from ..model.adapter_look_diffretouch import AdapterLook
from ..model.modeling_affine_grid import AffineGrid, check_photo, identity_coefficients

_SEEN = 256  # pixels a side of the photo that its grid is fitted to, at least
_GREY = 1 / 255  # between the channels of a table that makes black-and-white pictures, at most


class Look:
    """One retouch for every photo.

    Args:
        grid: the retouch.
        table: (S, S, S, 3) float32 in [0, 1], S from 2 to 129: RGB by blue, green and red index, as in `Lut`; what the
            grid, which has to be of one cell then, is nearest to on all photos together. None = the grid is all.

    Raises:
        ValueError: if the table is not such an array, or the grid beside it is of several cells.

    Example:
        >>> import numpy as np
        >>> look = Look(AffineGrid.identity(8, 1, 1), np.zeros((2, 2, 2, 3), np.float32))
        >>> look
        Look(AffineGrid(12x8x1x1, device=cpu), table of 2)
        >>> bool(look.apply(np.full((4, 4, 3), 200, np.uint8)).max() < 3)
        True
    """

    def __init__(self, grid: AffineGrid, table: np.ndarray | None = None):
        self.grid, self.table = grid, table
        if table is None:
            return
        size = table.shape[0] if table.ndim else 0
        if table.shape != (size, size, size, 3) or not 2 <= size <= 129 or table.dtype != np.float32:
            raise ValueError(
                f"`table` has to be float32 of shape (S, S, S, 3), S from 2 to 129, got {table.dtype} {table.shape}."
            )
        if not (table.min() >= 0 and table.max() <= 1):  # NaN is neither
            raise ValueError(f"`table` has to be within [0, 1], got [{table.min()}, {table.max()}].")
        if grid.coefficients.shape[2:] != (1, 1):
            raise ValueError(f"`grid` beside a table has to be of one cell, got {grid!r}.")

    def __repr__(self) -> str:
        return f"Look({self.grid!r}, table of {len(self.table)})" if self.table is not None else f"Look({self.grid!r})"

    def for_photo(self, photo: Any) -> AffineGrid:
        """The affine grid that does to one photo what the look does: its own, or the nearest to its table there.

        A table in black-and-white makes every photo grey, exactly.

        Args:
            photo: as for `AffineGrid.apply`, but one; a small version of it gives the same.

        Raises:
            TypeError, ValueError: on any other photo.
        """
        check_photo("photo", photo)
        if self.table is None:
            return self.grid
        start = AffineGrid(identity_coefficients(*self.grid.coefficients.shape[1:]), self.grid.guide)
        grid = AdapterLook(torch.from_numpy(self.table), 0.0).after(start, _seen(photo))
        return grid.neutral() if np.ptp(self.table, axis=3).max() <= _GREY else grid

    def apply(self, photo: Any, strength: float = 1.0) -> Any:
        """Retouch a photo, or each of a batch, at its own resolution: as `AffineGrid.apply`."""
        if isinstance(photo, torch.Tensor) and photo.ndim == 4:
            return torch.stack([self.for_photo(one).apply(one, strength) for one in photo])
        return self.for_photo(photo).apply(photo, strength)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as one self-contained safetensors file, atomically.

        `AffineGrid.load`, and so every earlier version, reads the grid of it.
        """
        self.grid.save(path, {} if self.table is None else {"table": torch.from_numpy(self.table)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Look:
        """Read a look written by `save`, or a retouch written by `AffineGrid.save`.

        Raises:
            FileNotFoundError, PermissionError: if there is no such file, or it may not be read.
            ValueError: if the file is not a look, or is damaged.
        """
        grid = AffineGrid.load(path)
        with safe_open(path, framework="np") as file:
            table = file.get_tensor("table") if "table" in file.keys() else None  # noqa: SIM118 (not a dict)
        try:
            return cls(grid, table)
        except ValueError as error:
            raise ValueError(f"`path` has to be an undamaged look, got {path}: {error}") from error


def _seen(photo: Any) -> torch.Tensor:
    """(3, h, w) float32 in [0, 1] of every few pixels of a photo."""
    if isinstance(photo, torch.Tensor):
        if photo.ndim != 3:
            raise ValueError(f"`photo` has to be one, of shape (3, H, W), got {tuple(photo.shape)}.")
        step = _step(photo.shape[1:])
        return photo[:, ::step, ::step].float()
    if isinstance(photo, PIL.Image.Image):
        photo = np.asarray(photo.convert("RGB"))
    step = _step(photo.shape[:2])
    top = np.iinfo(photo.dtype).max if photo.dtype.kind == "u" else 1
    return torch.from_numpy(photo[::step, ::step].astype(np.float32) / np.float32(top)).permute(2, 0, 1)


def _step(shape: Any) -> int:
    return max(1, min(shape) // _SEEN)
