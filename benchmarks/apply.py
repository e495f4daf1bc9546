"""Speed and memory of applying a grid to photos, by size, depth and device, beside plain ways and a memory copy.

    python benchmarks/apply.py examples/photo.jpg -o apply.json
    python benchmarks/apply.py examples/photo.jpg --megapixels 24 --dtypes uint8 --repeats 9 -o apply.json

Four ways to do the same, each cell of the table in a fresh process that runs them in turn:

    apply   `AffineGrid.apply`: the compiled pass on CPUs, if numba is installed
    tiled   the same by torch operations, in bands of rows
    whole   guide, `grid_sample` and affine over the whole photo at once: the obvious way
    copy    a copy of the photo, new memory included, as for the others

Seconds are medians of the repeats after a first run. Memory is the largest that a run takes beyond photo and result
(resident on a CPU, on Linux; allocated on a GPU). A GPU's photos are float32 tensors that are there already.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from output import require_folder
from PIL import Image, ImageOps

WAYS = ("apply", "tiled", "whole", "copy")
DTYPES = ("uint8", "uint16", "float32")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see the file's first lines."""
    parser = argparse.ArgumentParser(description="Speed and memory of applying a grid.")
    parser.add_argument("photo", type=Path, help="any photo; it is resized to --megapixels")
    parser.add_argument(
        "--megapixels", type=float, nargs="+", default=[1, 4, 12, 24, 45, 100], help="(default: %(default)s)"
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="(default: all)")
    parser.add_argument("--devices", nargs="+", default=["cpu"], help="such as cpu cuda (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs after the first (default: %(default)s)")
    parser.add_argument(
        "--plain_up_to",
        type=float,
        default=24,
        help="megapixels above which tiled and whole are left out (%(default)s)",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)  # this is the fresh process
    parsed = parser.parse_args(arguments)
    for name, value in (("--megapixels", min(parsed.megapixels)), ("--repeats", parsed.repeats)):
        if not value > 0:
            parser.error(f"`{name}` has to be greater than 0, got {value}.")
    return parsed


def load_photo(source: Path, megapixels: float, dtype: str) -> np.ndarray:
    """`source` at about `megapixels`, its shape kept: (H, W, 3) of that dtype."""
    with Image.open(source) as opened:
        photo = ImageOps.exif_transpose(opened).convert("RGB")
    scale = (megapixels * 1e6 / (photo.width * photo.height)) ** 0.5
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    pixels = np.array(photo.resize(size, Image.Resampling.BICUBIC))
    if dtype == "uint8":
        return pixels
    return pixels.astype(np.uint16) * np.uint16(257) if dtype == "uint16" else pixels.astype(np.float32) / 255


def ways_to_apply(grid: Any, photo: Any) -> dict[str, Callable[[], Any]]:
    """Each of `WAYS` as a function; `photo` is an array, or a tensor on the grid's device."""
    return {
        "apply": lambda: grid.apply(photo),
        "tiled": lambda: grid.apply_tiled(photo),
        "whole": lambda: apply_whole(grid, photo),
        "copy": lambda: photo.copy() if isinstance(photo, np.ndarray) else photo.clone(),
    }


def apply_whole(grid: Any, photo: Any) -> Any:
    """The retouch written the obvious way."""
    import torch

    from diffretouch.model.modeling_affine_grid import apply_affine, slice_affine_grid

    with torch.no_grad():
        if isinstance(photo, torch.Tensor):
            signed = photo[None] * 2 - 1
            affine = slice_affine_grid(grid.coefficients[None], grid.guide(signed))
            return ((apply_affine(affine, signed)[0] + 1) / 2).clamp(0, 1)
        top = np.iinfo(photo.dtype).max if photo.dtype.kind == "u" else 1
        pixels = torch.from_numpy(photo.astype(np.float32)).permute(2, 0, 1) / top
        values = apply_whole(grid, pixels).permute(1, 2, 0) * top
        return (values.round() if top > 1 else values).numpy().astype(photo.dtype)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One cell of the table: seconds and MiB of every way, for the one size, dtype and device in `arguments`."""
    import torch

    from diffretouch import BUNDLED_MODEL
    from diffretouch.model.modeling_affine_grid import AffineGrid, AffineGridHead, identity_coefficients

    [megapixels], [dtype], [device] = arguments.megapixels, arguments.dtypes, arguments.devices
    noise = 0.05 * torch.randn(12, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    guide = AffineGridHead.from_pretrained(BUNDLED_MODEL, subfolder="grid_head").guide
    grid = AffineGrid(identity_coefficients(8, 16, 16) + noise, guide).to(device)
    photo: Any = load_photo(arguments.photo, megapixels, dtype)
    if device != "cpu":
        photo = torch.from_numpy(photo).permute(2, 0, 1).contiguous().to(device)
    ways = ways_to_apply(grid, photo)
    if megapixels > arguments.plain_up_to:
        ways = {name: ways[name] for name in ("apply", "copy")}
    rows = -(-(2**18) // photo.shape[-2 if device == "cpu" else -1])  # large enough for the compiled pass
    for warm_up in ways_to_apply(grid, photo[:rows] if device == "cpu" else photo[:, :rows]).values():
        warm_up()  # imports and compiles
    extra = {name: extra_mib(way, device, photo.nbytes) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            seconds[name].append(seconds_of(way, device))
    return {
        "megapixels": photo.size / 3e6 if device == "cpu" else photo.numel() / 3e6,
        "dtype": dtype,
        "device": device,
        "seconds": {name: statistics.median(runs) for name, runs in seconds.items()},
        "extra_mib": extra,
        "threads": torch.get_num_threads(),
    }


def seconds_of(way: Callable[[], Any], device: str) -> float:
    """Wall time of one call, its device's work included."""
    import torch

    start = time.perf_counter()
    way()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def extra_mib(way: Callable[[], Any], device: str, result_bytes: int) -> float | None:
    """Peak memory of one call beyond what was there and its result; None where the system does not tell."""
    import torch

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return (torch.cuda.max_memory_allocated() - before - result_bytes) / 2**20
    if not Path("/proc/self/clear_refs").exists():
        return None
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = status_bytes("VmRSS")
    way()
    return max(0, status_bytes("VmHWM") - before - result_bytes) / 2**20


def status_bytes(name: str) -> int:
    """A line of the kernel's account of this process."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def measure_fresh(arguments: argparse.Namespace, megapixels: float, dtype: str, device: str) -> dict[str, Any]:
    """Run `measure` in a process of its own, so that nothing that other cells left counts."""
    command = [sys.executable, __file__, str(arguments.photo), "-o", str(arguments.output), "--measure"]
    command += ["--megapixels", str(megapixels), "--dtypes", dtype, "--devices", device]
    command += ["--repeats", str(arguments.repeats), "--plain_up_to", str(arguments.plain_up_to)]
    # Long OpenMP spinning makes small virtual machines ten times slower.
    environment = {"GOMP_SPINCOUNT": "2000", **os.environ}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"the measured process ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])  # libraries may have said something before


def format_table(cells: list[dict[str, Any]]) -> str:
    """One line per cell and way, with the ratios that last: to the obvious way and to a copy."""
    lines = [
        "| MP | dtype | device | way | seconds | MP/s | x whole | x copy | extra MiB |",
        "| ---: | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cell in cells:
        for way, seconds in cell["seconds"].items():
            whole, extra = cell["seconds"].get("whole"), cell["extra_mib"][way]
            columns = [
                f"{cell['megapixels']:.0f}",
                cell["dtype"],
                cell["device"],
                way,
                f"{seconds:.4f}",
                f"{cell['megapixels'] / seconds:.0f}",
                f"{whole / seconds:.1f} faster" if whole else "",
                f"{seconds / cell['seconds']['copy']:.1f} slower",
                "" if extra is None else f"{extra:.0f}",
            ]
            lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> None:
    """Measure every cell, print the table and write the JSON."""
    require_folder(arguments.output)
    cells = []
    for device in arguments.devices:
        for dtype in arguments.dtypes if device == "cpu" else ["float32"]:
            for megapixels in arguments.megapixels:
                cells.append(measure_fresh(arguments, megapixels, dtype, device))
                print(format_table(cells[-1:]).splitlines()[2], file=sys.stderr)
    import torch

    from diffretouch.files import save_json

    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    save_json(
        {"machine": machine, "torch": torch.__version__, "repeats": arguments.repeats, "cells": cells},
        arguments.output,
    )
    print(f"{machine}, torch {torch.__version__}, {cells[0]['threads']} threads\n\n{format_table(cells)}")


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, 2 with one line on what was wrong, or 1 when a measured process failed."""
    parsed = parse_arguments(arguments)
    try:
        if parsed.measure:
            print(json.dumps(measure(parsed)))
        else:
            run(parsed)
    except (OSError, ValueError) as error:
        print(f"apply.py: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"apply.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
