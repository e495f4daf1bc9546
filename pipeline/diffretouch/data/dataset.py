"""The data set schema: one row per photo x expert, parquet files that the Hub and `datasets` read as they are.

Columns: `photo_id`, `expert`, `input`, `target` (pictures of equal size), the four attribute scores of the target,
`condition` (what the expert did, in [-1, 1]). Split train / validation / test by photo, never by row.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset, Features, Image, IterableDataset, List, Value, load_dataset
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError

from ..attributes import (
    ATTRIBUTES,
    attribute_scores,
    attribute_view,
    conditions_extreme,
    conditions_linear,
    conditions_quantile,
)

logger = logging.getLogger(__name__)

# How an expert's c follows from the scores of all experts of the photo. "quantile" spaces them evenly over the
# slider's way; "linear" keeps their distances, which leaves stretches of a slider that no training pair ever shows.
CONDITIONS = {"quantile": conditions_quantile, "linear": conditions_linear, "extreme": conditions_extreme}
SPLITS = ("train", "validation", "test")
BAD_ROWS = ("stop", "skip")
# An owner is asked for, which every id has but some of the Hub's oldest: a misspelt folder is told at once.
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
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


# Of a row group. One for each photo would give PPR10K a footer of 18 MB, which the Hub's viewer reads before anything
# else; of a group it reads 300 MB at most.
_GROUP_ROWS, _GROUP_BYTES = 100, 100_000_000

_PLAIN = {name: kind for name, kind in FEATURES.items() if not isinstance(kind, Image)}


def scores_of(pictures: Iterable[np.ndarray]) -> torch.Tensor:
    """Attribute scores (N, 4) of uint8 pictures (H, W, 3), measured on their 512 x 512 views."""
    views = [attribute_view(torch.tensor(p).permute(2, 0, 1)[None].float() / 255) for p in pictures]
    return attribute_scores(torch.cat(views))


def encode(picture: np.ndarray) -> bytes:
    """uint8 picture -> JPEG bytes, quality 95 without chroma subsampling: off by one to two levels on average."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def write_parquet(batches: Iterable[list[dict[str, Any]]], path: Path) -> None:
    """Write batches of rows, a photo each, as one parquet file in the schema, atomically.

    Row groups hold whole batches, as many as make 100 rows or 100 MB. With the page index a reader that wants few rows
    of a group, such as the Hub's viewer, fetches those alone.
    """
    temporary = path.with_suffix(".part")
    schema = FEATURES.arrow_schema
    try:
        with parquet_writer(temporary, schema) as writer:
            for rows in _row_groups(batches):
                # Not by `Dataset`, which hashes all rows and imports transformers to do so.
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """How files of data sets are written; each table becomes a row group."""
    # The dictionary holds every picture of a group once. Rows of one photo share them: a fifth of the size is left.
    return pq.ParquetWriter(
        path, schema, compression="zstd", dictionary_pagesize_limit=2 * _GROUP_BYTES, write_page_index=True
    )


def _row_groups(batches: Iterable[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for rows in batches:
        group += rows
        size += sum(len(row["input"]["bytes"]) + len(row["target"]["bytes"]) for row in rows)
        if len(group) >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def photo_id_of(file: str | Path) -> str:
    """What a photo is called in a data set: its path in the folder, without the extension."""
    return Path(file).with_suffix("").as_posix()


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
        if photo_id_of(entry["file"]) in seen:
            raise ValueError(f"`table` has to list each photo once, extension aside, got {entry['file']} again.")
        seen.add(photo_id_of(entry["file"]))
    return entries


def read_split(
    source: str | Path, split: str, *, streaming: bool = False, revision: str | None = None
) -> Dataset | IterableDataset:
    """One split of a data set in the schema, pictures still encoded: `row["input"]` is {"bytes": ..., "path": ...}.

    Only the columns are checked here. Iterate over the rows with `good_rows`, which checks them one by one:

        for row in good_rows(read_split(config.dataset, "train", streaming=config.streaming), config.bad_rows): ...

    It gives the same rows in the same order whether they stream or not, so a cache that encodes every picture once
    can be filled from either in one pass, without keeping the pictures.

    Args:
        source: a folder (`data/{split}-*.parquet`, or any parquet or imagefolder layout that `datasets` understands,
            pictures by `input_file_name` and `target_file_name`), or the id of a data set on the Hub.
        split: "train", "validation" or "test".
        streaming: read rows as they come instead of downloading and keeping them; the result then has no length and
            no `rows["column"]`, it can only be iterated over.
        revision: branch, tag or commit on the Hub.

    Returns:
        The schema's columns, no others: a `Dataset`, or an `IterableDataset` when streaming.

    Raises:
        FileNotFoundError: if there is no such folder, data set or split.
        ValueError: if the split is empty, or a column is missing or of another type.
        OSError: if the Hub cannot be reached.
    """
    rows = _opened(source, split, streaming, revision)
    features = rows.features or {}
    missing = sorted(set(FEATURES) - set(features))
    if missing:
        raise ValueError(f"The data set {source} lacks the columns {missing}.")
    if not streaming and len(rows) == 0:
        raise ValueError(f"The {split} split of the data set {source} has to hold at least one row, got none.")
    for name, kind in features.items():
        if name in FEATURES and not _fits(kind, FEATURES[name]):
            raise ValueError(f"`{name}` of the data set {source} has to be {FEATURES[name]}, got {kind}.")
    return _undecoded(rows.select_columns(list(FEATURES)))


def _opened(source: str | Path, split: str, streaming: bool, revision: str | None) -> Any:
    folder = Path(source)
    files = sorted(str(file) for file in folder.glob(f"data/{split}-*.parquet"))
    if files:
        if not any(pq.ParquetFile(file).metadata.num_rows for file in files):  # which `datasets` reports as a riddle
            raise ValueError(f"The {split} split of the data set {source} has to hold at least one row, got none.")
        return load_dataset("parquet", data_files={split: files}, split=split, streaming=streaming)
    if not folder.is_dir() and not _HUB_ID.fullmatch(str(source)):
        raise FileNotFoundError(
            f"`dataset` has to be a folder or the id of a data set on the Hub (OWNER/NAME), got {source}."
        )
    try:
        return load_dataset(str(source), split=split, streaming=streaming, revision=revision)
    except (DatasetNotFoundError, EmptyDatasetError, DataFilesNotFoundError) as error:
        what = f"`folder` has to hold data/{split}-*.parquet, got" if folder.is_dir() else "There is no data set"
        raise FileNotFoundError(f"{what} {source}.") from error
    except ValueError as error:  # "Unknown split", "Bad split"
        raise FileNotFoundError(f"The data set {source} has no usable {split} split: {_first_line(error)}") from error
    except ConnectionError as error:
        raise OSError(f"The Hub could not be reached for the data set {source}: {_first_line(error)}") from error


def _fits(kind: Any, wanted: Any) -> bool:
    """Whether a column can be read as the schema's: pictures also as bare structs, numbers of any width."""
    if isinstance(wanted, Image):
        return isinstance(kind, Image) or (isinstance(kind, dict) and {"bytes", "path"} <= set(kind))
    if isinstance(wanted, List):
        return isinstance(kind, List) and _fits(kind.feature, wanted.feature)
    return isinstance(kind, Value) and (wanted.dtype == "string" or kind.dtype.startswith(("float", "int", "uint")))


def _undecoded(rows: Any) -> Any:
    """`rows` with encoded pictures in them, also where the files hold paths, and numbers of the schema's types."""
    for name in ("input", "target"):
        rows = rows.cast_column(name, Image(decode=False))
    if {name: rows.features[name] for name in _PLAIN} != _PLAIN:
        # How long a condition is depends on the row, and is reported by row.
        rows = rows.cast(Features({**rows.features, **_PLAIN, "condition": List(Value("float32"))}))
    if isinstance(rows, Dataset) and not _names_files(rows):
        return rows
    return rows.map(_with_bytes)


def _names_files(rows: Dataset) -> bool:
    """Whether pictures lie in files of their own; read from the null counts, without looking at any picture."""
    columns = [rows.data.column(name) for name in ("input", "target")]
    return any(chunk.field("bytes").null_count > 0 for column in columns for chunk in column.chunks)


def _with_bytes(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _read(row[name]) for name in ("input", "target")}


def _read(picture: dict[str, Any] | None) -> dict[str, Any] | None:
    """A picture file's bytes put beside its path (local or hf://); one that cannot be read stays without bytes."""
    if not picture or picture["bytes"] is not None or not picture["path"]:
        return picture
    try:
        with fsspec.open(picture["path"], "rb") as file:
            return {"bytes": file.read(), "path": picture["path"]}
    except OSError:
        return picture


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def good_rows(rows: Iterable[dict[str, Any]], bad_rows: str = "stop") -> Iterator[dict[str, Any]]:
    """The rows of `read_split` (a `Dataset` or an `IterableDataset`) that can be trained on, in their order.

    A row is bad where a picture is missing, broken or of another size than its partner, an id is missing, or the
    scores or the condition are no finite numbers (the condition: four in [-1, 1]). Every distinct picture is decoded
    once for this, and not kept.

    Args:
        rows: rows with undecoded pictures.
        bad_rows: what a bad row does: "stop" raises, "skip" leaves it out and says so in a warning.

    Raises:
        ValueError: on a bad row ("stop"), with its number from 0, photo and expert; or if no row is good.
    """
    if bad_rows not in BAD_ROWS:
        raise ValueError(f"`bad_rows` has to be one of {BAD_ROWS}, got {bad_rows!r}.")
    sizes: dict[bytes, tuple[int, int] | str] = {}
    number, good = -1, 0
    for number, row in enumerate(rows):
        problem = _problem_of(row, sizes)
        if problem is None:
            good += 1
            yield row
            continue
        message = f"row {number} (photo {row['photo_id']!r}, expert {row['expert']!r}): {problem}"
        if bad_rows == "stop":
            raise ValueError(f"The data set has a bad {message}.")
        logger.warning("Skipped %s", message)
    if good == 0:
        raise ValueError(f"The data set has to have at least one good row, got none in {number + 1}.")


def _problem_of(row: dict[str, Any], sizes: dict[bytes, tuple[int, int] | str]) -> str | None:
    """Why `row` cannot be used; `sizes` remembers (width, height), or what is wrong, of each picture by its hash."""
    for name in ("photo_id", "expert"):
        if not row[name]:
            return f"`{name}` is missing"
    numbers = [row[name] for name in ATTRIBUTES]
    if any(value is None or not math.isfinite(value) for value in numbers):
        return f"the scores have to be four finite numbers, got {numbers}"
    condition = row["condition"] or []
    if len(condition) != len(ATTRIBUTES) or not all(c is not None and -1 <= c <= 1 for c in condition):
        return f"`condition` has to be four numbers in [-1, 1], got {condition}"
    found = []
    for name in ("input", "target"):
        size = _size_of(row[name], sizes)
        if isinstance(size, str):
            return f"`{name}` {size}"
        found.append(size)
    if found[0] != found[1]:
        (a, b), (c, d) = found
        return f"`input` and `target` have to be of one size, got {a} x {b} and {c} x {d}"
    return None


def _size_of(encoded: dict[str, Any] | None, sizes: dict[bytes, tuple[int, int] | str]) -> tuple[int, int] | str:
    if not encoded or not encoded["bytes"]:
        return "is missing"
    digest = hashlib.sha256(encoded["bytes"]).digest()
    if digest not in sizes:
        try:
            sizes[digest] = decode(encoded).size
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            sizes[digest] = f"is broken ({_first_line(error)})"
    return sizes[digest]


def decode(encoded: dict[str, Any]) -> PIL.Image.Image:
    """An undecoded `datasets.Image` value -> RGB picture."""
    with PIL.Image.open(io.BytesIO(encoded["bytes"])) as picture:
        return picture.convert("RGB")


def photos_of(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Group rows by photo, in order of first appearance."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["photo_id"], []).append(row)
    yield from groups.values()
