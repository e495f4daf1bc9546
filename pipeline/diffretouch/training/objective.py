"""What one step minimises: the forward pass of UNet and grid head in three branches, and the losses on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn

from ..attributes import attribute_scores
from ..model.adapter_look_diffretouch import AdapterLook
from ..model.modeling_affine_grid import AffineGridHead
from ..model.photo_statistics_diffretouch import labels_of
from ..model.pipeline_diffretouch import DiffRetouchPipeline
from ..model.sampling_diffretouch import set_timesteps, step_arguments
from . import losses
from .config import TrainingConfig
from .data import PairCache

# How much of a retouch is there already when the settling term retouches again.
LEFT_OVER = (0.6, 1.4)

# A slider is asked for a little more than the experts span, so that it does not fall short where it is hard to move.
REACH = 1.1


class Retoucher(nn.Module):
    """UNet and grid head as one module, so that both are prepared, accumulated, clipped and averaged together.

    What they make goes through `look`, which stays as it is.
    """

    def __init__(self, unet: UNet2DConditionModel, grid_head: AffineGridHead, look: AdapterLook | None = None):
        super().__init__()
        self.unet = unet
        self.grid_head = grid_head
        self._look = look

    def forward(
        self,
        noisy_latents: torch.Tensor,
        timesteps: torch.Tensor,
        photo_latents: torch.Tensor,
        condition: torch.Tensor,
        photo: torch.Tensor,
        statistics: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """-> predicted noise (B, 4, h, w), retouched pictures D_t (B, 3, p, p) around [-1, 1], not clamped."""
        prediction = predict(self.unet, noisy_latents, timesteps, photo_latents, condition, statistics)
        noise_pred, features = prediction.tensor_split([4], dim=1)
        # As in use: mixed precision would round coefficients and guide to a few hundred levels.
        with torch.autocast(photo.device.type, enabled=False):
            coefficients = self.grid_head(features.float())  # (B, 12, depth, gh, gw)
            pictures = self.grid_head.retouch(coefficients, photo)
            if self._look is not None:
                pictures = self._look.applied(pictures)
        return noise_pred.float(), pictures


def predict(
    unet: UNet2DConditionModel,
    noisy_latents: torch.Tensor,
    timesteps: torch.Tensor | int,
    photo_latents: torch.Tensor,
    condition: torch.Tensor,
    statistics: torch.Tensor,
) -> torch.Tensor:
    """One UNet call as in use: arguments of `Retoucher.forward` -> (B, 4 + features, h, w)."""
    unet_input = torch.cat([noisy_latents, photo_latents], dim=1)  # (B, 7, h, w)
    labels = None
    if unet.config.class_embed_type is not None:
        labels = labels_of(statistics, condition)  # (B, 142)
    return unet(unet_input, timesteps, encoder_hidden_states=condition[:, None], class_labels=labels).sample


@dataclass
class Draw:
    """The random choices of one optimiser step for its B pairs."""

    indices: torch.Tensor  # (B,)
    condition: torch.Tensor  # (B, 4) in [-1, 1]
    flip: torch.Tensor  # (B,) bool
    timesteps: torch.Tensor  # (B,)
    noise: torch.Tensor  # (B, 4, h, w)
    other_noise: torch.Tensor  # (B, 4, h, w), of the positive branch
    middle_noise: torch.Tensor  # (B, 4, h, w), without what is common to a picture: the middle of the styles
    strength: torch.Tensor  # (B,) in `LEFT_OVER`, of the retouch that is retouched again
    slider: torch.Tensor  # (B,), which of them "linear" moves
    position: torch.Tensor  # (B,) in [-1, 1], where it moves it
    alone: torch.Tensor  # (B,) bool, whether the others are at 0 then

    def part(self, number: int, parts: int) -> Draw:
        """Every `parts`-th pair from `number` on: the parts that processes and accumulation work through."""
        return Draw(*(value[number::parts] for value in vars(self).values()))


class Objective:
    """The loss of one batch, all its randomness drawn from (seed, step): nothing to save for an exact resume.

    Args:
        config: weights and forms of the losses.
        pipe: gives the noise schedule.
        pairs: the pairs.
        score_scale: (4,), on which scores are standardised; None = `retouch_spread`.
    """

    def __init__(
        self,
        config: TrainingConfig,
        pipe: DiffRetouchPipeline,
        pairs: PairCache,
        score_scale: torch.Tensor | None = None,
    ):
        self.config = config
        self.pairs = pairs
        self.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)  # whatever the pipeline samples with
        self.timestep_range = (pipe.config.min_timestep, pipe.scheduler.config.num_train_timesteps - 1)
        self.noise_offset = pipe.config.noise_offset
        self._unet, self._pipe = pipe.unet, pipe
        # Pictures differ far more than retouches of one picture; only the retouches' spread is a slider's scale.
        self.score_scale = retouch_spread(pairs) if score_scale is None else score_scale
        self._reach = REACH * slider_reach(pairs, self.score_scale) if config.contrastive == "linear" else None

    def draw(self, step: int) -> Draw:
        """The choices of step `step`."""
        config = self.config
        size = config.train_batch_size
        rng = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        indices = pair_indices(step, size, len(self.pairs), config.seed)
        kept = torch.rand(size, 4, generator=rng) >= config.attribute_dropout
        asked = torch.rand(size, 1, generator=rng) >= config.condition_dropout
        flip = (torch.rand(size, generator=rng) < 0.5) & config.horizontal_flip
        jitter = config.condition_jitter * (2 * torch.rand(size, 4, generator=rng) - 1)
        condition = (self.pairs.conditions(indices) + jitter).clamp(-1, 1) * kept * asked
        low, high = self.timestep_range
        position = torch.rand(size, generator=rng) ** config.timestep_power
        timesteps = (low + (high + 1 - low) * position).long().clamp_max(high)
        shape = (size, *self.pairs.latent_shape)
        noise, other_noise = (draw_noise(shape, self.noise_offset, rng) for _ in range(2))
        slider, where = torch.randint(4, (size,), generator=rng), 2 * torch.rand(size, generator=rng) - 1
        alone = torch.rand(size, generator=rng) < config.contrastive_alone
        timesteps[torch.rand(size, generator=rng) < config.pure_noise_share] = high
        middle = torch.randn(shape, generator=rng)
        strength = LEFT_OVER[0] + (LEFT_OVER[1] - LEFT_OVER[0]) * torch.rand(size, generator=rng)
        return Draw(indices, condition, flip, timesteps, noise, other_noise, middle, strength, slider, where, alone)

    def contrasts(self, step: int) -> bool:
        """Whether the contrastive term counts at step `step`."""
        config = self.config
        after_warmup = step - config.contrastive_warmup_steps
        due = after_warmup >= 0 and after_warmup % config.contrastive_every == 0
        return config.contrastive != "none" and config.contrastive_batch_size > 0 and due

    def settles(self, step: int) -> bool:
        """Whether the settling term counts at step `step`: where the contrastive one rests, to even out the work."""
        config = self.config
        due = config.contrastive_every == 1 or not self.contrasts(step)
        return config.settling_weight > 0 and step >= config.contrastive_warmup_steps and due

    def __call__(
        self, model: nn.Module, step: int, draw: Draw, number: int, parts: int, device: torch.device
    ) -> dict[str, torch.Tensor]:
        """Losses of part `number` of `parts` of step `step`, which drew `draw`; the one to minimise is "loss".

        The parts' mean is the loss of the whole batch, however it is divided.
        """
        config = self.config
        part = draw.part(number, parts)
        batch = self.pairs.batch(part.indices, part.condition, part.flip)
        photo_latents, z0, condition, photo, statistics, target = (value.to(device) for value in vars(batch).values())
        timesteps, noise = part.timesteps.to(device), part.noise.to(device)
        other_noise, middle_noise = part.other_noise.to(device), part.middle_noise.to(device)

        # Regular branch on all pairs; positive and negative branch on the first n, in the same call.
        contrasts = self.contrasts(step)
        n = len(range(number, config.contrastive_batch_size, parts)) if contrasts else 0
        first = torch.cat([torch.arange(len(z0)), torch.arange(n), torch.arange(n)]).to(device)
        if self._reach is None or n == 0:
            conditions = torch.cat([condition, condition[:n], -condition[:n]])
            clean, noises = z0[first], torch.cat([noise, other_noise[:n], noise[:n]])
        else:
            asked, moved = (value.to(device) for value in _moves(part, n))
            conditions = torch.cat([condition, asked, asked + moved])
            imagined = self._imagine(
                other_noise[:n].repeat(2, 1, 1, 1),
                photo_latents[:n].repeat(2, 1, 1, 1),
                conditions[len(z0) :],
                statistics[:n].repeat(2, 1),
            )
            clean, noises = torch.cat([z0, imagined]), noise[first]
        noisy = self.scheduler.add_noise(clean, noises, timesteps[first])
        inputs = [noisy, timesteps[first], photo_latents[first], conditions, photo[first], statistics[first]]
        batch_size, m = len(z0), len(range(number, config.sampled_batch_size, parts))
        if m:
            sampled = self._sampled(step, middle_noise[:m], photo_latents[:m], photo[:m], statistics[:m])
            inputs = [torch.cat(both) for both in zip(inputs, sampled, strict=True)]
        noise_pred, pictures = model(*inputs)
        pictures, as_in_use = pictures.tensor_split([len(first)])

        denoising_target = self._denoising_target(z0, noise, timesteps)
        terms = {
            "noise": losses.noise_loss(noise_pred[:batch_size], denoising_target, self._noise_weights(timesteps)),
            "pixel": losses.pixel_loss(pictures[:batch_size], target, config.pixel_loss),
        }
        loss = terms["noise"] + config.beta * terms["pixel"]
        if m:
            terms["sampled"] = losses.pixel_loss(as_in_use, target[:m], config.pixel_loss)
            loss = loss + config.beta * terms["sampled"]
        if contrasts:
            chosen = torch.cat([pictures[:n], pictures[batch_size:]])
            terms["contrastive"] = self._contrastive(chosen, draw, part, n, parts)
            loss = loss + config.contrastive_weight * config.contrastive_every * terms["contrastive"]
        if m and self.settles(step):
            terms["settling"] = self._settling(model, step, photo[:m], as_in_use, part)
            loss = loss + config.beta * config.settling_weight * terms["settling"]
        return {"loss": loss, **terms}

    def _settling(
        self, model: nn.Module, step: int, photo: torch.Tensor, pictures: torch.Tensor, part: Draw
    ) -> torch.Tensor:
        """How far a second pass in use, from the same noise, ends from the `pictures` that the first made of `photo`.

        Both (n, 3, p, p). What is retouched wants nothing, what is retouched by half the rest, what went too far the
        way back: asked of the retouch alone, the second pass would drift, as little as each time is. The first pass is
        taken as it is: else both would shrink together.
        """
        first = pictures.detach().clamp(-1, 1)
        n, device = len(first), first.device
        strength = part.strength[:n].to(device).view(-1, 1, 1, 1)
        seen = self.pairs.as_inputs(photo + strength * (first - photo))
        noise = part.middle_noise[:n].to(device)
        again = model(*self._sampled(step, noise, *(value.to(device) for value in seen)))[1]
        return losses.pixel_loss(again, first, self.config.pixel_loss)

    @torch.no_grad()
    def _imagine(
        self, noise: torch.Tensor, photo_latents: torch.Tensor, condition: torch.Tensor, statistics: torch.Tensor
    ) -> torch.Tensor:
        """What sampling makes of pure noise (n, 4, h, w) in its first call: z_0 as the model sees it under c.

        A slider has to move what the model itself has imagined under it; the expert's z_0 would hold it back in
        training, and let it overshoot in use, where both calls follow the slider.
        """
        last = self.timestep_range[1]
        output = predict(self._unet, noise, last, photo_latents, condition, statistics)[:, :4].float()
        signal = self.scheduler.alphas_cumprod[last]
        if self.scheduler.config.prediction_type == "v_prediction":
            return signal.sqrt() * noise - (1 - signal).sqrt() * output
        return (noise - (1 - signal).sqrt() * output) / signal.sqrt()

    @torch.no_grad()
    def _sampled(
        self,
        step: int,
        noise: torch.Tensor,
        photo_latents: torch.Tensor,
        photo: torch.Tensor,
        statistics: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Arguments of `Retoucher.forward` as the last call of sampling gets them, from pure noise and at c = 0.

        What the model is asked in use is what it imagined itself, where training shows it the target's latents. The
        noise is that of the middle style, the answer to those who ask for none: from other noise, which knows nothing
        of the target, the last call would unlearn the other styles.
        """
        scheduler, settings = self._pipe.scheduler, self._pipe.config
        steps, first = settings.default_num_inference_steps, settings.min_timestep
        chain = set_timesteps(scheduler, steps, None, first, noise.device)
        latents, condition = noise * scheduler.init_noise_sigma, noise.new_zeros(len(noise), 4)
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        for timestep in chain[:-1]:
            seen = scheduler.scale_model_input(latents, timestep)
            output = predict(self._unet, seen, timestep, photo_latents, condition, statistics)[:, :4].float()
            latents = scheduler.step(output, timestep, latents, **step_arguments(scheduler, generator)).prev_sample
        seen = scheduler.scale_model_input(latents, chain[-1])
        return seen, chain[-1].long().expand(len(noise)), photo_latents, condition, photo, statistics

    def _denoising_target(self, z0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the UNet's first four channels predict: the noise, or the velocity that stands for it."""
        if self.scheduler.config.prediction_type == "v_prediction":
            return self.scheduler.get_velocity(z0, noise, timesteps)
        return noise

    def _noise_weights(self, timesteps: torch.Tensor) -> torch.Tensor:
        if self.config.snr_gamma is None:
            return torch.ones_like(timesteps, dtype=torch.float32)
        signal = self.scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
        return losses.min_snr_weights(signal, self.config.snr_gamma, self.scheduler.config.prediction_type)

    def _contrastive(self, pictures: torch.Tensor, draw: Draw, part: Draw, n: int, parts: int) -> torch.Tensor:
        """The contrastive loss of pictures (3 n, 3, p, p), regular, positive, negative, of a part's first n pairs."""
        if not n:
            return pictures.sum()  # this part of the batch contrasts nothing
        config, device = self.config, pictures.device
        scores = attribute_scores(((pictures + 1) / 2).clamp(0, 1)) / self.score_scale.to(device)
        regular, positive, negative = scores.chunk(3)
        if self._reach is not None:
            asked, moved = (value.to(device) for value in _moves(part, n))
            reach = self._reach[part.indices[:n]].to(device)
            share = config.contrastive_batch_size / parts
            return losses.linear_contrastive_loss(regular, positive, negative, asked, moved, reach, count=share)
        condition = part.condition[:n].to(device)
        count = ((draw.condition[: config.contrastive_batch_size] != 0).sum().clamp_min(1) / parts).to(device)
        if config.contrastive == "signed":
            return losses.signed_contrastive_loss(regular, positive, negative, condition, count=count)
        temperature = config.contrastive_temperature
        return losses.published_contrastive_loss(regular, positive, negative, condition, temperature, count)


def _moves(draw: Draw, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`move_one` for the first n pairs."""
    return move_one(draw.condition[:n], draw.slider[:n], draw.position[:n], draw.alone[:n])


def move_one(
    condition: torch.Tensor, slider: torch.Tensor, position: torch.Tensor, alone: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is asked for before one slider of each pair moves, and by how much it moves: both (n, 4).

    Args:
        condition: c of the pairs, (n, 4).
        slider: (n,), the one that moves.
        position: (n,) in [-1, 1], where it moves to.
        alone: (n,) bool, whether the others are at 0.
    """
    asked = condition * ~alone[:, None]
    moves = F.one_hot(slider, 4)
    return asked, moves * (position[:, None] - asked)


@torch.no_grad()
def retouch_spread(pairs: PairCache) -> torch.Tensor:
    """(4,): the scale of each slider, at the training pixel size.

    Spread of the scores over the targets of one photo, averaged over photos. With a single expert: how far the scores
    move on average from input to target, but at least a tenth of their spread over the targets of all photos, because
    a style may leave an attribute alone.
    """
    if pairs.one_expert:
        targets = torch.cat([attribute_scores(group) for group in pairs.target_groups()])
        moved = pairs.score_changes().square().mean(0).sqrt()
        return torch.maximum(moved, 0.1 * targets.std(0, correction=0)).clamp_min(1e-6)
    spreads = [attribute_scores(targets).std(0, correction=0) for targets in pairs.target_groups()]
    return torch.stack(spreads).mean(0).clamp_min(1e-6)


@torch.no_grad()
def slider_reach(pairs: PairCache, scale: torch.Tensor) -> torch.Tensor:
    """(N, 4): how much of each score, in units of `scale` (4,), a slider's step of 1 stands for in each pair's photo.

    Half of what the photo's experts span, but at least a quarter of the average photo's: a slider has to do something
    everywhere. With a single expert, 1.
    """
    if pairs.one_expert:
        return torch.ones(len(pairs), 4)
    scores = [attribute_scores(targets) for targets in pairs.target_groups()]
    halves = torch.stack([(of_photo.amax(0) - of_photo.amin(0)) / 2 for of_photo in scores]) / scale  # (P, 4)
    return torch.maximum(halves, 0.25 * halves.mean(0))[pairs.group_of]


def draw_noise(shape: tuple[int, ...], offset: float, rng: torch.Generator) -> torch.Tensor:
    """Noise of a shape (B, C, h, w): normal, and `offset` times as much that is common to a channel of a picture."""
    noise = torch.randn(shape, generator=rng)
    return noise + offset * torch.randn((*shape[:2], 1, 1), generator=rng) if offset else noise


def pair_indices(step: int, batch_size: int, num_pairs: int, seed: int) -> torch.Tensor:
    """(B,): the pairs of batch `step` in an endless stream that shuffles all pairs anew each epoch."""
    places = [divmod(position, num_pairs) for position in range(step * batch_size, (step + 1) * batch_size)]
    orders = {
        epoch: torch.randperm(num_pairs, generator=torch.Generator().manual_seed(seed * 7919 + epoch))
        for epoch in {epoch for epoch, _ in places}
    }
    return torch.stack([orders[epoch][place] for epoch, place in places])
