"""Checkpoints: folders that load with `from_pretrained` or `load_lora_weights`, from which training continues."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..files import folder_atomically, write_atomically

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-(\d+)")
_STATE = "training_state.pt"
_LOG = "log.jsonl"


def save_checkpoint(output_dir: Path, step: int, save_model: Callable[[Path], None], state: dict[str, Any]) -> Path:
    """Write `output_dir/checkpoint-{step}`: what `save_model` puts there, and the state to continue from.

    Raises:
        OSError: if it cannot be written; no trace of it is left then.
    """
    target = output_dir / f"checkpoint-{step:06d}"
    with _as_os_error(target), folder_atomically(target) as folder:
        save_model(folder)
        torch.save({"step": step, **state}, folder / _STATE)
    return target


def save_folder(target: Path, save_model: Callable[[Path], None]) -> None:
    """Write what `save_model` puts there as the folder `target`; an older one is replaced once the new is complete.

    Raises:
        OSError: if it cannot be written; `target` is then as it was.
    """
    with _as_os_error(target), folder_atomically(target) as folder:
        save_model(folder)


def clear_leftovers(output_dir: Path) -> None:
    """Delete what a kill left half written."""
    for leftover in output_dir.glob(".*.part"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


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
    return sorted(found, key=_step_of)


def later_checkpoints(output_dir: Path, step: int) -> list[Path]:
    """Those of a run that are ahead of `step`, oldest first."""
    return [checkpoint for checkpoint in list_checkpoints(output_dir) if _step_of(checkpoint) > step]


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


def load_state(checkpoint: Path) -> dict[str, Any]:
    """State that `save_checkpoint` wrote into the folder `checkpoint`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged.
    """
    if not (checkpoint / _STATE).is_file():
        raise FileNotFoundError(f"A checkpoint to resume has to hold {_STATE}, got {checkpoint}.")
    try:
        return torch.load(checkpoint / _STATE, weights_only=True, map_location="cpu")
    except Exception as error:  # noqa: BLE001 (torch raises many kinds for a damaged file)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"The checkpoint {checkpoint} has to be undamaged, got: {reason}") from error


def load_latest_state(output_dir: Path) -> dict[str, Any] | None:
    """State of the newest checkpoint that reads well, None if there is none; warns of each damaged one it skips."""
    for checkpoint in reversed(list_checkpoints(output_dir)):
        try:
            return load_state(checkpoint)
        except (FileNotFoundError, ValueError) as error:
            logger.warning("Skipping the damaged checkpoint %s: %s", checkpoint, error)
    return None


def rotate_checkpoints(output_dir: Path, step: int, limit: int) -> None:
    """Delete the oldest checkpoints up to `step` beyond `limit`; those ahead are damaged, and replaced in time."""
    ahead = later_checkpoints(output_dir, step)
    reached = [checkpoint for checkpoint in list_checkpoints(output_dir) if checkpoint not in ahead]
    for checkpoint in reached[:-limit]:
        shutil.rmtree(checkpoint)


def append_log(output_dir: Path, record: dict[str, Any]) -> None:
    """Add one JSON line to `output_dir/log.jsonl`."""
    with open(output_dir / _LOG, "a") as file:
        file.write(json.dumps(record) + "\n")


def best_so_far(output_dir: Path, metric: str) -> float:
    """Lowest value of `metric` in `output_dir/log.jsonl`, infinity before the first."""
    log = output_dir / _LOG
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    return min((record[metric] for record in records if metric in record), default=math.inf)


def since_best(output_dir: Path, metric: str) -> int:
    """Validations in `output_dir/log.jsonl` after the first that was best."""
    lines = (output_dir / _LOG).read_text().splitlines()
    values = [record[metric] for record in map(json.loads, lines) if metric in record]
    return len(values) - 1 - values.index(min(values))


def cut_log(output_dir: Path, step: int) -> None:
    """Drop what `output_dir/log.jsonl` says about the steps after `step`, which are run again, and a half line."""
    log = output_dir / _LOG
    if log.is_file():
        lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        write_atomically(log, "".join(kept).encode())
