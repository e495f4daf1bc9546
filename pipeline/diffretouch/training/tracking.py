"""TensorBoard, wandb and trackio: curves and pictures of a run while it goes on."""

from __future__ import annotations

import dataclasses
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import report
from ..attributes import ATTRIBUTES
from ..files import save_json, write_atomically
from ..hub.folders import TRACKING
from .config import TrainingConfig

logger = logging.getLogger(__name__)


class Tracker:
    """Curves and pictures of a run for TensorBoard (`output_dir/tensorboard`), wandb or trackio, as `config.report_to`
    says. Where wandb and trackio show them stands in `output_dir/tracking.json`, for the run's report and card.

    Args:
        config: `report_to` ("tensorboard" | "wandb" | "trackio" | "none") and `output_dir` are used; wandb and trackio
            show all of it.
        step: optimiser steps done when the run starts or goes on; what TensorBoard was told of later steps is dropped.

    Raises:
        ValueError: if the package that `report_to` names is not installed.
    """

    def __init__(self, config: TrainingConfig, step: int):
        self._output_dir = Path(config.output_dir)
        try:
            self._writer = _WRITERS[config.report_to](config, step)
        except ImportError as error:
            raise ValueError(
                f"`report_to` has to name an installed package or be none, got {config.report_to}: {error}."
            ) from error
        where = self._writer.where()
        if where:
            save_json({"tracker": config.report_to, **where}, self._output_dir / TRACKING)

    def scalars(self, step: int, values: Mapping[str, float], group: str = "train") -> None:
        """Add a point to each curve `group/name`."""
        self._writer.scalars(step, {f"{group}/{name}": value for name, value in values.items() if name != "step"})

    def pictures(self, step: int) -> None:
        """Add the pictures that `Validator.run` kept at `step`."""
        sheet = report.load_sheet(sheet_path(self._output_dir, step))
        columns = {
            "experts": ("input", "c = 0", "target ", "oracle "),
            "seeds": ("input", "c = 0", "seed "),
            "sliders": ("c = 0", *ATTRIBUTES),
        }
        for group, starts in columns.items():
            chosen = {
                photo: {name: picture for name, picture in pictures.items() if name.startswith(starts)}
                for photo, pictures in sheet.items()
            }
            caption = ", ".join(next(iter(chosen.values())))
            self._writer.picture(step, f"validation/{group}", report.contact_sheet(chosen), caption)

    def close(self) -> None:
        """Write out what is pending."""
        self._writer.close()


class _Writer:
    """Where curves and pictures go: nowhere."""

    def __init__(self, config: TrainingConfig, step: int): ...

    def where(self) -> dict[str, Any]:
        """`run`, its name, and `url`, None if it is on this machine alone; nothing if it is in the run's folder."""
        return {}

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def picture(self, step: int, name: str, picture: np.ndarray, caption: str) -> None: ...

    def close(self) -> None: ...


class _TensorBoard(_Writer):
    def __init__(self, config: TrainingConfig, step: int):
        from torch.utils.tensorboard import SummaryWriter  # optional, and slow to import

        folder = Path(config.output_dir) / "tensorboard"
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: np.ndarray, caption: str) -> None:
        self._writer.add_image(name, picture, step, dataformats="HWC")
        self._writer.add_text(f"{name}/columns", caption, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb(_Writer):
    def __init__(self, config: TrainingConfig, step: int):
        import wandb

        folder = Path(config.output_dir)
        self._wandb = wandb
        self._run = wandb.init(
            project="diffretouch",
            name=folder.resolve().name,
            id=_id_of_run(folder / "wandb-run.txt", step),
            resume="allow",
            dir=str(folder),
            config=dataclasses.asdict(config),
        )
        # Its own counter never goes back; a run that resumes from a checkpoint does.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def where(self) -> dict[str, Any]:
        return {"run": self._run.name, "url": self._run.url}

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def picture(self, step: int, name: str, picture: np.ndarray, caption: str) -> None:
        self._run.log({"step": step, name: self._wandb.Image(picture, caption=caption)})

    def close(self) -> None:
        self._run.finish()


class _Trackio(_Writer):
    """On this machine, or in the Space that trackio's own variable `TRACKIO_SPACE_ID` names."""

    def __init__(self, config: TrainingConfig, step: int):
        import trackio

        folder = Path(config.output_dir)
        self._trackio = trackio
        self._run = trackio.init(
            project="diffretouch",
            name=f"{folder.resolve().name}-{_id_of_run(folder / 'trackio-run.txt', step)}",
            resume="allow",
            config=dataclasses.asdict(config),
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def where(self) -> dict[str, Any]:
        url = self._run.url  # or the name of a Space
        return {
            "run": self._run.name,
            "url": f"https://huggingface.co/spaces/{url}" if url and "://" not in url else url,
        }

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, picture: np.ndarray, caption: str) -> None:
        self._run.log({name: self._trackio.Image(picture, caption=caption)}, step=step)

    def close(self) -> None:
        self._run.finish()


def _id_of_run(file: Path, step: int) -> str:
    """What tells this run from others of its folder's name; a run that goes on stays one run."""
    if not (step and file.is_file()):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, secrets.token_hex(4).encode())
    return file.read_text()


_WRITERS: dict[str, type[_Writer]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "trackio": _Trackio,
    "none": _Writer,
}


def sheet_path(output_dir: Path, step: int) -> Path:
    return output_dir / "validation" / f"{step:06d}.jpg"
