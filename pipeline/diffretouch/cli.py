"""The command line: `diffretouch retouch PHOTO... -o OUT`.

Prints one line and exits with 2 for a bad argument or a photo that cannot be read, with 1 for a failure at work. A
batch goes on past a bad photo, names it at the end and exits with 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import numpy as np

    from .photo import Photo

SLIDERS = {
    "colorfulness": "muted to vivid",
    "brightness": "dark to bright",
    "contrast": "soft to crisp",
    "temperature": "cool to warm",
}
_PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
_COMPARE_HEIGHT = 720  # pixels; a side-by-side picture is for looking at, not for keeping


class UsageError(Exception):
    """What the user asked for cannot be done as asked; nothing was started."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


@dataclass(frozen=True)
class Job:
    """One photo and the files that its retouch writes."""

    source: Path
    retouched: Path
    variants: tuple[Path, ...]
    compare: Path | None

    @property
    def targets(self) -> list[Path]:
        return [self.retouched, *self.variants, *([self.compare] if self.compare else [])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    # Spinning OpenMP barriers make small machines up to 50 times slower; has to be set before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except UsageError as error:
        print(f"diffretouch: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("diffretouch: stopped; every file written so far is complete", file=sys.stderr)
        return 130


def _parser() -> _Parser:
    parser = _Parser(prog="diffretouch", description="Expert-quality photo retouching, steered by four sliders.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    retouch = commands.add_parser("retouch", help="retouch photos at their full resolution")
    retouch.set_defaults(run=_run_retouch)
    retouch.add_argument("photos", nargs="+", type=Path, metavar="IN", help="JPEG, PNG, WebP or TIFF")
    retouch.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="a file or a folder")
    for name, meaning in SLIDERS.items():
        retouch.add_argument(f"--{name}", type=_number(name, -1.5, 1.5), default=0.0, metavar="X", help=meaning)
    retouch.add_argument("--strength", type=_number("strength", 0, 2), default=1.0, help="0 = the photo, 1 = full")
    retouch.add_argument("--variants", type=_count("variants", 0), default=0, metavar="N", help="more expert styles")
    retouch.add_argument("--seed", type=_count("seed", 0), default=0, help="of the style; variants count up from it")
    retouch.add_argument("--steps", type=_count("steps", 1), help="sampling steps (default: the model's own)")
    retouch.add_argument("--model", help="folder or Hub id (default: the bundled model)")
    retouch.add_argument("--compare", action="store_true", help="also write a side-by-side picture")
    retouch.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser


def _number(name: str, low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"`{name}` has to be a number in [{low:g}, {high:g}], got {text}")
        return value

    return parse


def _count(name: str, least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"`{name}` has to be an integer of at least {least}, got {text}")
        return int(text)

    return parse


def _run_retouch(options: argparse.Namespace) -> int:
    jobs = _plan(options)
    pipe = _load_pipeline(options.model)
    from tqdm.auto import tqdm

    # One photo shows the sampling steps; a batch shows the photos.
    pipe.set_progress_bar_config(disable=len(jobs) > 1, desc=jobs[0].source.name, leave=False)
    failures = []
    for job in tqdm(jobs, unit="photo", disable=len(jobs) == 1):
        try:
            _retouch(pipe, job, options)
        except (ValueError, OSError) as error:
            failures.append(str(error))
    if failures and len(jobs) == 1:
        raise UsageError(failures[0])
    for failure in failures:
        print(f"diffretouch: {failure}", file=sys.stderr)
    if failures:
        print(f"diffretouch: {len(failures)} of {len(jobs)} photos failed, the rest is done", file=sys.stderr)
    return 1 if failures else 0


def _plan(options: argparse.Namespace) -> list[Job]:
    """Name every file before any work, so that a clash costs nothing."""
    output: Path = options.output
    to_file = output.suffix.lower() in _PHOTO_SUFFIXES and not output.is_dir()
    if to_file and len(options.photos) > 1:
        raise UsageError(f"`output` has to be a folder for {len(options.photos)} photos, got {output}")
    jobs = []
    for source in options.photos:
        if to_file:
            folder, stem, suffix, retouched = output.parent, output.stem, output.suffix, output
        else:
            suffix = source.suffix if source.suffix.lower() in _PHOTO_SUFFIXES else ".jpg"
            folder, stem, retouched = output, source.stem, output / f"{source.stem}-retouched{suffix}"
        variants = tuple(folder / f"{stem}-variant-{number}{suffix}" for number in range(1, options.variants + 1))
        compare = folder / f"{stem}-compare.jpg" if options.compare else None
        jobs.append(Job(source, retouched, variants, compare))
    _check_targets(jobs, options.overwrite)
    try:
        (output.parent if to_file else output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder for {output}: {error.strerror}") from error
    return jobs


def _check_targets(jobs: list[Job], overwrite: bool) -> None:
    owners: dict[Path, Path] = {}
    for job in jobs:
        for target in job.targets:
            if target in owners:
                raise UsageError(f"{owners[target]} and {job.source} would both be written to {target}")
            owners[target] = job.source
            if target.exists() and not overwrite:
                raise UsageError(f"{target} exists; choose another output or pass --overwrite")


def _load_pipeline(model: str | None) -> Any:
    from diffusers.utils import logging as diffusers_logging

    from . import BUNDLED_MODEL, DiffRetouchPipeline

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    try:
        return DiffRetouchPipeline.from_pretrained(model or BUNDLED_MODEL)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"`model` has to be a DiffRetouch folder or Hub id, got {model or BUNDLED_MODEL}: {reason}") from error


def _retouch(pipe: Any, job: Job, options: argparse.Namespace) -> None:
    import torch

    from .photo import Photo, open_photo, save_photo

    photo = open_photo(job.source)
    grids = pipe(
        photo.pixels,
        **{name: getattr(options, name) for name in SLIDERS},
        num_variants=1 + len(job.variants),
        num_inference_steps=options.steps,
        generator=[torch.Generator().manual_seed(options.seed + i) for i in range(1 + len(job.variants))],
        output_type="grid",
    ).grids
    shown = [_reduced(photo)]
    for grid, target in zip(grids, (job.retouched, *job.variants), strict=True):
        retouched = photo.with_pixels(grid.apply(photo.pixels, options.strength))
        save_photo(retouched, target, overwrite=options.overwrite)
        print(target)
        shown.append(_reduced(retouched))
    if job.compare:
        comparison = Photo(_side_by_side(shown), icc_profile=photo.icc_profile)
        save_photo(comparison, job.compare, overwrite=options.overwrite)
        print(job.compare)


def _reduced(photo: Photo) -> np.ndarray:
    """The photo's pixels at the height of a comparison, (h, w, 3) uint8."""
    import numpy as np
    import PIL.Image

    pixels = photo.pixels if photo.pixels.dtype == np.uint8 else (photo.pixels // 257).astype(np.uint8)
    picture = PIL.Image.fromarray(pixels)
    height = min(_COMPARE_HEIGHT, picture.height)
    size = (max(1, round(picture.width * height / picture.height)), height)
    return np.asarray(picture.resize(size, PIL.Image.Resampling.BICUBIC, reducing_gap=2.0))


def _side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    import numpy as np

    gap = np.full((pictures[0].shape[0], 8, 3), 255, dtype=np.uint8)
    return np.concatenate([column for picture in pictures for column in (picture, gap)][:-1], axis=1)


if __name__ == "__main__":
    sys.exit(main())
