"""All tables of "your style" by one command, which goes on where it was stopped.

    python benchmarks/my_style_tables.py photos my-style -o benchmarks/results/my_style.json

"photos" is the folder that dataset_card/fetch_photos.py makes, "my-style" one to work in: pairs, data sets, adapters
and the errors of every row stay there, what depends on the bundled model under its hash, with each training's log.
The result is written again after every row, with what there is so far; rows that need no training come first.
`--rows look` makes no others, `--rows trained` those whose adapters are there already. One thread; a training takes
some six minutes of it.

Sets, of styles.py's styles: fixed, adaptive, and both with one pair in five of another style, cropped or shifted.
Rows: no change, a LUT from the same pairs, looks of the nearest photos, the look, the bundled model, the kit as it was
before it had looks, the kit, of noisy pairs also with all of them kept. Then the curve over 1 to 40 pairs, and the
controls.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

for _name, _value in (("GOMP_SPINCOUNT", "2000"), ("OMP_NUM_THREADS", "1")):  # before torch is imported
    os.environ.setdefault(_name, _value)

import my_style  # noqa: E402
import numpy as np  # noqa: E402

ROOT = Path(__file__).parents[1]
SETS = {
    "faded film": ("faded_film", None),
    "studio print": ("studio_print", None),
    "faded film, noisy pairs": ("faded_film", "mixed"),
    "studio print, noisy pairs": ("studio_print", "mixed"),
}
CONTROLLED = ("faded film", "studio print")  # each the other's other photographer
# The recipe of before the kit fitted looks and heads.
AS_IT_WAS = (
    "fit_look=false",
    "lora_target_modules=[attn1.to_q,attn1.to_k,to_v,to_out.0]",
    "sampled_batch_size=0",
    "max_train_steps=300",
    "patience=null",
    "contrastive=signed",
    "contrastive_weight=0.3",
    "condition_dropout=0.15",
)
ALL_KEPT = ("judge_pairs=false",)
_SEED = 0


@dataclass(frozen=True)
class Work:
    """What is done already, in a folder; everything in it is made once.

    Args:
        folder: to work in.
        photos: of dataset_card/fetch_photos.py.
        rows: "look", without those that need training; "trained", with those that are trained already; "all".
    """

    folder: Path
    photos: Path
    rows: str

    def pairs(self, name: str) -> Path:
        """`my_style.py pairs` of a set."""
        folder = self.folder / _slug(name)
        if not (folder / "unseen").is_dir():
            style, noisy = SETS[name]
            spoiled = ["--noisy", noisy] if noisy else []
            _run(
                [my_style.__file__, "pairs", self.photos, folder, "--style", style, *spoiled],
                self.folder / "pairs.log",
            )
        return folder

    def data(self, name: str, kind: str = "data") -> Path:
        """The data set of a set, as `diffretouch dataset` makes it; "reversed" or "mismatched" in its place."""
        folder, pairs = self.pairs(name) / kind, self.pairs(name) / "train"
        if not folder.is_dir() and kind == "data":
            command = ["-m", "diffretouch.commands.cli", "dataset", "pairs", pairs / "before", pairs / "after"]
            _run([*command, "-o", folder, "--test", "0"], self.folder / "data.log")
        elif not folder.is_dir():
            write_altered(self.data(name), folder, kind)
        return folder

    @property
    def of_bundle(self) -> Path:
        """Where what depends on the bundled model is kept."""
        from diffretouch import BUNDLED_MODEL

        files = sorted(Path(BUNDLED_MODEL).glob("*/*.safetensors"))
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
        return self.folder / f"bundle-{digest}"

    def adapter(self, name: str, kind: str = "data", overrides: tuple[str, ...] = ()) -> Path:
        """The adapter trained on a set by the recipe my_style, changed by `overrides`."""
        folder = self._run_of(name, kind, overrides)
        if not (folder / "final").is_dir():
            settings = [f"dataset={self.data(name, kind)}", f"output_dir={folder}", "report_to=none", *overrides]
            resume = ["--resume"] if any(folder.glob("checkpoint-*")) else []
            trainer = ROOT / "train_lora" / "train_lora.py"
            _run([trainer, "--recipe", "my_style", *settings, *resume], folder.with_suffix(".log"))
        return folder / "final"

    def _run_of(self, name: str, kind: str, overrides: tuple[str, ...]) -> Path:
        changed = [override.partition("=")[0] for override in overrides]
        return self.of_bundle / _slug(" ".join([name, kind, *changed[:1]]))

    def may_have(self, name: str, kind: str = "data", overrides: tuple[str, ...] = ()) -> bool:
        """Whether the adapter is there, or may be trained."""
        return self.rows == "all" or (self._run_of(name, kind, overrides) / "final").is_dir()

    def once(self, folder: Path, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, as JSON; made once."""
        from diffretouch.files import save_json

        file = folder / f"{_slug(name)}.json"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            save_json(make(), file)
            print(f"{folder.name}: {name}", flush=True)
        return json.loads(file.read_text(encoding="utf-8"))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _run(arguments: list[Any], log: Path) -> None:
    """A program of this project; its output goes to `log`.

    Raises:
        OSError: if it fails; the message names the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, *map(str, arguments)], stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise OSError(f"{arguments[0]} failed, see {log}")


def write_altered(data: Path, out: Path, kind: str) -> None:
    """The data set with inputs and targets "reversed", or with the targets of other photos, "mismatched"."""
    import torch
    from PIL import Image

    from diffretouch.data.build import schema_row
    from diffretouch.data.dataset import decode, encode, read_split, scores_of, write_parquet
    from diffretouch.files import folder_atomically

    with folder_atomically(out) as folder:
        (folder / "data").mkdir()
        for split in ("train", "validation"):
            rows, altered = list(read_split(data, split)), []
            for number, row in enumerate(rows):
                before, after = row["input"]["bytes"], row["target"]["bytes"]
                if kind == "reversed":
                    before, after = after, before
                else:
                    other = decode(rows[number - 1]["target"]).resize(
                        decode(row["input"]).size, Image.Resampling.LANCZOS
                    )
                    after = encode(np.array(other))
                score = scores_of([np.array(decode({"bytes": after}))])[0]
                altered.append([schema_row(row["photo_id"], row["expert"], before, after, score, torch.zeros(4))])
            write_parquet(altered, folder / "data" / f"{split}-00000-of-00001.parquet")


# ---- rows -----------------------------------------------------------------------------------------------------------


def tables(work: Work) -> Iterator[tuple[str, str, Any]]:
    """(set, kind of table, the table so far), one after every row that is new to it."""
    for name in SETS:
        yield from ((name, "curve", rows) for rows in _curve(work, name))
        yield from ((name, "delta_e_2000", rows) for rows in _rows(work, name, _plain(work, name)))
    for name in CONTROLLED:
        yield from ((name, "controls by looks", rows) for rows in _controls(work, name, by_looks=True))
    if work.rows == "look":
        return
    for name in SETS:
        yield from (
            (name, "delta_e_2000", rows) for rows in _rows(work, name, _plain(work, name) | _trained(work, name))
        )
        if name in CONTROLLED and work.may_have(name):
            yield name, "sliders", _sliders(work, name)
    for name in filter(work.may_have, CONTROLLED):
        yield from ((name, "controls by adapters", rows) for rows in _controls(work, name, by_looks=False))


Rows = dict[str, tuple[Path, Callable[[], Any]]]  # folder that the errors are kept in, what makes the method


def _plain(work: Work, name: str) -> Rows:
    folder = work.pairs(name)
    train, unseen = (my_style.read_pairs(folder / part) for part in ("train", "unseen"))
    pairs = list(train.values())
    methods: dict[str, Callable[[], Any]] = {
        "no change": lambda: lambda photo: photo,
        "LUT from the same pairs": lambda: my_style.lut_of(pairs),
        "LUT from the unseen pairs themselves": lambda: my_style.lut_of(list(unseen.values())),
        "look of the 1 nearest photo": lambda: my_style.nearest_looks(pairs)["look of the 1 nearest photo"],
        "look of the 3 nearest photos": lambda: my_style.nearest_looks(pairs)["look of the 3 nearest photos"],
        "look": lambda: my_style.look_of(pairs),
    }
    return {row: (folder / "rows", make) for row, make in methods.items()}


def _model(work: Work, adapter: Callable[[], Path] | None) -> Callable[[], Any]:
    return lambda: my_style.model_of("bundled", str(adapter()) if adapter else None, _SEED)


def _trained(work: Work, name: str) -> Rows:
    kept = work.of_bundle / f"{_slug(name)}-rows"
    found = {"bundled model, c = 0": _model(work, None)}
    other = ("LoRA as it was", AS_IT_WAS) if SETS[name][1] is None else ("ours, all pairs kept", ALL_KEPT)
    for row, overrides in (other, ("ours", ())):
        if work.may_have(name, overrides=overrides):
            found[row] = _model(work, partial(work.adapter, name, overrides=overrides))
    return {row: (kept, make) for row, make in found.items()}


def _errors(make: Callable[[], Any], unseen: dict[str, my_style.Pair]) -> list[float]:
    return my_style.errors_of(make(), unseen)


def _moved(make: Callable[[], Any], unseen: dict[str, my_style.Pair]) -> dict[str, Any]:
    return my_style.sliders_of(make(), unseen)


def _rows(work: Work, name: str, rows: Rows) -> Iterator[dict[str, Any]]:
    """Figures of the rows so far, each held against the last."""
    unseen = my_style.read_pairs(work.pairs(name) / "unseen")
    errors: dict[str, list[float]] = {}
    for row, (folder, make) in rows.items():
        errors[row] = work.once(folder, row, partial(_errors, make, unseen))
        yield my_style.figures(errors)


def _curve(work: Work, name: str) -> Iterator[dict[str, Any]]:
    folder = work.pairs(name)
    train, unseen = (my_style.read_pairs(folder / part) for part in ("train", "unseen"))
    pairs, rows = list(train.values()), {}
    for count in (count for count in my_style.COUNTS if count <= len(pairs)):
        used = [pairs[number * len(pairs) // count] for number in range(count)]
        methods = {"LUT from the same pairs": partial(my_style.lut_of, used), "look": partial(my_style.look_of, used)}
        errors = {
            row: work.once(folder / "curve", f"{count} {row}", partial(_errors, make, unseen))
            for row, make in methods.items()
        }
        rows[str(count)] = my_style.figures(errors)
        yield rows


def _sliders(work: Work, name: str) -> dict[str, Any]:
    unseen = my_style.read_pairs(work.pairs(name) / "unseen")
    kept = work.of_bundle / f"{_slug(name)}-sliders"
    rows = _trained(work, name)
    return {
        row: work.once(kept, row, partial(_moved, rows[row][1], unseen)) for row in ("bundled model, c = 0", "ours")
    }


def _controls(work: Work, name: str, by_looks: bool) -> Iterator[dict[str, Any]]:
    """By how much each control is worse than the style's own look, or adapter."""
    from diffretouch.evaluation.intervals import difference_figure, resamples

    folder = work.pairs(name)
    train, unseen = (my_style.read_pairs(folder / part) for part in ("train", "unseen"))
    (other,) = set(CONTROLLED) - {name}
    if by_looks:
        kept, (own, others) = folder / "controls", _looks(work, list(train.values()), other)
    else:
        kept, (own, others) = work.of_bundle / f"{_slug(name)}-controls", _adapters(work, name, other)
    others["the mean of all training targets"] = lambda: my_style.mean_of(list(train.values()))
    ours = work.once(kept, "ours", partial(_errors, own, unseen))
    errors: dict[str, list[float]] = {}
    for control, make in others.items():
        errors[control] = work.once(kept, control, partial(_errors, make, unseen))
    errors["the wrong query"] = work.once(
        kept, "the wrong query", lambda: my_style.errors_of_wrong_query(own(), unseen, not by_looks)
    )
    samples = resamples(len(unseen), seed=0)
    yield {control: {"worse_by": difference_figure(found, ours, samples)} for control, found in errors.items()}


def _looks(
    work: Work, pairs: list[my_style.Pair], other: str
) -> tuple[Callable[[], Any], dict[str, Callable[[], Any]]]:
    others = list(my_style.read_pairs(work.pairs(other) / "train").values())
    return partial(my_style.look_of, pairs), {
        "another photographer's": partial(my_style.look_of, others),
        "reversed pairs": partial(my_style.look_of, [(after, before) for before, after in pairs]),
        "mismatched pairs": partial(my_style.lut_of, my_style.mismatched(pairs)),  # which a look refuses
    }


def _adapters(work: Work, name: str, other: str) -> tuple[Callable[[], Any], dict[str, Callable[[], Any]]]:
    kinds = [kind for kind in ("reversed", "mismatched") if work.may_have(name, kind)]
    others = {"another photographer's": _model(work, partial(work.adapter, other))} if work.may_have(other) else {}
    others |= {f"{kind} pairs": _model(work, partial(work.adapter, name, kind)) for kind in kinds}
    return _model(work, partial(work.adapter, name)), others


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder made by dataset_card/fetch_photos.py")
    parser.add_argument("work", type=Path, help="folder to work in, kept")
    parser.add_argument(
        "--rows", choices=("all", "look", "trained"), default="all", help="which (default: %(default)s)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args(arguments)
    from diffretouch.files import save_json

    results: dict[str, dict[str, Any]] = {}
    try:
        for name, kind, table in tables(Work(options.work.resolve(), options.photos.resolve(), options.rows)):
            results.setdefault(name, {})[kind] = table
            save_json(results, options.output)
    except (OSError, TypeError, ValueError) as error:
        print(f"my_style_tables.py: {error}", file=sys.stderr)
        return 2
    for name, found in results.items():
        print(f"\n{name}\n\n{my_style.format_table(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
