"""Your style from pairs: what an adapter reaches on unseen photos, beside a LUT and the look of the nearest photo.

    python benchmarks/my_style.py pairs photos my-style/print --style studio_print   # {train,unseen}/{before,after}
    diffretouch dataset pairs my-style/print/train/before my-style/print/train/after -o my-style/print/data --test 0
    python train_lora/train_lora.py --recipe my_style dataset=my-style/print/data output_dir=runs/print
    python benchmarks/my_style.py measure my-style/print ours=runs/print/final -o print.json --picture print.jpg
    python benchmarks/my_style.py curve my-style/print -o print-curve.json           # LUT and looks from 1 to 40 pairs
    python benchmarks/my_style.py controls my-style/print ours=runs/print/final --other my-style/film -o controls.json

"photos" is the folder that dataset_card/fetch_photos.py makes. The 40 photos to learn from are of its train split, the
unseen ones of its test split, which neither the bundled model nor the adapter ever saw. Styles: styles.py. `pairs
--noisy mixed` spoils every fifth training pair: another style, a crop, or a shift in turn. `real` splits a folder of
pairs NAME_input.*, NAME_expert.* instead. All figures are CIEDE2000, means over photos with 95% bootstrap intervals.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Spinning OpenMP barriers make small machines up to 50 times slower; has to be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np  # noqa: E402

TABLE = Path(__file__).parents[1] / "dataset_card" / "photos.tsv"
COUNTS = (1, 2, 5, 10, 20, 40)
LUT_SIZE = 17
NEIGHBOURS = (1, 3)
_LONG_SIDE = 384  # of the pictures that are compared
_MOST, _LEAST = 16_000, 1600  # pixels of a pair that tables are fitted to, of one and of many
_STYLES = ("faded_film", "studio_print")
NOISY = {"mixed": ("style", "crop", "shift"), "style": ("style",)}  # what is wrong with every fifth pair, in turn

Pair = tuple[np.ndarray, np.ndarray]  # before, after: (H, W, 3) float32 in [0, 1]
Method = Callable[[np.ndarray], np.ndarray]  # a photo -> its retouch


def write_pairs(options: argparse.Namespace) -> None:
    """Write `out/{train,unseen}/{before,after}/NAME.jpg`: photos and the same in the style, evenly over the table.

    Raises:
        FileNotFoundError: if a photo is missing.
    """
    import styles

    from diffretouch.data.build import open_resized
    from diffretouch.data.dataset import read_photo_table

    style = getattr(styles, options.style)
    other = getattr(styles, next(name for name in _STYLES if name != options.style))
    entries = read_photo_table(TABLE)
    for part, split, count in (("train", "train", options.num_train), ("unseen", "test", options.num_unseen)):
        # Photos as a studio has them: the table's TIFFs are small views of panoramas in linear light. Unseen ones
        # are shown in docs/.
        usable = [entry for entry in entries if entry["split"] == split and not entry["file"].endswith(".tif")]
        files = [entry["file"] for entry in usable if part == "train" or entry["redistributable"] == "yes"]
        for number, name in enumerate(files[place * len(files) // count] for place in range(count)):
            before = open_resized(options.photos / name, options.long_side)
            after = style(before)
            if options.noisy and part == "train" and number % 5 == 4:
                kinds = NOISY[options.noisy]
                after = _spoiled(before, after, other, kinds[number // 5 % len(kinds)])
            _save(options.out / part, name.replace("/", "-").rpartition(".")[0], before, after)


def _spoiled(before: np.ndarray, after: np.ndarray, other: Method, kind: str) -> np.ndarray:
    """Another style, a crop of 80%, or a shift of 2% of the picture."""
    height, width = after.shape[:2]
    if kind == "style":
        return other(before)
    if kind == "crop":
        return after[height // 10 : height - height // 10, width // 10 : width - width // 10]
    return np.roll(after, (height // 50, width // 50), axis=(0, 1))


def write_real(options: argparse.Namespace) -> None:
    """Write `out/{train,unseen}/{before,after}/NAME.jpg` of a folder of real pairs, every third one unseen."""
    from diffretouch.data.build import open_resized

    inputs = sorted(options.folder.glob("*_input.*"))
    for number, path in enumerate(inputs):
        after = path.with_name(path.name.replace("_input", "_expert"))
        part = "unseen" if number % 3 == 2 else "train"
        name = path.stem.replace("_input", "")
        _save(options.out / part, name, *(open_resized(file, options.long_side) for file in (path, after)))


def _save(folder: Path, name: str, before: np.ndarray, after: np.ndarray) -> None:
    from diffretouch.data.dataset import encode

    for side, picture in (("before", before), ("after", after)):
        (folder / side).mkdir(parents=True, exist_ok=True)
        (folder / side / f"{name}.jpg").write_bytes(encode(picture))


def read_pairs(folder: Path) -> dict[str, Pair]:
    """The pairs of `folder`/before and /after by name; a cropped one as it is, for looks only."""
    from diffretouch.data.build import open_resized

    names = sorted(path.name for path in (folder / "before").iterdir())

    def read(side: str, name: str) -> np.ndarray:
        return open_resized(folder / side / name, _LONG_SIDE).astype(np.float32) / 255

    return {name: (read("before", name), read("after", name)) for name in names}


# ---- rivals ---------------------------------------------------------------------------------------------------------


def lut_of(pairs: Sequence[Pair], size: int = LUT_SIZE) -> Method:
    """One table fitted to all pixels of the pairs by least squares."""
    from diffretouch.look.lut import fit_lut

    samples = [_sample(pair, max(_LEAST, _MOST // len(pairs))) for pair in pairs]
    before, after = (np.concatenate(side) for side in zip(*samples, strict=True))
    return fit_lut(before, after, size).apply


def look_of(pairs: Sequence[Pair]) -> Method:
    """What `fit_look` finds."""
    from diffretouch.data.look_pairs import look_from_pairs

    in_8_bits = [
        (np.round(before * 255).astype(np.uint8), np.round(after * 255).astype(np.uint8)) for before, after in pairs
    ]
    return look_from_pairs(in_8_bits).look.apply


def nearest_looks(pairs: Sequence[Pair]) -> dict[str, Method]:
    """The look of the training photo that is most like a photo, and the mean of the three nearest ones': by quantiles
    of lightness, and mean and spread of a and b (CIELAB), each in units of its spread over the training photos."""
    tables = [lut_of([pair]) for pair in pairs]
    known = np.stack([_described(before) for before, _ in pairs])
    units = np.maximum(known.std(0), 1e-3) if len(pairs) > 1 else np.ones(known.shape[1])

    def retouch(neighbours: int, photo: np.ndarray) -> np.ndarray:
        apart = np.square((known - _described(photo)) / units).sum(1)
        return np.mean([tables[number](photo) for number in np.argsort(apart)[:neighbours]], axis=0)

    counts = [count for count in NEIGHBOURS if count <= len(pairs)]
    return {f"look of the {count} nearest photo{'s' * (count > 1)}": partial(retouch, count) for count in counts}


def _described(photo: np.ndarray) -> np.ndarray:
    from skimage.color import rgb2lab

    lab = rgb2lab(photo[::3, ::3]).reshape(-1, 3)
    return np.concatenate(
        [np.quantile(lab[:, 0], (0.05, 0.25, 0.5, 0.75, 0.95)), lab[:, 1:].mean(0), lab[:, 1:].std(0)]
    )


def _sample(pair: Pair, count: int) -> Pair:
    before, after = pair
    if before.shape != after.shape:  # a spoiled pair
        after = _resized(after, before.shape)
    places = np.random.default_rng(0).choice(before.shape[0] * before.shape[1], count)
    return before.reshape(-1, 3)[places], after.reshape(-1, 3)[places]


def _resized(picture: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    from PIL import Image

    image = Image.fromarray(np.round(picture * 255).astype(np.uint8)).resize((shape[1], shape[0]))
    return np.asarray(image, np.float32) / 255


def model_of(model: str, adapter: str | None, seed: int) -> Method:
    """The pipeline at c = 0, with an adapter or without."""
    from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline

    pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL if model == "bundled" else model)
    pipe.set_progress_bar_config(disable=True)
    if adapter is not None:
        pipe.load_lora_weights(adapter)

    def retouch(photo: np.ndarray, query: np.ndarray | None = None, **sliders: Any) -> np.ndarray:
        import torch

        noise = torch.Generator().manual_seed(seed)
        asked = photo if query is None else query
        return pipe(asked, generator=noise, output_type="grid", **sliders).grids[0].apply(photo)

    return retouch


# ---- what is measured -----------------------------------------------------------------------------------------------


def distance(picture: np.ndarray, target: np.ndarray) -> float:
    """Mean CIEDE2000 over every third pixel each way."""
    from diffretouch.evaluation.metrics import delta_e_2000

    return delta_e_2000(picture[::3, ::3], target[::3, ::3])


def errors_of(method: Method, unseen: dict[str, Pair]) -> list[float]:
    return [distance(method(photo), target) for photo, target in unseen.values()]


def figures(errors: dict[str, list[float]]) -> dict[str, Any]:
    """Mean, interval and worst of every row; the last one ("ours") held against each, in pairs and as a ratio."""
    from diffretouch.evaluation.intervals import difference_figure, mean_figure, resamples

    samples = resamples(len(next(iter(errors.values()))), seed=0)
    ours = list(errors.values())[-1]
    return {
        name: {
            **mean_figure(values, samples),
            "worst": max(values),
            "less_ours": difference_figure(values, ours, samples),
            "ours_below": round(1 - float(np.mean(ours) / np.mean(values)), 3),
            "of_each_photo": [round(value, 3) for value in values],
        }
        for name, values in errors.items()
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every rival and adapter on the unseen pairs, at c = 0; and what sliders do with the last adapter and without."""
    train, unseen = (read_pairs(options.pairs / part) for part in ("train", "unseen"))
    pairs = list(train.values())
    adapters = dict(given.split("=", 1) for given in options.adapters)
    models = {"bundled model, c = 0": None, **adapters}
    methods: dict[str, Method] = {
        "no change": lambda photo: photo,
        "LUT from the same pairs": lut_of(pairs),
        "LUT from the unseen pairs themselves": lut_of(list(unseen.values())),
        **nearest_looks(pairs),
        "look": look_of(pairs),
        **{name: model_of(options.model, adapter, options.seed) for name, adapter in models.items()},
    }
    errors = {}
    for name, method in methods.items():
        errors[name] = errors_of(method, unseen)
        print(f"{name}: {np.mean(errors[name]):.2f}", flush=True)
    result = {"pairs": len(pairs), "unseen": list(unseen), "delta_e_2000": figures(errors)}
    if adapters:
        chosen = {name: methods[name] for name in ("bundled model, c = 0", list(adapters)[-1])}
        result["sliders"] = {name: sliders_of(method, unseen) for name, method in chosen.items()}
    if options.picture is not None:
        save_sheet(methods, unseen, errors, options.picture)
    return result


def sliders_of(method: Any, unseen: dict[str, Pair]) -> dict[str, Any]:
    """Of each slider: the share of photos that it moves the right way, and its attribute's mean range, -1 to +1."""
    import torch

    from diffretouch.attributes import ATTRIBUTES, attribute_scores, attribute_view

    def score(picture: np.ndarray, number: int) -> float:
        view = attribute_view(torch.from_numpy(picture).permute(2, 0, 1)[None].float())
        return float(attribute_scores(view)[0, number])

    found = {}
    for number, name in enumerate(ATTRIBUTES):
        moved = [
            score(method(photo, **{name: 1.0}), number) - score(method(photo, **{name: -1.0}), number)
            for photo, _ in unseen.values()
        ]
        found[name] = {"right_way": float(np.mean(np.array(moved) > 0)), "range": float(np.mean(moved))}
    return found


def curve(options: argparse.Namespace) -> dict[str, Any]:
    """LUT, nearest looks and look from 1, 2, 5 ... of the pairs, spread evenly; adapters by their count, N=FOLDER."""
    train, unseen = (read_pairs(options.pairs / part) for part in ("train", "unseen"))
    pairs = list(train.values())
    adapters = dict(given.split("=", 1) for given in options.adapters)
    rows: dict[str, Any] = {}
    for count in [count for count in COUNTS if count <= len(pairs)]:
        used = [pairs[number * len(pairs) // count] for number in range(count)]
        methods = {
            "LUT from the same pairs": lut_of(used),
            **nearest_looks(used),
            "look": look_of(used),
        }
        if str(count) in adapters:
            methods["ours"] = model_of(options.model, adapters[str(count)], options.seed)
        rows[str(count)] = figures({name: errors_of(method, unseen) for name, method in methods.items()})
        print(count, {name: round(row["mean"], 2) for name, row in rows[str(count)].items()}, flush=True)
    return rows


def controls(options: argparse.Namespace) -> dict[str, Any]:
    """How much worse the style is served by what is not it: of each control the paired difference to the real thing.

    Another photographer's pairs, reversed pairs, pairs of different photos, the mean of all training targets as a
    picture, and what was made for another photo.
    """
    from diffretouch.evaluation.intervals import difference_figure, resamples

    train, unseen = (read_pairs(options.pairs / part) for part in ("train", "unseen"))
    pairs = list(train.values())
    adapters = dict(given.split("=", 1) for given in options.adapters)
    ours = model_of(options.model, adapters.pop("ours"), options.seed) if adapters else look_of(pairs)
    others: dict[str, Method] = {
        "another photographer's look": look_of(list(read_pairs(options.other / "train").values())),
        "look of reversed pairs": lut_of([(after, before) for before, after in pairs]),
        "look of mismatched pairs": lut_of(mismatched(pairs)),
        "the mean of all training targets": mean_of(pairs),
        **{f"adapter: {name}": model_of(options.model, adapter, options.seed) for name, adapter in adapters.items()},
    }
    errors = errors_of(ours, unseen)
    samples = resamples(len(unseen), seed=0)
    found = {name: errors_of(method, unseen) for name, method in others.items()}
    found["the wrong query"] = errors_of_wrong_query(ours, unseen, bool(options.adapters))
    rows = {name: {"worse_by": difference_figure(values, errors, samples)} for name, values in found.items()}
    return {"ours": float(np.mean(errors)), "controls": rows}


def mismatched(pairs: Sequence[Pair]) -> list[Pair]:
    """Each photo with the target of the one before it."""
    return [(before, _resized(pairs[number - 1][1], before.shape)) for number, (before, _) in enumerate(pairs)]


def mean_of(pairs: Sequence[Pair]) -> Method:
    """The mean of all targets, as a picture, whatever the photo."""
    average = np.mean([_resized(target, (_LONG_SIDE, _LONG_SIDE)) for _, target in pairs], axis=0)
    return lambda photo: _resized(average, photo.shape)


def errors_of_wrong_query(method: Any, unseen: dict[str, Pair], model: bool) -> list[float]:
    """Of what was made for another photo: a `model`'s grid applied to this one, a look's picture in its place."""
    photos = [photo for photo, _ in unseen.values()]
    made = [
        method(photo, photos[number - 1]) if model else _resized(method(photos[number - 1]), photo.shape)
        for number, photo in enumerate(photos)
    ]
    return [distance(one, target) for one, (_, target) in zip(made, unseen.values(), strict=True)]


def save_sheet(
    methods: dict[str, Method], unseen: dict[str, Pair], errors: dict[str, list[float]], path: Path
) -> None:
    """Six photos, the worst of the last row among them: before, after, and what each method makes of it."""
    from PIL import Image

    names = list(unseen)
    worst = int(np.argmax(list(errors.values())[-1]))
    chosen = sorted({worst, *(number * len(names) // 5 for number in range(5))})
    rows = []
    for number in chosen:
        photo, target = unseen[names[number]]
        cells = [photo, target, *(method(photo) for method in list(methods.values())[1:])]
        rows.append(np.concatenate([_resized(cell.astype(np.float32), (200, 266)) for cell in cells], axis=1))
    Image.fromarray(np.round(np.concatenate(rows) * 255).astype(np.uint8)).save(path, quality=92)


def format_table(result: dict[str, Any]) -> str:
    """The figures of `measure` as Markdown."""
    lines = ["| | Delta E 2000 | 95% interval | worst photo |", "| --- | ---: | ---: | ---: |"]
    for name, row in result["delta_e_2000"].items():
        low, high = row["interval"]
        lines.append(f"| {name} | {row['mean']:.2f} | {low:.2f}, {high:.2f} | {row['worst']:.1f} |")
    return "\n".join(lines)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see the file's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    pairs = commands.add_parser("pairs", help="make before/after folders in a style")
    pairs.set_defaults(run=write_pairs)
    pairs.add_argument("photos", type=Path, help="folder made by dataset_card/fetch_photos.py")
    pairs.add_argument("--style", choices=_STYLES, default=_STYLES[0], help="(default: %(default)s)")
    pairs.add_argument("--noisy", choices=sorted(NOISY), help="what spoils every fifth training pair")
    pairs.add_argument("--num_train", type=int, default=40, help="(default: %(default)s)")
    pairs.add_argument("--num_unseen", type=int, default=24, help="(default: %(default)s)")
    real = commands.add_parser("real", help="split a folder of NAME_input.* and NAME_expert.*")
    real.set_defaults(run=write_real)
    real.add_argument("folder", type=Path)
    for parser_of_pairs in (pairs, real):
        parser_of_pairs.add_argument("out", type=Path, help="folder to write")
        parser_of_pairs.add_argument("--long_side", type=int, default=768, help="pixels (default: %(default)s)")
    for name, run in (("measure", measure), ("curve", curve), ("controls", controls)):
        command = commands.add_parser(name, help=(run.__doc__ or "").splitlines()[0])
        command.set_defaults(run=run)
        command.add_argument("pairs", type=Path, help="folder written by `pairs` or `real`")
        command.add_argument("adapters", nargs="*", metavar="NAME=FOLDER", help="adapters, the one to judge last")
        command.add_argument(
            "--model", default="bundled", help="'bundled', a folder or a Hub id (default: %(default)s)"
        )
        command.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
        command.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
        if run is measure:
            command.add_argument("--picture", type=Path, help="write what every row makes of six photos there")
        if run is controls:
            command.add_argument("--other", type=Path, required=True, help="pairs of another style")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on what was wrong."""
    options = parse_arguments(arguments)
    try:
        result = options.run(options)
        if result is not None:
            from diffretouch.files import save_json

            save_json(result, options.output)
            if options.run is measure:
                print(format_table(result))
    except (OSError, TypeError, ValueError) as error:
        print(f"my_style.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
