# /// script
# requires-python = ">=3.11"
# dependencies = ["diffretouch[train]"]
#
# [tool.uv.sources]  # not on PyPI yet: the checkout that this file lies in; without one, see README.md beside it
# diffretouch = { path = "..", editable = true }
# ///
"""Fit the grid head's global path by plain regression, after the UNet has learned to denoise.

python train_lora/fit_head.py runs/bundled/final data-synthetic --min_timestep 400 -o runs/bundled-fitted

What the bundled model is held against comes of it too, an HDRNet-style regression: stopped where nothing but noise is
left to see, the path learns one answer for each photo and c.

python train_lora/fit_head.py runs/bundled/final data-synthetic \\
    --min_timestep 998 --noise_offset 0 -o runs/deterministic

The path is a small network from a photo's statistics, c and the means of the noisy latents to one transform of the
whole photo, which is most of a retouch, and another of each of its areas. By itself it sees a thousand pairs in the
time in which it would see twelve beside the UNet. It learns which style the latents stand for from the experts' own,
noised as in training; a noise offset, one number per channel and picture, keeps the means, which white noise hardly
touches, from giving the answer away. Its sliders learn as in the recipes, by the contrastive loss. What the local path
has learned is set back to nothing: it was learned beside another one.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch.nn.functional import l1_loss
from tqdm.auto import tqdm

from diffretouch import DiffRetouchPipeline, attribute_scores
from diffretouch.data.dataset import read_split
from diffretouch.model.modeling_affine_grid import AffineGridHead, identity_coefficients
from diffretouch.training.data import PairCache
from diffretouch.training.losses import linear_contrastive_loss
from diffretouch.training.objective import REACH, draw_noise, move_one, pair_indices, retouch_spread, slider_reach

PIXEL_SIZE = 64  # that of the recipes, whose cache may be shared
LEARNING_RATE = 2e-3
CONDITION_DROPOUT = 0.2
# As much as keeps every slider monotone: more of it costs pixels (4% of their error at 0.05, 16% at 0.2).
CONTRASTIVE_WEIGHT = 0.02
CONTRASTIVE_BATCH_SIZE = 8


@torch.no_grad()
def silence(head: AffineGridHead) -> None:
    """Leave the photo unchanged, whatever the features are, but let them learn to matter; in place.

    Raises:
        ValueError: if the head has no global path.
    """
    if head.whole is None:
        raise ValueError(
            "`model` has to have a grid head with a global path (`model.head_global_channels`), got none."
        )
    head.out.weight.mul_(0.1)
    head.out.bias = torch.nn.Parameter(identity_coefficients(head.config.grid_depth, 1, 1).flatten())
    for last in head.last_of_global_path():
        for parameter in last.parameters():
            parameter.mul_(0.1)


def retouch(
    head: AffineGridHead,
    photo: torch.Tensor,
    condition: torch.Tensor,
    means: torch.Tensor,
    timesteps: torch.Tensor,
    statistics: torch.Tensor,
    areas: torch.Tensor | None,
) -> torch.Tensor:
    """Photos (B, 3, H, W) in [-1, 1] by the global path alone; what it knows: `AffineGridHead.global_coefficients`."""
    added = head.global_coefficients(condition, means, timesteps, statistics, areas)
    return head.retouch(identity_coefficients(head.config.grid_depth, 1, 1) + added, photo)


def fit(pipe: DiffRetouchPipeline, pairs: PairCache, steps: int, batch_size: int, seed: int) -> float:
    """Train the global path of the pipeline's head alone, in place, under its `noise_offset`.

    Returns the mean L1 of the last tenth of the steps, pixels in [-1, 1].
    """
    head = pipe.grid_head
    silence(head)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    timestep_range = (pipe.config.min_timestep, scheduler.config.num_train_timesteps)
    scale = retouch_spread(pairs)
    reach = REACH * slider_reach(pairs, scale)
    n = min(batch_size, CONTRASTIVE_BATCH_SIZE)
    path = [part for part in (head.whole, head.areas) if part is not None]
    optimizer = torch.optim.AdamW(torch.nn.ModuleList(path).parameters(), LEARNING_RATE, weight_decay=0.01)
    rng = torch.Generator().manual_seed(seed)
    history = []
    for step in tqdm(range(steps), desc="Fitting the head"):
        for group in optimizer.param_groups:
            group["lr"] = (
                LEARNING_RATE * min(1, 20 * (step + 1) / steps) * 0.5 * (1 + math.cos(math.pi * step / steps))
            )
        indices = pair_indices(step, batch_size, len(pairs), seed)
        asked = torch.rand(batch_size, 1, generator=rng) >= CONDITION_DROPOUT
        flip = torch.rand(batch_size, generator=rng) < 0.5
        batch = pairs.batch(indices, pairs.conditions(indices) * asked, flip)
        timesteps = torch.randint(*timestep_range, (batch_size,), generator=rng)
        noise = draw_noise((batch_size, *pairs.latent_shape), pipe.config.noise_offset, rng)
        means = scheduler.add_noise(batch.latents, noise, timesteps).mean((2, 3))
        slider, position = torch.randint(4, (n,), generator=rng), 2 * torch.rand(n, generator=rng) - 1
        before, moved = move_one(batch.condition[:n], slider, position, torch.rand(n, generator=rng) < 0.5)

        statistics, areas = head.statistics(batch.photo_latents)
        # A transform of the whole picture shows in a quarter of its pixels; contrast, the attribute, does not.
        answer = retouch(head, batch.photo[..., ::2, ::2], batch.condition, means, timesteps, statistics, areas)
        pixel = l1_loss(answer, batch.target[..., ::2, ::2])
        first = means[:n], timesteps[:n], statistics[:n], None if areas is None else areas[:n]
        pictures = [retouch(head, batch.photo[:n], condition, *first) for condition in (before, before + moved)]
        start, end = (attribute_scores(((picture + 1) / 2).clamp(0, 1)) / scale for picture in pictures)
        contrastive = linear_contrastive_loss(start, start, end, before, moved, reach[indices[:n]])
        optimizer.zero_grad()
        (pixel + CONTRASTIVE_WEIGHT * contrastive).backward()
        optimizer.step()
        history.append(pixel.item())
    last = history[-max(1, steps // 10) :]
    return sum(last) / len(last)


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="pipeline folder or Hub id")
    parser.add_argument("dataset", help="folder or Hub id, in the project's schema; its training split is used")
    parser.add_argument("--steps", type=int, default=8000, help="(default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument(
        "--noise_offset",
        type=float,
        default=0.3,
        help="of the training noise, and of the fitted pipeline until make_bundle.py sets its own "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--min_timestep", type=int, help="where sampling is to stop from now on (default: where the model stops)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--cache_dir", type=Path, help="encoded pictures, as of a training run (default: OUTPUT/cache)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the fitted pipeline")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    try:
        for name in ("steps", "batch_size"):
            if getattr(options, name) < 1:
                raise ValueError(f"`{name}` has to be at least 1, got {getattr(options, name)}.")
        if not 0 <= options.noise_offset <= 10:
            raise ValueError(f"`noise_offset` has to be in [0, 10], got {options.noise_offset}.")
        rows = read_split(options.dataset, "train")
        pipe = DiffRetouchPipeline.from_pretrained(options.model)
        silence(pipe.grid_head)
        stop = pipe.config.min_timestep if options.min_timestep is None else options.min_timestep
        if not 0 <= stop < pipe.scheduler.config.num_train_timesteps - 1:
            raise ValueError(f"`min_timestep` has to be a timestep before the last, got {stop}.")
        pipe.register_to_config(noise_offset=options.noise_offset, min_timestep=stop)
        cache = options.cache_dir or options.output / "cache"
        pairs = PairCache(rows, pipe, PIXEL_SIZE, cache)
        remaining = fit(pipe, pairs, options.steps, options.batch_size, options.seed)
        pipe.save_pretrained(options.output)
    except (OSError, TypeError, ValueError) as error:
        print(f"fit_head.py: {error}", file=sys.stderr)
        return 2
    print(f"Mean error {remaining:.4f} of pixels in [-1, 1]: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
