"""What the tab "My style" does with pairs of photos, without the page: find the look, show it, write it as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import strings
from editor import Editor, Refused, shrunk, write_preview

from diffretouch import Look, open_photo
from diffretouch.data.look_pairs import LookFromPairs, look_from_pairs
from diffretouch.data.matching import PHOTO_SUFFIXES, match_names
from diffretouch.photo import Photo

_CUBE_SIZE = 33
_SHOWN_PAIRS, _SHOWN_SIDE = 3, 700

Pair = tuple[Path, Path]  # before, after
Opened = Callable[[Path], Photo]


@dataclass(frozen=True)
class Style:
    """A visitor's style as it was found.

    Attributes:
        look: what can be applied to any photo.
        told: what is known of it, as Markdown.
        rows: [pair, what became of it] for every pair and every file without a partner.
        pictures: (picture file, caption): before, the visitor's edit and the look's, of some pairs.
        files: the look as .safetensors and .cube.
    """

    look: Look
    told: str
    rows: list[list[str]]
    pictures: list[tuple[str, str]]
    files: list[str]


def find_style(editor: Editor, before: Sequence[str], after: Sequence[str]) -> Style:
    """The look that does to photos what was done to these.

    Raises:
        Refused: if there are no pairs, or too many, or none of them can be used.
    """
    allowed = editor.settings.max_batch_files
    if not before or not after:
        raise Refused(strings.NO_PAIRS)
    if max(len(before), len(after)) > allowed:
        raise Refused(strings.TOO_MANY_PAIRS.format(allowed=allowed, given=max(len(before), len(after))))
    pairs, alone = _paired([Path(path) for path in before], [Path(path) for path in after])
    if not pairs:
        raise Refused(strings.NO_PARTNERS)

    def opened(path: Path) -> Photo:
        return open_photo(path, max_pixels=int(editor.settings.max_megapixels * 1e6))

    try:
        found = look_from_pairs(pairs, opened)
    except ValueError as error:
        raise Refused(_with_names(str(error), pairs)) from error
    files = _written(editor, found)
    # Paths are long and the server's own: a visitor knows files by their names.
    left_out = {
        name: strings.PAIR_LEFT_OUT.format(why=_with_names(why, pairs)) for name, why in found.left_out.items()
    }
    rows = [[_shown(pair), left_out.get(f"{pair[0]} and {pair[1]}", strings.PAIR_USED)] for pair in pairs]
    rows += [[name, strings.PAIR_ALONE] for name in alone]
    used = [pair for pair in pairs if f"{pair[0]} and {pair[1]}" in found.names]
    return Style(found.look, _told(found, pairs), rows, _pictures(editor, found.look, used, opened), files)


def _paired(before: Sequence[Path], after: Sequence[Path]) -> tuple[list[Pair], list[str]]:
    """By name, or the only two; and the names of those that have no partner."""
    if len(before) == len(after) == 1:
        return [(before[0], after[0])], []
    first, second = (_by_name(side) for side in (before, after))
    matched, _ = match_names(list(first), list(second))
    pairs = [(first[photo], second[edited]) for photo, edited in matched.values()]
    used = {path for pair in pairs for path in pair}
    return pairs, [path.name for path in (*before, *after) if path not in used]


def _by_name(files: Sequence[Path]) -> dict[Path, Path]:
    return {Path(path.name): path for path in files if path.suffix.lower() in PHOTO_SUFFIXES}


def _shown(pair: Pair) -> str:
    return f"{pair[0].name} → {pair[1].name}"


def _with_names(text: str, pairs: Sequence[Pair]) -> str:
    for path in (path for pair in pairs for path in pair):
        text = text.replace(str(path), path.name)
    return text


def _told(found: LookFromPairs, pairs: Sequence[Pair]) -> str:
    edit, error = float(found.fit.edit.mean()), found.error
    lines = [strings.STYLE_ERROR.format(edit=edit, mean=error.mean, p95=error.p95, count=len(found.names))]
    missed = 100 * found.fit.unexplained
    lines.append((strings.STYLE_ADAPTS if found.adapts else strings.STYLE_FIXED).format(missed=missed))
    lines += [f"- {_with_names(note, pairs)}" for note in found.notes if not note.startswith("left out:")]
    return "\n\n".join(lines)


def _pictures(editor: Editor, look: Look, pairs: Sequence[Pair], opened: Opened) -> list[tuple[str, str]]:
    folder, shown = editor.new_folder(), []
    for number, (before, after) in enumerate(pairs[:_SHOWN_PAIRS]):
        first, second = (shrunk(opened(path).model_view(), _SHOWN_SIDE) for path in (before, after))
        captions = zip(strings.STYLE_CAPTIONS, (first, second, look.apply(first)), strict=True)
        for column, (caption, pixels) in enumerate(captions):
            path = write_preview(pixels, folder / f"{number}-{column}.jpg")
            shown.append((str(path), f"{before.stem}: {caption}"))
    return shown


def _written(editor: Editor, found: LookFromPairs) -> list[str]:
    folder = editor.new_folder()
    look, cube = folder / "my-style.safetensors", folder / "my-style.cube"
    found.look.save(look)
    found.lut(_CUBE_SIZE).save_cube(cube)
    return [str(look), str(cube)]
