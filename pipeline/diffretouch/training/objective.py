"""What one step minimises: the forward pass of UNet and grid head in three branches, and the losses on it."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from torch import nn

from ..attributes import attribute_scores
from ..modeling_affine_grid import AffineGridHead
from ..pipeline_diffretouch import DiffRetouchPipeline
from . import losses
from .config import TrainingConfig
from .data import Batch, PairCache


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
        indices = pair_indices(step, size, len(self.pairs), config.seed)
        kept = torch.rand(size, 4, generator=rng) >= config.attribute_dropout
        asked = torch.rand(size, 1, generator=rng) >= config.condition_dropout
        flip = (torch.rand(size, generator=rng) < 0.5) & config.horizontal_flip
        jitter = config.condition_jitter * (2 * torch.rand(size, 4, generator=rng) - 1)
        condition = (self.pairs.conditions(indices) + jitter).clamp(-1, 1) * kept * asked
        batch = self.pairs.batch(indices, condition, flip)
        low, high = self.timestep_range
        position = torch.rand(size, generator=rng) ** config.timestep_power
        timesteps = (low + (high + 1 - low) * position).long().clamp_max(high)
        noise = torch.randn(batch.latents.shape, generator=rng)
        other_noise = torch.randn(batch.latents.shape, generator=rng)
        return batch, timesteps, noise, other_noise

    def __call__(self, model: nn.Module, step: int, accelerator: Accelerator) -> dict[str, torch.Tensor]:
        """Losses of step `step` on this process' share of the batch; the one to minimise is "loss"."""
        config, device = self.config, accelerator.device
        batch, *drawn = self.draw(step)
        share = slice(accelerator.process_index, None, accelerator.num_processes)
        photo_latents, z0, condition, photo, target = (part[share].to(device) for part in vars(batch).values())
        timesteps, noise, other_noise = (part[share].to(device) for part in drawn)

        # Regular branch on the whole batch; positive and negative branch on its first n pairs, in one call.
        n = len(z0) * config.contrastive_batch_size // config.train_batch_size
        if config.contrastive == "none" or step < config.contrastive_warmup_steps:
            n = 0
        first = torch.cat([torch.arange(len(z0)), torch.arange(n), torch.arange(n)]).to(device)
        noises = torch.cat([noise, other_noise[:n], noise[:n]])
        conditions = torch.cat([condition, condition[:n], -condition[:n]])
        noisy = self.scheduler.add_noise(z0[first], noises, timesteps[first])
        noise_pred, pictures = model(noisy, timesteps[first], photo_latents[first], conditions, photo[first])

        batch_size = len(z0)
        terms = {
            "noise": losses.noise_loss(noise_pred[:batch_size], self._denoising_target(z0, noise, timesteps)),
            "pixel": losses.pixel_loss(pictures[:batch_size], target),
        }
        loss = terms["noise"] + config.beta * terms["pixel"]
        if n:
            chosen = torch.cat([pictures[:n], pictures[batch_size:]])
            scores = attribute_scores(((chosen + 1) / 2).clamp(0, 1)) / self.score_scale.to(device)
            regular, positive, negative = scores.chunk(3)
            terms["contrastive"] = self._contrastive(regular, positive, negative, condition[:n])
            loss = loss + config.contrastive_weight * terms["contrastive"]
        return {"loss": loss, **terms}

    def _denoising_target(self, z0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the UNet's first four channels predict: the noise, or the velocity that stands for it."""
        if self.scheduler.config.prediction_type == "v_prediction":
            return self.scheduler.get_velocity(z0, noise, timesteps)
        return noise

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


def pair_indices(step: int, batch_size: int, num_pairs: int, seed: int) -> torch.Tensor:
    """(B,): the pairs of batch `step` in an endless stream that shuffles all pairs anew each epoch."""
    places = [divmod(position, num_pairs) for position in range(step * batch_size, (step + 1) * batch_size)]
    orders = {
        epoch: torch.randperm(num_pairs, generator=torch.Generator().manual_seed(seed * 7919 + epoch))
        for epoch in {epoch for epoch, _ in places}
    }
    return torch.stack([orders[epoch][place] for epoch, place in places])
