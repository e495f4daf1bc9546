"""Fit the grid head's global path by plain regression, before the whole model goes on training.

python train_lora/fit_head.py runs/bundled/checkpoint-001000 data-synthetic -o runs/bundled-fitted

The path is a small network from a photo's statistics and c to one transform of the whole photo, which is most of a
retouch. By itself it sees a thousand pairs in the time in which it would see twelve beside the UNet. What the local
path and the UNet's say in the global one have learned is set back to nothing: it was learned beside another one.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from torch.nn.functional import l1_loss
from tqdm.auto import tqdm

from diffretouch import DiffRetouchPipeline
from diffretouch.data.dataset import read_split
from diffretouch.modeling_affine_grid import (
    NUM_CONDITIONS,
    NUM_STATISTICS,
    AffineGridHead,
    identity_coefficients,
)
from diffretouch.training.data import PairCache
from diffretouch.training.objective import pair_indices

PIXEL_SIZE = 64  # that of the recipes, whose cache may be shared
LEARNING_RATE = 2e-3
CONDITION_DROPOUT = 0.2


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
    head.whole[0].weight[:, NUM_STATISTICS + NUM_CONDITIONS :] = 0
    for parameter in head.whole[-1].parameters():
        parameter.mul_(0.1)


def fit(head: AffineGridHead, pairs: PairCache, steps: int, batch_size: int, seed: int) -> float:
    """Train the global path alone, in place; returns the mean L1 of the last tenth of the steps, pixels in [-1, 1]."""
    silence(head)
    depth = head.config.grid_depth
    identity = identity_coefficients(depth, 1, 1)
    style = torch.zeros(batch_size, head.whole[0].in_features - NUM_STATISTICS - NUM_CONDITIONS)
    optimizer = torch.optim.AdamW(head.whole.parameters(), LEARNING_RATE, weight_decay=0.01)
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
        coefficients = identity + head.global_coefficients(batch.photo_latents, batch.condition, style)
        # A transform of the whole picture shows in a quarter of its pixels.
        loss = l1_loss(head.retouch(coefficients, batch.photo[..., ::2, ::2]), batch.target[..., ::2, ::2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    last = history[-max(1, steps // 10) :]
    return sum(last) / len(last)


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="pipeline folder or Hub id")
    parser.add_argument("dataset", help="folder or Hub id, in the project's schema; its training split is used")
    parser.add_argument("--steps", type=int, default=6000, help="(default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=64, help="(default: %(default)s)")
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
        rows = read_split(options.dataset, "train")
        pipe = DiffRetouchPipeline.from_pretrained(options.model)
        silence(pipe.grid_head)
        cache = options.cache_dir or options.output / "cache"
        pairs = PairCache(rows, pipe, PIXEL_SIZE, cache)
        remaining = fit(pipe.grid_head, pairs, options.steps, options.batch_size, options.seed)
        pipe.save_pretrained(options.output)
    except (OSError, TypeError, ValueError) as error:
        print(f"fit_head.py: {error}", file=sys.stderr)
        return 2
    print(f"Mean error {remaining:.4f} of pixels in [-1, 1]: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
