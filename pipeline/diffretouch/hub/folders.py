"""What a folder holds, a model or an adapter, and what its files say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..model.adapter_file_diffretouch import ADAPTER_FILE

INDEX = "model_index.json"

TRACKING = "tracking.json"
"""Of a training run that was tracked: `tracker`, `run` and `url`, None if nobody else can look at it."""

# Stands for the model's name in a card that was made before the model had one; `hub.push` fills it in.
UNNAMED = "your-name/your-model"


def hub_id(model: str | None) -> str | None:
    """`model` if it reads as OWNER/NAME on the Hub and is no folder here, else None."""
    return model if model and not Path(model).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", model) else None


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds an adapter, and not a model."""
    return (folder / ADAPTER_FILE).is_file() and not (folder / INDEX).is_file()


def read_index(folder: Path) -> dict[str, Any]:
    """`model_index.json` of a self-contained folder, code files and all."""
    if not (folder / INDEX).is_file():
        raise ValueError(f"`folder` has to hold {INDEX}, got {folder} without one.")
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    name = index.get("_class_name")
    if not isinstance(name, list) or name[1] != "DiffRetouchPipeline" or not (folder / f"{name[0]}.py").is_file():
        raise ValueError(
            f"`folder` has to be a DiffRetouch model with its code files, as `save_pretrained` writes, got {folder}."
        )
    return index


def read_evaluation(path: Path) -> dict[str, Any]:
    result = json.loads(path.read_text(encoding="utf-8"))
    needed = ("settings", "quality", "control", "crosstalk", "diversity", "coverage")
    missing = [name for name in needed if name not in result] if isinstance(result, dict) else list(needed)
    if missing:
        raise ValueError(f"`evaluation` has to be a result of diffretouch.evaluation, got {path} without {missing}.")
    return result


def read_training(path: Path) -> dict[str, Any]:
    import yaml  # needs the training extras

    # As recorded: `training.config.load_config` would fill what is missing with today's defaults.
    training = yaml.safe_load(path.read_text(encoding="utf-8"))
    needed = ("max_train_steps", "train_batch_size", "learning_rate", "beta", "contrastive", "contrastive_weight")
    missing = [name for name in needed if name not in training] if isinstance(training, dict) else list(needed)
    if missing:
        raise ValueError(f"`config` has to be the config.yaml of a training run, got {path} without {missing}.")
    return training


def read_log(path: Path) -> list[dict[str, Any]]:
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except json.JSONDecodeError as error:
        raise ValueError(f"`log` has to hold one JSON object a line, got {path}: {error}.") from error
    # A resumed run repeats the steps since its checkpoint; validation has records of its own.
    kept = {(record["step"], "loss" in record): record for record in records}
    return [kept[key] for key in sorted(kept)]


def read_tracking(folder: Path) -> dict[str, Any]:
    """`tracking.json` of a training run; nothing if it was not tracked."""
    path = folder / TRACKING
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
