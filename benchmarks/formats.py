"""What survives a retouch, per file format: the photo through the identity grid and back to a file of its own kind.

    python benchmarks/formats.py -o formats.json
    python benchmarks/formats.py --photos shoot/*.dng holiday.heic -o formats.json

Makes one small photo per format, depth and colour space, with every kind of metadata, and adds the photos named. Each
is opened, retouched by the identity grid, saved under its usual extension (camera RAW as TIFF) at quality 100 and
opened again. Lists whether pixels, depth, profile, EXIF, XMP and alpha are the same after it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from diffretouch import AffineGrid
from diffretouch.files import save_json
from diffretouch.photo import Photo, PhotoError, open_photo, save_photo, saved_suffix
from diffretouch.photo.colour import ADOBE_RGB, DISPLAY_P3

FORMATS = (".jpg", ".png", ".webp", ".tif", ".heic", ".avif", ".jxl")
DEEP = (".png", ".tif", ".heic", ".jxl")
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmp:Rating="4"/></x:xmpmeta>'


@dataclass
class Row:
    """What became of one photo; None where it had nothing of the kind."""

    photo: str
    saved_as: str
    colours: str
    bits: str
    pixels: str
    profile: bool | None
    exif: bool | None
    xmp: bool | None
    alpha: bool | None


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see the file's first lines."""
    parser = argparse.ArgumentParser(description="What survives a retouch, per file format.")
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="photos to try beside the made ones")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    return parser.parse_args(arguments)


def made_photos(folder: Path) -> Iterator[Path]:
    """One file per format and depth, with alpha where the format has it, wide gamut and all metadata."""
    noise = np.random.default_rng(0).integers(0, 65536, (96, 128, 3), dtype=np.uint16)
    ramp = np.linspace(0, 65535, 128).astype(np.uint16)[None, :, None]
    deep = (ramp // 2 + noise // 2).astype(np.uint16)
    exif = Image.Exif()
    exif[271], exif[274] = "Maker", 1
    exif[0x8769] = {0x9003: "2024:05:06 07:08:09"}
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    for suffix in FORMATS:
        for bits in (8, 16) if suffix in DEEP else (8,):
            pixels = deep if bits == 16 else (deep >> 8).astype(np.uint8)
            alpha = None if suffix == ".jpg" else pixels[..., 0]
            profile = ADOBE_RGB if bits == 16 else DISPLAY_P3
            path = folder / f"{suffix[1:]}-{bits}{suffix}"
            save_photo(Photo(pixels, alpha, profile, block, XMP), path, quality=100)
            yield path


def round_trip(source: Path, folder: Path) -> Row:
    """Open `source`, apply the identity, save, open again and compare."""
    photo = open_photo(source)
    target = folder / f"out-{source.stem}{saved_suffix(source)}"
    save_photo(photo.retouch(AffineGrid.identity()), target, quality=100)
    again = open_photo(target)
    bits = [8 * picture.pixels.dtype.itemsize for picture in (photo, again)]
    return Row(
        photo=source.name,
        saved_as=target.suffix.lower(),
        colours="sRGB" if photo.model_view() is photo.pixels else "wide",
        bits=f"{bits[0]} -> {bits[1]}",
        pixels=difference(photo.pixels, again.pixels),
        profile=same(photo.icc_profile, again.icc_profile),
        exif=same(told_by(photo.exif), told_by(again.exif)),
        xmp=same(photo.xmp, again.xmp),
        alpha=None if photo.alpha is None else again.alpha is not None and np.array_equal(photo.alpha, again.alpha),
    )


def difference(before: np.ndarray, after: np.ndarray) -> str:
    """ "identical", or the largest difference in 8-bit levels."""
    if before.dtype == after.dtype and np.array_equal(before, after):
        return "identical"
    levels = [picture / (np.iinfo(picture.dtype).max / 255) for picture in (before, after)]
    return f"within {np.abs(levels[0] - levels[1]).max():.2f}"


def told_by(block: bytes | None) -> dict[int, object] | None:
    """Tags of an EXIF block as Pillow reads them; the orientation, which is 1 or left out, and positions aside."""
    if block is None:
        return None
    exif = Image.Exif()
    exif.load(block)
    main = {code: value for code, value in exif.items() if code not in (274, 0x8769, 0x8825)}
    return {**main, 0x8769: dict(exif.get_ifd(0x8769)), 0x8825: dict(exif.get_ifd(0x8825))}


def same(before: object, after: object) -> bool | None:
    """Whether something is unchanged; None if it was never there."""
    return None if before is None else before == after


def format_table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    names = list(asdict(rows[0]))
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "| --- " * len(names) + "|"]
    words = {True: "kept", False: "changed", None: "-"}
    for row in rows:
        cells = [words[value] if isinstance(value, bool | None) else value for value in asdict(row).values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on what was wrong."""
    parsed = parse_arguments(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            rows = [round_trip(path, place) for path in [*made_photos(place), *parsed.photos]]
        save_json({"photos": [asdict(row) for row in rows]}, parsed.output)
    except (OSError, PhotoError) as error:
        print(f"formats.py: {error}", file=sys.stderr)
        return 2
    print(format_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
