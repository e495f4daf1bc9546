"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, replacing what is there only once everything is written.

    Raises:
        OSError: if the folder is missing or cannot be written, or the disk is full; `path` is then as it was.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_json(result: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write `result` as indented JSON: whole or not at all, so that an interrupted run never leaves half a file.

    Raises:
        OSError: if the folder does not exist or cannot be written.
        ValueError: if `result` holds NaN or infinity, which JSON has no word for.
    """
    write_atomically(Path(path), (json.dumps(result, indent=2, allow_nan=False) + "\n").encode())


def move_to_new_name(file: str | Path, target: str | Path) -> None:
    """Give `file` the name `target`, on the same file system; its old name may stay beside it.

    Raises:
        FileExistsError: if something has that name, whoever made it in the meantime.
        OSError: if the name cannot be given.
    """
    try:
        os.link(file, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: take the name first, then fill it
        os.close(os.open(target, os.O_CREAT | os.O_EXCL))
        os.replace(file, target)


@contextmanager
def folder_atomically(target: Path) -> Iterator[Path]:
    """A new folder beside `target` to fill, moved to `target` when the block ends well and removed when it does not.

    What a kill left of an earlier attempt is removed first. A `target` that exists is replaced.
    """
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)  # inside: an interrupt may come as soon as it is there
        yield partial
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
