"""How quickly the Space answers, and whether it holds under load.

    python benchmarks/space.py examples/photo.jpg -o benchmarks/results/space.json

Starts `space/app.py`, drives it in headless Chromium with a 12-megapixel upload (time to the first preview, time from
slider release to the new preview), then lets clients ask at once for some minutes, each with its own photo, beside one
that uploads 100 megapixels. Prints a table and writes JSON. Needs the extras `space` and `dev`, and Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from gradio_client import Client, handle_file
from PIL import Image

SPACE = Path(__file__).parent.parent / "space"
SLIDERS = ("colorfulness", "brightness", "contrast", "temperature")
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path, help="enlarged to 12 and 100 megapixels")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file")
    parser.add_argument("--releases", type=int, default=20, help="slider releases to time")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=2.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _served(folder) as (url, process):
            results = {
                "browser": _latency(url, _enlarged(options.photo, 12, folder), options.releases),
                "load": _load(url, process, options, folder),
            }
    options.output.write_text(json.dumps(results, indent=2) + "\n")
    for part, figures in results.items():
        for figure, value in figures.items():
            print(f"{part:8} {figure:36} {value}")


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(folder / "files")}
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=SPACE, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(url, timeout=5):
                yield url, psutil.Process(process.pid)
                return
            time.sleep(0.2)
        raise RuntimeError((folder / "log.txt").read_text())
    finally:
        process.terminate()
        process.wait()


def _enlarged(photo: Path, megapixels: float, folder: Path) -> Path:
    with Image.open(photo) as picture:
        factor = (megapixels * 1e6 / (picture.width * picture.height)) ** 0.5
        size = (round(picture.width * factor), round(picture.height * factor))
        path = folder / f"{megapixels}-megapixels.jpg"
        picture.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
    return path


def _latency(url: str, photo: Path, releases: int) -> dict[str, Any]:
    """Seconds until another picture is shown, as the visitor sees it."""
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium") or shutil.which("google-chrome")
    shown = "old => { const i = document.querySelectorAll('#compare img'); return i.length == 2 && i[1].src != old"
    shown += " && i[1].complete; }"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(_FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_selector("#photo input[type=file]", state="attached")
        started = time.monotonic()
        page.set_input_files("#photo input[type=file]", photo)
        page.wait_for_function(shown, arg="", polling=20)
        first = time.monotonic() - started
        seconds = []
        for i in range(releases):
            knob = page.locator(f"#{SLIDERS[i % 4]} input[type=range]")
            box = knob.bounding_box()
            assert box is not None
            old = page.evaluate("document.querySelectorAll('#compare img')[1].src")
            place = 0.15 + 0.7 * ((i * 7) % 11) / 10
            page.mouse.move(box["x"] + box["width"] * place, box["y"] + box["height"] / 2)
            page.mouse.down()
            started = time.monotonic()
            page.mouse.up()
            page.wait_for_function(shown, arg=old, polling=20)
            seconds.append(time.monotonic() - started)
        browser.close()
    return {
        "first_preview_s": round(first, 3),
        "release_to_preview_median_s": round(statistics.median(seconds), 3),
        "release_to_preview_max_s": round(max(seconds), 3),
        "releases": releases,
    }


def _load(url: str, process: psutil.Process, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Clients at once, each with a photo of its own that its answers have to resemble most."""
    photos = [_own_photo(i, folder) for i in range(options.clients)]
    thumbnails = np.stack([_thumbnail(path) for path in photos])
    giant = _enlarged(options.photo, 100, folder)
    deadline = time.monotonic() + 60 * options.minutes
    answers: list[float] = []
    wrong: list[int] = []
    errors: list[str] = []
    ranks: list[int] = []
    memory = [process.memory_info().rss]

    def visit(i: int) -> None:
        client = Client(url, verbose=False)
        while time.monotonic() < deadline:
            started = time.monotonic()
            try:
                job = client.submit(handle_file(photos[i]), brightness=0.02 * i, api_name="/retouch")
                while not job.done():
                    ranks.extend([job.status().rank] if job.status().rank is not None else [])
                    time.sleep(0.1)
                likeness = (thumbnails * _thumbnail(Path(job.result()))).mean((1, 2))
            except Exception as error:  # whatever goes wrong for a client is what is counted
                errors.append(f"{type(error).__name__}: {error}")
                continue
            answers.append(time.monotonic() - started)
            if int(likeness.argmax()) != i:
                wrong.append(i)

    def upload_giant() -> None:
        try:
            Client(url, verbose=False).predict(handle_file(giant), api_name="/retouch")
        except Exception as error:
            errors.append(f"giant: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(options.clients)]
    threads.append(threading.Thread(target=upload_giant))
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append(process.memory_info().rss)
        time.sleep(1)
    half = len(memory) // 2
    return {
        "clients": options.clients,
        "minutes": options.minutes,
        "answers": len(answers),
        "answers_of_another_question": len(wrong),
        "errors": len(errors),
        "first_errors": errors[:3],
        "median_answer_s": round(statistics.median(answers), 2),
        "longest_answer_s": round(max(answers), 2),
        "longest_queue_seen": max(ranks, default=0),
        "memory_before_mib": memory[0] >> 20,
        "memory_peak_mib": max(memory) >> 20,
        "memory_median_second_half_mib": int(statistics.median(memory[half:])) >> 20,
    }


def _own_photo(i: int, folder: Path) -> Path:
    """A 2-megapixel photo with a pattern of patches that no other client's has."""
    rng = np.random.default_rng(i)
    patches = rng.uniform(0.2, 0.8, (8, 12, 1)) + rng.uniform(-0.15, 0.15, (8, 12, 3))
    picture = Image.fromarray((np.clip(patches, 0, 1) * 255).astype(np.uint8)).resize((1800, 1200))
    path = folder / f"client-{i}.jpg"
    picture.save(path, quality=92)
    return path


def _thumbnail(path: Path) -> np.ndarray:
    """(8, 12) standardised lightness: what stays alike through a retouch."""
    with Image.open(path) as picture:
        small = np.asarray(picture.convert("L").resize((12, 8), Image.Resampling.BOX), float)
    return (small - small.mean()) / small.std()


if __name__ == "__main__":
    main()
