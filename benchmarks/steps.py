"""Quality against sampling steps, for the stock schedulers: which setting is the fastest that loses nothing?

    python benchmarks/steps.py --dataset FOLDER -o steps.json
    python benchmarks/steps.py --dataset FOLDER --num_photos 12 --schedulers DDPM DPM++ --steps 1 2 4 -o steps.json

FOLDER is a data set in the project's schema. Choose on its validation split; the test split is for the result. Every
setting retouches the same photos with the same seeds, so each is held against the reference, DDPM at 20 steps as
published, photo by photo, with a 95% bootstrap interval of the mean difference.

A setting *loses nothing* when neither its error, at c = 0 and at oracle c, nor its control is measurably worse than
the reference's (zero lies in the interval, or on its worse side), the mean differences are below `MARGIN_ERROR` and
`MARGIN_CONTROL`, so that a wide interval excuses nothing, and its seeds differ by `LEAST_DIVERSITY` or more.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Before torch starts its threads: long OpenMP spinning makes small virtual machines ten times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import diffusers
import numpy as np
import torch
from output import require_folder
from skimage.color import deltaE_ciede2000, rgb2lab
from tqdm import tqdm

from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline
from diffretouch.attributes import ATTRIBUTES, attribute_scores, attribute_view
from diffretouch.data.dataset import decode, photos_of, read_split
from diffretouch.files import save_json

# Everything else stays as in the checkpoint's own scheduler. "trailing" starts those that know only a spacing of their
# own at the noisiest timestep, where the chain of the others starts; their single step is that timestep alone, what a
# checkpoint's `fast_timesteps` of "999" means, where the others' is the lowest one.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDPM": ("DDPMScheduler", {}),
    "DPM++": ("DPMSolverMultistepScheduler", {}),
    "DPM++ SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "LCM": ("LCMScheduler", {}),
    "TCD": ("TCDScheduler", {}),
    "DDIM": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "UniPC": ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}),
}
STEPS = (1, 2, 4, 8, 20)
REFERENCE = ("DDPM", 20)
NUM_SEEDS = 4  # at c = 0: their mean error and how much they differ
NUM_ORACLE_SEEDS = 2  # per expert's c
BOOTSTRAP_SAMPLES = 4000

MARGIN_ERROR = 0.1  # Delta E 2000: a tenth of what is just noticeable
MARGIN_CONTROL = 0.02  # of the range between a photo's experts
LEAST_DIVERSITY = 1.5  # mean pairwise Delta E 2000 of seeds


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see the file's first lines."""
    parser = argparse.ArgumentParser(description="Quality against sampling steps, for the stock schedulers.")
    parser.add_argument("--model", default="bundled", help="'bundled', a folder or a Hub id (default: %(default)s)")
    parser.add_argument("--dataset", type=Path, required=True, help="folder with data/{split}-*.parquet")
    parser.add_argument("--split", default="validation", help="(default: %(default)s)")
    parser.add_argument("--num_photos", type=int, help="at most so many photos, evenly spaced (default: all)")
    parser.add_argument("--schedulers", nargs="+", choices=SCHEDULERS, default=list(SCHEDULERS), metavar="NAME")
    parser.add_argument("--steps", nargs="+", type=int, default=list(STEPS), help="(default: 1 2 4 8 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise and the resampling (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parsed = parser.parse_args(arguments)
    if min(parsed.steps) < 1 or (parsed.num_photos is not None and parsed.num_photos < 1):
        parser.error("`--steps` and `--num_photos` have to be at least 1.")
    return parsed


def run(arguments: argparse.Namespace) -> None:
    """Measure every setting on every photo, print the table and write the JSON."""
    require_folder(arguments.output)
    photos = list(photos_of(read_split(arguments.dataset, arguments.split)))
    count = min(len(photos), arguments.num_photos or len(photos))
    chosen = [photos[number * len(photos) // count] for number in range(count)]
    model = BUNDLED_MODEL if arguments.model == "bundled" else arguments.model
    pipe = DiffRetouchPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    asked = [(name, steps) for name in arguments.schedulers for steps in sorted(set(arguments.steps))]
    settings = list(dict.fromkeys([REFERENCE, *asked]))
    stock = pipe.scheduler.config
    records: dict[tuple[str, int], list[dict[str, Any]]] = {setting: [] for setting in settings}
    for rows in tqdm(chosen, unit="photo"):
        for name, steps in settings:
            kind, options = SCHEDULERS[name]
            pipe.scheduler = getattr(diffusers, kind).from_config(stock, **options)
            records[name, steps].append(measure_photo(pipe, rows, steps, arguments.seed))
    result = {
        "settings": {
            "model": arguments.model,
            "dataset": arguments.dataset.resolve().name,
            "split": arguments.split,
            "num_photos": count,
            "seed": arguments.seed,
            "min_timestep": pipe.config.min_timestep,
            "margins": {"error": MARGIN_ERROR, "control": MARGIN_CONTROL, "diversity": LEAST_DIVERSITY},
        },
        "rows": summarise(records, arguments.seed),
    }
    save_json(result, arguments.output)
    print(format_table(result))


def measure_photo(pipe: Any, rows: list[dict[str, Any]], steps: int, seed: int) -> dict[str, Any]:
    """Measurements of one photo, given as its rows (one per expert), at one setting.

    Returns:
        `c0`: mean Delta E 2000 of the seeds to the experts at c = 0; `oracle`: the same with each expert's own c;
        `diversity`: mean pairwise Delta E 2000 of the seeds; `changes` (4,): by how much each slider
        moves its own attribute from -1 to +1, in the attribute's unit; `expert_ranges` (4,): how far the experts are
        apart in it; `calls`: of the UNet.
    """
    photo = decode(rows[0]["input"])
    picture = _floats(photo)
    targets = [rgb2lab(_floats(decode(row["target"]))) for row in rows]
    neutral = [0.0] * len(ATTRIBUTES)
    ends = [
        [end if i == j else 0.0 for j in range(len(ATTRIBUTES))] for i in range(len(ATTRIBUTES)) for end in (-1, 1)
    ]
    asked = [row["condition"] for row in rows]
    conditions = [neutral] * NUM_SEEDS + asked * NUM_ORACLE_SEEDS + ends
    seeds = list(range(seed, seed + NUM_SEEDS))
    seeds += [seed + number for number in range(NUM_ORACLE_SEEDS) for _ in rows] + [seed] * len(ends)
    grids = pipe(
        [photo] * len(conditions),
        **dict(zip(ATTRIBUTES, map(list, zip(*conditions, strict=True)), strict=True)),
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(number) for number in seeds],
        output_type="grid",
    ).grids
    made = [grid.apply(picture) for grid in grids]
    variants, oracle = (list(map(rgb2lab, group)) for group in (made[:NUM_SEEDS], made[NUM_SEEDS : -len(ends)]))
    moved = made[-len(ends) :]
    low, high = (_scores(moved[start::2]) for start in (0, 1))  # (4, 4) each: slider x attribute
    experts = np.asarray([[row[name] for name in ATTRIBUTES] for row in rows])
    return {
        "photo_id": rows[0]["photo_id"],
        "c0": _mean_difference(itertools.product(variants, targets)),
        "oracle": _mean_difference(zip(oracle, targets * NUM_ORACLE_SEEDS, strict=True)),
        "diversity": _mean_difference(itertools.combinations(variants, 2)),
        "changes": np.diagonal(high - low).tolist(),
        "expert_ranges": np.ptp(experts, axis=0).tolist(),
        "calls": pipe.num_timesteps,
    }


def _floats(photo: Any) -> np.ndarray:
    return np.asarray(photo, dtype=np.float32) / 255


def _mean_difference(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean CIEDE2000 over pairs of CIELAB pictures (H, W, 3)."""
    return float(np.mean([deltaE_ciede2000(a, b).mean(dtype=np.float64) for a, b in pairs]))


def _scores(pictures: list[np.ndarray]) -> np.ndarray:
    views = [attribute_view(torch.from_numpy(picture).permute(2, 0, 1)[None]) for picture in pictures]
    return attribute_scores(torch.cat(views)).numpy()


def summarise(records: dict[tuple[str, int], list[dict[str, Any]]], seed: int) -> list[dict[str, Any]]:
    """One row per setting: means over photos, and their differences to `REFERENCE` with intervals."""
    count = len(records[REFERENCE])
    samples = np.random.default_rng(seed).integers(count, size=(BOOTSTRAP_SAMPLES, count))
    values = {setting: _columns(photos) for setting, photos in records.items()}
    rows = []
    for (name, steps), columns in values.items():
        paired = {key: columns[key] - values[REFERENCE][key] for key in columns}
        differences = {key: float(difference.mean()) for key, difference in paired.items()}
        intervals = {
            key: np.percentile(difference[samples].mean(1), (2.5, 97.5)).tolist() for key, difference in paired.items()
        }
        means = {key: float(column.mean()) for key, column in columns.items()}
        changes = np.asarray([photo["changes"] for photo in records[name, steps]])
        rows.append(
            {
                "scheduler": name,
                "steps": steps,
                "calls": records[name, steps][0]["calls"],
                **means,
                "right_way": float((changes > 0).mean()),
                "differences": differences,
                "intervals": intervals,
                "loses_nothing": loses_nothing(differences, intervals, means["diversity"]),
                "photos": records[name, steps],
            }
        )
    return rows


def loses_nothing(differences: dict[str, float], intervals: dict[str, list[float]], diversity: float) -> bool:
    """Whether a setting is as good as the reference, see the file's first lines."""
    errors_hold = all(intervals[key][0] <= 0 and differences[key] <= MARGIN_ERROR for key in ("c0", "oracle"))
    control_holds = intervals["control"][1] >= 0 and differences["control"] >= -MARGIN_CONTROL
    return errors_hold and control_holds and diversity >= LEAST_DIVERSITY


def _columns(photos: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Per photo (P,): the two errors, the diversity, and the control: the sliders' mean change in units of the mean
    range between a photo's experts."""
    ranges = np.mean([photo["expert_ranges"] for photo in photos], axis=0)
    changes = np.asarray([photo["changes"] for photo in photos])
    plain = {key: np.asarray([photo[key] for photo in photos]) for key in ("c0", "oracle", "diversity")}
    return {**plain, "control": (changes / ranges).mean(1)}


def format_table(result: dict[str, Any]) -> str:
    """The rows of `summarise` as a Markdown table."""
    settings = result["settings"]
    header = ["Scheduler", "steps", "UNet calls", "Delta E at c = 0", "oracle c", "control", "right way", "diversity"]
    lines = [header + ["loses nothing"], ["---"] + ["---:"] * len(header)]
    for row in result["rows"]:
        measured = [
            f"{row[key]:.2f} ({row['differences'][key]:+.2f} [{low:+.2f}, {high:+.2f}])"
            for key, (low, high) in row["intervals"].items()
        ]
        error, oracle, diversity, control = measured
        verdict = "yes" if row["loses_nothing"] else "no"
        lines.append(
            [row["scheduler"], str(row["steps"]), str(row["calls"]), error, oracle, control]
            + [f"{row['right_way']:.0%}", diversity, verdict]
        )
    return (
        f"{settings['num_photos']} photos of the {settings['split']} split, seed {settings['seed']}, chain down to "
        f"t = {settings['min_timestep']}. In brackets the difference to the reference and its 95% interval.\n\n"
        + "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    )


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on what was wrong."""
    try:
        run(parse_arguments(arguments))
    except (OSError, TypeError, ValueError) as error:
        print(f"steps.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
