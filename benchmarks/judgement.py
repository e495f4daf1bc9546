"""What limits c = 0: how well the experts' light and colour can be told from an input, and from how many photos.

    python benchmarks/judgement.py data-synthetic -o judgement.json
    python benchmarks/judgement.py data-synthetic --validation data-synthetic others --pairs real -o judgement.json

What is told is five numbers of the experts' mean picture: mean CIELAB lightness, its spread, mean chroma, mean a*, b*.
Beside the model at c = 0 stands the simplest that could tell them: kernel ridge regression from the 138 statistics
that the model is given as well, from a part of the training photos and of the inputs of each. It looks at no pixel.
Mean absolute errors over the inputs of the validation split, of several data sets where --validation names more than
one (dataset_card/build_dataset.py with other seeds makes other inputs of the same photos), and over real pairs
(--pairs, as for `diffretouch evaluate`); intervals are bootstraps over the photos. Where the model and the regression
err alike, it is the statistics that limit both. The regression's two settings were chosen on the validation inputs.

Besides, a network with two hidden layers on the same statistics, trained for more and more steps with hardly any and
with strong weight decay: what is learned too well of our own inputs is lost on real ones.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

# Before torch starts its threads: long OpenMP spinning makes small virtual machines ten times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np
import PIL.Image
import torch
from output import require_folder
from skimage.color import rgb2lab

from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline
from diffretouch.data.dataset import decode, photos_of, read_split
from diffretouch.evaluation.folders import read_pairs
from diffretouch.evaluation.intervals import difference_figure, mean_figure, resamples
from diffretouch.files import save_json
from diffretouch.model.photo_statistics_diffretouch import photo_statistics, statistics_view
from diffretouch.photo import PhotoError

MEASURES = ("lightness", "spread of lightness", "chroma", "a*", "b*")
SHARES = (1 / 8, 1 / 4, 1 / 2, 1)
PER_PHOTO = (1, 3)
STEPS, DECAYS = (2000, 6000, 12000), (0.01, 1.0)
# Of the kernel: how fast likeness falls, in medians of the squared distance; how little a single input is believed.
FALL, RIDGE = 0.7, 0.1


@dataclass
class Inputs:
    """N inputs, those of one photo under one name."""

    photos: list[str]
    statistics: np.ndarray  # (N, 138)
    before: np.ndarray  # (N, 5), `measures` of the inputs
    after: np.ndarray  # (N, 5), of the experts' pictures, their mean

    def at(self, chosen: np.ndarray) -> Inputs:
        """Those at the places `chosen`."""
        photos = [self.photos[place] for place in chosen]
        return Inputs(photos, self.statistics[chosen], self.before[chosen], self.after[chosen])


def measures(picture: np.ndarray) -> np.ndarray:
    """`MEASURES` (5,) of a picture (H, W, 3) uint8."""
    lab = rgb2lab(np.asarray(PIL.Image.fromarray(picture).resize((64, 64), PIL.Image.Resampling.BOX)))
    chroma = np.hypot(lab[..., 1], lab[..., 2]).mean()
    return np.array([lab[..., 0].mean(), lab[..., 0].std(), chroma, lab[..., 1].mean(), lab[..., 2].mean()])


def split_inputs(dataset: str, split: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(photo, input (H, W, 3) uint8, `measures` of its experts' pictures, their mean) of all inputs of a split.

    A photo's name ends where "#" counts its inputs.
    """
    known: dict[bytes, np.ndarray] = {}

    def of_target(encoded: dict[str, Any]) -> np.ndarray:
        name = hashlib.sha256(encoded["bytes"]).digest()
        if name not in known:
            known[name] = measures(np.array(decode(encoded)))
        return known[name]

    for rows in photos_of(read_split(dataset, split)):
        after = np.mean([of_target(row["target"]) for row in rows], 0)
        yield rows[0]["photo_id"].split("#")[0], np.array(decode(rows[0]["input"])), after


def described(
    inputs: Iterable[tuple[str, np.ndarray, np.ndarray]], pipe: DiffRetouchPipeline | None = None
) -> tuple[Inputs, np.ndarray]:
    """Inputs as `split_inputs` gives them, and `measures` (N, 5) of what `pipe` makes of them, (0, 5) without one."""
    photos: list[str] = []
    statistics, before, after, retouched = [], [], [], []
    for name, picture, wanted in inputs:
        planes = torch.tensor(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
        photos.append(name)
        statistics.append(photo_statistics(statistics_view(planes))[0].numpy())
        before.append(measures(picture))
        after.append(wanted)
        if pipe is not None:
            retouched.append(measures(pipe(picture, output_type="grid").grids[0].apply(picture)))
    columns = (np.array(one, dtype=np.float64) for one in (statistics, before, after))
    return Inputs(photos, *columns), np.array(retouched).reshape(-1, len(MEASURES))


def some_of(photos: list[str], share: float, per_photo: int | None, most: int, seed: int = 0) -> np.ndarray:
    """Places of the inputs of `share` of the photos, at most `per_photo` of each, at most `most`."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(sorted(set(photos)))
    kept, count = set(names[: round(len(names) * share)]), dict.fromkeys(names, 0)
    chosen: list[int] = []
    for place in rng.permutation(len(photos)):
        name = photos[place]
        if name in kept and (per_photo is None or count[name] < per_photo) and len(chosen) < most:
            count[name] += 1
            chosen.append(place)
    return np.array(chosen)


def standardised(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """`values` (M, K) less the means, in the spreads, of the columns of `of` (N, K)."""
    return (values - of.mean(0)) / (of.std(0) + 1e-6)


def told(known: Inputs, statistics: np.ndarray) -> np.ndarray:
    """What kernel ridge regression on `known` tells of M inputs by their `statistics` (M, 138): (M, 5)."""
    places, asked = (standardised(one, known.statistics) for one in (known.statistics, statistics))

    def distances(one: np.ndarray) -> np.ndarray:
        return np.maximum((one**2).sum(1)[:, None] + (places**2).sum(1) - 2 * one @ places.T, 0)

    among = distances(places)
    unit = np.median(among) / FALL
    kernel = np.exp(-among / unit) + RIDGE * np.eye(len(places))
    mean = known.after.mean(0)
    weights = torch.linalg.solve(torch.from_numpy(kernel), torch.from_numpy(known.after - mean)).numpy()
    return np.exp(-distances(asked) / unit) @ weights + mean


def told_by_network(
    known: Inputs, statistics: np.ndarray, steps: int, decay: float, width: int = 256, seed: int = 0
) -> np.ndarray:
    """As `told`, by a network with two hidden layers: L1, AdamW with weight decay `decay`, one cycle up to 2e-3."""
    asked = torch.from_numpy(standardised(statistics, known.statistics)).float()
    places = torch.from_numpy(standardised(known.statistics, known.statistics)).float()
    wanted = torch.from_numpy(standardised(known.after, known.after)).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [torch.nn.Linear(places.shape[1], width), torch.nn.SiLU(), torch.nn.Linear(width, width)]
        network = torch.nn.Sequential(*layers, torch.nn.SiLU(), torch.nn.Linear(width, wanted.shape[1]))
        optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        for _ in range(steps):
            batch = torch.randint(len(places), (128,))
            optimizer.zero_grad()
            torch.nn.functional.l1_loss(network(places[batch]), wanted[batch]).backward()
            optimizer.step()
            schedule.step()
        told_of = network(asked).detach().numpy()
    return told_of * (known.after.std(0) + 1e-6) + known.after.mean(0)


def by_photo(photos: list[str], values: np.ndarray) -> np.ndarray:
    """Means of `values` (N, ...) over the inputs of each photo."""
    names = np.array(photos)
    return np.array([values[names == name].mean(0) for name in dict.fromkeys(photos)])


def learning_curve(train: Inputs, statistics: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """What the regression tells (M, 5) of inputs by their `statistics` (M, 138), from more and more of `train`."""
    number = len(set(train.photos))
    parts = [(1.0, per_photo) for per_photo in PER_PHOTO] + [(share, None) for share in SHARES]
    found: dict[str, np.ndarray] = {}
    for share, per_photo in parts:
        chosen = some_of(train.photos, share, per_photo, most)
        name = f"kernel regression, {len(chosen)} inputs of {round(number * share)} photos"
        found.pop(name, None)  # where photos have few inputs, all of them come last all the same
        found[name] = told(train.at(chosen), statistics)
    return found


def network_curves(train: Inputs, statistics: np.ndarray) -> dict[str, np.ndarray]:
    """What the network tells (M, 5) of inputs by their `statistics` (M, 138), the longer it is trained on `train`."""
    return {
        f"network, weight decay {decay:g}, {steps} steps": told_by_network(train, statistics, steps, decay)
        for decay in DECAYS
        for steps in STEPS
    }


def compared(
    unseen: Inputs, curve: dict[str, np.ndarray], networks: dict[str, np.ndarray], retouched: np.ndarray
) -> dict[str, Any]:
    """Errors on N `unseen` inputs of what `curve` and `networks` tell and of the model's `retouched` (N, 5)."""
    answers = {"the input itself": unseen.before, **curve, **networks, "the model at c = 0": retouched}
    means = {name: by_photo(unseen.photos, np.abs(one - unseen.after)) for name, one in answers.items()}
    samples = resamples(len(set(unseen.photos)), seed=0)
    table = {name: {m: mean_figure(one[:, k], samples) for k, m in enumerate(MEASURES)} for name, one in means.items()}
    kernel, decayed, model = (means[name][:, 0] for name in (list(curve)[-1], list(networks)[-1], list(means)[-1]))
    return {
        "inputs": len(unseen.photos),
        "photos": len(set(unseen.photos)),
        "mean absolute error": table,
        "lightness: the model less the last kernel regression": difference_figure(model, kernel, samples),
        "lightness: the model less the last network": difference_figure(model, decayed, samples),
    }


def judged(dataset: str, validation: list[str], pairs: Path | None, model: str, most: int) -> dict[str, Any]:
    """All that is measured; see the file's first lines."""
    pipe = DiffRetouchPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    inputs = chain.from_iterable(split_inputs(one, "validation") for one in validation)
    measured = {"validation": described(inputs, pipe)}
    if pairs is not None:
        read = ((pair.name, pair.picture, measures(pair.target)) for pair in read_pairs(pairs).pairs)
        measured["real pairs"] = described(read, pipe)
    train, _ = described(split_inputs(dataset, "train"))
    asked = np.concatenate([unseen.statistics for unseen, _ in measured.values()])
    curve, networks = learning_curve(train, asked, most), network_curves(train, asked)
    found, start = {}, 0
    for name, (unseen, retouched) in measured.items():
        part = slice(start, start + len(unseen.photos))
        here, there = ({row: one[part] for row, one in each.items()} for each in (curve, networks))
        found[name] = compared(unseen, here, there, retouched)
        start = part.stop
    return found


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder or Hub id, in the project's schema, to learn from")
    parser.add_argument("--validation", nargs="+", help="to be measured on (default: the same data set)")
    parser.add_argument("--pairs", type=Path, help="folder of real pairs, to be measured on besides")
    parser.add_argument("--model", default=BUNDLED_MODEL, help="(default: the bundled one)")
    parser.add_argument("--most", type=int, default=8000, help="inputs at once: memory is its square (default: 8000)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args(arguments)
    try:
        require_folder(options.output)
        if options.most < 2:
            raise ValueError(f"`most` has to be at least 2, got {options.most}.")
        validation = options.validation or [options.dataset]
        found = judged(options.dataset, validation, options.pairs, options.model, options.most)
    except (OSError, PhotoError, ValueError) as error:
        print(f"judgement.py: {error}", file=sys.stderr)
        return 2
    save_json(found, options.output)
    for where, each in found.items():
        for name, row in each["mean absolute error"].items():
            told_of = ", ".join(f"{measure} {figure['mean']:.2f}" for measure, figure in row.items())
            print(f"{where}, {name}: {told_of}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
