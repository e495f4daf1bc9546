"""Which retouched file belongs to which photo, by name: `IMG_1.CR3` and `IMG_1-edit.jpg`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..photo import RAW_SUFFIXES, RENDERED_SUFFIXES

# What cameras and editors hang on a name, also several in a row: "IMG_1 (edited) copy", "IMG_1-Edit-2".
_SUFFIX = re.compile(
    r"[-_ .(]+(before|after|orig(inal)?|raw|source|input|target|edit(ed)?|final|retouch(ed)?|processed|enhanced|"
    r"copy|kopie|bearbeitet|nr|hdr|pano|v?\d)\)?$"
)
_SEPARATORS = "-_ .("
# Several files of one photo: the picture that shows the camera's own rendering first, the sensor's data last.
PHOTO_SUFFIXES = (*RENDERED_SUFFIXES, *sorted(RAW_SUFFIXES))


def match_names(before: Sequence[Path], after: Sequence[Path]) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Pair files of two folders by their names, whatever their extensions and letters' case.

    In the same subfolder of both, an `after` belongs to the photo that has its name; else to the one with the longest
    name that it begins with, followed by a separator (`IMG_1-my-look` to `IMG_1`); else to the only one that has its
    name when usual endings (-edit, _before, copy ...) are taken off both. Of several files for one photo, the shortest
    name is used, JPEG before other kinds.

    Args:
        before, after: paths relative to their folders, each with one of `PHOTO_SUFFIXES`.

    Returns:
        ({photo_id: (before, after)}, one line for each file that has no partner or is not used).
    """
    unused: list[str] = []
    photos = _distinct(before, unused)
    retouched = _distinct(after, unused)
    plain: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for key in photos:
        plain.setdefault((key[0], _plain(key[1])), []).append(key)
    chosen: dict[tuple[str, str], Path] = {}
    for key, path in retouched.items():
        owner = _owner(key, photos, plain.get((key[0], _plain(key[1])), []))
        if owner is None:
            unused.append(f"{path}: there is no photo before the retouch")
        elif owner in chosen:
            kept, other = sorted((chosen[owner], path), key=_preference)
            chosen[owner] = kept
            unused.append(f"{other}: {kept} is used for {photos[owner]}")
        else:
            chosen[owner] = path
    unused += [f"{path}: there is no retouched version" for key, path in photos.items() if key not in chosen]
    pairs = {photos[key].with_suffix("").as_posix(): (photos[key], chosen[key]) for key in photos if key in chosen}
    return pairs, unused


def _distinct(files: Iterable[Path], unused: list[str]) -> dict[tuple[str, str], Path]:
    """{(subfolder, name): file}, one file for each name."""
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(files, key=_preference):
        key = path.parent.as_posix().casefold(), path.stem.casefold()
        if key in found:
            unused.append(f"{path}: {found[key]} is used instead")
        else:
            found[key] = path
    return found


def _preference(path: Path) -> tuple[int, int, str]:
    suffix = path.suffix.lower()
    return len(path.stem), PHOTO_SUFFIXES.index(suffix), path.as_posix()


def _owner(
    key: tuple[str, str], photos: dict[tuple[str, str], Path], alike: list[tuple[str, str]]
) -> tuple[str, str] | None:
    folder, name = key
    if key in photos:
        return key
    for length in range(len(name) - 1, 0, -1):
        if name[length] in _SEPARATORS and (folder, name[:length]) in photos:
            return folder, name[:length]
    return alike[0] if len(alike) == 1 else None


def _plain(name: str) -> str:
    while (shorter := _SUFFIX.sub("", name)) != name and shorter:
        name = shorter
    return name
