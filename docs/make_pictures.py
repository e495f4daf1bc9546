"""Make the pictures of the README and the model card.

python docs/make_pictures.py examples/photo.jpg --name rhino
python docs/make_pictures.py --gallery examples/*.jpg
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np  # noqa: E402
import PIL.Image  # noqa: E402
import PIL.ImageDraw  # noqa: E402
import PIL.ImageFont  # noqa: E402
import torch  # noqa: E402

from diffretouch import ATTRIBUTES, BUNDLED_MODEL, DiffRetouchPipeline, open_photo  # noqa: E402

POSITIONS = (-1.0, -0.5, 0.0, 0.5, 1.0)
SEEDS = (0, 1, 2, 3)


def reduced(path: Path, width: int) -> np.ndarray:
    """A photo as (h, width, 3) uint8."""
    picture = PIL.Image.fromarray(open_photo(path).pixels)
    return np.asarray(picture.resize((width, round(picture.height * width / picture.width)), reducing_gap=2.0))


def captioned(picture: np.ndarray, caption: str) -> np.ndarray:
    """The picture with its caption on a white strip above it."""
    strip = PIL.Image.new("RGB", (picture.shape[1], 26), "white")
    font = PIL.ImageFont.load_default(size=15)
    PIL.ImageDraw.Draw(strip).text((6, 4), caption, fill="black", font=font)
    return np.concatenate([np.asarray(strip), picture])


def sheet(rows: list[list[np.ndarray]], path: Path) -> None:
    """Save rows of pictures of equal size as one JPEG."""
    PIL.Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows])).save(path, quality=88)


def retouch(pipe: DiffRetouchPipeline, photo: np.ndarray, sliders: list[dict[str, float]], seeds: list[int]) -> list:
    """One retouch per entry of `sliders` and `seeds`."""
    columns = {name: [entry.get(name, 0.0) for entry in sliders] for name in ATTRIBUTES}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    out = pipe([photo] * len(sliders), **columns, generator=generators, output_type="grid")
    return [grid.apply(photo) for grid in out.grids]


def sliders_sheet(pipe: DiffRetouchPipeline, photo: np.ndarray, path: Path) -> None:
    """One photo x four sliders x five positions, one seed."""
    asked = [{name: position} for name in ATTRIBUTES for position in POSITIONS]
    pictures = retouch(pipe, photo, asked, [0] * len(asked))
    captions = [f"{name} {position:+g}" for name in ATTRIBUTES for position in POSITIONS]
    cells = [captioned(picture, caption) for picture, caption in zip(pictures, captions, strict=True)]
    sheet([cells[i : i + len(POSITIONS)] for i in range(0, len(cells), len(POSITIONS))], path)


def gallery(pipe: DiffRetouchPipeline, photos: list[Path], path: Path) -> None:
    """Every photo: input and four seeds at c = 0."""
    rows = []
    for photo in photos:
        pixels = np.asarray(PIL.Image.fromarray(reduced(photo, 384)).resize((384, 288)))
        pictures = retouch(pipe, pixels, [{}] * len(SEEDS), list(SEEDS))
        names = ["input", *(f"seed {seed}" for seed in SEEDS)]
        rows.append([captioned(p, f"{photo.stem}: {n}") for p, n in zip([pixels, *pictures], names, strict=True)])
    sheet(rows, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--name", help="write NAME-before-after.jpg and NAME-sliders.jpg of the first photo")
    parser.add_argument("--gallery", action="store_true", help="write gallery.jpg of all photos")
    parser.add_argument("--model", default=BUNDLED_MODEL)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    pipe = DiffRetouchPipeline.from_pretrained(options.model)
    if options.name:
        photo = reduced(options.photos[0], 800)
        (retouched,) = retouch(pipe, photo, [{}], [0])
        before_after = [[captioned(photo, "before"), captioned(retouched, "after")]]
        sheet(before_after, options.output / f"{options.name}-before-after.jpg")
        sliders_sheet(pipe, reduced(options.photos[0], 400), options.output / f"{options.name}-sliders.jpg")
    if options.gallery:
        gallery(pipe, options.photos, options.output / "gallery.jpg")


if __name__ == "__main__":
    main()
