"""Time and memory of one retouch from file to file, stage by stage.

    python benchmarks/retouch.py PHOTO -o retouch.json
    python benchmarks/retouch.py PHOTO --megapixels 24 --repeats 5 -o retouch.json

Makes a JPEG of the given size from PHOTO, retouches it in a fresh process and lists decode, conditioning with all
steps, grid head, apply and encode apart: the first run (cold caches) beside the median of the repeats. Peak memory is
that of the whole process, model and imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image, ImageOps

STAGES = ("decode", "steps", "grid", "apply", "encode")
LABELS = {
    "decode": "decode JPEG",
    "steps": "condition and all steps",
    "grid": "grid head",
    "apply": "apply to every pixel",
    "encode": "encode JPEG",
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see the file's first lines."""
    parser = argparse.ArgumentParser(description="Time and memory of one retouch from file to file.")
    parser.add_argument("photo", type=Path, help="any photo; it is resized to --megapixels")
    parser.add_argument("--model", default="bundled", help="'bundled', a folder or a Hub id (default: %(default)s)")
    parser.add_argument("--megapixels", type=float, default=12.0, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="inference steps (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs after the first (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)  # this is the fresh process
    parsed = parser.parse_args(arguments)
    for name, value in (("--megapixels", parsed.megapixels), ("--steps", parsed.steps), ("--repeats", parsed.repeats)):
        if not value > 0:
            parser.error(f"`{name}` has to be greater than 0, got {value}.")
    return parsed


def make_photo(source: Path, megapixels: float, path: Path) -> tuple[int, int]:
    """Resize `source` to about `megapixels`, its shape kept, and save it as a JPEG; returns (width, height)."""
    with Image.open(source) as opened:
        photo = ImageOps.exif_transpose(opened).convert("RGB")
    scale = (megapixels * 1e6 / (photo.width * photo.height)) ** 0.5
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    photo.resize(size, Image.Resampling.LANCZOS).save(path, quality=92)
    return size


def measure_fresh(photo: Path, output: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run `measure` in a process of its own, so that nothing done here counts as its memory."""
    command = [sys.executable, __file__, str(photo), "-o", str(output), "--measure", "--model", arguments.model]
    command += ["--steps", str(arguments.steps), "--repeats", str(arguments.repeats)]
    # Long OpenMP spinning makes small virtual machines ten times slower.
    environment = {"GOMP_SPINCOUNT": "2000", **os.environ}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"the measured process ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])  # libraries may have said something before


def measure(photo: Path, output: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Retouch `photo` into `output` 1 + repeats times; seconds per stage, set-up seconds and peak memory."""
    started = time.perf_counter()
    import torch

    from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline
    from diffretouch import photo as files

    imported = time.perf_counter()
    model = BUNDLED_MODEL if arguments.model == "bundled" else arguments.model
    pipe = DiffRetouchPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    loaded = time.perf_counter()
    runs = [time_retouch(pipe, files, photo, output, arguments.steps) for _ in range(1 + arguments.repeats)]
    return {
        "import_seconds": imported - started,
        "load_seconds": loaded - imported,
        "runs": runs,
        "peak_rss_mib": peak_rss_mib(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def time_retouch(pipe: Any, files: ModuleType, source: Path, output: Path, steps: int) -> dict[str, float]:
    """Seconds of every stage of one retouch from file to file, opened and saved by `files`, the package's `photo`."""
    import torch

    head: list[float] = []  # the head runs inside the call: its start and end are taken by hooks
    hooks = [
        pipe.grid_head.register_forward_pre_hook(lambda *_: head.append(time.perf_counter())),
        pipe.grid_head.register_forward_hook(lambda *_: head.append(time.perf_counter())),
    ]
    marks = [time.perf_counter()]
    photo = files.open_photo(source)
    marks.append(time.perf_counter())
    generator = torch.Generator().manual_seed(0)
    result = pipe(photo.pixels, num_inference_steps=steps, generator=generator, output_type="grid")
    marks.append(time.perf_counter())
    pixels = result.grids[0].apply(photo.pixels)
    marks.append(time.perf_counter())
    files.save_photo(photo.with_pixels(pixels), output, overwrite=True)
    marks.append(time.perf_counter())
    for hook in hooks:
        hook.remove()
    decode, call, apply, encode = (end - start for start, end in zip(marks[:-1], marks[1:], strict=True))
    grid = head[1] - head[0]
    return {"decode": decode, "steps": call - grid, "grid": grid, "apply": apply, "encode": encode}


def peak_rss_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB on Linux


def summarise(measured: dict[str, Any], size: tuple[int, int], arguments: argparse.Namespace) -> dict[str, Any]:
    """First run, medians of the repeats and the settings that made them."""
    first, *repeats = measured.pop("runs")
    median = {stage: statistics.median(run[stage] for run in repeats) for stage in STAGES}
    return {
        "settings": {
            "width": size[0],
            "height": size[1],
            "steps": arguments.steps,
            "repeats": arguments.repeats,
            "model": arguments.model,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        },
        "first_seconds": first | {"total": sum(first.values())},
        "median_seconds": median | {"total": statistics.median(sum(run.values()) for run in repeats)},
        **measured,
    }


def format_table(result: dict[str, Any]) -> str:
    """The summary as a Markdown table with a line on set-up and memory."""
    settings = result["settings"]
    lines = ["| Stage | first run (s) | median of repeats (s) |", "| --- | ---: | ---: |"]
    for stage in (*STAGES, "total"):
        first, median = result["first_seconds"][stage], result["median_seconds"][stage]
        lines.append(f"| {LABELS.get(stage, stage)} | {first:.3f} | {median:.3f} |")
    megapixels = settings["width"] * settings["height"] / 1e6
    return (
        f"{settings['width']} x {settings['height']} ({megapixels:.1f} MP), {settings['steps']} steps, "
        f"{settings['machine']}, {result['threads']} threads, torch {result['torch']}\n\n"
        + "\n".join(lines)
        + f"\n\nImports {result['import_seconds']:.1f} s, model {result['load_seconds']:.1f} s, "
        f"peak memory {result['peak_rss_mib']:.0f} MiB."
    )


def run(arguments: argparse.Namespace) -> None:
    """Make the photo, measure in a fresh process, print the table and write the JSON."""
    if not arguments.output.parent.is_dir():
        raise FileNotFoundError(f"`--output` has to be in an existing folder, got {arguments.output}.")
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder, "photo.jpg")
        size = make_photo(arguments.photo, arguments.megapixels, photo)
        result = summarise(measure_fresh(photo, Path(folder, "retouched.jpg"), arguments), size, arguments)
    # Imported only now: a process hands the peak of its memory down to the processes it starts.
    from diffretouch.evaluation import save_json

    save_json(result, arguments.output)
    print(format_table(result))


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, 2 with one line on what was wrong, or 1 when the measured process failed."""
    parsed = parse_arguments(arguments)
    try:
        if parsed.measure:
            print(json.dumps(measure(parsed.photo, parsed.output, parsed)))
        else:
            run(parsed)
    except (OSError, ValueError) as error:
        print(f"retouch.py: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"retouch.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
