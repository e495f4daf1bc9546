"""Folders of pictures to measure with: finished photos, and pairs of an input and an expert's retouch of it.

Everything is checked and read before any model is loaded: nobody wants to hear of a broken file after an hour.
Pictures are held in 8 bits, long side at most `LONG_SIDE`: about 0.5 MB each.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from ..data.build import open_srgb
from ..data.matching import PHOTO_SUFFIXES, match_names

logger = logging.getLogger(__name__)

LONG_SIDE = 512
_INPUT, _EXPERT = "_input", "_expert"


@dataclass(frozen=True)
class Pair:
    """A photo and what an expert made of it, uint8 (H, W, 3) of one size, sRGB."""

    name: str
    picture: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """The pairs of a folder, and one line for each file that has no partner or is not used."""

    pairs: tuple[Pair, ...]
    unused: tuple[str, ...]


def read_finished(folder: Path) -> dict[str, np.ndarray]:
    """{path in the folder: photo, uint8 (H, W, 3)} of all photos in a folder and its subfolders, in order of path.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no photo, or a file that cannot be read as one.
    """
    files = _photo_files(folder, "finished")
    if not files:
        raise ValueError(f"`finished` has to be a folder with photos, got none in {folder}.")
    return {file.as_posix(): _reduced(open_srgb(folder / file)) for file in files}


def read_pairs(folder: Path) -> Pairs:
    """The pairs of a folder: NAME_input and NAME_expert beside each other, or before/ and after/ by `match_names`.

    A file without a partner is left out with a warning.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no pair, a file that cannot be read as a photo, or a pair of two sizes.
    """
    found, unused = _find_pairs(folder)
    if not found:
        raise ValueError(
            "`pairs` has to be a folder of NAME_input and NAME_expert pictures, or with the folders before and after, "
            f"got no pair in {folder}."
        )
    for line in unused:
        logger.warning("Left out of the pairs: %s", line)
    return Pairs(tuple(_read_pair(name, *files) for name, files in found.items()), tuple(unused))


def _find_pairs(folder: Path) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """({name: (input, expert's)}, why files are not used)."""
    before, after = folder / "before", folder / "after"
    if before.is_dir() and after.is_dir():
        matched, unused = match_names(_photo_files(before, "pairs"), _photo_files(after, "pairs"))
        return {name: (before / first, after / second) for name, (first, second) in matched.items()}, unused
    inputs, left = _by_ending(_photo_files(folder, "pairs"), _INPUT)
    experts, others = _by_ending(left, _EXPERT)
    names = [name for name in inputs if name in experts]
    lines = [f"{file}: it ends neither in {_INPUT} nor in {_EXPERT}, or another file has its name" for file in others]
    lines += [f"{inputs[name]}: there is no {name}{_EXPERT}" for name in inputs if name not in experts]
    lines += [f"{experts[name]}: there is no {name}{_INPUT}" for name in experts if name not in inputs]
    return {name: (folder / inputs[name], folder / experts[name]) for name in names}, lines


def _by_ending(files: Iterable[Path], ending: str) -> tuple[dict[str, Path], list[Path]]:
    """{name without the ending: file} of those that have it, the first of each name; and the rest."""
    found: dict[str, Path] = {}
    rest = []
    for file in files:
        name = file.with_suffix("").as_posix()
        if name.endswith(ending) and name.removesuffix(ending) not in found:
            found[name.removesuffix(ending)] = file
        else:
            rest.append(file)
    return found, rest


def _photo_files(folder: Path, argument: str) -> list[Path]:
    """Photos in a folder and its subfolders by their names, relative to it."""
    if not folder.is_dir():
        raise FileNotFoundError(f"`{argument}` has to be a folder, got {folder}.")
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.suffix.lower() in PHOTO_SUFFIXES)
    return sorted(file for file in files if not any(part.startswith(".") for part in file.parts))


def _read_pair(name: str, source: Path, expert: Path) -> Pair:
    picture, target = open_srgb(source), open_srgb(expert)
    if picture.shape != target.shape:
        (a, b), (c, d) = picture.shape[1::-1], target.shape[1::-1]
        raise ValueError(f"{source} and {expert} have to be of one size, got {a} x {b} and {c} x {d}.")
    return Pair(name, _reduced(picture), _reduced(target))


def _reduced(pixels: np.ndarray) -> np.ndarray:
    """A picture as it is up to `LONG_SIDE`, area-averaged to it above: that neither rings nor clips."""
    height, width = pixels.shape[:2]
    scale = LONG_SIDE / max(width, height)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BOX))
