"""`diffretouch look BEFORE AFTER ... -o look.safetensors`: a look learned from photos before and after an edit."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ..batch.plan import UsageError
from .arguments import number_between

_CUBE_SIZE, _HALDCLUT_SIZE = 33, 25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_look)
    parser.add_argument(
        "pairs", nargs="+", type=Path, metavar="BEFORE AFTER", help="photos, or folders of them paired by name"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the look, .safetensors")
    parser.add_argument(
        "--cube", type=Path, metavar="FILE", help="also write it as a LUT, with what only a LUT can hold"
    )
    parser.add_argument("--haldclut", type=Path, metavar="FILE", help="the same as a HaldCLUT picture, .png")
    parser.add_argument(
        "--strength", type=number_between("strength", 0, 2), default=1.0, metavar="S", help="1 = as edited"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")


def _run_look(options: argparse.Namespace) -> int:
    _check_outputs(options)
    if len(options.pairs) % 2:
        raise UsageError(f"photos have to come in pairs, before and after, got {len(options.pairs)}")
    if options.is_program:
        from .quick_start import import_quickly

        import_quickly("model.modeling_affine_grid")
    from ..data.look_pairs import look_from_pairs
    from ..photo import PhotoError

    try:
        pairs, notes = _paired(options.pairs)
        found = look_from_pairs(pairs)
        for line in (*notes, *found.notes, found.summary):
            print(f"diffretouch: {' '.join(line.split())}", file=sys.stderr)
        _write(found, options)
    except (PhotoError, OSError, ValueError) as error:
        raise UsageError(" ".join(str(error).split())) from error
    return 0


def _check_outputs(options: argparse.Namespace) -> None:
    wanted = [("output", options.output, ".safetensors"), ("cube", options.cube, ".cube")]
    wanted.append(("haldclut", options.haldclut, ".png"))
    for name, path, suffix in wanted:
        if path is None:
            continue
        if path.suffix.lower() != suffix:
            raise UsageError(f"`{name}` has to end in {suffix}, got {path}")
        if not path.parent.is_dir():
            raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
        if os.path.isdir(path) or any(os.path.realpath(path) == os.path.realpath(given) for given in options.pairs):
            raise UsageError(f"`{name}` has to be another file than the photos and no folder, got {path}")
        if os.path.lexists(path) and not options.overwrite:
            raise UsageError(f"{path} exists; choose another output or pass --overwrite")


def _paired(paths: list[Path]) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Every two of them, folders by the names in them."""
    from ..data.look_pairs import pairs_of_folders

    pairs, notes = [], []
    for before, after in zip(paths[::2], paths[1::2], strict=True):
        if before.is_dir() != after.is_dir():
            raise UsageError(f"{before} and {after} have to be two photos or two folders")
        if before.is_dir():
            matched, unpaired = pairs_of_folders(before, after)
            pairs += matched
            notes += unpaired
        else:
            pairs.append((before, after))
    return pairs, notes


def _write(found: Any, options: argparse.Namespace) -> None:
    """The tables first, so that the look is there only when all are."""
    for kind, path, size in (("cube", options.cube, _CUBE_SIZE), ("haldclut", options.haldclut, _HALDCLUT_SIZE)):
        if path is None:
            continue
        lut = found.lut(size, options.strength)
        (lut.save_cube if kind == "cube" else lut.save_haldclut)(path)
        text = f"Delta E 2000 {lut.error.mean:.2f} on average, {lut.error.p95:.2f} at 95%, on held-back pixels"
        print(f"diffretouch: the {kind}: {text}", file=sys.stderr)
        print(path)
    found.at_strength(options.strength).save(options.output)
    print(options.output)
