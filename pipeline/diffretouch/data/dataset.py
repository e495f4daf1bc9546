"""The data set schema: one row per photo x expert, parquet files that the Hub and `datasets` read as they are.

Columns: `photo_id`, `expert`, `input`, `target` (pictures of equal size), the four attribute scores of the target,
`condition` (what the expert did, in [-1, 1]). Split train / validation / test by photo, never by row.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import torch
from datasets import Dataset, Features, Image, List, Value
from tqdm.auto import tqdm

from ..attributes import (
    ATTRIBUTES,
    attribute_scores,
    attribute_view,
    conditions_extreme,
    conditions_linear,
    conditions_quantile,
)
from ..files import write_atomically
from ..photo import open_photo
from .synthetic import EXPERTS, degrade

# How an expert's c follows from the scores of all experts of the photo. "quantile" spaces them evenly over the
# slider's way; "linear" keeps their distances, which leaves stretches of a slider that no training pair ever shows.
CONDITIONS = {"quantile": conditions_quantile, "linear": conditions_linear, "extreme": conditions_extreme}
SPLITS = ("train", "validation", "test")
FEATURES = Features(
    {
        "photo_id": Value("string"),
        "expert": Value("string"),
        "input": Image(),
        "target": Image(),
        **{name: Value("float32") for name in ATTRIBUTES},
        "condition": List(Value("float32"), length=len(ATTRIBUTES)),
    }
)


def scores_of(pictures: Iterable[np.ndarray]) -> torch.Tensor:
    """Attribute scores (N, 4) of uint8 pictures (H, W, 3), measured on their 512 x 512 views."""
    views = [attribute_view(torch.from_numpy(p).permute(2, 0, 1)[None].float() / 255) for p in pictures]
    return attribute_scores(torch.cat(views))


def synthetic_rows(
    photo: np.ndarray, photo_id: str, num_inputs: int, seed: int, rule: str = "quantile"
) -> list[dict[str, Any]]:
    """Rows of one good photo (H, W, 3) uint8: `num_inputs` degraded inputs x the five experts.

    The randomness of the inputs depends on `seed` and `photo_id` alone, not on the order of photos.
    """
    digest = hashlib.sha256(f"{seed}/{photo_id}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))
    targets = [expert.retouch(photo) for expert in EXPERTS]
    scores = scores_of(targets)
    conditions = CONDITIONS[rule](scores)
    inputs = [encode(degrade(photo, rng)) for _ in range(num_inputs)]
    encoded = [encode(target) for target in targets]
    return [
        {
            "photo_id": f"{photo_id}#{index}",
            "expert": expert.name,
            "input": {"bytes": source, "path": None},
            "target": {"bytes": target, "path": None},
            **dict(zip(ATTRIBUTES, score.tolist(), strict=True)),
            "condition": condition.tolist(),
        }
        for index, source in enumerate(inputs)
        for expert, target, score, condition in zip(EXPERTS, encoded, scores, conditions, strict=True)
    ]


def encode(picture: np.ndarray) -> bytes:
    """uint8 picture -> JPEG bytes, quality 95 without chroma subsampling: off by one to two levels on average."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def open_resized(path: Path, long_side: int) -> np.ndarray:
    """The resize rule of the synthetic set: upright RGB, aspect kept, long side at most `long_side`, Lanczos.

    Raises:
        PhotoError: if the file cannot be read as a photo.
    """
    pixels = open_photo(path).pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels // 257).astype(np.uint8)
    picture = PIL.Image.fromarray(pixels)
    scale = min(1.0, long_side / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return np.asarray(picture.resize(size, PIL.Image.Resampling.LANCZOS))


def _rows_of_file(job: tuple[Path, str, int, int, int, str]) -> list[dict[str, Any]]:
    path, photo_id, num_inputs, long_side, seed, rule = job
    return synthetic_rows(open_resized(path, long_side), photo_id, num_inputs, seed, rule)


def build_synthetic(
    photos: Path,
    table: Path,
    out: Path,
    *,
    num_inputs: int = 6,
    long_side: int = 320,
    seed: int = 0,
    conditions: str = "quantile",
) -> None:
    """Build the synthetic-experts data set from a folder of good photos.

    Training photos get `num_inputs` degraded inputs each, validation and test photos one. Writes
    `out/data/{split}-00000-of-00001.parquet` and `out/build.json` (arguments, resize rule, sha256 of each file), all
    of them once all are complete.

    Args:
        photos: folder that holds the files named in the table.
        table: see `read_photo_table`.
        out: folder to write; made if missing.
        num_inputs: degraded versions of each training photo.
        long_side: pixels of the stored pictures' long side.
        seed: of the degradations.
        conditions: rule that makes c from the scores, one of `CONDITIONS`.

    Raises:
        FileNotFoundError: if a photo of the table is missing, before anything is written.
        ValueError: on a bad table, a photo that cannot be read, or a number below 1.
    """
    for name, value in (("num_inputs", num_inputs), ("long_side", long_side)):
        if value < 1:
            raise ValueError(f"`{name}` has to be at least 1, got {value}.")
    if conditions not in CONDITIONS:
        raise ValueError(f"`conditions` has to be one of {tuple(CONDITIONS)}, got {conditions!r}.")
    entries = read_photo_table(table)
    missing = [entry["file"] for entry in entries if not (photos / entry["file"]).is_file()]
    if missing:
        raise FileNotFoundError(f"`photos` lacks {len(missing)} of {len(entries)} photos, first {missing[0]}.")

    jobs: dict[str, list[tuple[Path, str, int, int, int, str]]] = {split: [] for split in SPLITS}
    for entry in entries:
        inputs = num_inputs if entry["split"] == "train" else 1
        path, photo_id = photos / entry["file"], _photo_id(entry["file"])
        jobs[entry["split"]].append((path, photo_id, inputs, long_side, seed, conditions))

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".build-") as folder:
        files = [Path(folder) / f"{split}-00000-of-00001.parquet" for split in SPLITS]
        # One thread each: the processes share the cores already.
        processes = min(len(entries), os.cpu_count() or 1)
        with multiprocessing.get_context("spawn").Pool(processes, torch.set_num_threads, (1,)) as pool:
            for split, file in zip(SPLITS, files, strict=True):
                rows = pool.imap(_rows_of_file, jobs[split])
                write_parquet(tqdm(rows, total=len(jobs[split]), desc=split), file)
        hashes = {file.name: _sha256(file) for file in files}
        (out / "data").mkdir(exist_ok=True)
        for file in files:
            os.replace(file, out / "data" / file.name)
    rule = f"upright, aspect kept, long side {long_side} px, Lanczos, JPEG quality 95 4:4:4"
    arguments = {"num_inputs": num_inputs, "long_side": long_side, "seed": seed, "conditions": conditions}
    report = {**arguments, "resize": rule, "sha256": hashes}
    write_atomically(out / "build.json", (json.dumps(report, indent=2) + "\n").encode())


def _photo_id(file: str) -> str:
    return Path(file).with_suffix("").as_posix()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_parquet(batches: Iterable[list[dict[str, Any]]], path: Path) -> None:
    """Write batches of rows as one parquet file in the schema, a row group each, atomically."""
    temporary = path.with_suffix(".part")
    schema = Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES).data.table.schema
    try:
        # zstd finds the input that the rows of one photo share, which divides the size by about five.
        with pq.ParquetWriter(temporary, schema, compression="zstd", use_dictionary=True) as writer:
            for rows in batches:
                writer.write_table(Dataset.from_list(rows, features=FEATURES).data.table)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_photo_table(table: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated photo table with the columns `file` and `split`; # starts a comment line.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: on a row without `file` or a valid `split`, a photo that comes twice, or an empty table.
    """
    with open(table, newline="", encoding="utf-8") as file:
        entries = list(csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t"))
    if not entries:
        raise ValueError(f"`table` has to list at least one photo, got none in {table}.")
    seen = set()
    for entry in entries:
        if not entry.get("file") or entry.get("split") not in SPLITS:
            raise ValueError(f"`table` has to give each row a `file` and a `split` of {SPLITS}, got {entry}.")
        if _photo_id(entry["file"]) in seen:
            raise ValueError(f"`table` has to list each photo once, extension aside, got {entry['file']} again.")
        seen.add(_photo_id(entry["file"]))
    return entries


def read_split(folder: str | Path, split: str) -> Dataset:
    """One split of a local data set folder in the schema, pictures still encoded (bytes).

    Raises:
        FileNotFoundError: if the folder holds no such split.
        ValueError: if the split is empty or columns of the schema are missing.
    """
    files = sorted(str(file) for file in Path(folder).glob(f"data/{split}-*.parquet"))
    if not files:
        raise FileNotFoundError(f"`folder` has to hold data/{split}-*.parquet, got {folder}.")
    if sum(pq.ParquetFile(file).metadata.num_rows for file in files) == 0:
        raise ValueError(f"The {split} split of the data set {folder} has to hold at least one row, got none.")
    rows = Dataset.from_parquet(files)
    missing = sorted(set(FEATURES) - set(rows.column_names))
    if missing:
        raise ValueError(f"The data set {folder} lacks the columns {missing}.")
    return rows.cast_column("input", Image(decode=False)).cast_column("target", Image(decode=False))


def decode(encoded: dict[str, Any]) -> PIL.Image.Image:
    """An undecoded `datasets.Image` value -> RGB picture."""
    with PIL.Image.open(io.BytesIO(encoded["bytes"])) as picture:
        return picture.convert("RGB")


def photos_of(rows: Dataset) -> Iterator[list[dict[str, Any]]]:
    """Group rows by photo, in order of first appearance."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["photo_id"], []).append(row)
    yield from groups.values()
