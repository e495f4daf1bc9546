"""Contact sheets by rule: what the model makes of the people, nights, high keys and black-and-white of a folder.

python benchmarks/contact_sheets.py PHOTOS -o OUT --every 4

Writes a sheet of every kind that the folder holds, KIND.jpg, each row a photo: itself, the retouch, the retouch of the
retouch, and two other seeds. "finished" is every so manieth photo of the folder, the other kinds are whole. The rules
are numbers (`kinds`), so that nobody picks what is shown. Prints what went into which sheet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from skimage.color import rgb2lab
from skimage.data import lbp_frontal_face_cascade_filename
from skimage.feature import Cascade
from skimage.transform import rescale

from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline, Photo, PhotoError, open_photo, save_photo
from diffretouch.batch.sheets import captioned, cell, retouch_with, sheet

NIGHT, HIGH_KEY, COLOURLESS = 25, 75, 1  # mean CIELAB lightness below, above; mean chroma below


def kinds(pixels: np.ndarray) -> list[str]:
    """Which sheets besides "finished" a photo (H, W, 3) uint8 belongs on.

    People are faces from the front that scikit-image's cascade finds, of skin's colours where the photo has colours.
    """
    lab = rgb2lab(pixels)
    lightness, chroma = lab[..., 0].mean(), np.hypot(lab[..., 1], lab[..., 2]).mean()
    found = {
        "people": has_face(lab),
        "night": lightness < NIGHT,
        "high-key": lightness > HIGH_KEY,
        "black-and-white": chroma < COLOURLESS,
    }
    return [kind for kind, holds in found.items() if holds]


def has_face(lab: np.ndarray, side: int = 400) -> bool:
    """Whether CIELAB pixels (H, W, 3) show a face from the front."""
    grey = rescale(lab[..., 0] / 100, min(1, side / max(lab.shape[:2])), anti_aliasing=True)
    if min(grey.shape) < 48:
        return False
    detector, scale = Cascade(lbp_frontal_face_cascade_filename()), grey.shape[0] / len(lab)
    boxes = detector.detect_multi_scale(
        np.ascontiguousarray(grey), 1.2, 1, (36, 36), (min(grey.shape),) * 2, min_neighbor_number=4
    )
    return any(_is_skin(lab, *(round(box[name] / scale) for name in ("r", "c", "height", "width"))) for box in boxes)


def _is_skin(lab: np.ndarray, top: int, left: int, height: int, width: int) -> bool:
    middle = lab[top + height // 4 : top + 3 * height // 4, left + width // 4 : left + 3 * width // 4]
    hue = np.degrees(np.arctan2(middle[..., 2], middle[..., 1]))
    colourless = np.hypot(lab[..., 1], lab[..., 2]).mean() < COLOURLESS
    return bool(colourless or np.mean((hue > 10) & (hue < 85)) > 0.7)


def row(pipe: DiffRetouchPipeline, photo: Photo, name: str) -> list[np.ndarray]:
    """A photo's row of a sheet."""
    shown = cell(photo, 260)
    retouch = retouch_with(pipe, photo, shown)
    first = retouch({}, 0)
    second = retouch_with(pipe, Photo(first), cell(Photo(first), 260))({}, 0)
    named = {name: shown.pixels, "retouched": first, "again": second}
    return [captioned(pixels, text) for text, pixels in named.items()] + [
        captioned(retouch({}, seed), f"seed {seed}") for seed in (1, 2)
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--model", default=BUNDLED_MODEL)
    options = parser.parse_args(arguments)
    pipe = DiffRetouchPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)
    options.output.mkdir(parents=True, exist_ok=True)
    sheets: dict[str, list[list[np.ndarray]]] = {}
    for number, path in enumerate(sorted(path for path in options.photos.rglob("*") if path.is_file())):
        try:
            photo = open_photo(path)
        except PhotoError as error:
            print(f"left out: {error}")
            continue
        found = kinds(cell(photo, 400).pixels) + ["finished"] * (number % options.every == 0)
        cells = row(pipe, photo, str(number)) if found else []
        for kind in found:
            sheets.setdefault(kind, []).append(cells)
        print(f"{number} {path.name}: {', '.join(found) or '-'}", flush=True)
    for kind, rows in sheets.items():
        save_photo(Photo(sheet(rows)), options.output / f"{kind}.jpg", overwrite=True)
        print(options.output / f"{kind}.jpg", len(rows))


if __name__ == "__main__":
    main()
