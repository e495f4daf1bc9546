"""The training loop: one for every recipe. Reads top to bottom: build, one step, validate, train."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import nn
from tqdm.auto import tqdm

from ..attributes import attribute_scores
from ..data.dataset import decode, photos_of, read_split
from ..evaluation import delta_e_2000
from ..modeling_affine_grid import AffineGridHead
from ..modeling_latent_codec import FixedLatentCodec
from ..pipeline_diffretouch import DiffRetouchPipeline
from . import losses
from .checkpoints import append_log, load_latest_state, rotate_checkpoints, save_checkpoint
from .config import ModelConfig, TrainingConfig, save_config
from .data import Batch, PairCache

logger = logging.getLogger(__name__)


class Retoucher(nn.Module):
    """UNet and grid head as one module, so that both are prepared, accumulated, clipped and averaged together."""

    def __init__(self, unet: UNet2DConditionModel, grid_head: AffineGridHead):
        super().__init__()
        self.unet = unet
        self.grid_head = grid_head

    def forward(
        self,
        noisy_latents: torch.Tensor,
        timesteps: torch.Tensor,
        photo_latents: torch.Tensor,
        condition: torch.Tensor,
        photo: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """-> predicted noise (B, 4, h, w), retouched pictures D_t (B, 3, p, p) around [-1, 1], not clamped."""
        unet_input = torch.cat([noisy_latents, photo_latents], dim=1)  # (B, 7, h, w)
        prediction = self.unet(unet_input, timesteps, encoder_hidden_states=condition[:, None]).sample
        noise_pred, features = prediction.split([4, 4], dim=1)
        coefficients = self.grid_head(features)  # (B, 12, depth, gh, gw)
        return noise_pred.float(), self.grid_head.retouch(coefficients.float(), photo)


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
        beta_start=config.beta_start, beta_end=config.beta_end, beta_schedule="scaled_linear", clip_sample=False
    )
    return DiffRetouchPipeline(
        unet, scheduler, grid_head, vae=FixedLatentCodec(), conditioning_resize=config.conditioning_resize
    )


class Objective:
    """The loss of one batch, all its randomness drawn from (seed, step): nothing to save for an exact resume.

    Args:
        config: weights and forms of the losses.
        pipe: gives the noise schedule.
        pairs: gives the scale on which scores are standardised.
    """

    def __init__(self, config: TrainingConfig, pipe: DiffRetouchPipeline, pairs: PairCache):
        self.config = config
        self.pairs = pairs
        self.scheduler = pipe.scheduler
        self.timestep_range = (pipe.config.min_timestep, pipe.scheduler.config.num_train_timesteps - 1)
        # Pictures differ far more than retouches of one picture; only the retouches' spread is a slider's scale.
        self.score_scale = retouch_spread(pairs)

    def draw(self, step: int) -> tuple[Batch, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Batch of step `step` with its timesteps (B,), noise and other noise (B, 4, h, w)."""
        config = self.config
        size = config.train_batch_size
        rng = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        indices = torch.tensor([self._index(step * size + i) for i in range(size)])
        kept = torch.rand(size, 4, generator=rng) >= config.attribute_dropout
        asked = torch.rand(size, 1, generator=rng) >= config.condition_dropout
        flip = (torch.rand(size, generator=rng) < 0.5) & config.horizontal_flip
        batch = self.pairs.batch(indices, self.pairs.conditions(indices) * kept * asked, flip)
        low, high = self.timestep_range
        position = torch.rand(size, generator=rng) ** config.timestep_power
        timesteps = (low + (high + 1 - low) * position).long().clamp_max(high)
        noise = torch.randn(batch.latents.shape, generator=rng)
        other_noise = torch.randn(batch.latents.shape, generator=rng)
        return batch, timesteps, noise, other_noise

    def _index(self, position: int) -> int:
        """Pair at `position` of an endless stream that shuffles all pairs anew each epoch."""
        epoch, place = divmod(position, len(self.pairs))
        if getattr(self, "_epoch", None) != epoch:
            rng = torch.Generator().manual_seed(self.config.seed * 7919 + epoch)
            self._order, self._epoch = torch.randperm(len(self.pairs), generator=rng), epoch
        return int(self._order[place])

    def __call__(self, model: nn.Module, step: int, accelerator: Accelerator) -> dict[str, torch.Tensor]:
        """Losses of step `step` on this process' share of the batch; the one to minimise is "loss"."""
        config = self.config
        batch, timesteps, noise, other_noise = self.draw(step)
        share = slice(accelerator.process_index, None, accelerator.num_processes)
        to = {"device": accelerator.device}
        z0, photo_latents = batch.latents[share].to(**to), batch.photo_latents[share].to(**to)
        photo, target = batch.photo[share].to(**to), batch.target[share].to(**to)
        condition, timesteps = batch.condition[share].to(**to), timesteps[share].to(**to)
        noise, other_noise = noise[share].to(**to), other_noise[share].to(**to)

        # Regular branch on the whole batch; positive and negative branch on its first n pairs, in one call.
        n = len(z0) * config.contrastive_batch_size // config.train_batch_size
        if config.contrastive == "none" or step < config.contrastive_warmup_steps:
            n = 0
        first = torch.cat([torch.arange(len(z0)), torch.arange(n), torch.arange(n)]).to(accelerator.device)
        noises = torch.cat([noise, other_noise[:n], noise[:n]])
        conditions = torch.cat([condition, condition[:n], -condition[:n]])
        noisy = self.scheduler.add_noise(z0[first], noises, timesteps[first])
        noise_pred, pictures = model(noisy, timesteps[first], photo_latents[first], conditions, photo[first])

        batch_size = len(z0)
        terms = {
            "noise": losses.noise_loss(noise_pred[:batch_size], noise),
            "pixel": losses.pixel_loss(pictures[:batch_size], target),
        }
        loss = terms["noise"] + config.beta * terms["pixel"]
        if n:
            chosen = torch.cat([pictures[:n], pictures[batch_size:]])
            scores = attribute_scores(((chosen + 1) / 2).clamp(0, 1)) / self.score_scale.to(**to)
            terms["contrastive"] = self._contrastive(*scores.chunk(3), condition[:n])
            loss = loss + config.contrastive_weight * terms["contrastive"]
        return {"loss": loss, **terms}

    def _contrastive(
        self, scores: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        if self.config.contrastive == "signed":
            return losses.signed_contrastive_loss(scores, positive, negative, condition)
        temperature = self.config.contrastive_temperature
        return losses.published_contrastive_loss(scores, positive, negative, condition, temperature)


@torch.no_grad()
def retouch_spread(pairs: PairCache) -> torch.Tensor:
    """(4,): spread of the scores over the targets of one photo, averaged over photos, at the training pixel size."""
    spreads = [attribute_scores(targets).std(0, correction=0) for targets in pairs.target_groups()]
    return torch.stack(spreads).mean(0).clamp_min(1e-6)


def train(config: TrainingConfig, *, resume: bool = False) -> Path:
    """Train, or continue, a run; returns the folder of the final pipeline, `output_dir/final`.

    Args:
        config: the whole recipe; written to `output_dir/config.yaml`.
        resume: continue from the newest checkpoint of `output_dir` that reads well.

    Raises:
        FileExistsError: if `output_dir` holds checkpoints and `resume` is False.
        FileNotFoundError: if the data set is missing.
        FloatingPointError: if the loss is no longer finite.
    """
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    output_dir = Path(config.output_dir)
    state = load_latest_state(output_dir) if resume else None
    if not resume and any(output_dir.glob("checkpoint-*")):
        raise FileExistsError(f"`output_dir` {output_dir} holds checkpoints: resume, or choose another folder.")
    train_rows, validation_rows = read_split(config.dataset, "train"), read_split(config.dataset, "validation")
    output_dir.mkdir(parents=True, exist_ok=True)
    save_config(config, output_dir / "config.yaml")

    torch.manual_seed(config.seed)
    if config.pretrained_model:
        pipe = DiffRetouchPipeline.from_pretrained(config.pretrained_model)
    else:
        pipe = new_pipeline(config.model)
    pipe.set_progress_bar_config(disable=True)
    pairs = PairCache(train_rows, pipe, config.pixel_size)
    objective = Objective(config, pipe, pairs)

    model: nn.Module = Retoucher(pipe.unet, pipe.grid_head)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.adam_weight_decay, betas=(0.9, 0.99)
    )
    ema = EMAModel(model.parameters(), decay=config.ema_decay)
    first_step = 0
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        first_step = state["step"]
        logger.info("Continuing from step %d", first_step)
    model, optimizer = accelerator.prepare(model, optimizer)
    ema.to(accelerator.device)
    bare = accelerator.unwrap_model(model)

    started = time.monotonic()
    progress = tqdm(range(first_step, config.max_train_steps), initial=first_step, total=config.max_train_steps)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config)
        terms = objective(model, step, accelerator)
        if not torch.isfinite(terms["loss"]):
            raise FloatingPointError(f"The loss at step {step} is {terms['loss'].item()}; the last checkpoint is kept.")
        accelerator.backward(terms["loss"])
        accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(bare.parameters())

        done = step + 1
        last = done == config.max_train_steps
        if not accelerator.is_main_process:
            continue
        if done % config.logging_steps == 0 or last:
            record = {name: round(value.item(), 5) for name, value in terms.items()}
            append_log(output_dir, {"step": done, "seconds": round(time.monotonic() - started, 1), **record})
            progress.set_postfix(record)
        if done % config.checkpointing_steps == 0 or done % config.validation_steps == 0 or last:
            ema.store(bare.parameters())
            ema.copy_to(bare.parameters())
            if done % config.validation_steps == 0 or last:
                report = validate(pipe, validation_rows, config, output_dir / "validation" / f"{done:06d}.png")
                append_log(output_dir, {"step": done, **report})
                logger.info("Step %d: %s", done, json.dumps(report))
            averaged = {name: value.clone() for name, value in bare.state_dict().items()}
            ema.restore(bare.parameters())
            if done % config.checkpointing_steps == 0 or last:
                state = {
                    "model": {name: value.clone() for name, value in bare.state_dict().items()},
                    "optimizer": optimizer.state_dict(),
                    "ema": ema.state_dict(),
                }
                bare.load_state_dict(averaged)
                save_checkpoint(output_dir, done, pipe, state)
                if last:
                    pipe.save_pretrained(output_dir / "final")
                bare.load_state_dict(state["model"])
                rotate_checkpoints(output_dir, config.checkpoints_total_limit)
    accelerator.end_training()
    return output_dir / "final"


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then cosine to zero; in [0, 1]."""
    if step < config.lr_warmup_steps:
        return (step + 1) / config.lr_warmup_steps
    progress = (step - config.lr_warmup_steps) / max(1, config.max_train_steps - config.lr_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


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
        sliders = {name: list(conditions[:, i]) for i, name in enumerate(pipe.config.attributes)}
        retouched = pipe([photo] * len(conditions), **sliders, generator=generators, output_type="np").images
        for target, oracle in zip(targets, retouched[1:], strict=True):
            distances["input"].append(delta_e_2000(np.asarray(photo) / 255, target))
            distances["c0"].append(delta_e_2000(retouched[0], target))
            distances["oracle"].append(delta_e_2000(oracle, target))
        pairs = [picture for pair in zip(targets, retouched[1:], strict=True) for picture in pair]
        strips.append(np.concatenate([_thumbnail(p) for p in (np.asarray(photo) / 255, retouched[0], *pairs)], axis=1))
    sheet.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.concatenate(strips)).save(sheet)
    pipe.unet.train(training)
    return {f"delta_e_{name}": round(float(np.mean(values)), 3) for name, values in distances.items()}


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    return np.asarray(PIL.Image.fromarray(np.round(picture * 255).astype(np.uint8)).resize((192, 144)))
