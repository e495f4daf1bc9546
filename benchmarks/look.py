"""A look from pairs beside a 17-cube LUT fitted to the same pairs: error on unseen photos, and seconds file to file.

    python benchmarks/my_style.py pairs photos my-style
    python benchmarks/look.py my-style -o benchmarks/results/look.json

"Faded film" (my_style.py) is learned from 1, 5 and 21 of the train pairs, spread evenly, and measured as Delta E 2000
on the unseen ones. From one pair the photo decides, so there the figures are means over several starts. The LUT is as
smooth as serves it best on the unseen photos themselves, which is in its favour. `style` is the style itself on the
unseen files: what their JPEG noise leaves. The seconds are of a process that does it all, from its start: one pair of
`--megapixels`, look or LUT, in turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Spinning OpenMP barriers make small machines up to 50 times slower; has to be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np  # noqa: E402
import styles  # noqa: E402

COUNTS = (1, 5, 21)
LUT_SIZE = 17
_SMOOTHER = (1, 0.1, 0.03, 0.01)  # times what `fit_lut` takes
STARTS_FROM_ONE = 4
_EACH = 6000  # pixels of an unseen photo

# What a LUT takes file to file, without a register, a choice of smoothness or an error of its own.
_LUT_PROGRAM = """
import sys, numpy as np
from diffretouch.photo import open_photo
from diffretouch.look.lut import fit_lut
views = [open_photo(path).pixels[::4, ::4].reshape(-1, 3)[::6] / np.float32(255) for path in sys.argv[1:3]]
fit_lut(*views, size=17).save_cube(sys.argv[3])
"""


def measure_error(pairs: Path) -> dict[str, Any]:
    """{number of pairs: {method: {"mean", "p95"}}} on the unseen pairs."""
    from diffretouch import open_photo
    from diffretouch.data.look_pairs import look_from_pairs
    from diffretouch.look.fit import delta_e
    from diffretouch.look.lut import SMOOTHNESS, fit_lut

    unseen = [
        [open_photo(pairs / "unseen" / side / path.name).pixels for side in ("before", "after")]
        for path in sorted((pairs / "unseen" / "before").iterdir())
    ]
    rng = np.random.default_rng(0)
    chosen = [rng.choice(before.size // 3, min(_EACH, before.size // 3), replace=False) for before, _ in unseen]

    def sampled(pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Of each photo the same pixels (N, 3), in [0, 1]."""
        rows = [picture.reshape(-1, 3)[places] for picture, places in zip(pictures, chosen, strict=True)]
        return np.concatenate(rows) / np.float32(255)

    before, after = (sampled(pair[side] for pair in unseen) for side in (0, 1))
    names = sorted(path.name for path in (pairs / "train" / "before").iterdir())
    known = styles.faded_film(  # type: ignore[attr-defined]  # mypy finds another module of that name first
        np.round(before * 255).astype(np.uint8)[None]
    )[0] / np.float32(255)
    rows: dict[str, Any] = {
        name: {"mean": float(delta_e(made, after).mean())} for name, made in (("no change", before), ("style", known))
    }
    for count in COUNTS:
        found: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(names), len(names) // STARTS_FROM_ONE) if count == 1 else (0,):
            used = [names[(start + number * len(names) // count) % len(names)] for number in range(count)]
            files = [(pairs / "train" / "before" / name, pairs / "train" / "after" / name) for name in used]
            look = look_from_pairs(files)
            methods: dict[str, Any] = {
                **{
                    f"LUT {times}": fit_lut(
                        look.pixels.before, look.pixels.after, LUT_SIZE, smoothness=times * SMOOTHNESS
                    )
                    for times in _SMOOTHER
                },
                "look": look.look,
                "the look's .cube": look.lut(33),
                "the look without its table": look.fit.look,
            }
            for name, method in methods.items():
                made = sampled(method.apply(picture) for picture, _ in unseen)
                found.setdefault(name, []).append(delta_e(made, after))
        luts = [name for name in found if name.startswith("LUT")]
        best = min(luts, key=lambda name: np.mean(found[name]))
        found = {"LUT": found[best], **{name: errors for name, errors in found.items() if name not in luts}}
        rows[str(count)] = {
            name: {
                "mean": round(float(np.mean(errors)), 3),
                "p95": round(float(np.mean([np.quantile(e, 0.95) for e in errors])), 3),
            }
            for name, errors in found.items()
        }
        print(count, rows[str(count)], flush=True)
    return rows


def measure_seconds(pairs: Path, megapixels: float, repeats: int) -> dict[str, Any]:
    """Medians of wall and processor seconds of the command and of the LUT, in turns, on one enlarged pair."""
    from PIL import Image

    name = sorted(path.name for path in (pairs / "train" / "before").iterdir())[0]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{side}.jpg") for side in ("before", "after")]
        for side, file in zip(("before", "after"), files, strict=True):
            picture = Image.open(pairs / "train" / side / name)
            scale = (megapixels * 1e6 / (picture.width * picture.height)) ** 0.5
            picture.resize((round(picture.width * scale), round(picture.height * scale))).save(file, quality=92)
        command = "from diffretouch.commands.cli import main; raise SystemExit(main())"
        programs = {
            "look": [command, "look", *files, "-o", Path(folder, "a.safetensors"), "--overwrite"],
            "LUT": [_LUT_PROGRAM, *files, Path(folder, "a.cube")],
        }
        taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in programs}
        for _ in range(repeats):
            for kind, program in programs.items():
                before, started = os.times(), time.perf_counter()
                subprocess.run([sys.executable, "-c", *map(str, program)], check=True, capture_output=True)
                after = os.times()
                used = after.children_user + after.children_system - before.children_user - before.children_system
                taken[kind].append((time.perf_counter() - started, used))
    return {
        kind: {
            "seconds": round(statistics.median(wall for wall, _ in times), 2),
            "processor_seconds": round(statistics.median(used for _, used in times), 2),
        }
        for kind, times in taken.items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, help="folder written by `my_style.py pairs`")
    parser.add_argument("--megapixels", type=float, default=12.0, help="of the timed pair (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of the timing (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args(arguments)
    from diffretouch.files import save_json

    try:
        result = {"delta_e_2000": measure_error(options.pairs)}
        result["file_to_file"] = measure_seconds(options.pairs, options.megapixels, options.repeats)
        save_json(result, options.output)
    except (OSError, ValueError) as error:
        print(f"look.py: {error}", file=sys.stderr)
        return 2
    print(result["file_to_file"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
