#!/usr/bin/env python3
"""Opens and saves every file of folders of foreign photos, in a process with limits, and says what became of it.

    python benchmarks/corpus.py FOLDER... [--seconds 180] [--metadata] [-o corpus.json]

A file is saved as what a retouch of it would be, with the pixels as they are, and opened again. Outcomes: "kept",
"said" (something was lost and a line said so), "refused" (one line), and those that must not be: "crashed", "hung",
"not saved", "differs" (from what Pillow makes of it, where that can be compared) and "silent" (with --metadata: a tag
that exiftool finds in the input and not in the output, without a word).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from limits import Broken, Worker, answer
from PIL import Image, ImageOps
from tqdm import tqdm

from diffretouch.photo import OPENED_SUFFIXES, Photo, PhotoError, open_photo, save_photo, saved_suffix

_BAD = ("crashed", "hung", "not saved", "differs", "silent")
_MOST_AWAY = 3.0  # levels; decoders of JPEG round and upsample differently
_MEMORY = 12 << 30  # bytes of addresses

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
_FILE_TAGS += (
    "Orientation",
    "XResolution",
    "YResolution",
    "ResolutionUnit",
    "YCbCr",
    "ColorSpace",
    "Thumbnail",
    "Offset",
    "Exif",
)
_FILE_TAGS += ("BitsPerSample", "Compression", "Photometric", "Samples", "RowsPerStrip", "Strip", "Tile", "Planar")
_FILE_TAGS += ("FillOrder", "PageNumber", "MaxSample", "MinSample", "SMaxSample", "SMinSample", "SampleFormat")
_FILE_TAGS += ("SubfileType", "OldSubfileType", "Predictor", "ExtraSamples", "ColorMap", "T4Options", "T6Options")
_FILE_TAGS += ("ReferenceBlackWhite", "JPEG", "Indexed", "InkSet", "DotRange", "HalftoneHints", "SubIFD", "IPTC-NAA")
_FILE_TAGS += ("AnalogBalance", "AsShot", "Baseline", "BestQuality", "BlackLevel", "Calibration", "CameraCalibration")
_FILE_TAGS += ("ColorMatrix", "DNG", "Decode", "DefaultCrop", "FovCot", "ImageNumber", "LinearResponse", "Localized")
_FILE_TAGS += ("Matteing", "OriginalRaw", "RawData", "ShadowScale", "StoNits", "UniqueCamera")
_FILE_TAGS += ("XPosition", "YPosition", "PrimaryChromaticities", "WhitePoint", "CellWidth", "CellLength")


_IPTC_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=180, help="most per file")
    parser.add_argument("--metadata", action="store_true", help="compare tags with exiftool")
    parser.add_argument("-o", "--output", type=Path, help="write the table as JSON")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        answer(lambda request: _one(*request), _MEMORY)
        return 0
    tables = {folder.name: _table(folder, options) for folder in options.folders}
    if options.output:
        options.output.write_text(json.dumps(tables, indent=2) + "\n")
    counts = Counter(outcome for table in tables.values() for kinds in table["files"].values() for outcome in kinds)
    return 1 if any(counts[outcome] for outcome in _BAD) else 0


def _table(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """How many files of each kind had which outcome, what was said, and which files something has to be done about."""
    files: dict[str, Counter[str]] = {}
    said: Counter[str] = Counter()
    bad = []
    worker = Worker([sys.executable, __file__, "--worker"], options.seconds)
    exiftool = _Exiftool() if options.metadata and shutil.which("exiftool") else None
    with tempfile.TemporaryDirectory() as scratch:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in OPENED_SUFFIXES and path.is_file())
        for path in tqdm(paths, desc=folder.name, unit="file"):
            outcome, words = _outcome(path, Path(scratch), worker, exiftool)
            files.setdefault(path.suffix.lower(), Counter())[outcome] += 1
            name = str(path.relative_to(folder))
            said.update(_without_names(word, path) for word in words)
            if outcome in _BAD:
                bad.append(f"{name}: {outcome}: {'; '.join(words)}")
            if outcome != "kept":
                tqdm.write(f"  {outcome}: {name}: {'; '.join(words)}")
    worker.close()
    if exiftool:
        exiftool.close()
    total: Counter[str] = sum(files.values(), Counter())
    print(f"{folder.name}: {', '.join(f'{outcome} {count}' for outcome, count in total.most_common())}")
    return {"total": total, "files": files, "said": dict(said.most_common()), "bad": bad}


def _outcome(path: Path, folder: Path, worker: Worker, exiftool: _Exiftool | None) -> tuple[str, list[str]]:
    target = folder / f"saved{saved_suffix(path)}"
    target.unlink(missing_ok=True)
    try:
        outcome, words = worker.ask([str(path.absolute()), str(target)])
    except Broken as broken:
        outcome, word = broken.args
        return outcome, [word]
    if outcome == "kept" and exiftool:
        lost = sorted(exiftool.tags(path) - exiftool.tags(target))
        if target.suffix.lower() not in _IPTC_SUFFIXES:  # elsewhere it becomes XMP of other names
            lost = [tag for tag in lost if not tag.startswith("IPTC:")]
        return ("silent", lost) if lost else ("kept", [])
    return outcome, words


def _without_names(words: str, path: Path) -> str:
    """A sentence without what differs by file: its name and numbers."""
    return re.sub(r"\d[\d,.]*", "N", words.replace(str(path.absolute()), "FILE"))


def _one(source: str, target: str) -> tuple[str, list[str]]:
    """In the worker: open, save, open again, and compare with what Pillow makes of the file."""
    try:
        photo = open_photo(source)
    except PhotoError as error:
        return "refused", [str(error)]
    try:
        notes = [*photo.notes, *save_photo(photo, target)]
        again = open_photo(target)
    except PhotoError as error:
        return "not saved", [str(error)]
    if again.pixels.shape != photo.pixels.shape:
        return "differs", ["saved in another size"]
    away = _from_pillow(Path(source), photo)
    if away is not None and away > _MOST_AWAY:
        return "differs", [f"{away:.1f} levels from Pillow's picture on average"]
    return ("said" if notes else "kept"), notes


def _from_pillow(path: Path, photo: Photo) -> float | None:
    """Mean difference in levels of 8 bits; None where Pillow cannot tell: other kinds, depths and colour spaces."""
    if photo.pixels.dtype != np.uint8 or photo.format not in ("JPEG", "PNG", "WEBP", "TIFF"):
        return None
    try:
        with Image.open(path) as opened:
            if opened.mode not in ("L", "RGB", "RGBA", "P", "1"):
                return None
            if any(name in opened.info for name in ("gamma", "chromaticity", "icc_profile")):  # which Pillow leaves be
                return None
            for name in ("xmp", "XML:com.adobe.xmp"):  # Pillow alone turns by them
                opened.info.pop(name, None)
            picture = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except Exception:  # whatever Pillow cannot open, of which nothing follows
        return None
    if picture.shape != photo.pixels.shape:
        return 255.0
    return float(np.abs(picture.astype(np.int16) - photo.pixels).mean())


class _Exiftool:
    """One exiftool for all files, as starting it takes longer than reading a file."""

    def __init__(self) -> None:
        command = ["exiftool", "-stay_open", "True", "-@", "-"]
        self._process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def tags(self, path: Path) -> set[str]:
        """The tags that speak of the photo."""
        process = self._process
        assert process.stdin and process.stdout
        process.stdin.write("\n".join(("-j", "-a", "-G1", str(path.absolute()), "-execute\n")))
        process.stdin.flush()
        told = "".join(iter(process.stdout.readline, "{ready}\n"))
        if not told.strip():
            return set()
        names = (name.partition(":") for name in json.loads(told)[0])
        return {f"{group}:{tag}" for group, _, tag in names if group in _GROUPS and not tag.startswith(_FILE_TAGS)}

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


if __name__ == "__main__":
    sys.exit(main())
