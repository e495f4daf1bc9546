"""Label the project's photographs with what a real expert might have made of them: the teacher's answers.

    python dataset_card/fetch_photos.py photos
    python dataset_card/label_photos.py photos labels

Only for other photos or another teacher: the labels of the project's photos lie beside this script.

Needs `npm`, which fetches the teacher (54 MB, by name and exact version; `diffretouch.data.teacher` says what it is
and whose), unless `--package` has it already. Every photo of `photos.tsv`, at a long side of 256 pixels, is flattened
and retouched, 5 seconds of one core each. OUT gets the answer to deb-x/a.jpg as deb-x/a.jpg.png, a table of colours
(`answer_table`), and, once all are done, labels.json, which says what made them. A second run makes only what is
missing, or was made of another photo or in another way. A photo that cannot be labelled is named at the end, in one
line, and the exit status is 1; it is 2 for a wrong package.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from fetch_photos import PHOTOS_TSV, FetchError, download_npm, read_records, write_atomically
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from diffretouch.data import teacher as teachers
from diffretouch.data.build import open_light, start_worker
from diffretouch.data.light import quantise
from diffretouch.data.synthetic import finished
from diffretouch.data.teacher import Package, Teacher, TeacherError, check_package
from diffretouch.photo import PhotoError

LONG_SIDE = 256
_MARK = "Made-From"  # of a label's PNG: what it was made of, and how


@dataclass(frozen=True)
class Job:
    """One photo to label.

    Attributes:
        file: its name in the table.
        photo: where it lies.
        label: where its label goes.
        mark: see `mark_of`.
    """

    file: str
    photo: Path
    label: Path
    mark: str


def settings_of(package: Package) -> dict[str, Any]:
    """What makes a label what it is, besides the photo."""
    return {
        "package": package.name,
        "version": package.version,
        "sha256": package.sha256,
        "long_side": LONG_SIDE,
        "table": teachers.TABLE_SIZE,
        "flatten": {
            "exposure": teachers.EXPOSURE,
            "contrast": teachers.CONTRAST,
            "saturation": teachers.SATURATION,
        },
    }


def mark_of(photo: bytes, settings: dict[str, Any]) -> str:
    """The sha256 of a photo's file and of how it is labelled: a label with another mark is made again."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode() + photo).hexdigest()


def has_label(job: Job) -> bool:
    """Whether the label is there, whole, and made of this photo in this way."""
    try:
        with Image.open(job.label) as picture:
            picture.load()
            return picture.mode == "RGB" and picture.info.get(_MARK) == job.mark
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for a torn PNG
        return False


def clean_picture(photo: Path) -> np.ndarray:
    """A photo as a finished picture, np.uint8 (H, W, 3) sRGB, long side at most `LONG_SIDE`.

    Raises:
        PhotoError: if the file cannot be read as a photo.
    """
    return quantise(finished(open_light(photo, LONG_SIDE)))


def jobs_of(files: list[str], photos: Path, out: Path, settings: dict[str, Any]) -> tuple[list[Job], list[str]]:
    """The jobs of the photos that are there, and a line for each that is not."""
    jobs, failures = [], []
    for file in files:
        try:
            mark = mark_of((photos / file).read_bytes(), settings)
        except OSError as error:
            failures.append(f"{file}: {error.strerror}")
            continue
        jobs.append(Job(file, photos / file, out / f"{file}.png", mark))
    return jobs, failures


@contextmanager
def package_at(folder: Path | None, package: Package) -> Iterator[Path]:
    """The folder of the unpacked package, checked; it is fetched for as long as it is needed where `folder` is None.

    Raises:
        FetchError: if it cannot be fetched.
        TeacherError: if it is not the right one.
    """
    with tempfile.TemporaryDirectory(prefix="teacher-") as temporary:
        if folder is None:
            print(f"fetching npm:{package}", flush=True)
            folder = download_npm(package.name, package.version, Path(temporary)) / "package"
        check_package(folder, package)
        yield folder


# ---- labelling ------------------------------------------------------------------------------------------------------

_teacher: Teacher  # of a worker process


def label(teacher: Teacher, job: Job) -> str | None:
    """Write the label of one photo; returns a line if the photo cannot be used."""
    try:
        photo = clean_picture(job.photo)
    except PhotoError as error:
        return f"{job.file}: {error}"
    table = teachers.answer_table(photo, teacher.label(photo))
    info, buffer = PngInfo(), io.BytesIO()
    info.add_text(_MARK, job.mark)
    Image.fromarray(table.reshape(-1, teachers.TABLE_SIZE, 3)).save(buffer, "PNG", optimize=True, pnginfo=info)
    write_atomically(job.label, buffer.getvalue())
    return None


def label_all(jobs: list[Job], folder: Path, package: Package, processes: int) -> Iterator[str | None]:
    """`label` over processes of one thread each, in order; in this one where one is enough.

    Raises:
        TeacherError: if the package cannot be run.
        BrokenProcessPool: if a process was killed.
    """
    processes = min(processes, len(jobs))
    if processes <= 1:
        yield from map(partial(label, Teacher.from_package(folder, package)), jobs)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), _start_worker, (folder, package)) as pool:
        yield from pool.map(_label_in_worker, jobs)


def _start_worker(folder: Path, package: Package) -> None:
    global _teacher
    start_worker()
    _teacher = Teacher.from_package(folder, package)


def _label_in_worker(job: Job) -> str | None:
    return label(_teacher, job)


def label_photos(
    files: list[str], photos: Path, out: Path, folder: Path | None, package: Package, processes: int
) -> list[str]:
    """Label the photos `files` of `photos` into `out`; returns one line for each that could not be labelled.

    Args:
        folder: of the unpacked package; None fetches it. Neither happens where no label is missing.

    Raises:
        FetchError, TeacherError: for a package that cannot be had or is not the right one.
        BrokenProcessPool: if a process was killed.
        OSError: if a label cannot be written.
    """
    settings = settings_of(package)
    jobs, failures = jobs_of(files, photos, out, settings)
    missing = [job for job in jobs if not has_label(job)]
    if missing:
        (out / "labels.json").unlink(missing_ok=True)  # it would be untrue while labels of two kinds lie there
        with package_at(folder, package) as found:
            results = tqdm(label_all(missing, found, package, processes), total=len(missing), unit="photo")
            failures += [line for line in results if line is not None]
    record = {**settings, "licences": teachers.LICENCES}
    write_atomically(out / "labels.json", (json.dumps(record, indent=2) + "\n").encode())
    return failures


def main(arguments: list[str] | None = None, package: Package = teachers.PACKAGE) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Label the project's photographs with the teacher's answers.")
    parser.add_argument("photos", metavar="PHOTOS", type=Path, help="folder made by fetch_photos.py")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the labels; made when needed")
    parser.add_argument("--package", metavar="FOLDER", type=Path, help=f"the unpacked npm package {package}")
    parser.add_argument("--table", type=Path, default=PHOTOS_TSV, help="the photos' list (default: %(default)s)")
    parser.add_argument("--processes", metavar="N", type=int, default=os.cpu_count() or 1, help="(default: cores)")
    options = parser.parse_args(arguments)
    if options.processes < 1:
        parser.error(f"argument --processes: has to be at least 1, got {options.processes}")
    try:
        files = [record.file for record in read_records(options.table)]
    except (OSError, ValueError) as error:
        parser.error(f"argument --table: {error}")
    try:
        failures = label_photos(files, options.photos, options.out, options.package, package, options.processes)
    except (FetchError, TeacherError) as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print("a process was ended from outside, perhaps for want of memory; a second run goes on", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or options.out}: {error.strerror or error}", file=sys.stderr)
        return 1
    print(f"{len(files) - len(failures)} of {len(files)} photographs have a label in {options.out}")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
