"""The training loop: one for every recipe. Reads top to bottom: train, watch, validate, then what they stand on."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from diffusers.training_utils import EMAModel
from safetensors.torch import save
from tqdm.auto import tqdm

from ..data.dataset import read_split
from ..files import write_atomically
from ..model.pipeline_diffretouch import DiffRetouchPipeline
from .checkpoints import (
    append_log,
    best_so_far,
    clear_leftovers,
    cut_log,
    later_checkpoints,
    load_latest_state,
    load_state,
    rotate_checkpoints,
    save_checkpoint,
    save_folder,
    since_best,
)
from .config import TrainingConfig, save_config
from .data import PairCache
from .first_look import ALONE, FirstLook, first_look
from .models import Adapter, starting_pipeline
from .objective import Draw, Objective, Retoucher
from .own_reach import own_reach
from .run_report import write_training_report
from .tracking import Tracker
from .validation import Validator

logger = logging.getLogger(__name__)

# What may differ between the run that wrote a checkpoint and the run that continues it. `dataset` is held against the
# data itself. A longer run stretches the learning rate's way down from where it is.
_FREE_SETTINGS = {
    "dataset",
    "streaming",
    "bad_rows",
    "output_dir",
    "cache_dir",
    "max_train_steps",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "patience",
    "validation_steps",
    "num_validation_photos",
    "metric_for_best_model",
    "logging_steps",
    "report_to",
    "push_to_hub",
    "hub_model_id",
}

# How long processes wait for each other. They take turns at the cache before the first step, which for a large data
# set on several GPUs takes longer than the ten minutes that are usual.
_PATIENCE = timedelta(hours=6)


def train(config: TrainingConfig, *, resume: str | Path | None = None) -> Path:
    """Train, or continue, a run; returns the folder of the final pipeline or adapter, `output_dir/final`.

    Under `torchrun` or `accelerate launch` every process works on its share of each batch. The result is that of one
    process up to the rounding of sums.

    Args:
        config: the whole recipe; written to `output_dir/config.yaml`.
        resume: "latest" continues from the newest checkpoint of `output_dir` that reads well, from the start if there
            is none; a checkpoint's folder continues from that one. On one CPU the final weights are those of an
            uninterrupted run, bit for bit.

    Raises:
        FileExistsError: if `output_dir` holds checkpoints and `resume` is None, or ones ahead of the chosen one.
        FileNotFoundError: if the data set or the checkpoint to resume is missing.
        ValueError: if a split is empty, or the checkpoint or the number of processes does not fit the recipe.
        FloatingPointError: if the loss or its gradient is no longer finite; names the file that holds the batch.
        OSError: if a checkpoint cannot be written; the earlier ones are kept.
    """
    patience = InitProcessGroupKwargs(timeout=_PATIENCE)
    accelerator = Accelerator(mixed_precision=config.mixed_precision, kwargs_handlers=[patience])
    parts = accelerator.num_processes * config.gradient_accumulation_steps
    if config.train_batch_size % parts:
        raise ValueError(
            f"`train_batch_size` has to be a multiple of {parts} ({accelerator.num_processes} processes x "
            f"{config.gradient_accumulation_steps} accumulation steps), got {config.train_batch_size}."
        )
    output_dir = Path(config.output_dir)
    if resume is None and any(output_dir.glob("checkpoint-*")):
        raise FileExistsError(f"`output_dir` {output_dir} holds checkpoints: pass --resume, or choose another folder.")
    if not config.dataset:
        raise ValueError("`dataset` has to be the folder or Hub id of a data set, got nothing.")
    state = load_latest_state(output_dir) if resume in (None, "latest") else _chosen_state(Path(resume), output_dir)
    train_rows, validation_rows = (
        read_split(config.dataset, split, streaming=config.streaming) for split in ("train", "validation")
    )
    trainer = Trainer(config, accelerator, train_rows, state)
    watch = _Watch(trainer, validation_rows) if accelerator.is_main_process else None

    with tqdm(initial=trainer.step, total=trainer.last_step, disable=watch is None) as progress:
        while trainer.step < trainer.last_step and not accelerator.check_trigger():
            terms = trainer.advance()
            if watch is not None and watch.after_step(terms, progress):
                accelerator.set_trigger()
            progress.update()
    if watch is not None:
        watch.finish()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return output_dir / "final"


def _chosen_state(checkpoint: Path, output_dir: Path) -> dict[str, Any]:
    """The state in `checkpoint`, unless the run has gone on from there already."""
    state = load_state(checkpoint)
    if later_checkpoints(output_dir, state["step"]):
        raise FileExistsError(
            f"`output_dir` {output_dir} holds checkpoints ahead of step {state['step']}: move them away, or choose "
            "another folder."
        )
    return state


class _Watch:
    """What the main process does beside training: log, validate, save, report."""

    def __init__(self, trainer: Trainer, validation_rows: Iterable[dict[str, Any]]):
        self._trainer = trainer
        self._config = config = trainer.config
        self._output_dir = output_dir = Path(config.output_dir)
        self._validator = Validator(config, validation_rows)
        output_dir.mkdir(parents=True, exist_ok=True)
        clear_leftovers(output_dir)
        save_config(config, output_dir / "config.yaml")
        cut_log(output_dir, trainer.step)
        self._tracker = Tracker(config, trainer.step)
        self._started = time.monotonic()
        logger.info("Starting at step %d", trainer.step)
        if trainer.untrained is not None:
            logger.info("No step is trained: %s", trainer.untrained)
        if config.fit_look and best_so_far(output_dir, config.metric_for_best_model) == math.inf:
            if trainer.left_out:
                append_log(output_dir, {"step": 0, "left_out": list(trainer.left_out)})
            with trainer.averaged() as pipe:
                self._validate(pipe)  # the start may stay the best
        if trainer.one_expert:
            logger.info("One expert per photo: c is how far the retouch moved each score, as its rank in the data set")

    def after_step(self, terms: dict[str, torch.Tensor], progress: tqdm) -> bool:
        """Whether the run is to stop, because validation has not become better for too long."""
        trainer, config = self._trainer, self._config
        if self._is_due(config.logging_steps):
            values = {name: round(value.item(), 5) for name, value in terms.items()}
            record = {"step": trainer.step, "seconds": round(time.monotonic() - self._started, 1), **values}
            append_log(self._output_dir, record)
            self._tracker.scalars(trainer.step, values)
            progress.set_postfix(values)
        validates, saves = self._is_due(config.validation_steps), self._is_due(config.checkpointing_steps)
        if validates or saves:
            state = trainer.state()
            with trainer.averaged() as pipe:
                if validates:
                    self._validate(pipe)
                if saves:
                    save_checkpoint(self._output_dir, trainer.step, trainer.save_model, state)
                    rotate_checkpoints(self._output_dir, trainer.step, config.checkpoints_total_limit)
        if not validates or config.patience is None:
            return False
        stops = since_best(self._output_dir, config.metric_for_best_model) >= config.patience
        if stops:
            logger.info("Stopping at step %d: the last %d validations were no better", trainer.step, config.patience)
        return stops

    def _is_due(self, every: int) -> bool:
        return self._trainer.step % every == 0 or self._trainer.step == self._config.max_train_steps

    def _validate(self, pipe: DiffRetouchPipeline) -> None:
        step, metric = self._trainer.step, self._config.metric_for_best_model
        report = self._validator.run(pipe, step)
        if report[metric] < best_so_far(self._output_dir, metric):
            save_folder(self._output_dir / "best", self._trainer.save_model)
        append_log(self._output_dir, {"step": step, **report})
        self._tracker.scalars(step, report, "validation")
        self._tracker.pictures(step)
        logger.info("Step %d: %s", step, json.dumps(report))

    def finish(self) -> None:
        final, best = self._output_dir / "final", self._output_dir / "best"
        if self._config.patience is not None and best.is_dir():
            save_folder(final, partial(_copy, best))
        else:
            with self._trainer.averaged():
                save_folder(final, self._trainer.save_model)
        self._tracker.close()
        write_training_report(self._output_dir)


def _copy(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True)


class Trainer:
    """The model in training with its optimiser and its average: all that changes from step to step.

    Args:
        config: the recipe.
        accelerator: decides on device, precision and processes.
        rows: training pairs.
        state: what `state` of an earlier trainer gave, and its "step"; None to start anew.

    Attributes:
        step: optimiser steps done.
        one_expert: whether the data set has one expert per photo.
        untrained: why no step is to be trained, None = they are.
        left_out: ids of photos that are of another style than most, and not trained on.
        last_step: the step to stop at.

    Raises:
        ValueError: if `state` belongs to another recipe, data set or model, or the recipe does not fit the model.
    """

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        rows: Iterable[dict[str, Any]],
        state: dict[str, Any] | None,
    ):
        torch.manual_seed(config.seed)
        self.config = config
        self.step = 0
        self._accelerator = accelerator
        self._pipe = starting_pipeline(config)
        cache = Path(config.cache_dir or Path(config.output_dir) / "cache")
        self._pairs = PairCache(rows, self._pipe, config.pixel_size, cache, config.bad_rows, accelerator.device)
        self.one_expert = self._pairs.one_expert
        # Before a fitted head takes the place of the model's own.
        keeps_sliders = config.lora_rank is not None and self.one_expert
        reach = own_reach(self._pipe, self._pairs) if keeps_sliders else None
        self._first = self._first_look(state)
        self.left_out = self._first.left_out if self._first else ()
        if self.left_out:
            self._pairs.leave_out(self.left_out)
        self.untrained = self._why_untrained()
        self.last_step = config.max_train_steps if self.untrained is None else 0
        self._objective = Objective(config, self._pipe, self._pairs, reach)
        rank = config.lora_rank
        self._adapter = None if rank is None else Adapter(self._pipe, rank, config, self._first, self.untrained)
        if config.gradient_checkpointing:
            self._pipe.unet.enable_gradient_checkpointing()
        look = self._pipe.look_in_effect()
        self._module = Retoucher(self._pipe.unet, self._pipe.grid_head, look)
        self._trained = {name: value for name, value in self._module.named_parameters() if value.requires_grad}
        optimizer = _optimizer(config, accelerator.device)(
            _parameter_groups(config, self._trained),
            lr=config.learning_rate,
            weight_decay=config.adam_weight_decay,
            betas=(config.adam_beta1, config.adam_beta2),
        )
        self._ema = EMAModel(self._trained.values(), decay=config.ema_decay) if config.use_ema else None
        if state is not None:
            self._load(state, optimizer)
        self._model, self._optimizer = accelerator.prepare(self._module, optimizer)
        if self._ema is not None:
            self._ema.to(accelerator.device)

    def _first_look(self, state: dict[str, Any] | None) -> FirstLook | None:
        if not self.config.fit_look:
            return None
        if state is not None:
            if "look" not in state:
                return None  # of before looks
            tensors, errors, *left_out = state["look"]
            return FirstLook(tensors, errors, {}, *map(tuple, left_out))
        with_head = "grid_head" in self.config.lora_train_whole and len(self._pairs) >= self.config.fewest_pairs
        judged = self.config.judge_pairs and self._pairs.one_expert
        first = first_look(self._pipe, self._pairs, with_head, judged)
        self._pipe.grid_head.load_state_dict(first.head, strict=False)
        return first

    def _why_untrained(self) -> str | None:
        if self._first is None:
            return None
        if len(self._pairs) < self.config.fewest_pairs:
            return f"{len(self._pairs)} pairs are fewer than `fewest_pairs`, {self.config.fewest_pairs}"
        return "the look alone is nearest" if self._first.chosen == ALONE else None

    def _load(self, state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
        settings = asdict(self.config)
        for name, before in state["config"].items():
            if name not in _FREE_SETTINGS and before != settings.get(name):
                raise ValueError(
                    f"`{name}` has to be {before} to continue the checkpoint of step {state['step']}, got "
                    f"{settings.get(name)}: keep its recipe, or start another run in another `output_dir`."
                )
        if state["data"] != self._pairs.fingerprint:
            raise ValueError(
                f"`dataset` has to be the data of the checkpoint of step {state['step']}, got other pictures or "
                f"conditions in {self.config.dataset}."
            )
        shapes = {name: value.shape for name, value in self._trained.items()}
        if {name: value.shape for name, value in state["model"].items()} != shapes:
            raise ValueError(
                f"`pretrained_model` has to be the model of the checkpoint of step {state['step']}, got one of other "
                f"layers: {self.config.pretrained_model}."
            )
        if state.get("base") != self._base():
            raise ValueError(
                f"`pretrained_model` has to be the model of the checkpoint of step {state['step']}, got one of other "
                f"weights: {self.config.pretrained_model}."
            )
        self._module.load_state_dict(state["model"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        if self._ema is not None:
            self._ema.load_state_dict(state["ema"])
        self.step = state["step"]
        if self._accelerator.scaler is not None and "scaler" in state:
            self._accelerator.scaler.load_state_dict(state["scaler"])

    def _base(self) -> list[float] | None:
        """What tells the frozen weights apart that an adapter is for; None where all weights train."""
        return None if self._adapter is None else self._adapter.base["weights"]

    def state(self) -> dict[str, Any]:
        """All that an exact continuation needs beside the step: a copy of the weights, optimiser, average, scaler; and
        the recipe and data they belong to."""
        scaler = self._accelerator.scaler  # of fp16 gradients
        return {
            "config": asdict(self.config),
            "data": self._pairs.fingerprint,
            "base": self._base(),
            "model": {name: value.detach().clone() for name, value in self._trained.items()},
            "optimizer": self._optimizer.state_dict(),
            **({} if self._ema is None else {"ema": self._ema.state_dict()}),
            **({} if self._first is None else {"look": (self._first.tensors, self._first.errors, self.left_out)}),
            **({} if scaler is None else {"scaler": scaler.state_dict()}),
        }

    def advance(self) -> dict[str, torch.Tensor]:
        """One optimiser step; returns its losses, of the whole batch.

        Raises:
            FloatingPointError: if the loss or its gradient is not finite; the weights are then as they were, and the
                batch is in a file that the message names.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * learning_rate_factor(self.step, self.config)
        draw = self._objective.draw(self.step)
        terms = self._backward(draw)
        norm = self._accelerator.clip_grad_norm_(self._trained.values(), self.config.max_grad_norm)
        # In fp16 a gradient may overflow now and then: the scaler skips that step and scales less.
        finite = terms["loss"] if self._accelerator.scaler is not None else terms["loss"] + norm
        if not torch.isfinite(finite):
            raise FloatingPointError(
                f"The loss at step {self.step} is {terms['loss'].item():g} and its gradient {norm.item():g}; "
                f"the batch is in {self._save_batch(draw)}, the last checkpoint is kept."
            )
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._ema is not None:
            self._ema.step(self._trained.values())
        self.step += 1
        return terms

    def _backward(self, draw: Draw) -> dict[str, torch.Tensor]:
        """Gradients of the whole batch, one part of it after the other; returns its losses."""
        accelerator, passes = self._accelerator, self.config.gradient_accumulation_steps
        totals: dict[str, torch.Tensor] = {}
        for number in range(passes):
            part = number * accelerator.num_processes + accelerator.process_index
            parts = passes * accelerator.num_processes
            # Processes exchange gradients once, after the last pass.
            with nullcontext() if number == passes - 1 else accelerator.no_sync(self._model):
                terms = self._objective(self._model, self.step, draw, part, parts, accelerator.device)
                accelerator.backward(terms["loss"] / passes)
            for name, value in terms.items():
                totals[name] = totals.get(name, 0) + value.detach() / passes
        means = accelerator.reduce(torch.stack(list(totals.values())), "mean")
        return dict(zip(totals, means, strict=True))

    def _save_batch(self, draw: Draw) -> Path:
        path = Path(self.config.output_dir) / f"not-finite-{self.step:06d}.safetensors"
        if self._accelerator.is_main_process:
            batch = self._pairs.batch(draw.indices, draw.condition, draw.flip)
            tensors = {name: value.contiguous() for name, value in {**vars(batch), **vars(draw)}.items()}
            photos = [self._pairs.photo_ids[index] for index in draw.indices.tolist()]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, save(tensors, {"step": str(self.step), "photo_ids": json.dumps(photos)}))
        return path

    @contextmanager
    def averaged(self) -> Iterator[DiffRetouchPipeline]:
        """The pipeline, which holds the averaged weights inside the block; the latest ones without `use_ema`."""
        if self._ema is None:
            yield self._pipe
            return
        parameters = list(self._trained.values())
        self._ema.store(parameters)
        self._ema.copy_to(parameters)
        try:
            yield self._pipe
        finally:
            self._ema.restore(parameters)

    def save_model(self, folder: Path) -> None:
        """Write the pipeline as it is now, or its adapter, into `folder`."""
        if self._adapter is None:
            self._pipe.save_pretrained(folder)
        else:
            self._adapter.save(folder)


def _optimizer(config: TrainingConfig, device: torch.device) -> Callable[..., torch.optim.Optimizer]:
    if not config.use_8bit_adam:
        # On a GPU the default needs another copy of all weights for a moment, the fused one does not.
        return partial(torch.optim.AdamW, fused=device.type == "cuda")
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ValueError("`use_8bit_adam` has to be false where bitsandbytes is not installed, got true.") from error
    return AdamW8bit


def _parameter_groups(config: TrainingConfig, trained: dict[str, torch.nn.Parameter]) -> list[dict[str, Any]]:
    """What the optimiser is given: apart from the others what reads the statistics, where it has its own decay."""
    if config.statistics_weight_decay is None:
        return [{"params": list(trained.values())}]
    reading = [value for name, value in trained.items() if "class_embedding" in name]
    if not reading:
        raise ValueError(
            "`statistics_weight_decay` has to be null where no embedding of statistics is trained, "
            f"got {config.statistics_weight_decay}."
        )
    others = [value for name, value in trained.items() if "class_embedding" not in name]
    return [{"params": others}, {"params": reading, "weight_decay": config.statistics_weight_decay}]


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then what `lr_scheduler` says; in [0, 1]."""
    if config.lr_scheduler == "constant":
        return 1.0
    if step < config.lr_warmup_steps:
        return (step + 1) / config.lr_warmup_steps
    if config.lr_scheduler == "constant_with_warmup":
        return 1.0
    progress = min(1.0, (step - config.lr_warmup_steps) / max(1, config.max_train_steps - config.lr_warmup_steps))
    return 1 - progress if config.lr_scheduler == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
