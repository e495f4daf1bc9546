"""The report of a batch, its manifest: what was done about every photo, by which the next run resumes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .plan import Job, Refusal, UsageError

Record = dict[str, Any]
"""What a report says about one photo: see `Report`."""


def stamp(path: Any) -> list[float] | None:
    """Size in bytes and time of the last change of a file, by which a changed photo is told from the same one."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime]


class Report:
    """A JSON-lines file that notes every photo when it is done or has failed, and by which the next run resumes.

    A line holds `source`, `source_stamp` (size and time of change), `outputs` (their sizes by path), `seconds` (by
    stage), `settings` and `error` (null when done); a LUT adds `lut_delta_e`, and `notes` are sentences on what a
    photo lost or lacks; one that was left out, having been retouched before, says so as `skipped`. A photo that was
    tried again has a line per try, of which the last counts.

    Args:
        path: the file; read now, written from `open` on.

    Raises:
        UsageError: if it exists and is no such file, or cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        self.existed = path.exists()
        self._records: dict[tuple[str, frozenset[str]], Record] = {}
        self._file: Any = None
        if self.existed:
            self._read()

    def _read(self) -> None:
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise UsageError(f"cannot read the report {self.path}: {error.strerror}") from error
        for line in lines[:-1]:  # behind the last line feed lies what a kill cut short
            try:
                record = json.loads(line)
                if record["error"] is None:
                    self._records[record["source"], frozenset(record["outputs"])] = record
            except (ValueError, KeyError, TypeError):
                raise UsageError(
                    f"`report` has to be a new file or the report of an earlier run, got {self.path}"
                ) from None

    def standing(self, job: Job, settings: dict[str, Any]) -> str:
        """What earlier runs did about a photo.

        "done": its files are there, of this photo and these settings (as `Settings.described`). "other": they were
        made from another state of the photo or by other settings. "begun": it may have been broken off. "new": there
        was no earlier run.
        """
        record = self._records.get((str(job.source), frozenset(map(str, job.targets))))
        if record is None:
            return "begun" if self.existed else "new"
        if record["settings"] != settings or record.get("source_stamp") != stamp(job.source):
            return "other"
        sizes = [(found := stamp(target)) and found[0] for target in job.targets]
        return "done" if sizes == [record["outputs"][str(target)] for target in job.targets] else "begun"

    def unfinished(self, jobs: Sequence[Job | Refusal], settings: dict[str, Any]) -> list[Job | Refusal]:
        """The jobs without those that are done."""
        return [job for job in jobs if isinstance(job, Refusal) or self.standing(job, settings) != "done"]

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Keep the file open for `add`; no other run may write it meanwhile.

        Raises:
            UsageError: if another run does, or the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b")  # noqa: SIM115 (closed below)
            _lock(self._file)
        except BlockingIOError:
            raise UsageError(f"another run is writing the report {self.path}") from None
        except OSError as error:
            raise UsageError(f"cannot write the report {self.path}: {error.strerror}") from error
        try:
            self._drop_cut_line()
            yield
        finally:
            self._file.close()

    def _drop_cut_line(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        self._file.truncate(content.rfind(b"\n") + 1)

    def add(self, record: Record) -> None:
        """Append one record, handed to the system before this returns."""
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._file.flush()


def _lock(file: Any) -> None:
    """Raise BlockingIOError if another process holds the file; a killed one holds nothing."""
    if os.name == "posix":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
