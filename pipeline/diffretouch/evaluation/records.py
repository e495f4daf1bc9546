"""What an evaluation has measured already, kept in a folder, so that an interrupted one goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import write_atomically
from ..report import save_sheet
from .one_photo import Instruments, reduced
from .photos import EvaluatedPhoto

_RECORD_VERSION = 3  # of what a photo's record holds and how it is measured; older records are measured again


class KeptRecords:
    """Records and pictures of an evaluation in a folder: what an interrupted one has done already.

    Args:
        folder: made if missing; gets `records.jsonl` and `pictures/`.
        fingerprint: of all that a record depends on beside its photo.
    """

    def __init__(self, folder: Path, fingerprint: str):
        self._folder, self._fingerprint = folder, fingerprint
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        self._log = folder / "records.jsonl"
        text = self._log.read_text(encoding="utf-8") if self._log.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # a kill may have left half a line
        if whole != text:
            write_atomically(self._log, whole.encode())
        self._known = {entry["key"]: entry["record"] for entry in map(json.loads, whole.splitlines())}

    def find(self, photo: EvaluatedPhoto, shown: bool) -> dict[str, Any] | None:
        """The record of a photo; None if there is none, or its pictures are to be shown and were not kept."""
        if shown and not (self._folder / "pictures" / self.sheet_name(photo)).is_file():
            return None
        return self._known.get(self._key(photo))

    def sheet_name(self, photo: EvaluatedPhoto) -> str:
        """The file of a photo's pictures: another one for each model, as for the record."""
        return f"{self._key(photo)[:16]}.jpg"

    def add(self, photo: EvaluatedPhoto, record: dict[str, Any], pictures: dict[str, np.ndarray]) -> None:
        """Keep a record, and the pictures if there are any: these first, so that no record is without them."""
        if pictures:
            sheet = {photo.photo_id: {name: reduced(picture) for name, picture in pictures.items()}}
            save_sheet(self._folder / "pictures" / self.sheet_name(photo), sheet)
        with open(self._log, "a", encoding="utf-8") as file:
            file.write(json.dumps({"key": self._key(photo), "record": record}) + "\n")

    def _key(self, photo: EvaluatedPhoto) -> str:
        digest = hashlib.sha256(f"{self._fingerprint}/{photo.photo_id}/{photo.conditions}".encode())
        for picture in (photo.picture, *photo.targets.values()):
            digest.update(picture.tobytes())
        return digest.hexdigest()


def fingerprint(pipe: Any, beside: Mapping[str, Any], tools: Instruments, num_inference_steps: int | None) -> str:
    """Changes with the models' weights and configurations, the settings, and what is measured."""
    settings = {"version": _RECORD_VERSION, "seed": tools.seed, "steps": num_inference_steps}
    digest = hashlib.sha256(f"{settings} {[*tools.compare, *tools.judge]}".encode())
    # A baseline may be fitted to data, so that its name does not tell it from another one.
    probe = np.random.default_rng(0).random((32, 32, 3), np.float32)
    for name, baseline in tools.baselines.items():
        digest.update(name.encode() + np.round(baseline(probe) * 255).astype(np.uint8).tobytes())
    for name, model in {"": pipe, **beside}.items():
        digest.update(name.encode())
        _add_model(digest, model)
    return digest.hexdigest()


def _add_model(digest: Any, pipe: Any) -> None:
    # Names that begin with _ say where a model lies and who saved it.
    configs = [{k: v for k, v in part.config.items() if k[0] != "_"} for part in (pipe, pipe.scheduler)]
    digest.update(f"{type(pipe.scheduler).__name__} {configs}".encode())
    for model in (pipe.unet, pipe.grid_head, pipe.vae):
        for value in model.state_dict().values() if model is not None else ():
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
