"""The command line: `diffretouch retouch PHOTO... -o OUT`, and `convert`, `init`, `export` and `push` for models.

Prints one line and exits with 2 for a bad argument or a photo that cannot be read or written. A batch goes on past a
bad photo, names it at the end and exits with 1. An input is replaced only where `-o` names it and `--overwrite` is
given; no other option, and no other photo of a batch, ever touches it.
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
# A folder may be called anything, but nobody means one by these.
_OTHER_SUFFIXES = (".avif", ".bmp", ".dng", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".pdf", ".psd")
_COMPARE_SIZE = (1280, 720)  # most pixels of each picture; a side-by-side picture is for looking at, not for keeping
_VARIANCES = ("fixed_small", "fixed_large")
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_MAX_VARIANTS = 32  # they go through the model together, and side by side have to fit into a JPEG


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
    retouch.add_argument(
        "--variants", type=_count("variants", 0, _MAX_VARIANTS), default=0, metavar="N", help="more expert styles"
    )
    retouch.add_argument(
        "--seed", type=_count("seed", 0, 2**32 - 1), default=0, help="of the style; variants count up from it"
    )
    retouch.add_argument("--steps", type=_count("steps", 1, 1000), help="sampling steps (default: the model's own)")
    retouch.add_argument("--model", help="folder or Hub id (default: the bundled model)")
    retouch.add_argument("--compare", action="store_true", help="also write a side-by-side picture")
    retouch.add_argument("--overwrite", action="store_true", help="replace files that exist, IN too if it is OUT")
    _add_convert(commands)
    _add_init(commands)
    _add_export(commands)
    _add_push(commands)
    return parser


def _add_convert(commands: Any) -> None:
    convert = commands.add_parser("convert", help="a checkpoint of the published layout to a model folder, or back")
    convert.set_defaults(run=_run_convert)
    convert.add_argument("source", metavar="CKPT", help=".ckpt or .safetensors; with --reverse a folder or Hub id")
    convert.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="a new or empty folder")
    convert.add_argument("--reverse", action="store_true", help="a model to a checkpoint; OUT is the file")
    convert.add_argument(
        "--variance", choices=_VARIANCES, help="fixed_large for PPR10K (default: as recorded, or small)"
    )
    convert.add_argument("--dtype", choices=_DTYPES, help="of the weights (default: as stored)")
    convert.add_argument("--variants", nargs="+", choices=("fp16", "bf16"), default=[], help="further copies")
    convert.add_argument("--without-vae", action="store_true", help="leave out what only training needs")
    convert.add_argument("--shard", default="1GB", metavar="SIZE", help="most bytes per file (default: %(default)s)")


def _add_init(commands: Any) -> None:
    init = commands.add_parser("init", help="an untrained model from Stable Diffusion 1.x or 2.x, to train")
    init.set_defaults(run=_run_init)
    init.add_argument("source", metavar="SD", help="folder or Hub id of a Stable Diffusion model")
    init.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    init.add_argument("--variance", choices=_VARIANCES, default="fixed_small", help="(default: %(default)s)")
    init.add_argument("--dtype", choices=_DTYPES, help="of the weights (default: fp32)")
    init.add_argument("--seed", type=_count("seed", 0, 2**32 - 1), default=0, help="of the new weights")


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", help="write a self-contained model folder, which loads anywhere")
    export.set_defaults(run=_run_export)
    export.add_argument("--model", help="folder or Hub id (default: the bundled model)")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a new or empty folder")


def _add_push(commands: Any) -> None:
    push = commands.add_parser("push", help="push a model, data set or Space folder to the Hub")
    push.set_defaults(run=_run_push)
    push.add_argument("folder", type=Path, metavar="FOLDER")
    push.add_argument("repo_id", metavar="REPO_ID", help="OWNER/NAME on the Hub; made if it does not exist")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument("--message", help="of the commit")
    push.add_argument("--pull-request", action="store_true", help="open a pull request instead of writing to main")


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


def _count(name: str, least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) <= 20
        if not digits or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"`{name}` has to be an integer in [{least}, {most}], got {text}")
        return int(text)

    return parse


def _run_retouch(options: argparse.Namespace) -> int:
    jobs = _plan(options)
    pipe = _load_pipeline(options.model)
    from tqdm.auto import tqdm

    from .photo import PhotoError

    # One photo shows the sampling steps; a batch shows the photos.
    pipe.set_progress_bar_config(disable=len(jobs) > 1, desc=jobs[0].source.name, leave=False)
    failures = []
    for job in tqdm(jobs, unit="photo", disable=len(jobs) == 1):
        try:
            _retouch(pipe, job, options)
        except PhotoError as error:
            failures.append(str(error))
        except (ValueError, OSError, MemoryError) as error:
            failures.append(f"cannot retouch {job.source}: {_first_line(error)}")
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
    if output.suffix.lower() in _OTHER_SUFFIXES and not output.is_dir():
        raise UsageError(f"`output` has to be a folder or end in {', '.join(_PHOTO_SUFFIXES)}, got {output}")
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
    _check_folder(output.parent if to_file else output)
    return jobs


def _check_folder(folder: Path) -> None:
    """Whether `folder` is there or can be made; it is made only when there is something to put into it."""
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir():
        raise UsageError(f"cannot make the folder {folder}: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write into the folder {nearest}: permission denied")


def _check_targets(jobs: list[Job], overwrite: bool) -> None:
    sources = {job.source.resolve() for job in jobs}
    owners: dict[Path, Path] = {}
    for job in jobs:
        for target in job.targets:
            place = target.resolve()
            if place in owners:
                raise UsageError(f"{owners[place]} and {job.source} would both be written to {target}")
            owners[place] = job.source
            if os.path.lexists(target) and not overwrite:
                raise UsageError(f"{target} exists; choose another output or pass --overwrite")
            if place in sources and not _is_replaced(job, target):
                raise UsageError(f"{target} is an input, too; choose another output")


def _is_replaced(job: Job, target: Path) -> bool:
    """Whether `-o` names the photo itself, which --overwrite then allows."""
    return target == job.retouched and target.resolve() == job.source.resolve()


def _load_pipeline(model: str | None) -> Any:
    from diffusers.utils import logging as diffusers_logging

    from . import BUNDLED_MODEL, DiffRetouchPipeline

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    try:
        return DiffRetouchPipeline.from_pretrained(model or BUNDLED_MODEL)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"`model` has to be a DiffRetouch folder or Hub id, got {model or BUNDLED_MODEL}: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _retouch(pipe: Any, job: Job, options: argparse.Namespace) -> None:
    import torch
    from tqdm.auto import tqdm

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
    job.retouched.parent.mkdir(parents=True, exist_ok=True)
    shown = [_reduced(photo)]
    for grid, target in zip(grids, (job.retouched, *job.variants), strict=True):
        retouched = photo.with_pixels(grid.apply(photo.pixels, options.strength))
        kept = None if _is_replaced(job, target) else job.source
        save_photo(retouched, target, overwrite=options.overwrite, source=kept)
        tqdm.write(str(target))
        shown.append(_reduced(retouched))
    if job.compare:
        comparison = Photo(_side_by_side(shown), icc_profile=photo.icc_profile)
        save_photo(comparison, job.compare, overwrite=options.overwrite, source=job.source)
        tqdm.write(str(job.compare))


def _reduced(photo: Photo) -> np.ndarray:
    """The photo's pixels at the size of a comparison, (h, w, 3) uint8."""
    import numpy as np
    import PIL.Image

    pixels = photo.pixels if photo.pixels.dtype == np.uint8 else (photo.pixels // 257).astype(np.uint8)
    picture = PIL.Image.fromarray(pixels)
    scale = min(1.0, _COMPARE_SIZE[0] / picture.width, _COMPARE_SIZE[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return np.asarray(picture.resize(size, PIL.Image.Resampling.BICUBIC, reducing_gap=2.0))


def _side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    import numpy as np

    gap = np.full((pictures[0].shape[0], 8, 3), 255, dtype=np.uint8)
    return np.concatenate([column for picture in pictures for column in (picture, gap)][:-1], axis=1)


def _run_convert(options: argparse.Namespace) -> int:
    from .card import read_index, write_model_card
    from .convert import convert_checkpoint_to_folder, revert_to_original

    def convert() -> str:
        shared: dict[str, Any] = {"dtype": _dtype(options.dtype), "with_vae": not options.without_vae}
        if options.reverse:
            revert_to_original(options.source, options.output, **shared)
            return str(options.output)
        convert_checkpoint_to_folder(
            options.source,
            options.output,
            variance_type=options.variance,
            variants=options.variants,
            max_shard_size=options.shard,
            **shared,
        )
        write_model_card(options.output)
        notice = (read_index(options.output).get("provenance") or {}).get("notice")
        return f"{options.output}\n{notice}" if notice else str(options.output)

    return _one_line(convert)


def _run_init(options: argparse.Namespace) -> int:
    from .convert import pipeline_from_stable_diffusion
    from .hub import export

    def init() -> str:
        dtype = {} if options.dtype is None else {"dtype": _dtype(options.dtype)}
        pipe = pipeline_from_stable_diffusion(
            options.source, variance_type=options.variance, seed=options.seed, **dtype
        )
        return str(export(pipe, options.output))

    return _one_line(init)


def _dtype(name: str | None) -> Any:
    import torch

    return None if name is None else getattr(torch, _DTYPES[name])


def _one_line(work: Callable[[], str]) -> int:
    """Do the work and print what it returns; 0, or 1 and one line where the disk or the Hub fails."""
    from .hub import HubError

    try:
        print(work())
    except (FileExistsError, FileNotFoundError, ValueError) as error:
        raise UsageError(" ".join(str(error).split())) from error
    except (HubError, OSError) as error:
        print(f"diffretouch: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _run_export(options: argparse.Namespace) -> int:
    from . import BUNDLED_MODEL
    from .hub import export

    return _one_line(lambda: str(export(options.model or BUNDLED_MODEL, options.output)))


def _run_push(options: argparse.Namespace) -> int:
    from .hub import push

    def send() -> str:
        commit = push(
            options.folder,
            options.repo_id,
            private=options.private or None,
            commit_message=options.message,
            create_pr=options.pull_request,
        )
        return str(commit.pr_url or commit.repo_url)

    return _one_line(send)


if __name__ == "__main__":
    sys.exit(main())
