"""Building data sets in the schema: what is common to all of them.

A builder names its `Job`s (one photo each), a worker turns a job into `Rows`, `write_data_set` runs the workers,
spaces the conditions of a set with one expert, and moves the finished folder into place:

    data/{split}-00000-of-00001.parquet    the rows, see `dataset.write_parquet`
    build.json                             arguments, resize rule, what was left out and why, sha256 of each file
    README.md                              the card
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
import torch
from tqdm.auto import tqdm

from ..attributes import ATTRIBUTES, conditions_quantile
from ..files import folder_atomically
from ..photo import PhotoError, open_photo
from .card import write_dataset_card
from .dataset import CONDITIONS, SPLITS, encode, parquet_writer, scores_of, write_parquet
from .light import to_linear
from .registration import Framing, register, same_picture

BAD_PHOTOS = ("skip", "stop")
_WHOLE_SET = 16  # photos from which starting further processes pays
_SAME_ASPECT = 0.004  # sizes of one aspect to within the rounding of a resize


class BadPhoto(ValueError):
    """A photo or pair that cannot be used: one sentence that names it and the reason."""


@dataclass(frozen=True)
class Job:
    """One photo of the set to come.

    Attributes:
        photo_id: its name in the set.
        split: one of `SPLITS`.
        inputs: files of the photo before the retouch; several where a set has several versions of it.
        targets: {expert: file of the retouched photo}.
        label: file of a teacher's answer to the photo.
    """

    photo_id: str
    split: str
    inputs: tuple[Path, ...]
    targets: Mapping[str, Path] = field(default_factory=dict)
    label: Path | None = None


@dataclass(frozen=True)
class Rows:
    """What a worker made of a job.

    Attributes:
        rows: in the schema.
        changes: (N, 4) scores of the target less those of the input, in a set with one expert; None otherwise.
        notes: what the user should know, one line each.
    """

    rows: list[dict[str, Any]]
    changes: torch.Tensor | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What came of a build, one line each; build.json has the same.

    Attributes:
        left_out: photos that could not be used, and why.
        notes: files without a partner, and pairs that were fitted.
    """

    left_out: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PairRules:
    """How pairs become rows.

    Attributes:
        long_side: most pixels of the stored pictures' long side.
        conditions: rule that makes c from the scores of several experts, one of `CONDITIONS`; None for one expert,
            whose c follow once all pairs are known.
        register: look for crops and turns in every pair, not only where the sizes differ.
    """

    long_side: int
    conditions: str | None
    register: bool


def pair_rows(job: Job, rules: PairRules) -> Rows:
    """The rows of one photo with its retouched versions, each cut and scaled to fit its target.

    Raises:
        PhotoError: if a file cannot be read.
        BadPhoto: if an input and a target do not show the same, an only expert has changed nothing, or only one of
            several experts has the photo.
    """
    if rules.conditions is not None and len(job.targets) < 2:
        raise BadPhoto(f"{job.photo_id}: only expert {next(iter(job.targets))} has it, which gives c no scale")
    photos = [open_srgb(path) for path in job.inputs]
    stored, notes = [], []
    for expert, path in job.targets.items():
        target = open_srgb(path)
        for number, photo in enumerate(photos):
            name = job.photo_id if len(photos) == 1 else f"{job.photo_id}#{number}"
            framing = _framing_of(photo, target, rules.register)
            if framing is not None and not framing.safe:
                raise BadPhoto(f"{name}: {job.inputs[number].name} and {path.name} {_difference(framing)}")
            if framing is not None and not framing.whole:
                notes.append(f"{name}: fitted to {path.name}: {_fitting(framing)}")
            fitted = _fitted(photo, target, framing, rules.long_side)
            if rules.conditions is None and same_picture(*fitted):
                same = f"{job.inputs[number].name} and {path.name} are the same picture"
                raise BadPhoto(f"{name}: {same}: there is no edit to learn")
            stored.append((name, expert, *fitted))
    scores = scores_of([target for *_, target in stored])
    changes = None
    if rules.conditions is None:
        changes = scores - scores_of([source for *_, source, _ in stored])
        conditions = torch.zeros_like(scores)
    else:
        by_expert = CONDITIONS[rules.conditions](scores[:: len(photos)])
        conditions = by_expert.repeat_interleave(len(photos), dim=0)
    rows = [
        schema_row(name, expert, encode(source), encode(target), score, condition)
        for (name, expert, source, target), score, condition in zip(stored, scores, conditions, strict=True)
    ]
    return Rows(sorted(rows, key=lambda row: row["photo_id"]) if changes is None else rows, changes, tuple(notes))


def schema_row(
    photo_id: str, expert: str, source: bytes, target: bytes, scores: torch.Tensor, condition: torch.Tensor
) -> dict[str, Any]:
    """A row of the schema from encoded pictures, scores (4,) and condition (4,)."""
    name = photo_id.replace("#", "-")  # what the pictures are called where they are unpacked; "#" ends an address
    return {
        "photo_id": photo_id,
        "expert": expert,
        "input": {"bytes": source, "path": f"{name}.jpg"},
        "target": {"bytes": target, "path": f"{name}-{expert}.jpg"},
        **dict(zip(ATTRIBUTES, scores.tolist(), strict=True)),
        "condition": condition.tolist(),
    }


def _framing_of(photo: np.ndarray, target: np.ndarray, always: bool) -> Framing | None:
    """None where the sizes say that nothing was cropped and nobody asked to look."""
    (a, b), (c, d) = photo.shape[:2], target.shape[:2]
    if not always and abs(a / b * d / c - 1) < _SAME_ASPECT:
        return None
    return register(photo, target)


def _difference(framing: Framing) -> str:
    if framing.displaced > 0:
        return (
            f"fit only to within {100 * framing.displaced:.1f}% of the long side: was it straightened, or its lens "
            "corrected?"
        )
    return f"do not show the same, or were straightened (agreement {framing.agreement:.2f} of 1)"


def _fitting(framing: Framing) -> str:
    left, top, right, bottom = framing.box
    turned = f"turned by {90 * framing.turn} degrees, " if framing.turn else ""
    return f"{turned}cropped to {100 * (right - left):.1f}% x {100 * (bottom - top):.1f}%"


def _fitted(
    photo: np.ndarray, target: np.ndarray, framing: Framing | None, long_side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Input and target of one size: the target's aspect, long side at most `long_side`, neither enlarged."""
    framing = framing or Framing(0, (0.0, 0.0, 1.0, 1.0), 1.0, 0.0)
    height, width = target.shape[:2]
    across = photo.shape[1] if framing.turn % 2 == 0 else photo.shape[0]
    scale = min(1.0, long_side / max(width, height), across * (framing.box[2] - framing.box[0]) / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return framing.crop(photo, size), resize(target, size)


def open_srgb(path: Path) -> np.ndarray:
    """A photo file as upright (H, W, 3) uint8 in sRGB, which colours of other profiles are converted to.

    Raises:
        PhotoError: if the file cannot be read as a photo.
    """
    photo = open_photo(path)
    if photo.icc_profile is None:
        return photo.pixels if photo.pixels.dtype == np.uint8 else (photo.pixels // 257).astype(np.uint8)
    try:
        return imagecodecs.cms_transform(
            photo.pixels,
            photo.icc_profile,
            imagecodecs.cms_profile("srgb"),
            colorspace="rgb",
            outcolorspace="rgb",
            outdtype="uint8",
        )
    except imagecodecs.CmsError as error:
        raise PhotoError(f"cannot open {path}: its colour profile cannot be used ({error})") from error


def open_resized(path: Path, long_side: int) -> np.ndarray:
    """The resize rule of the synthetic set: upright sRGB, aspect kept, long side at most `long_side`, Lanczos.

    Raises:
        PhotoError: if the file cannot be read as a photo.
    """
    pixels = open_srgb(path)
    height, width = pixels.shape[:2]
    scale = min(1.0, long_side / max(width, height))
    return resize(pixels, (max(1, round(width * scale)), max(1, round(height * scale))))


def open_light(path: Path, long_side: int) -> np.ndarray:
    """A photo as linear light, (H, W, 3) float32, aspect kept, long side at most `long_side`.

    A TIFF of floating-point samples is taken as linear light with sRGB primaries, as it is: values above 1 are light
    above a display's white; it is resized in linear light. Every other photo goes through `open_resized`, is made
    linear then, and stays within [0, 1].

    Raises:
        PhotoError: if the file cannot be read as a photo, or its light is negative or not finite.
    """
    light = _read_light(path)
    if light is None:
        return to_linear(open_resized(path, long_side))
    height, width = light.shape[:2]
    scale = min(1.0, long_side / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return light
    # Not Lanczos: beside a lamp a thousand times as bright as its wall it leaves rings of negative light.
    planes = [
        PIL.Image.fromarray(plane).resize(size, PIL.Image.Resampling.BILINEAR) for plane in np.moveaxis(light, -1, 0)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def _read_light(path: Path) -> np.ndarray | None:
    """A floating-point TIFF as (H, W, 3) float32; None for every other file, readable or not."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        with tifffile.TiffFile(path) as file:
            if file.pages[0].dtype is None or file.pages[0].dtype.kind != "f":
                return None
            light = file.pages[0].asarray().astype(np.float32)
    except Exception:  # a broken TIFF raises anything; `open_photo` says what is wrong with it
        return None
    if light.ndim != 3 or light.shape[-1] != 3:
        raise PhotoError(f"cannot open {path}: linear light has to have the shape (H, W, 3), got {light.shape}")
    if not (np.isfinite(light).all() and (light >= 0).all()):
        raise PhotoError(f"cannot open {path}: linear light has to be finite and not negative")
    return light


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 -> `size` (width, height), Lanczos."""
    return np.array(PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.LANCZOS))


def resize_rule(long_side: int) -> str:
    """The rule of `open_resized` and `pair_rows` in words, for build.json and the card."""
    return f"upright, aspect kept, long side {long_side} px, Lanczos, JPEG quality 95 4:4:4"


# ---- splits --------------------------------------------------------------------------------------------------------


def split_of_groups(groups: Iterable[str], validation: float, test: float, seed: int) -> dict[str, str]:
    """{group: split}, the same for the same groups and seed, whatever their order.

    Groups are what has to stay together: photos, or series of them. At least one goes to each split whose fraction is
    above 0, as long as one is left to train on; a group that joins or leaves moves few others.

    Args:
        groups: their names.
        validation, test: fractions in [0, 1), together below 1.
        seed: of the drawing.
    """
    ordered = sorted(set(groups), key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    wanted = {"validation": validation, "test": test}
    splits: dict[str, str] = {}
    for split, fraction in wanted.items():
        left = len(ordered) - len(splits)
        count = min(left - 1, max(1, round(fraction * len(ordered)))) if fraction > 0 else 0
        splits.update(dict.fromkeys(ordered[len(splits) : len(splits) + max(0, count)], split))
    return {group: splits.get(group, "train") for group in ordered}


# ---- running and writing -------------------------------------------------------------------------------------------


def check_new(out: Path) -> None:
    """Raises FileExistsError unless `out` is a new or empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"`output` has to be a new or empty folder, got {out}.")


def write_data_set(
    out: Path,
    jobs: Sequence[Job],
    work: Callable[[Job], Rows],
    record: Mapping[str, Any],
    *,
    bad_photos: str = "stop",
    notes: Sequence[str] = (),
    table: Path | None = None,
    processes: int | None = None,
) -> Report:
    """Run `work` over `jobs` and write the data set folder, with its card, whole or not at all.

    Args:
        out: a new or empty folder.
        jobs: the photos, of all splits.
        work: a picklable function that turns a job into rows.
        record: for build.json: "kind" (see `card`), "resize" and the arguments.
        bad_photos: what a photo that cannot be used does: "stop" raises, "skip" leaves it out.
        notes: what the report has to say besides what the workers note.
        table: table of photos for the card (`read_photo_table`).
        processes: None for one per core, where there are photos enough.

    Raises:
        FileExistsError: if `out` holds something.
        PhotoError: on the first bad photo ("stop").
        ValueError: if no photo is left to train on.
    """
    check_new(out)
    left_out: list[str] = []
    noted = list(notes)
    changes: dict[str, list[torch.Tensor]] = {split: [] for split in SPLITS}

    def good(split: str, results: Iterable[Rows | str]) -> Iterator[list[dict[str, Any]]]:
        for result in results:
            if isinstance(result, Rows):
                noted.extend(result.notes)
                changes[split].extend([] if result.changes is None else [result.changes])
                yield result.rows
            elif bad_photos == "stop":
                raise PhotoError(result)
            else:
                left_out.append(result)

    with folder_atomically(out) as folder, _workers(len(jobs), processes) as run:
        (folder / "data").mkdir()
        for split in SPLITS:
            chosen = [job for job in jobs if job.split == split]
            if not chosen:
                continue
            file = folder / "data" / f"{split}-00000-of-00001.parquet"
            results = run(partial(_attempt, work), chosen)
            write_parquet(good(split, tqdm(results, total=len(chosen), desc=split, unit="photo")), file)
            if pq.ParquetFile(file).metadata.num_rows == 0:
                file.unlink()
        files = sorted((folder / "data").iterdir())
        if not any(file.name.startswith("train-") for file in files):
            raise ValueError(f"The data set has to have a photo to train on; {_first(left_out)}.")
        _space_conditions(folder, changes)
        hashes = {file.name: _sha256(file) for file in files}
        report = {**record, "left_out": left_out, "notes": noted, "sha256": hashes}
        (folder / "build.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        write_dataset_card(folder, table)
        if out.is_dir():
            out.rmdir()  # empty, see above; nothing that came since is deleted
    return Report(tuple(left_out), tuple(noted))


def _first(left_out: list[str]) -> str:
    return f"of {len(left_out)} left out the first: {left_out[0].rstrip('.')}" if left_out else "none was found"


def _attempt(work: Callable[[Job], Rows], job: Job) -> Rows | str:
    try:
        return work(job)
    except (PhotoError, BadPhoto) as error:
        message = str(error)
        for path in (*job.inputs, *job.targets.values()):  # where the files lay is nobody's business on the Hub
            message = message.replace(str(path), path.name)
        return message if message.startswith(job.photo_id) else f"{job.photo_id}: {message}"
    except MemoryError:
        return f"{job.photo_id}: there is not enough memory for it"


@contextmanager
def _workers(jobs: int, processes: int | None) -> Iterator[Callable[..., Iterator[Any]]]:
    """An ordered `map`: over processes where there is work enough for their start of a few seconds."""
    if processes is None:
        processes = min(os.cpu_count() or 1, math.ceil(jobs / _WHOLE_SET))
    if processes == 1:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(processes, start_worker) as pool:
        yield pool.imap


def start_worker() -> None:
    """What a process of a pool starts with."""
    torch.set_num_threads(1)  # the processes share the cores already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops them, and says so once


def _space_conditions(folder: Path, changes: Mapping[str, list[torch.Tensor]]) -> None:
    """c of a set with one expert: quantiles of the score changes over all its pairs (all splits on one scale)."""
    if not any(changes.values()):
        return
    by_split = {split: torch.cat(parts) for split, parts in changes.items() if parts}
    conditions = conditions_quantile(torch.cat(list(by_split.values()))).split([len(p) for p in by_split.values()])
    for split, values in zip(by_split, conditions, strict=True):
        _replace_conditions(folder / "data" / f"{split}-00000-of-00001.parquet", values)


def _replace_conditions(path: Path, conditions: torch.Tensor) -> None:
    """Write the parquet file again with `conditions` (N, 4), one row group in memory at a time."""
    temporary = path.with_suffix(".part")
    with pq.ParquetFile(path) as file, parquet_writer(temporary, file.schema_arrow) as writer:
        done = 0
        place, kind = file.schema_arrow.get_field_index("condition"), file.schema_arrow.field("condition")
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            column = pa.array(conditions[done : done + len(table)].tolist(), kind.type)
            writer.write_table(table.set_column(place, kind, column))
            done += len(table)
    os.replace(temporary, path)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
