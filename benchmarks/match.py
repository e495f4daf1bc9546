"""How near `diffretouch match` brings photos to each other, beside doing less and a transfer that knows no taste.

    python benchmarks/match.py examples -o benchmarks/results/match.json

Every photo of the folder is matched to every other one. Distances are those of look/match.py: how far apart tones and
colours are, in Delta E (CIE 1976). `transfer` gives each CIELAB channel the other photo's mean and standard deviation
(Reinhard et al. 2001); it goes as far as it must, and no expert would sign most of what comes out.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path
from typing import Any

# Spinning OpenMP barriers make small machines up to 50 times slower; has to be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np  # noqa: E402

SIDE = 128


def transferred(photo: np.ndarray, example: np.ndarray) -> np.ndarray:
    """(h, w, 3) sRGB in [0, 1] with the example's means and deviations in CIELAB."""
    from skimage.color import lab2rgb, rgb2lab

    lab, wanted = rgb2lab(photo), rgb2lab(example)
    spread = wanted.std((0, 1)) / np.maximum(lab.std((0, 1)), 1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of colours that there are not
        made = lab2rgb((lab - lab.mean((0, 1))) * spread + wanted.mean((0, 1)))
    return np.clip(made, 0, 1).astype(np.float32)


def measure(folder: Path) -> dict[str, Any]:
    """One row for each photo and example, and the means of all."""
    from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline, match_look, open_photo
    from diffretouch.look.match import tones

    pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)
    pipe.set_progress_bar_config(disable=True)
    views = {path.stem: pipe.photo_view(open_photo(path).model_view())[0] for path in sorted(folder.glob("*.jpg"))}
    small = {name: view.unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4)).permute(1, 2, 0) for name, view in views.items()}
    pixels = {name: picture.contiguous().numpy() for name, picture in small.items()}
    rows: list[dict[str, Any]] = []
    for photo, example in ((one, other) for one in views for other in views if one != other):
        started = time.process_time()
        found = match_look(pipe, views[photo], views[example])
        seconds = time.process_time() - started
        transfer = tones(transferred(pixels[photo], pixels[example])).distance(tones(pixels[example]))
        apart = {"no change": found.before, "sliders at 0": found.middle, "match": found.after, "transfer": transfer}
        row = {name: round(value, 2) for name, value in apart.items()}
        rows.append({"photo": photo, "example": example, **row, "found": found.settings, "cpu_s": round(seconds, 2)})
        print(rows[-1], flush=True)
    means = {name: round(float(np.mean([row[name] for row in rows])), 2) for name in (*apart, "cpu_s")}
    closed = [1 - row["match"] / row["no change"] for row in rows]
    shares = {"least": min(closed), "median": float(np.median(closed)), "most": max(closed)}
    return {"mean": means, "closed": {name: round(share, 2) for name, share in shares.items()}, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of JPEG photos")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file")
    options = parser.parse_args()
    from diffretouch.files import save_json

    result = measure(options.photos)
    save_json(result, options.output)
    print(result["mean"], result["closed"])


if __name__ == "__main__":
    main()
