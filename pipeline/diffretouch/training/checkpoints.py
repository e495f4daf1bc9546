"""Checkpoints: a folder that loads with `from_pretrained` and from which training continues."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from ..pipeline_diffretouch import DiffRetouchPipeline

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-(\d+)")
_STATE = "training_state.pt"


def save_checkpoint(output_dir: Path, step: int, pipe: DiffRetouchPipeline, state: dict[str, Any]) -> Path:
    """Write `output_dir/checkpoint-{step}`: the pipeline (averaged weights) and the state to continue from.

    It is written beside its place and moved there when complete, so a kill leaves no half-written checkpoint.
    """
    target = output_dir / f"checkpoint-{step:06d}"
    partial = output_dir / f".{target.name}.part"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        pipe.save_pretrained(partial)
        torch.save({"step": step, **state}, partial / _STATE)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def load_latest_state(output_dir: Path) -> dict[str, Any] | None:
    """State of the newest checkpoint that reads well; damaged ones are skipped with a warning. None if there is none."""
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
    with open(output_dir / "log.jsonl", "a") as file:
        file.write(json.dumps(record) + "\n")
