"""Does a model know its training photos by heart? Its error on new inputs of them, beside that of unseen photos.

    python benchmarks/by_heart.py photos -o by_heart.json
    python benchmarks/by_heart.py photos --models runs/first/final runs/second/final -o by_heart.json

PHOTOS is the folder that dataset_card/fetch_photos.py makes. Every chosen photo gets one input that no data set has
(`camera_photo`, of another seed) and the five experts' pictures of it. Mean CIEDE2000 to the experts at c = 0, of
`--num_photos` training photos and of all validation photos, and their difference with a 95% bootstrap interval. Where
it is near 0, more photos would not bring the model nearer: what is left is the judgement of the input.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import sys
import tempfile
from pathlib import Path

# Before torch starts its threads: long OpenMP spinning makes small virtual machines ten times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np
from output import require_folder

from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline
from diffretouch.data.builders import build_synthetic
from diffretouch.data.dataset import decode, photos_of, read_photo_table, read_split
from diffretouch.evaluation.metrics import delta_e_2000
from diffretouch.files import save_json
from diffretouch.photo import PhotoError

CARD = Path(__file__).parents[1] / "dataset_card"
RESAMPLES = 4000


def write_table(table: Path, out: Path, count: int) -> None:
    """A table of photos in which `count` of those to train on are to be measured, and the unseen ones still are."""
    entries = read_photo_table(table)
    training = [entry for entry in entries if entry["split"] == "train"]
    if not 1 <= count < len(training):
        raise ValueError(f"`num_photos` has to be from 1 to {len(training) - 1}, got {count}.")
    random.Random(0).shuffle(training)
    unseen = [entry for entry in entries if entry["split"] == "validation"]
    known = [{**entry, "split": "test"} for entry in training[:count]]
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, entries[0].keys(), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*known, *unseen, training[count]])


def errors(pipe: DiffRetouchPipeline, data: Path, split: str) -> np.ndarray:
    """(N, 2): mean CIEDE2000 to a photo's experts, of the input and of the retouch at c = 0, for N photos."""
    found = []
    for rows in photos_of(read_split(data, split)):
        photo = np.array(decode(rows[0]["input"]))
        shown = [
            picture.astype(np.float32) / 255
            for picture in (photo, pipe(photo, output_type="grid").grids[0].apply(photo))
        ]
        targets = [np.asarray(decode(row["target"]), np.float32) / 255 for row in rows]
        found.append([np.mean([delta_e_2000(picture, target) for target in targets]) for picture in shown])
    return np.array(found)


def compared(known: np.ndarray, unseen: np.ndarray) -> dict[str, object]:
    """What is written of the errors (N, 2) of training photos and (M, 2) of unseen ones."""
    rng = np.random.default_rng(0)
    drawn = [
        rng.choice(unseen[:, 1], len(unseen)).mean() - rng.choice(known[:, 1], len(known)).mean()
        for _ in range(RESAMPLES)
    ]
    of = {"training": known, "unseen": unseen}
    return {
        **{f"{name} photos": {"number": len(one), **_named(one)} for name, one in of.items()},
        "unseen less training": round(float(unseen[:, 1].mean() - known[:, 1].mean()), 3),
        "interval": np.percentile(drawn, [2.5, 97.5]).round(3).tolist(),
    }


def _named(one: np.ndarray) -> dict[str, float]:
    return dict(zip(("no change", "c = 0"), one.mean(0).round(3).tolist(), strict=True))


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder made by fetch_photos.py")
    parser.add_argument("--models", nargs="+", default=[BUNDLED_MODEL], help="(default: the bundled one)")
    parser.add_argument("--table", type=Path, default=CARD / "photos.tsv", help="(default: %(default)s)")
    parser.add_argument("--labels", type=Path, default=CARD / "labels", help="(default: %(default)s)")
    parser.add_argument("--num_photos", type=int, default=112, help="to train on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="of the inputs (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args(arguments)
    found: dict[str, object] = {}
    try:
        require_folder(options.output)
        pipes = {Path(model).name: DiffRetouchPipeline.from_pretrained(model) for model in options.models}
        with tempfile.TemporaryDirectory() as folder:
            table, data = Path(folder) / "photos.tsv", Path(folder) / "data"
            write_table(options.table, table, options.num_photos)
            how = {"labels": options.labels, "num_inputs": 1, "conditions": "linear", "seed": options.seed}
            build_synthetic(options.photos, data, table=table, long_side=256, **how)
            for name, pipe in pipes.items():
                pipe.set_progress_bar_config(disable=True)
                found[name] = compared(*(errors(pipe, data, split) for split in ("test", "validation")))
                print(f"{name}: {found[name]}", flush=True)
    except (OSError, PhotoError, ValueError) as error:
        print(f"by_heart.py: {error}", file=sys.stderr)
        return 2
    save_json({"seed": options.seed, "models": found}, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
