"""Throughput and memory of a batch, beside a loop that retouches the same photos one after another.

    python benchmarks/batch.py PHOTO -o batch.json
    python benchmarks/batch.py PHOTO --photos 10 --workers 3 -o batch.json

Makes JPEGs of the given size from PHOTO and retouches them twice with `retouch_photo`, the same function on the same
model: by a plain loop, in which torch has all cores, and by `retouch_files`. The two take turns, so that what else the
machine does hits both; each loads the model at every turn. Memory is the peak of the process after the first turn and
at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from PIL import Image, ImageOps  # noqa: E402

from diffretouch.batch.loop import retouch_files  # noqa: E402
from diffretouch.batch.plan import Job  # noqa: E402
from diffretouch.batch.report import Record  # noqa: E402
from diffretouch.batch.retouch import Retoucher, retouch_photo  # noqa: E402
from diffretouch.batch.settings import Settings  # noqa: E402

STAGES = ("decode", "model", "apply", "encode")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see the file's first lines."""
    parser = argparse.ArgumentParser(description="Throughput of a batch beside that of a loop.")
    parser.add_argument("photo", type=Path, help="any photo; it is resized to --megapixels")
    parser.add_argument("--photos", type=int, default=50, help="in the batch (default: %(default)s)")
    parser.add_argument("--megapixels", type=float, default=12.0, help="of each (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=2, help="that loop and batch take (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="(default: one per core)")
    parser.add_argument("--model", help="folder or Hub id (default: the bundled model)")
    parser.add_argument("--look", help="a saved retouch to apply instead of asking the model")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parsed = parser.parse_args(arguments)
    if not 1 <= parsed.turns <= parsed.photos:
        parser.error(f"`--turns` has to be in [1, --photos], got {parsed.turns} for {parsed.photos} photos.")
    return parsed


def make_photos(source: Path, megapixels: float, count: int, folder: Path) -> list[Path]:
    """`count` JPEGs of about `megapixels`, no two of one content."""
    with Image.open(source) as opened:
        photo = ImageOps.exif_transpose(opened).convert("RGB")
    scale = (megapixels * 1e6 / (photo.width * photo.height)) ** 0.5
    photo = photo.resize((round(photo.width * scale) + count, round(photo.height * scale)), Image.Resampling.LANCZOS)
    paths = [folder / f"{number:03}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        photo.crop((number, 0, photo.width - count + number, photo.height)).save(path, quality=92)
    return paths


def measure(photos: list[Path], folder: Path, settings: Settings, turns: int, workers: int | None) -> dict[str, Any]:
    """Seconds of loop and batch by turn, those of the stages in each, and the process's peak memory on the way."""
    first = Job(photos[0], folder / "first.jpg")
    check([retouch_photo(first, Retoucher(settings))])  # compiles, and fills the caches
    loop_seconds, batch_seconds, peaks = [], [], []
    loop_records: list[Record] = []
    batch_records: list[Record] = []
    for turn in range(turns):
        share = photos[turn::turns]
        started = time.perf_counter()
        retoucher = Retoucher(settings)  # the batch loads the model for itself, too
        loop_records += [retouch_photo(Job(path, folder / f"loop-{path.name}"), retoucher) for path in share]
        looped = time.perf_counter()
        jobs = [Job(path, folder / f"batch-{path.name}") for path in share]
        batch_records += list(retouch_files(jobs, settings, workers=workers))
        batch_seconds.append(time.perf_counter() - looped)
        loop_seconds.append(looped - started)
        peaks.append(peak_rss_mib())
    check(loop_records + batch_records)
    return {
        "loop_seconds": loop_seconds,
        "batch_seconds": batch_seconds,
        "ratio": sum(loop_seconds) / sum(batch_seconds),
        "loop_stages": stages(loop_records),
        "batch_stages": stages(batch_records),
        "peak_rss_mib": peaks,
    }


def check(records: list[Record]) -> None:
    """Raise RuntimeError with the first photo's error, if there is one."""
    for record in records:
        if record["error"]:
            raise RuntimeError(record["error"])


def stages(records: list[Record]) -> dict[str, float]:
    """Mean seconds of a photo in each stage."""
    return {name: sum(record["seconds"][name] for record in records) / len(records) for name in STAGES}


def peak_rss_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB on Linux


def format_table(result: dict[str, Any]) -> str:
    """The result as a Markdown table with a line on ratio and memory."""
    lines = ["| Stage, mean seconds of a photo | loop | batch |", "| --- | ---: | ---: |"]
    for stage in STAGES:
        lines.append(f"| {stage} | {result['loop_stages'][stage]:.3f} | {result['batch_stages'][stage]:.3f} |")
    count = result["settings"]["photos"]
    loop, batch = sum(result["loop_seconds"]), sum(result["batch_seconds"])
    lines.append(f"| **photos per second** | {count / loop:.2f} | {count / batch:.2f} |")
    peaks = result["peak_rss_mib"]
    return (
        f"{count} photos of {result['settings']['megapixels']:g} MP, {result['settings']['machine']}\n\n"
        + "\n".join(lines)
        + f"\n\nThe batch is {result['ratio']:.2f} times as fast. Peak memory "
        f"{peaks[0]:.0f} MiB after the first turn, {peaks[-1]:.0f} MiB after the last."
    )


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, 2 with one line on what was wrong, or 1 when a photo failed."""
    parsed = parse_arguments(arguments)
    settings = Settings(model=parsed.model, look=parsed.look)
    try:
        with tempfile.TemporaryDirectory() as folder:
            photos = make_photos(parsed.photo, parsed.megapixels, parsed.photos, Path(folder))
            result = measure(photos, Path(folder), settings, parsed.turns, parsed.workers)
        result["settings"] = {
            "photos": parsed.photos,
            "megapixels": parsed.megapixels,
            "workers": parsed.workers,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        }
        parsed.output.write_text(json.dumps(result, indent=2) + "\n")
    except OSError as error:
        print(f"batch.py: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"batch.py: {error}", file=sys.stderr)
        return 1
    print(format_table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
