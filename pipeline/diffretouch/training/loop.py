"""The training loop: one for every recipe. Reads top to bottom: train, watch, validate, then what they stand on."""

from __future__ import annotations

import io
import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from accelerate import Accelerator
from datasets import Dataset
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from tqdm.auto import tqdm

from ..data.dataset import decode, photos_of, read_split
from ..evaluation import delta_e_2000
from ..files import write_atomically
from ..modeling_affine_grid import AffineGridHead
from ..modeling_latent_codec import FixedLatentCodec
from ..pipeline_diffretouch import DiffRetouchPipeline
from .checkpoints import append_log, cut_log, load_latest_state, rotate_checkpoints, save_checkpoint, save_pipeline
from .config import ModelConfig, TrainingConfig, save_config
from .data import PairCache
from .objective import Objective, Retoucher

logger = logging.getLogger(__name__)


def train(config: TrainingConfig, *, resume: bool = False) -> Path:
    """Train, or continue, a run; returns the folder of the final pipeline, `output_dir/final`.

    Args:
        config: the whole recipe; written to `output_dir/config.yaml`.
        resume: continue from the newest checkpoint of `output_dir` that reads well, from the start if there is none.
            On one CPU the final weights are those of an uninterrupted run, bit for bit.

    Raises:
        FileExistsError: if `output_dir` holds checkpoints and `resume` is False.
        FileNotFoundError: if the data set is missing.
        ValueError: if a split is empty, or the checkpoint or the number of processes does not fit the recipe.
        FloatingPointError: if the loss or its gradient is no longer finite.
        OSError: if a checkpoint cannot be written; the earlier ones are kept.
    """
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    if config.train_batch_size % accelerator.num_processes:
        raise ValueError(
            f"`train_batch_size` has to be a multiple of the {accelerator.num_processes} processes, "
            f"got {config.train_batch_size}."
        )
    output_dir = Path(config.output_dir)
    state = load_latest_state(output_dir) if resume else None
    if not resume and any(output_dir.glob("checkpoint-*")):
        raise FileExistsError(f"`output_dir` {output_dir} holds checkpoints: pass --resume, or choose another folder.")
    if not config.dataset:
        raise ValueError("`dataset` has to be the folder of a data set, got nothing.")
    train_rows, validation_rows = read_split(config.dataset, "train"), read_split(config.dataset, "validation")
    trainer = Trainer(config, accelerator, train_rows, state)
    main = accelerator.is_main_process
    if main:
        output_dir.mkdir(parents=True, exist_ok=True)
        save_config(config, output_dir / "config.yaml")
        cut_log(output_dir, trainer.step)
        logger.info("Starting at step %d", trainer.step)

    started = time.monotonic()
    with tqdm(initial=trainer.step, total=config.max_train_steps, disable=not main) as progress:
        while trainer.step < config.max_train_steps:
            terms = trainer.advance()
            if main:
                _log(trainer, terms, time.monotonic() - started, progress)
                _validate_and_save(trainer, validation_rows)
                progress.update()
    if main:
        with trainer.averaged() as pipe:
            save_pipeline(pipe, output_dir / "final")
    accelerator.end_training()
    return output_dir / "final"


def _log(trainer: Trainer, terms: dict[str, torch.Tensor], seconds: float, progress: tqdm) -> None:
    config = trainer.config
    if _is_due(trainer, config.logging_steps):
        record = {name: round(value.item(), 5) for name, value in terms.items()}
        append_log(Path(config.output_dir), {"step": trainer.step, "seconds": round(seconds, 1), **record})
        progress.set_postfix(record)


def _validate_and_save(trainer: Trainer, validation_rows: Dataset) -> None:
    config, step, output_dir = trainer.config, trainer.step, Path(trainer.config.output_dir)
    validates, saves = _is_due(trainer, config.validation_steps), _is_due(trainer, config.checkpointing_steps)
    if not (validates or saves):
        return
    state = trainer.state()
    with trainer.averaged() as pipe:
        if validates:
            report = validate(pipe, validation_rows, config, output_dir / "validation" / f"{step:06d}.png")
            append_log(output_dir, {"step": step, **report})
            logger.info("Step %d: %s", step, json.dumps(report))
        if saves:
            save_checkpoint(output_dir, step, pipe, state)
            rotate_checkpoints(output_dir, config.checkpoints_total_limit)


def _is_due(trainer: Trainer, every: int) -> bool:
    return trainer.step % every == 0 or trainer.step == trainer.config.max_train_steps


def validate(pipe: DiffRetouchPipeline, rows: Any, config: TrainingConfig, sheet: Path) -> dict[str, float]:
    """Retouch fixed validation photos with fixed noise, at c = 0 and at each expert's own c.

    Writes a contact sheet (input, c = 0, then expert A's target beside the oracle retouch, B's ...) and returns mean
    Delta E 2000 to the experts for the input, c = 0 and oracle c.
    """
    training = pipe.unet.training
    pipe.unet.eval()
    distances: dict[str, list[float]] = {"input": [], "c0": [], "oracle": []}
    strips = []
    for number, group in enumerate(photos_of(rows)):
        if number == config.num_validation_photos:
            break
        photo = decode(group[0]["input"])
        targets = [np.asarray(decode(row["target"])) / 255 for row in group]
        conditions = np.array([[0.0] * 4, *(row["condition"] for row in group)])
        generators = [torch.Generator().manual_seed(config.seed) for _ in conditions]
        sliders: dict[str, Any] = {name: list(conditions[:, i]) for i, name in enumerate(pipe.config.attributes)}
        output: Any = pipe([photo] * len(conditions), **sliders, generator=generators, output_type="np")
        retouched = output.images
        for target, oracle in zip(targets, retouched[1:], strict=True):
            distances["input"].append(delta_e_2000(np.asarray(photo) / 255, target))
            distances["c0"].append(delta_e_2000(retouched[0], target))
            distances["oracle"].append(delta_e_2000(oracle, target))
        pairs = [picture for pair in zip(targets, retouched[1:], strict=True) for picture in pair]
        strips.append(np.concatenate([_thumbnail(p) for p in (np.asarray(photo) / 255, retouched[0], *pairs)], axis=1))
    sheet.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(sheet, _contact_sheet(strips))
    pipe.unet.train(training)
    return {f"delta_e_{name}": round(float(np.mean(values)), 3) for name, values in distances.items()}


def _contact_sheet(strips: list[np.ndarray]) -> bytes:
    """Rows of thumbnails below each other as a PNG; shorter ones (fewer experts) end in white."""
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.concatenate(padded)).save(buffer, "PNG")
    return buffer.getvalue()


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    return np.asarray(PIL.Image.fromarray(np.round(picture * 255).astype(np.uint8)).resize((192, 144)))


class Trainer:
    """The model in training with its optimiser and its average: all that changes from step to step.

    Args:
        config: the recipe.
        accelerator: decides on device, precision and processes.
        rows: training pairs.
        state: what `state` of an earlier trainer gave, and its "step"; None to start anew.

    Attributes:
        step: optimiser steps done.

    Raises:
        ValueError: if `state` belongs to another model.
    """

    def __init__(self, config: TrainingConfig, accelerator: Accelerator, rows: Dataset, state: dict[str, Any] | None):
        torch.manual_seed(config.seed)
        self.config = config
        self.step = 0
        self._accelerator = accelerator
        self._pipe = _starting_pipeline(config)
        self._objective = Objective(config, self._pipe, PairCache(rows, self._pipe, config.pixel_size))
        self._module = Retoucher(self._pipe.unet, self._pipe.grid_head)
        optimizer = torch.optim.AdamW(
            self._module.parameters(),
            lr=config.learning_rate,
            weight_decay=config.adam_weight_decay,
            betas=(0.9, 0.99),
        )
        self._ema = EMAModel(self._module.parameters(), decay=config.ema_decay)
        if state is not None:
            self._load(state, optimizer)
        self._model, self._optimizer = accelerator.prepare(self._module, optimizer)
        self._pipe.to(accelerator.device)
        self._ema.to(accelerator.device)

    def _load(self, state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
        try:
            self._module.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(
                f"`output_dir` {self.config.output_dir} has to hold checkpoints of the recipe's model, got another: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        optimizer.load_state_dict(state["optimizer"])
        self._ema.load_state_dict(state["ema"])
        self.step = state["step"]
        if self._accelerator.scaler is not None and "scaler" in state:
            self._accelerator.scaler.load_state_dict(state["scaler"])

    def state(self) -> dict[str, Any]:
        """All that an exact continuation needs beside the step: a copy of the weights, optimiser, average, scaler."""
        scaler = self._accelerator.scaler  # of fp16 gradients
        return {
            "model": {name: value.clone() for name, value in self._module.state_dict().items()},
            "optimizer": self._optimizer.state_dict(),
            "ema": self._ema.state_dict(),
            **({} if scaler is None else {"scaler": scaler.state_dict()}),
        }

    def advance(self) -> dict[str, torch.Tensor]:
        """One optimiser step; returns its losses.

        Raises:
            FloatingPointError: if the loss or its gradient is not finite; the weights are then as they were.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * learning_rate_factor(self.step, self.config)
        terms = self._objective(self._model, self.step, self._accelerator)
        self._accelerator.backward(terms["loss"])
        norm = self._accelerator.clip_grad_norm_(self._model.parameters(), self.config.max_grad_norm)
        # In fp16 a gradient may overflow now and then: the scaler skips that step and scales less.
        finite = terms["loss"] if self._accelerator.scaler is not None else terms["loss"] + norm
        if not torch.isfinite(finite):
            raise FloatingPointError(
                f"The loss at step {self.step} is {terms['loss'].item():g} and its gradient {norm.item():g}; "
                "the last checkpoint is kept."
            )
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._ema.step(self._module.parameters())
        self.step += 1
        return terms

    @contextmanager
    def averaged(self) -> Iterator[DiffRetouchPipeline]:
        """The pipeline, which holds the averaged weights inside the block."""
        parameters = list(self._module.parameters())
        self._ema.store(parameters)
        self._ema.copy_to(parameters)
        try:
            yield self._pipe
        finally:
            self._ema.restore(parameters)


def _starting_pipeline(config: TrainingConfig) -> DiffRetouchPipeline:
    if config.pretrained_model:
        try:
            pipe = DiffRetouchPipeline.from_pretrained(config.pretrained_model)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"`pretrained_model` has to be a DiffRetouch folder or Hub id, got {config.pretrained_model}: "
                f"{str(error).splitlines()[0]}"
            ) from error
    else:
        pipe = new_pipeline(config.model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then cosine to zero; in [0, 1]."""
    if step < config.lr_warmup_steps:
        return (step + 1) / config.lr_warmup_steps
    progress = (step - config.lr_warmup_steps) / max(1, config.max_train_steps - config.lr_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def new_pipeline(config: ModelConfig) -> DiffRetouchPipeline:
    """An untrained small pipeline that works on `FixedLatentCodec` latents."""
    levels = len(config.block_out_channels)
    plain = levels - config.attention_levels
    unet = UNet2DConditionModel(
        sample_size=config.sample_size,
        in_channels=7,
        out_channels=8,
        block_out_channels=tuple(config.block_out_channels),
        layers_per_block=config.layers_per_block,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * config.attention_levels,
        up_block_types=("CrossAttnUpBlock2D",) * config.attention_levels + ("UpBlock2D",) * plain,
        cross_attention_dim=4,
        attention_head_dim=config.attention_head_dim,
        norm_num_groups=config.norm_num_groups,
        use_linear_projection=True,
    )
    grid_head = AffineGridHead(
        hidden_channels=config.head_hidden_channels,
        mid_channels=config.head_mid_channels,
        grid_depth=config.grid_depth,
    )
    scheduler = DDPMScheduler(
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule="scaled_linear",
        prediction_type=config.prediction_type,
        clip_sample=False,
    )
    return DiffRetouchPipeline(
        unet, scheduler, grid_head, vae=FixedLatentCodec(), conditioning_resize=config.conditioning_resize
    )
