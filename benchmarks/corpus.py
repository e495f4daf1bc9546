#!/usr/bin/env python3
"""Opens and saves every file of a folder of foreign photos, each in a process with limits, and says what became of it.

    python benchmarks/corpus.py FOLDER [--seconds 180] [--metadata]

A file is saved as what a retouch of it would be, with the pixels as they are, and opened again. Outcomes: "kept",
"said" (something was lost and a line said so), "refused" (one line), and three that must not be: "crashed", "hung" and
"silent" (with --metadata: a tag that exiftool finds in the input and not in the output, without a word).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from diffretouch.photo import OPENED_SUFFIXES, PhotoError, open_photo, save_photo, saved_suffix

# Groups whose tags speak of the photo; those of the file, the maker and the encoding are not compared.
_GROUPS = ("IFD0", "ExifIFD", "GPS", "IPTC", "XMP-dc", "XMP-photoshop", "XMP-iptcCore", "XMP-xmpRights")
_FILE_TAGS: tuple[str, ...] = (
    "Software",
    "ModifyDate",
    "PreviewImage",
    "MakerNote",
    "Format",
    "ImageWidth",
    "ImageHeight",
    "Orientation",
)
_FILE_TAGS += ("XResolution", "YResolution", "ResolutionUnit", "YCbCrPositioning", "ColorSpace", "Thumbnail", "Offset")
_FILE_TAGS += (
    "Exif",
    "BitsPerSample",
    "Compression",
    "Photometric",
    "Samples",
    "RowsPerStrip",
    "Strip",
    "Tile",
    "Planar",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=180, help="most per file")
    parser.add_argument("--metadata", action="store_true", help="compare tags with exiftool")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return _one(options.folder, options.one)
    files = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in OPENED_SUFFIXES)
    outcomes: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in tqdm(files, unit="file"):
            outcome, words = _outcome(path, Path(folder), options)
            outcomes.setdefault(outcome, []).append(f"{path.relative_to(options.folder)}: {words}")
    for outcome, lines in sorted(outcomes.items()):
        print(f"\n{outcome}: {len(lines)}")
        print("\n".join(f"  {line}" for line in lines if outcome != "kept"))
    counts = Counter({outcome: len(lines) for outcome, lines in outcomes.items()})
    return 1 if counts["crashed"] + counts["hung"] + counts["silent"] else 0


def _outcome(path: Path, folder: Path, options: argparse.Namespace) -> tuple[str, str]:
    target = folder / f"saved{saved_suffix(path)}"
    target.unlink(missing_ok=True)
    command = [sys.executable, __file__, str(path), "--one", str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.seconds)
    except subprocess.TimeoutExpired:
        return "hung", f"longer than {options.seconds:g} s"
    if done.returncode not in (0, 2):
        return "crashed", (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    told = json.loads(done.stdout)
    if done.returncode == 2:
        return "refused", told[0]
    lost = _lost_tags(path, target) if options.metadata and shutil.which("exiftool") else []
    if lost and not told:
        return "silent", ", ".join(lost)
    return ("said", "; ".join(told)) if told else ("kept", "")


def _one(source: Path, target: Path) -> int:
    """In a process of its own: open, save, open again; prints what was said."""
    try:
        photo = open_photo(source)
        notes = [*photo.notes, *save_photo(photo, target)]
        again = open_photo(target)
    except PhotoError as error:
        print(json.dumps([str(error)]))
        return 2
    assert again.pixels.shape == photo.pixels.shape, "another size"
    print(json.dumps(notes))
    return 0


def _lost_tags(source: Path, target: Path) -> list[str]:
    before, after = (_tags(path) for path in (source, target))
    return sorted(before - after)


def _tags(path: Path) -> set[str]:
    done = subprocess.run(["exiftool", "-j", "-a", "-G1", str(path)], capture_output=True, text=True)
    if not done.stdout:
        return set()
    names = (name.partition(":") for name in json.loads(done.stdout)[0])
    return {f"{group}:{tag}" for group, _, tag in names if group in _GROUPS and not tag.startswith(_FILE_TAGS)}


if __name__ == "__main__":
    sys.exit(main())
