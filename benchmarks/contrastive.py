"""What the contrastive loss does to control: the same run with it in its forms and without it.

    python benchmarks/contrastive.py --dataset data-synthetic -o contrastive.json
    python benchmarks/contrastive.py --dataset data-synthetic --steps 1200 --arms signed none -o contrastive.json

Every arm starts from the same untrained weights and sees the same pairs, timesteps and noises in the same order; only
the loss differs (and so the time per step, which is reported). Each is then measured on the validation split: quality,
and how the sliders move their attributes. Runs that exist in --runs are measured again, not trained again.
About ten minutes an arm on two CPU cores with the default model and steps.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

# Spinning OpenMP barriers make small machines up to 50 times slower; has to be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

ARMS = {
    "none": ["contrastive=none"],
    "signed": ["contrastive=signed"],
    "signed, every 4th step": ["contrastive=signed", "contrastive_every=4"],
    "published": ["contrastive=published"],
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see the file's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="folder or Hub id, in the project's schema")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, help="(default: all)")
    parser.add_argument("--steps", type=int, default=900, help="optimiser steps an arm (default: %(default)s)")
    parser.add_argument("--num_photos", type=int, default=20, help="validation photos (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/contrastive"), help="(default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    return parser.parse_args(arguments)


def train_arm(arm: str, options: argparse.Namespace) -> Path:
    """Train one arm, or take up its run where it stopped; returns its output folder."""
    from diffretouch.training.config import load_config
    from diffretouch.training.loop import train

    folder = options.runs / arm.replace(",", "").replace(" ", "-")
    common = {
        "dataset": options.dataset,
        "output_dir": folder,
        "cache_dir": options.runs / "cache",
        "seed": options.seed,
        "max_train_steps": options.steps,
        "lr_warmup_steps": options.steps // 10,
        "contrastive_warmup_steps": options.steps // 10,
        "checkpointing_steps": 300,
        "validation_steps": options.steps,
        "report_to": "none",
    }
    config = load_config(None, [*(f"{name}={value}" for name, value in common.items()), *ARMS[arm]])
    if not (folder / "final").is_dir():
        train(config, resume="latest")
    return folder


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Quality and control of the final pipeline in `folder`, with the time its steps took."""
    from datasets import Image

    from diffretouch import DiffRetouchPipeline
    from diffretouch.data.dataset import read_split
    from diffretouch.evaluation import evaluate

    pipe = DiffRetouchPipeline.from_pretrained(folder / "final")
    pipe.set_progress_bar_config(disable=True)
    rows = read_split(options.dataset, "validation")
    rows = rows.cast_column("input", Image()).cast_column("target", Image())
    result = evaluate(pipe, rows, seed=options.seed, num_photos=options.num_photos)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    times = [(record["step"], record["seconds"]) for record in log if "seconds" in record]
    (first_step, first_second), (last_step, last_second) = times[len(times) // 2], times[-1]
    return {
        "quality": {name: result["quality"][name]["delta_e"] for name in ("no change", "c = 0", "oracle c")},
        "control": {
            slider: {name: values[name] for name in ("right_way", "spearman", "range_ratio")}
            for slider, values in result["control"].items()
        },
        "diversity": result["diversity"]["delta_e"],
        # Of the second half: past warm-ups, without what starting costs.
        "seconds_per_step": (last_second - first_second) / max(1, last_step - first_step),
    }


def format_table(arms: dict[str, dict[str, Any]]) -> str:
    """The figures as a Markdown table, one row per arm."""
    sliders = list(next(iter(arms.values()))["control"])
    cells = [f"{name}: right way / range" for name in sliders]
    header = ["contrastive loss", "Delta E c = 0", "Delta E oracle c", *cells, "diversity", "s per step"]
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    for arm, figures in arms.items():
        quality = [f"{figures['quality'][name]:.2f}" for name in ("c = 0", "oracle c")]
        control = [
            f"{100 * values['right_way']:.0f}% / {100 * (values['range_ratio'] or 0):.0f}%"
            for values in figures["control"].values()
        ]
        last = [f"{figures['diversity']:.2f}", f"{figures['seconds_per_step']:.2f}"]
        lines.append("| " + " | ".join([arm, *quality, *control, *last]) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on what was wrong."""
    options = parse_arguments(arguments)
    from diffretouch.evaluation import save_json

    try:
        if not options.output.parent.is_dir():
            raise FileNotFoundError(f"`--output` has to be in an existing folder, got {options.output}.")
        arms = {arm: measure(train_arm(arm, options), options) for arm in options.arms}
        settings = {"steps": options.steps, "seed": options.seed, "num_photos": options.num_photos}
        save_json({"settings": settings, "arms": arms}, options.output)
    except (OSError, TypeError, ValueError) as error:
        print(f"contrastive.py: {error}", file=sys.stderr)
        return 2
    print(format_table(arms))
    return 0


if __name__ == "__main__":
    sys.exit(main())
