"""What each choice in the recipe of the bundled model is worth, one change at a time.

    python benchmarks/ablations.py --dataset data-synthetic -o ablations.json
    python benchmarks/ablations.py --dataset data-synthetic --arms recipe epsilon --steps 1500 -o ablations.json

Every arm is the recipe bundled.yaml at an eighth of the network and few steps, with the change that its name says:
same pairs, timesteps and noises in the same order, once for every seed. So arms tell which way a choice points early
in training, not what a finished model reaches; and what lies within the seeds of one arm tells nothing. Each is
measured on validation photos, as training runs are. Arms that exist in --runs are not trained again. About four
minutes an arm and seed on two CPU cores.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Spinning OpenMP barriers make small machines up to 50 times slower; has to be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from output import require_folder

RECIPE = Path(__file__).parents[1] / "train_lora" / "recipes" / "bundled.yaml"
PER_ATTRIBUTE = "a token per attribute"
ARMS: dict[str, list[str]] = {
    "recipe": [],
    "no contrastive": ["contrastive=none"],
    "signed contrastive": ["contrastive=signed"],
    "published contrastive": ["contrastive=published"],
    "pixel loss mse": ["pixel_loss=mse", "beta=10"],
    "no statistics": ["model.statistics=false"],
    "white noise": ["model.noise_offset=0"],
    "more common noise": ["model.noise_offset=0.7"],
    "signal at the last timestep": ["model.rescale_betas_zero_snr=false"],
    "epsilon": ["model.rescale_betas_zero_snr=false", "model.prediction_type=epsilon"],
    "no more pure noise than the rest": ["pure_noise_share=0"],
    "no settling": ["settling_weight=0"],
    "nothing as in use": ["sampled_batch_size=0", "settling_weight=0"],
    "a head with a bias": ["model.head_bias=true"],
    "down to t = 200 only": ["model.min_timestep=200"],
    "32 x 32 latents": ["model.sample_size=32", "model.head_hidden_channels=[64]"],
    "8 features": ["model.num_features=8"],
    "grid 8 x 8": ["model.head_hidden_channels=[64]"],
    "grid depth 4": ["model.grid_depth=4"],
    "grid depth 16": ["model.grid_depth=16"],
    "guide from mid-grey": ["model.guide_threshold_range=[0, 1]"],
    PER_ATTRIBUTE: [],
}
FIGURES = {
    "delta_e_c0": "Delta E c = 0",
    "delta_e_oracle": "oracle c",
    "diversity": "diversity",
    "control_colorfulness": "colorfulness",
    "control_brightness": "brightness",
    "control_contrast": "contrast",
    "control_temperature": "temperature",
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see the file's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="folder or Hub id, in the project's schema")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, help="(default: all)")
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps an arm (default: %(default)s)")
    parser.add_argument("--num_photos", type=int, default=20, help="validation photos (default: %(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="(default: 0 1)")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"), help="(default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    return parser.parse_args(arguments)


def run_arm(arm: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train one arm from one seed, or take up its run where it stopped; returns its last validation."""
    from diffretouch.training.config import load_config
    from diffretouch.training.loop import train

    folder = options.runs / "".join(letter if letter.isalnum() else "-" for letter in f"{arm} {seed}")
    common = {
        "dataset": options.dataset,
        "output_dir": folder,
        "cache_dir": options.runs / "cache",
        "seed": seed,
        "model.block_out_channels": [16, 32, 64],
        "model.norm_num_groups": 8,
        "max_train_steps": options.steps,
        "learning_rate": 1e-3,
        "lr_warmup_steps": options.steps // 10,
        "ema_decay": 0.99,
        "contrastive_warmup_steps": options.steps // 5,
        "num_validation_photos": options.num_photos,
        "checkpointing_steps": options.steps,
        "validation_steps": options.steps,
        "report_to": "none",
    }
    config = load_config(RECIPE, [*(f"{name}={value}" for name, value in common.items()), *ARMS[arm]])
    if not (folder / "final").is_dir():
        with _tokens_of(arm):
            train(config, resume="latest")
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record for record in records if "delta_e_c0" in record][-1]


@contextmanager
def _tokens_of(arm: str) -> Iterator[None]:
    """Pipelines that training starts from inside the block read c as the arm does.

    The model knows c as one token. The arm that gives each attribute its own is not worth an option in the model, so
    it splits the token at the UNet's door.
    """
    import torch

    from diffretouch.training import loop

    def split(unet: Any, arguments: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        given = inspect.signature(unet.forward).bind(*arguments, **keywords).arguments
        tokens = torch.diag_embed(given["encoder_hidden_states"][:, 0])  # (B, 4, 4)
        return (), {**given, "encoder_hidden_states": tokens}

    def starting_pipeline(config: Any) -> Any:
        pipe = start(config)
        pipe.unet.register_forward_pre_hook(split, with_kwargs=True)
        return pipe

    start = loop.starting_pipeline
    if arm == PER_ATTRIBUTE:
        loop.starting_pipeline = starting_pipeline
    try:
        yield
    finally:
        loop.starting_pipeline = start


def format_table(arms: dict[str, dict[str, dict[str, float]]]) -> str:
    """The figures as a Markdown table, one row per arm, the seeds' one after the other."""
    header = ["one change", *FIGURES.values()]
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * len(FIGURES)]
    for arm, of_seed in arms.items():
        cells = [", ".join(f"{figures[name]:.2f}" for figures in of_seed.values()) for name in FIGURES]
        lines.append("| " + " | ".join([arm, *cells]) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on what was wrong."""
    options = parse_arguments(arguments)
    from diffretouch.files import save_json

    settings = {"steps": options.steps, "num_photos": options.num_photos}
    arms: dict[str, dict[str, dict[str, float]]] = {}
    try:
        require_folder(options.output)
        for arm in options.arms:
            for seed in options.seeds:
                arms.setdefault(arm, {})[str(seed)] = run_arm(arm, seed, options)
                save_json({"settings": settings, "arms": arms}, options.output)  # after each: an hour is long
    except (OSError, TypeError, ValueError) as error:
        print(f"ablations.py: {error}", file=sys.stderr)
        return 2
    print(format_table(arms))
    return 0


if __name__ == "__main__":
    sys.exit(main())
