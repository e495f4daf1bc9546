"""Make the pictures of the README and the model card.

python docs/make_pictures.py examples/photo.jpg --name rhino
python docs/make_pictures.py --gallery examples/*.jpg
python docs/make_pictures.py --test_photos data-synthetic
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np  # noqa: E402
import PIL.Image  # noqa: E402

from diffretouch import ATTRIBUTES, BUNDLED_MODEL, DiffRetouchPipeline, open_photo  # noqa: E402
from diffretouch.batch.sheets import captioned, cell, retouch_with, seeds_row, sheet, sliders_sheet  # noqa: E402
from diffretouch.data.dataset import decode, photos_of, read_photo_table, read_split  # noqa: E402
from diffretouch.photo import Photo  # noqa: E402

SEEDS = (0, 1, 2, 3)


def save(pixels: np.ndarray, path: Path) -> None:
    PIL.Image.fromarray(pixels).save(path, quality=88)


def seeds_of(pipe: DiffRetouchPipeline, path: Path) -> list[np.ndarray]:
    """A photo's row of the gallery: the input and four seeds at c = 0."""
    photo = open_photo(path)
    shown = cell(photo, 384)
    return seeds_row(retouch_with(pipe, photo, shown), shown.pixels, path.stem, SEEDS)


def test_photos(folder: Path, every: int = 3) -> Iterator[tuple[dict[str, str], Photo]]:
    """Every third test photo of a data set that may be shown, as the model gets it, with its line of photos.tsv."""
    table = {entry["file"].rpartition(".")[0]: entry for entry in read_photo_table(folder / "photos.tsv")}
    photos = [(table[found[0]["photo_id"].split("#")[0]], found[0]) for found in photos_of(read_split(folder, "test"))]
    free = [(entry, row) for entry, row in photos if entry["redistributable"] == "yes"]
    for entry, row in free[::every]:
        yield entry, Photo(np.asarray(decode(row["input"])))


def save_test_photos(pipe: DiffRetouchPipeline, dataset: Path, output: Path) -> None:
    """test-photos.jpg, two rows a photo: input and four seeds at c = 0; every slider at both ends. With credits."""
    rows, credits = [], []
    ends = [(name, end) for name in ATTRIBUTES for end in (-1.0, 1.0)]
    for number, (entry, photo) in enumerate(test_photos(dataset), 1):
        shown = cell(photo, 230)
        retouch = retouch_with(pipe, photo, shown)
        rows.append(seeds_row(retouch, shown.pixels, str(number), SEEDS))
        rows.append([captioned(retouch({name: end}, 0), f"{name} {end:+g}") for name, end in ends])
        credits.append(f"{number}. {entry['author']}, {entry['licence']}: {entry['path']} of {entry['source']}")
    save(sheet(rows), output / "test-photos.jpg")
    (output / "test-photos.txt").write_text("\n".join(credits) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--name", help="write NAME-before-after.jpg and NAME-sliders.jpg of the first photo")
    parser.add_argument("--gallery", action="store_true", help="write gallery.jpg of all photos")
    parser.add_argument("--test_photos", type=Path, help="write test-photos.jpg of this data set")
    parser.add_argument("--model", default=BUNDLED_MODEL)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    pipe = DiffRetouchPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)
    if options.name:
        photo = open_photo(options.photos[0])
        shown = cell(photo, 800)
        after = retouch_with(pipe, photo, shown)({}, 0)
        pair = [captioned(shown.pixels, "before"), captioned(after, "after")]
        save(sheet([pair]), options.output / f"{options.name}-before-after.jpg")
        retouch = retouch_with(pipe, photo, cell(photo, 400))
        save(sliders_sheet(retouch), options.output / f"{options.name}-sliders.jpg")
    if options.gallery:
        save(sheet([seeds_of(pipe, path) for path in options.photos]), options.output / "gallery.jpg")
    if options.test_photos:
        save_test_photos(pipe, options.test_photos, options.output)


if __name__ == "__main__":
    main()
