"""Quality, control and diversity of a model on a data set, beside simple baselines.

    python benchmarks/quality.py --dataset FOLDER -o quality.json
    python benchmarks/quality.py --model bundled --dataset FOLDER --split test --num_photos 20 -o quality.json

FOLDER is a data set in the project's schema (`data/{split}-*.parquet`). Prints Markdown tables, writes every number,
per photo too, as JSON. One photo takes 45 retouches: about half a minute for the bundled model on two CPU cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

# Before torch starts its threads: long OpenMP spinning makes small virtual machines ten times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import datasets
from tqdm import tqdm

from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline
from diffretouch.evaluation import evaluate, format_table, save_json


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see the file's first lines."""
    parser = argparse.ArgumentParser(description="Quality, control and diversity of a model on a data set.")
    parser.add_argument("--model", default="bundled", help="'bundled', a folder or a Hub id (default: %(default)s)")
    parser.add_argument("--dataset", type=Path, required=True, help="folder with data/{split}-*.parquet")
    parser.add_argument("--split", default="test", help="(default: %(default)s)")
    parser.add_argument("--num_photos", type=int, help="at most so many photos, evenly spaced (default: all)")
    parser.add_argument("--steps", type=int, help="inference steps (default: the checkpoint's)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="(default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    return parser.parse_args(arguments)


def split_files(folder: Path, split: str) -> list[str]:
    """The parquet files of one split of the data set in `folder`."""
    files = sorted(str(path) for path in (folder / "data").glob(f"{split}-*.parquet"))
    if not files:
        raise FileNotFoundError(f"`--dataset` has to be a folder with data/{split}-*.parquet, got {folder}.")
    return files


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, print the tables and write the JSON."""
    if not arguments.output.parent.is_dir():
        # An evaluation takes long; a misspelt folder should not cost one.
        raise FileNotFoundError(f"`--output` has to be in an existing folder, got {arguments.output}.")
    files = split_files(arguments.dataset, arguments.split)
    model = BUNDLED_MODEL if arguments.model == "bundled" else arguments.model
    pipe = DiffRetouchPipeline.from_pretrained(model).to(arguments.device)
    pipe.set_progress_bar_config(disable=True)
    # datasets keeps an Arrow copy of what it reads; a temporary one leaves nothing in the home folder.
    with tempfile.TemporaryDirectory() as cache_dir, tqdm(unit="photo") as bar:
        datasets.disable_progress_bars()
        rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache_dir)

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result = evaluate(
            pipe,
            rows,
            seed=arguments.seed,
            num_inference_steps=arguments.steps,
            num_photos=arguments.num_photos,
            progress=show,
        )
    result["settings"] |= {
        "model": arguments.model,
        "dataset": arguments.dataset.resolve().name,
        "split": arguments.split,
    }
    save_json(result, arguments.output)
    print(format_table(result))


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on what was wrong."""
    try:
        run(parse_arguments(arguments))
    except (OSError, TypeError, ValueError) as error:
        print(f"quality.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
