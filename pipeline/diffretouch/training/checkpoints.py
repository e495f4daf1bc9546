"""Checkpoints: a folder that loads with `from_pretrained` and from which training continues."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..files import folder_atomically, write_atomically
from ..pipeline_diffretouch import DiffRetouchPipeline

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-(\d+)")
_STATE = "training_state.pt"
_LOG = "log.jsonl"


def save_checkpoint(output_dir: Path, step: int, pipe: DiffRetouchPipeline, state: dict[str, Any]) -> Path:
    """Write `output_dir/checkpoint-{step}`: the pipeline (averaged weights) and the state to continue from.

    Raises:
        OSError: if it cannot be written; no trace of it is left then.
    """
    target = output_dir / f"checkpoint-{step:06d}"
    # A kill may have left a half-written checkpoint of a step that this run does not save.
    for leftover in output_dir.glob(".checkpoint-*.part"):
        shutil.rmtree(leftover)
    with _as_os_error(target), folder_atomically(target) as folder:
        pipe.save_pretrained(folder)
        torch.save({"step": step, **state}, folder / _STATE)
    return target


def save_pipeline(pipe: DiffRetouchPipeline, target: Path) -> None:
    """Write the pipeline as the folder `target`, replacing an older one once the new one is complete.

    Raises:
        OSError: if it cannot be written; `target` is then as it was.
    """
    with _as_os_error(target), folder_atomically(target) as folder:
        pipe.save_pretrained(folder)


@contextmanager
def _as_os_error(target: Path) -> Iterator[None]:
    """torch and safetensors report a full disk as errors of their own."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        raise OSError(f"cannot write {target}: {error}") from error


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def load_latest_state(output_dir: Path) -> dict[str, Any] | None:
    """State of the newest checkpoint that reads well, None if there is none; warns of each damaged one it skips."""
    for checkpoint in reversed(list_checkpoints(output_dir)):
        try:
            return torch.load(checkpoint / _STATE, weights_only=True, map_location="cpu")
        except Exception as error:  # noqa: BLE001 (torch raises many kinds for a damaged file; all mean: skip it)
            logger.warning("Skipping the damaged checkpoint %s: %s", checkpoint, error)
    return None


def rotate_checkpoints(output_dir: Path, limit: int) -> None:
    """Delete the oldest checkpoints beyond `limit`."""
    for checkpoint in list_checkpoints(output_dir)[:-limit]:
        shutil.rmtree(checkpoint)


def append_log(output_dir: Path, record: dict[str, Any]) -> None:
    """Add one JSON line to `output_dir/log.jsonl`."""
    with open(output_dir / _LOG, "a") as file:
        file.write(json.dumps(record) + "\n")


def cut_log(output_dir: Path, step: int) -> None:
    """Drop what `output_dir/log.jsonl` says about the steps after `step`, which are run again, and a half line."""
    log = output_dir / _LOG
    if log.is_file():
        lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        write_atomically(log, "".join(kept).encode())
