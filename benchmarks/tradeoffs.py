"""What one figure costs in another: models and ways to sample them, side by side on everything that pulls apart.

    python benchmarks/tradeoffs.py data-synthetic -o tradeoffs.json --finished photos/finished --pairs real
    python benchmarks/tradeoffs.py data-synthetic -o tradeoffs.json --models runs/a/final runs/b/checkpoint-200 \\
        --timesteps 999,650,300 999,650 999 --noise_offsets 2 1 3

Every model, at all the timesteps and offsets of the initial noise that are named, is one row: mean CIEDE2000 to the
experts of a validation split at c = 0, with the expert's own c and of the nearest of 8 seeds; how far seeds lie apart;
the share of variants that end more than 5% farther from their nearest expert than the input; and where folders are
given, what c = 0 does to finished photos (how far it moves them, and what a second and a third pass move, in units of
the pass before) and how near it comes to real experts (as `diffretouch evaluate` measures both). The first row is what
the others are compared to, photo by photo, with 95% bootstrap intervals. Choose on validation photos.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before torch starts its threads: long OpenMP spinning makes small virtual machines ten times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np
import torch
from output import require_folder
from tqdm import tqdm

from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline
from diffretouch.attributes import ATTRIBUTES
from diffretouch.data.dataset import decode, photos_of, read_split
from diffretouch.evaluation.baselines import no_change
from diffretouch.evaluation.distribution import seeds_of
from diffretouch.evaluation.folders import Pairs, read_finished, read_pairs
from diffretouch.evaluation.harm import measure_harm
from diffretouch.evaluation.intervals import difference_figure, mean_figure, resamples
from diffretouch.evaluation.measure import evenly_spaced
from diffretouch.evaluation.methods import Methods, Model, quantised
from diffretouch.evaluation.metrics import delta_e_2000
from diffretouch.evaluation.one_photo import DEFAULT_SEED, variant_seeds, variety
from diffretouch.evaluation.photos import EvaluatedPhoto, read_photo
from diffretouch.evaluation.real_pairs import measure_real_pairs
from diffretouch.evaluation.summarise import worse
from diffretouch.files import save_json
from diffretouch.model.checks_diffretouch import check_count, check_number
from diffretouch.photo import PhotoError

C0, ORACLE, NEAREST, APART, FARTHER = "c = 0", "oracle c", "nearest of 8", "seeds apart", "variants farther"
HARM = ("moved", "second", "third")
SEED = 0


@dataclass(frozen=True)
class Way(Model):
    """A model and how it is sampled.

    Args:
        timesteps: descending; None for the model's own.
        noise_offset: of the initial noise; None for the model's own.
    """

    timesteps: tuple[int, ...] | None = None
    noise_offset: float | None = None

    def variants(self, picture: np.ndarray, seeds: Sequence[int]) -> list[np.ndarray]:
        """One retouch at c = 0 per seed."""
        return self.pictures(picture, [[0.0] * len(ATTRIBUTES)] * len(seeds), seeds)

    def pictures(
        self, picture: np.ndarray, conditions: Sequence[Sequence[float]], seeds: Sequence[int]
    ) -> list[np.ndarray]:
        """One retouch per condition and seed."""
        own = self.pipe.config.noise_offset
        self.pipe.register_to_config(noise_offset=own if self.noise_offset is None else self.noise_offset)
        try:
            output = self.pipe(
                [quantised(picture)] * len(seeds),
                **dict(zip(ATTRIBUTES, map(list, zip(*conditions, strict=True)), strict=True)),
                timesteps=self.timesteps,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="grid",
            )
        finally:
            self.pipe.register_to_config(noise_offset=own)
        return [grid.apply(picture) for grid in output.grids]


def ways_of(models: Sequence[str], timesteps: Sequence[str], noise_offsets: Sequence[float]) -> dict[str, Way]:
    """Every model in every way, by the names of the rows; where no way is named, in its own.

    Raises:
        OSError, ValueError: if a model does not load, timesteps are not whole numbers, or an offset is none that
            models have.
    """
    for given in noise_offsets:
        check_number("noise_offsets", given, 0, 10)
    steps: list[tuple[int, ...] | None] = [_numbers(one) for one in timesteps] or [None]
    offsets: list[float | None] = [*noise_offsets] or [None]
    ways = {}
    for model in models:
        pipe = DiffRetouchPipeline.from_pretrained(model)
        pipe.set_progress_bar_config(disable=True)
        for at, offset in itertools.product(steps, offsets):
            name = "the bundled model" if model == BUNDLED_MODEL else model
            name += f", at {', '.join(map(str, at))}" if at else ""
            name += "" if offset is None else f", offset {offset:g}"
            ways[name] = Way(pipe, None, at, offset)
    return ways


def _numbers(timesteps: str) -> tuple[int, ...]:
    try:
        return tuple(int(one) for one in timesteps.split(","))
    except ValueError:
        raise ValueError(f"`timesteps` has to be whole numbers joined by commas, got {timesteps!r}.") from None


def measure_photo(way: Way, photo: EvaluatedPhoto) -> dict[str, float]:
    """`C0` to `FARTHER` of one photo: means over its experts, over pairs of seeds, and over seeds."""
    middle, *variants = way.variants(photo.picture, [DEFAULT_SEED, *variant_seeds(SEED, photo.photo_id)])
    own = way.pictures(photo.picture, list(photo.conditions.values()), [DEFAULT_SEED] * len(photo.conditions))
    found = variety(variants, photo.targets)
    untouched = {name: {"delta_e": delta_e_2000(photo.picture, target)} for name, target in photo.targets.items()}
    return {
        C0: float(np.mean([delta_e_2000(middle, target) for target in photo.targets.values()])),
        ORACLE: float(np.mean([delta_e_2000(*both) for both in zip(own, photo.targets.values(), strict=True)])),
        NEAREST: float(np.mean([min(of_expert) for of_expert in found["variants"].values()])),
        APART: found["diversity"],
        FARTHER: worse(found["variants"], untouched),
    }


def measure(
    ways: Mapping[str, Way],
    photos: Sequence[Sequence[Mapping[str, Any]]],
    finished: Mapping[str, np.ndarray] | None,
    pairs: Pairs | None,
) -> dict[str, Any]:
    """{name of a way: its figures}, each of the later ones with the paired difference to the first.

    Args:
        photos: the rows of each, pictures still encoded.
    """
    records: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for rows in tqdm(photos, unit="photo"):
        photo = read_photo(rows[0]["photo_id"], [_decoded(row) for row in rows])
        for name, way in ways.items():
            records[name].append(measure_photo(way, photo))
    found: dict[str, Any] = _compared(records)
    if finished is not None:
        for name, harm in measure_harm(ways, finished, SEED)["methods"].items():
            found[name]["finished photos"] = {figure: harm[figure] for figure in HARM}
    if pairs is not None:
        real = measure_real_pairs(Methods({"no change": no_change}, ways), pairs, SEED)["records"]
        single = _compared({name: [_plain(record) for record in real[name]] for name in ways})
        nearest = _compared({name: [_plain(record) for record in real[seeds_of(name)]] for name in ways})
        for name in ways:
            found[name]["real pairs"] = {**single[name], NEAREST: nearest[name]["delta_e"]}
    return found


def _decoded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "input": decode(row["input"]), "target": decode(row["target"])}


def _plain(record: Mapping[str, Any]) -> dict[str, float]:
    return {figure: record[figure] for figure in ("delta_e", "psnr")}


def _compared(records: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, Any]]:
    first = next(iter(records.values()))
    samples = resamples(len(first), SEED)

    def values(of: Sequence[Mapping[str, float]], figure: str) -> list[float]:
        return [record[figure] for record in of]

    return {
        name: {
            figure: mean_figure(values(of, figure), samples)
            | (
                {}
                if of is first
                else {"to the first": difference_figure(values(of, figure), values(first, figure), samples)}
            )
            for figure in first[0]
        }
        for name, of in records.items()
    }


def format_table(found: Mapping[str, Any]) -> str:
    """The means as a Markdown table, a way a row."""
    figures = next(iter(found.values()))
    groups: dict[str, tuple[str, ...]] = {"": (C0, ORACLE, NEAREST, APART, FARTHER)}
    groups |= {"finished photos": HARM} if "finished photos" in figures else {}
    groups |= {"real pairs": ("delta_e", "psnr", NEAREST)} if "real pairs" in figures else {}
    header = [f"{group}: {figure}" if group else figure for group, of in groups.items() for figure in of]
    lines = ["| | " + " | ".join(header) + " |", "| --- |" + " ---: |" * len(header)]
    for name, of_way in found.items():
        means = [(of_way[group] if group else of_way)[figure] for group, of in groups.items() for figure in of]
        cells = ["-" if figure is None else f"{figure['mean']:.3f}" for figure in means]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder or Hub id, in the project's schema")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--models", nargs="+", default=[BUNDLED_MODEL], help="(default: the bundled one)")
    parser.add_argument("--timesteps", nargs="+", default=[], metavar="T,T,T", help="(default: each model's own)")
    parser.add_argument("--noise_offsets", nargs="+", type=float, default=[], help="(default: each model's own)")
    parser.add_argument("--split", default="validation", help="(default: %(default)s)")
    parser.add_argument("--num_photos", type=int, help="of the split, evenly spaced (default: all)")
    parser.add_argument("--finished", type=Path, help="folder of finished photos")
    parser.add_argument("--pairs", type=Path, help="folder of real pairs, as for `diffretouch evaluate`")
    options = parser.parse_args(arguments)
    try:
        require_folder(options.output)
        check_count("num_photos", 1 if options.num_photos is None else options.num_photos, 1, None)
        ways = ways_of(options.models, options.timesteps, options.noise_offsets)
        photos = evenly_spaced(list(photos_of(read_split(options.dataset, options.split))), options.num_photos)
        finished = None if options.finished is None else read_finished(options.finished)
        pairs = None if options.pairs is None else read_pairs(options.pairs)
        found = measure(ways, photos, finished, pairs)
    except (OSError, PhotoError, TypeError, ValueError) as error:
        print(f"tradeoffs.py: {error}", file=sys.stderr)
        return 2
    save_json({"photos": len(photos), "ways": found}, options.output)
    print(format_table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
