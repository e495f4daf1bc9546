"""Time and memory of one retouch from file to file, stage by stage, and how soon the command line is ready.

    python benchmarks/retouch.py PHOTO -o retouch.json
    python benchmarks/retouch.py PHOTO --megapixels 24 100 --repeats 5 -o retouch.json

Makes JPEGs of the given sizes from PHOTO and retouches each in a fresh process, the model loaded once. Listed are the
median of the repeats beside the first run (cold caches), and the same JPEG decoded and encoded by Pillow with the same
settings and nothing in between: `ratio` is the whole retouch over that. Peak memory is that of the whole process after
its first retouch, model and imports included. A cold start is the whole command `diffretouch retouch` for a photo of
64 x 64 pixels, interpreter and all.
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
from typing import Any

from output import require_folder
from PIL import Image, ImageOps

STAGES = {
    "decode": "decode JPEG",
    "condition": "condition: what the model sees",
    "steps": "sampling steps",
    "grid": "grid head",
    "apply": "apply to every pixel",
    "encode": "encode JPEG",
}
QUALITY = 95  # of `save_photo`, which keeps the full resolution of colour from 90 on


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see the file's first lines."""
    parser = argparse.ArgumentParser(description="Time and memory of one retouch from file to file.")
    parser.add_argument("photo", type=Path, help="any photo; it is resized to --megapixels")
    parser.add_argument("--model", default="bundled", help="'bundled', a folder or a Hub id (default: %(default)s)")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[24.0], help="(default: 24)")
    parser.add_argument("--steps", type=int, help="inference steps (default: the model's own)")
    parser.add_argument("--repeats", type=int, default=3, help="runs after the first (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)  # this is the fresh process
    parsed = parser.parse_args(arguments)
    numbers = (("--megapixels", min(parsed.megapixels)), ("--steps", parsed.steps), ("--repeats", parsed.repeats))
    for name, value in numbers:
        if value is not None and not value > 0:
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


def run_fresh(command: list[str]) -> str:
    """What a command prints, run in a process of its own, so that nothing done here counts as its memory."""
    # Long OpenMP spinning makes small virtual machines ten times slower.
    environment = {"GOMP_SPINCOUNT": "2000", **os.environ}
    done = subprocess.run([sys.executable, *command], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"the measured process ended with exit code {done.returncode}")
    return done.stdout


def measure_fresh(photo: Path, output: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run `measure` in a fresh process."""
    command = [__file__, str(photo), "-o", str(output), "--measure", "--model", arguments.model]
    command += ["--repeats", str(arguments.repeats)]
    command += [] if arguments.steps is None else ["--steps", str(arguments.steps)]
    return json.loads(run_fresh(command).splitlines()[-1])  # libraries may have said something before


def measure(photo: Path, output: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Retouch `photo` into `output` 1 + repeats times; seconds per stage, set-up seconds and peak memory."""
    started = time.perf_counter()
    import torch

    from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline

    imported = time.perf_counter()
    model = BUNDLED_MODEL if arguments.model == "bundled" else arguments.model
    pipe = DiffRetouchPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    loaded = time.perf_counter()
    runs = [time_retouch(pipe, photo, output, arguments.steps)]
    peak = peak_rss_mib()  # before anything that a retouch does not do
    for _ in range(arguments.repeats):
        alone = time_files_alone(photo, output)
        runs.append({**time_retouch(pipe, photo, output, arguments.steps), **alone})
    return {
        "steps": pipe.num_timesteps,
        "import_seconds": imported - started,
        "load_seconds": loaded - imported,
        "runs": runs,
        "peak_rss_mib": peak,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def time_retouch(pipe: Any, source: Path, output: Path, steps: int | None) -> dict[str, float]:
    """Seconds of every stage of one retouch from file to file, as the command line does it."""
    import torch

    from diffretouch import open_photo, save_photo

    now = time.perf_counter

    calls: dict[str, float] = {}  # first call of the UNet and of the head: taken by hooks inside the pipeline's call
    hooks = [
        getattr(pipe, name).register_forward_pre_hook(lambda *_, name=name: calls.setdefault(name, now()) and None)
        for name in ("unet", "grid_head")
    ]
    start = now()
    photo = open_photo(source)
    decoded = now()
    generator = torch.Generator().manual_seed(0)
    grids = pipe(photo.model_view(), num_inference_steps=steps, generator=generator, output_type="grid").grids
    predicted = now()
    retouched = photo.retouch(grids[0])
    applied = now()
    save_photo(retouched, output, overwrite=True, quality=QUALITY)
    saved = now()
    for hook in hooks:
        hook.remove()
    marks = [start, decoded, calls["unet"], calls["grid_head"], predicted, applied, saved]
    return {stage: end - begin for stage, begin, end in zip(STAGES, marks[:-1], marks[1:], strict=True)}


def time_files_alone(source: Path, output: Path) -> dict[str, float]:
    """Seconds to decode and encode the same JPEG with Pillow, without anything in between."""
    start = time.perf_counter()
    with Image.open(source) as photo:
        photo.load()
        photo.save(output, "JPEG", quality=QUALITY, subsampling="4:4:4")
    return {"files_alone": time.perf_counter() - start}


def peak_rss_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB on Linux


def summarise(measured: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """First run, medians of the repeats, and the median of retouch over files alone, taken run by run."""
    first, *repeats = measured.pop("runs")
    totals = [sum(run[stage] for stage in STAGES) for run in repeats]
    medians = {stage: statistics.median(run[stage] for run in repeats) for stage in (*STAGES, "files_alone")}
    return {
        "width": size[0],
        "height": size[1],
        **measured,
        "first_seconds": first | {"total": sum(first.values())},
        "median_seconds": medians | {"total": statistics.median(totals)},
        "ratio": statistics.median(total / run["files_alone"] for total, run in zip(totals, repeats, strict=True)),
    }


def time_cold_starts(folder: Path, repeats: int) -> dict[str, float]:
    """Median seconds of whole commands in fresh processes: with the model, with a saved look, and Python alone."""
    photo, look, output = (str(folder / name) for name in ("small.jpg", "look.safetensors", "small-out.jpg"))
    Image.effect_noise((64, 64), 50).convert("RGB").save(photo)
    retouch = ["-m", "diffretouch.commands.cli", "retouch", photo, "-o", output, "--overwrite"]
    run_fresh([*retouch, "--save-look", look])
    commands = {"model": [*retouch, "--steps", "1"], "look": [*retouch, "--look", look], "python": ["-c", "pass"]}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            start = time.perf_counter()
            run_fresh(command)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def format_table(result: dict[str, Any]) -> str:
    """The summary as Markdown tables with a line on cold starts."""
    parts = [f"{result['settings']['machine']}, torch {result['sizes'][0]['torch']}"]
    for size in result["sizes"]:
        median, first = size["median_seconds"], size["first_seconds"]
        lines = ["| Stage | median of repeats (s) | first run (s) |", "| --- | ---: | ---: |"]
        lines += [f"| {label} | {median[stage]:.3f} | {first[stage]:.3f} |" for stage, label in STAGES.items()]
        lines += [f"| **total** | **{median['total']:.3f}** | {first['total']:.3f} |"]
        lines += [f"| Pillow: decode and encode alone | {median['files_alone']:.3f} | |"]
        megapixels = size["width"] * size["height"] / 1e6
        parts.append(
            f"{size['width']} x {size['height']} ({megapixels:.1f} MP), {size['steps']} UNet calls, "
            f"{size['threads']} threads: **{size['ratio']:.2f} times** decoding and encoding alone, "
            f"peak memory {size['peak_rss_mib']:.0f} MiB.\n\n" + "\n".join(lines)
        )
    cold = result["cold_start_seconds"]
    parts.append(
        f"Cold start of the command line: {cold['model']:.1f} s with the model, {cold['look']:.1f} s with a saved "
        f"look (Python alone: {cold['python']:.2f} s)."
    )
    return "\n\n".join(parts)


def run(arguments: argparse.Namespace) -> None:
    """Make the photos, measure in fresh processes, print the tables and write the JSON."""
    require_folder(arguments.output)
    settings = {
        "model": arguments.model,
        "steps": arguments.steps,
        "repeats": arguments.repeats,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo, output = folder / "photo.jpg", folder / "retouched.jpg"
        sizes = []
        for megapixels in arguments.megapixels:
            size = make_photo(arguments.photo, megapixels, photo)
            sizes.append(summarise(measure_fresh(photo, output, arguments), size))
        cold = time_cold_starts(folder, arguments.repeats)
    # Imported only now: a process hands the peak of its memory down to the processes it starts.
    from diffretouch.files import save_json

    result = {"settings": settings, "cold_start_seconds": cold, "sizes": sizes}
    save_json(result, arguments.output)
    print(format_table(result))


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, 2 with one line on what was wrong, or 1 when a measured process failed."""
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
