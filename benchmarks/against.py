#!/usr/bin/env python3
"""Throughput of a batch beside that of another checkout of this repository, such as one of before a change.

    git worktree add ../before COMMIT
    python benchmarks/against.py ../before examples/*.jpg [--photos 24] [--turns 7] [-o against.json]

Makes a folder of JPEGs of 2 to 12 MP from the given photos and has both versions retouch it, each in a process of its
own that has loaded everything, in turns: so what else the machine does hits both. All photos get one saved look, and
then the bundled model's retouch of each version. Ratios are of medians, this checkout's to the other's: above 1 it has
become slower. Processor seconds count both cores and are the steadier ones on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from limits import Worker, answer
from PIL import Image
from tqdm import tqdm

_MEMORY = 16 << 30
_SECONDS = 1800
_MEGAPIXELS = (2.0, 12.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("photos", nargs="+", type=Path, help="what the folder is made of")
    parser.add_argument("--photos", dest="count", type=int, default=24, help="in the folder (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=7, help="of each version (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="photos at once (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        answer(_batch, _MEMORY)
        return 0
    versions = {"this": Path(__file__).parents[1], "other": options.other}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_photos(options.photos, options.count, place / "photos")
        result = _measured(versions, place, options.turns, options.workers)
    for name, row in result.items():
        wall, processor = row["ratio_wall"], row["ratio_processor"]
        print(f"{name}: {wall:.3f} of the other's time, {processor:.3f} of its processor seconds; {row['medians']}")
    if options.output:
        settings = {"photos": options.count, "turns": options.turns, "workers": options.workers}
        settings["commits"] = {name: _commit(path) for name, path in versions.items()}
        options.output.write_text(json.dumps({"settings": settings, **result}, indent=2) + "\n")
    return 0


def _commit(checkout: Path) -> str:
    told = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=checkout, capture_output=True, text=True)
    return told.stdout.strip()


def make_photos(sources: list[Path], count: int, folder: Path) -> None:
    """JPEGs of 2 to 12 MP, no two of one content."""
    folder.mkdir()
    for number, megapixels in enumerate(np.linspace(*_MEGAPIXELS, count)):
        with Image.open(sources[number % len(sources)]) as opened:
            photo = opened.convert("RGB")
        scale = (megapixels * 1e6 / (photo.width * photo.height)) ** 0.5
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BICUBIC)
        photo.save(folder / f"{number:03}.jpg", quality=92)


def saved_look(place: Path) -> Path:
    """What this version's model does to the first photo."""
    from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline, open_photo

    pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)
    grid = pipe(open_photo(place / "photos" / "000.jpg").model_view(), output_type="grid").grids[0]
    grid.save(place / "look.safetensors")
    return place / "look.safetensors"


def _measured(versions: dict[str, Path], place: Path, turns: int, workers: int) -> dict[str, Any]:
    running = {
        name: Worker(
            ["env", f"PYTHONPATH={path.resolve() / 'pipeline'}", sys.executable, __file__, ".", ".", "--worker"],
            _SECONDS,
        )
        for name, path in versions.items()
    }
    result = {}
    for what, look in (("look", saved_look(place)), ("model", None)):
        taken: dict[str, list[list[float]]] = {name: [] for name in versions}
        for turn in tqdm(range(-1, turns), desc=what, unit="turn"):  # the first warms up
            for name in sorted(versions, reverse=turn % 2 == 0):
                out = place / "out"
                times = running[name].ask([str(place / "photos"), str(out), str(look) if look else None, workers])
                shutil.rmtree(out)
                taken[name] += [times] if turn >= 0 else []
        medians = {
            name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in taken.items()
        }
        result[what] = {
            "ratio_wall": medians["this"][0] / medians["other"][0],
            "ratio_processor": medians["this"][1] / medians["other"][1],
            "medians": medians,
            "seconds": taken,
        }
    for worker in running.values():
        worker.close()
    return result


def _batch(request: tuple[str, str, str | None, int]) -> tuple[float, float]:
    """Seconds on the clock and of the processor that one batch takes in this process's version."""
    from diffretouch.batch.loop import retouch_files
    from diffretouch.batch.plan import Naming, plan
    from diffretouch.batch.settings import Settings

    photos, out, look, workers = request
    jobs = plan([Path(photos)], Naming(Path(out)))
    started = time.perf_counter(), time.process_time()
    records = list(retouch_files(jobs, Settings(look=look), workers=workers))
    ended = time.perf_counter(), time.process_time()
    failed = [record["error"] for record in records if record["error"]]
    if failed:
        raise RuntimeError(failed[0])
    return ended[0] - started[0], ended[1] - started[1]


if __name__ == "__main__":
    sys.exit(main())
