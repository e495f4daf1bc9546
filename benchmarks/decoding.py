#!/usr/bin/env python3
"""What a decoder process costs per photo, beside decoding in this process: made photos of each kind, in turns.

    python benchmarks/decoding.py [--megapixels 12] [--repeats 9]

Prints the medians and their ratio per kind; `diffretouch.photo.isolation` follows from it.
"""

from __future__ import annotations

import argparse
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffretouch.photo import MAX_PIXELS, Photo, save_photo
from diffretouch.photo.isolation import DecoderPool
from diffretouch.photo.readers import reader_of_kind

KINDS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "HEIC": ".heic", "AVIF": ".avif"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    height = round((options.megapixels * 1e6 / 1.5) ** 0.5)
    pixels = _picture(height, round(height * 1.5))
    pool = DecoderPool()
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'kind':6}{'in process':>12}{'in a pool':>12}{'ratio':>8}")
        for kind, suffix in (*KINDS.items(), ("RAW", ".dng")):
            path = Path(folder, f"photo{suffix}")
            if kind == "RAW":
                path.write_bytes(dng(pixels))
            else:
                save_photo(Photo(pixels), path)
            here, there = _seconds(path, kind, pool, options.repeats)
            print(f"{kind:6}{here * 1000:9.0f} ms{there * 1000:9.0f} ms{there / here:8.2f}", flush=True)
    pool.close()


def _seconds(path: Path, kind: str, pool: DecoderPool, repeats: int) -> tuple[float, float]:
    """Medians of decoding here and there, one after the other in every round."""

    def here() -> None:
        with open(path, "rb") as file:
            reader_of_kind(kind)(file, MAX_PIXELS)

    ways: list[Callable[[], object]] = [here, lambda: pool.decode(str(path), kind, MAX_PIXELS)]
    times: list[list[float]] = [[], []]
    for round_number in range(repeats + 1):
        for way, seconds in zip(ways, times, strict=True):
            started = time.perf_counter()
            way()
            if round_number:  # the first one imports the decoder
                seconds.append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def _picture(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    smooth = np.stack([np.sin(a * x + b * y) for a, b in rng.uniform(3, 30, (3, 2))], -1) * 80 + 128
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def dng(pixels: np.ndarray) -> bytes:
    """A plain mosaic of 16 bits with the fewest tags that make it one (DNG 1.4)."""
    mosaic = pixels[..., 1].astype("<u2") * 16
    height, width = mosaic.shape
    matrix = np.array((3.24, -1.54, -0.5, -0.97, 1.88, 0.04, 0.06, -0.2, 1.06))
    words = b"Invented\0"
    entries: list[tuple[int, int, Any]] = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [16]),
        (259, 3, [1]),
        (262, 3, [32803]),
    ]
    entries += [(271, 2, words), (272, 2, words), (273, 4, [1024]), (277, 3, [1]), (278, 4, [height])]
    entries += [
        (279, 4, [mosaic.nbytes]),
        (33421, 3, [2, 2]),
        (33422, 1, bytes((0, 1, 1, 2))),
        (50706, 1, b"\1\4\0\0"),
    ]
    entries += [
        (50708, 2, words),
        (50717, 3, [4095]),
        (50721, 10, np.dstack((matrix * 1e4, matrix * 0 + 1e4)).ravel()),
    ]
    directory, tail = struct.pack("<H", len(entries)), b""
    for code, kind, values in entries:
        if isinstance(values, bytes):
            data = values
        else:
            data = np.asarray(values).astype({3: "<u2", 4: "<u4", 10: "<i4"}[kind]).tobytes()
        count = len(data) // {1: 1, 2: 1, 3: 2, 4: 4, 10: 8}[kind]
        inline = data.ljust(4, b"\0")
        if len(data) > 4:
            inline = struct.pack("<I", 8 + 2 + 12 * len(entries) + 4 + len(tail))
            tail += data
        directory += struct.pack("<HHI4s", code, kind, count, inline)
    return (b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + tail).ljust(1024, b"\0") + mosaic.tobytes()


if __name__ == "__main__":
    main()
