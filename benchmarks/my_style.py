"""A style that no expert of the bundled model has: pairs to learn it from, and how well a LoRA has learned it.

    python benchmarks/my_style.py pairs photos my-style                    # my-style/{train,unseen}/{before,after}
    diffretouch dataset pairs my-style/train/before my-style/train/after -o my-style/data
    python train_lora/train_lora.py --recipe my_style dataset=my-style/data
    python benchmarks/my_style.py measure my-style runs/my-style/final -o my-style.json --picture my-style.jpg

"photos" is the folder that dataset_card/fetch_photos.py makes. The 40 photos to learn from are of its train split, the
20 unseen ones of its test split, which neither the bundled model nor the LoRA ever saw.

The style, "faded film", is a fixed edit of every pixel in OKLab (Ottosson 2020), from linear light and back:

1. an S-curve on lightness around 0.6, as film has: shadows fall, highlights roll off;
2. faded blacks: lightness 0 becomes 0.2, white becomes 0.97;
3. chroma times 0.75;
4. split toning: shadows move towards teal, highlights towards orange, by how dark or light they are.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

# Spinning OpenMP barriers make small machines up to 50 times slower; has to be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np  # noqa: E402

TABLE = Path(__file__).parents[1] / "dataset_card" / "photos.tsv"

# Linear sRGB -> cone responses -> OKLab (Ottosson 2020).
_RGB_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_TEAL = np.array([-0.035, -0.030])  # (a, b) added to the darkest tones
_ORANGE = np.array([0.022, 0.045])  # (a, b) added to the lightest tones


def faded_film(photo: np.ndarray) -> np.ndarray:
    """The style, see the file's first lines: sRGB uint8 (H, W, 3) -> the same."""
    from diffretouch.data.light import quantise, to_linear, to_srgb

    lab = np.cbrt(to_linear(photo) @ _RGB_TO_LMS.T) @ _LMS_TO_LAB.T  # (H, W, 3)
    lightness = _film_curve(lab[..., 0])
    chroma = 0.75 * lab[..., 1:] + (1 - lightness[..., None]) ** 2 * _TEAL + lightness[..., None] ** 2 * _ORANGE
    toned = np.concatenate([(0.2 + 0.77 * lightness)[..., None], chroma], axis=-1)
    light = (toned @ np.linalg.inv(_LMS_TO_LAB).T) ** 3 @ np.linalg.inv(_RGB_TO_LMS).T
    return quantise(to_srgb(np.clip(light, 0, 1)))


def _film_curve(lightness: np.ndarray, pivot: float = 0.6, gamma: float = 1.6) -> np.ndarray:
    """Two power curves that meet at `pivot` with slope `gamma`; [0, 1] -> [0, 1]."""
    unit = np.clip(lightness, 0, 1)
    below = pivot * (unit / pivot) ** gamma
    above = 1 - (1 - pivot) * ((1 - unit) / (1 - pivot)) ** gamma
    return np.where(unit < pivot, below, above)


def write_pairs(photos: Path, out: Path, num_train: int, num_unseen: int, long_side: int) -> None:
    """Write `out/{train,unseen}/{before,after}/NAME.jpg`: photos and their faded-film versions, evenly over the table.

    Raises:
        FileNotFoundError: if a photo is missing.
    """
    from diffretouch.data.build import open_resized
    from diffretouch.data.dataset import encode, read_photo_table

    entries = read_photo_table(TABLE)
    for part, split, count in (("train", "train", num_train), ("unseen", "test", num_unseen)):
        # Photos as a studio has them: the table's TIFFs are small views of panoramas in linear light. Unseen ones
        # are shown in docs/.
        usable = [entry for entry in entries if entry["split"] == split and not entry["file"].endswith(".tif")]
        files = [entry["file"] for entry in usable if part == "train" or entry["redistributable"] == "yes"]
        for folder in ("before", "after"):
            (out / part / folder).mkdir(parents=True, exist_ok=True)
        for name in (files[number * len(files) // count] for number in range(count)):
            before = open_resized(photos / name, long_side)
            flat = name.replace("/", "-").rpartition(".")[0] + ".jpg"
            (out / part / "before" / flat).write_bytes(encode(before))
            (out / part / "after" / flat).write_bytes(encode(faded_film(before)))


def measure(pairs: Path, model: str, adapters: list[str], seed: int) -> tuple[dict[str, Any], list[list[np.ndarray]]]:
    """Base model and adapters on the pairs in `pairs`/before and /after, all sliders at 0 and then one at a time.

    Returns:
        The figures: per method Delta E 2000 of every photo and its mean; per slider the attribute at -1, 0 and +1 as
        means over the photos, and the share of photos that it moves the right way. And per photo its pictures
        (H, W, 3) in [0, 1]: before, after, base, each adapter.
    """
    from diffretouch import DiffRetouchPipeline, open_photo
    from diffretouch.evaluation.metrics import delta_e_2000

    pipe = DiffRetouchPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    names = sorted(path.name for path in (pairs / "before").iterdir())
    photos = [open_photo(pairs / "before" / name).pixels / 255 for name in names]
    targets = [open_photo(pairs / "after" / name).pixels / 255 for name in names]
    pictures = [[photo, target] for photo, target in zip(photos, targets, strict=True)]
    results: dict[str, Any] = {"no change": {"delta_e": list(map(delta_e_2000, photos, targets))}}
    for adapter in [None, *adapters]:
        if adapter is not None:
            pipe.load_lora_weights(adapter)
        retouched, sliders = _retouch_all(pipe, photos, seed)
        results[adapter or "base"] = {"delta_e": list(map(delta_e_2000, retouched, targets)), "sliders": sliders}
        for row, picture in zip(pictures, retouched, strict=True):
            row.append(picture)
        if adapter is not None:
            pipe.unload_lora_weights()
    for result in results.values():
        result["mean_delta_e"] = float(np.mean(result["delta_e"]))
    return {"photos": names, "methods": results}, pictures


def _retouch_all(pipe: Any, photos: list[np.ndarray], seed: int) -> tuple[list[np.ndarray], dict[str, Any]]:
    """c = 0 of every photo, and what each slider does to its attribute."""
    import torch

    from diffretouch.attributes import ATTRIBUTES, attribute_scores, attribute_view

    # c = 0, then each slider at -1 and at +1.
    conditions = np.zeros((1 + 2 * len(ATTRIBUTES), len(ATTRIBUTES)))
    for number in range(len(ATTRIBUTES)):
        conditions[1 + 2 * number : 3 + 2 * number, number] = (-1, 1)
    sliders = {name: list(conditions[:, number]) for number, name in enumerate(ATTRIBUTES)}
    retouched, scores = [], []
    for photo in photos:
        noise = [torch.Generator().manual_seed(seed) for _ in conditions]
        grids = pipe([photo] * len(conditions), **sliders, generator=noise, output_type="grid").grids
        made = [grid.apply(photo.astype(np.float32)) for grid in grids]
        views = [attribute_view(torch.from_numpy(picture).permute(2, 0, 1)[None]) for picture in made]
        retouched.append(made[0])
        scores.append(attribute_scores(torch.cat(views)).numpy())
    table = np.stack(scores)  # (photos, 1 + 2 per slider, attributes)
    curves = {}
    for number, slider in enumerate(ATTRIBUTES):
        low, zero, high = (table[:, row, number] for row in (1 + 2 * number, 0, 2 + 2 * number))
        curves[slider] = {
            "curve": [float(score.mean()) for score in (low, zero, high)],
            "right_way": float(np.mean(high > low)),
        }
    return retouched, curves


def format_table(result: dict[str, Any]) -> str:
    """The figures as Markdown tables."""
    from diffretouch.attributes import ATTRIBUTES

    base = result["methods"]["base"]["mean_delta_e"]
    lines = ["| | Delta E 2000 | worst photo | of the base |", "| --- | ---: | ---: | ---: |"]
    for name, method in result["methods"].items():
        mean = method["mean_delta_e"]
        lines.append(f"| {name} | {mean:.2f} | {max(method['delta_e']):.2f} | {100 * mean / base:.0f}% |")
    lines += ["", "| slider, own attribute at -1 / 0 / +1 (right way) | " + " | ".join(ATTRIBUTES) + " |"]
    lines += ["| --- |" + " ---: |" * len(ATTRIBUTES)]
    for name, method in result["methods"].items():
        if "sliders" in method:
            cells = [
                f"{' / '.join(f'{score:.3g}' for score in curve['curve'])} ({100 * curve['right_way']:.0f}%)"
                for curve in method["sliders"].values()
            ]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def save_sheet(pictures: list[list[np.ndarray]], path: Path, num_photos: int = 6, height: int = 200) -> None:
    """One photo per row: before, after, base, adapters, as `measure` orders them."""
    from PIL import Image

    chosen = [pictures[number * len(pictures) // num_photos] for number in range(min(num_photos, len(pictures)))]
    rows = []
    for row in chosen:
        size = (height * 4 // 3, height)
        cells = [Image.fromarray(np.round(picture * 255).astype(np.uint8)).resize(size) for picture in row]
        rows.append(np.concatenate([np.asarray(cell) for cell in cells], axis=1))
    Image.fromarray(np.concatenate(rows)).save(path, quality=92)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see the file's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    pairs = commands.add_parser("pairs", help="make before/after folders")
    pairs.add_argument("photos", type=Path, help="folder made by dataset_card/fetch_photos.py")
    pairs.add_argument("out", type=Path, help="folder to write")
    pairs.add_argument("--num_train", type=int, default=40, help="(default: %(default)s)")
    pairs.add_argument("--num_unseen", type=int, default=20, help="(default: %(default)s)")
    pairs.add_argument("--long_side", type=int, default=768, help="pixels (default: %(default)s)")
    measured = commands.add_parser("measure", help="base model and adapters on the unseen pairs")
    measured.add_argument("pairs", type=Path, help="folder written by `pairs`")
    measured.add_argument("adapters", nargs="+", help="folders or Hub ids")
    measured.add_argument("--model", default="bundled", help="'bundled', a folder or a Hub id (default: %(default)s)")
    measured.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    measured.add_argument("--picture", type=Path, help="write before / after / base / adapters of six photos there")
    measured.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Do what the command line says."""
    if options.command == "pairs":
        write_pairs(options.photos, options.out, options.num_train, options.num_unseen, options.long_side)
        return
    from diffretouch import BUNDLED_MODEL
    from diffretouch.files import save_json

    model = BUNDLED_MODEL if options.model == "bundled" else options.model
    result, pictures = measure(options.pairs / "unseen", model, options.adapters, options.seed)
    save_json(result, options.output)
    if options.picture is not None:
        save_sheet(pictures, options.picture)
    print(format_table(result))


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on what was wrong."""
    try:
        run(parse_arguments(arguments))
    except (OSError, TypeError, ValueError) as error:
        print(f"my_style.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
