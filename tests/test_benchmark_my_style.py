"""The styles that the kit is measured by, and that its rivals and controls are what they are called."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from scenes import scene, write_data_set

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def styles() -> ModuleType:
    return _load("styles")


@pytest.fixture(scope="module")
def my_style() -> ModuleType:
    return _load("my_style")


@pytest.fixture(scope="module")
def all_tables() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return _load("my_style_tables")


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where a dataclass looks its types up
    spec.loader.exec_module(module)
    return module


def test_one_style_looks_at_colours_alone_and_the_other_at_the_photo_and_the_place(styles) -> None:
    photo = scene(3)
    half = photo[:, :36]
    assert np.array_equal(styles.faded_film(half), styles.faded_film(photo)[:, :36])
    assert not np.array_equal(styles.studio_print(half), styles.studio_print(photo)[:, :36])
    flat = np.full((40, 60, 3), 90, np.uint8)
    printed = styles.studio_print(flat)
    assert printed[0, 0].mean() < 0.9 * printed[20, 30].mean()
    darker = styles.studio_print(np.full((40, 60, 3), 60, np.uint8))
    assert np.abs(darker.astype(int) - printed).max() <= 2  # both come to the same exposure


def write_pairs(folder: Path, edit, train: range, unseen: range) -> None:
    for part, seeds in (("train", train), ("unseen", unseen)):
        for side in ("before", "after"):
            (folder / part / side).mkdir(parents=True)
        for seed in seeds:
            photo = scene(seed, 96, 144)
            Image.fromarray(photo).save(folder / part / "before" / f"{seed}.png")
            Image.fromarray(edit(photo)).save(folder / part / "after" / f"{seed}.png")


def test_all_tables_are_made_row_by_row_and_go_on_where_they_stopped(
    all_tables, styles, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(
        all_tables, "SETS", {"faded film": ("faded_film", None), "studio print": ("studio_print", None)}
    )
    monkeypatch.setattr(all_tables.my_style, "COUNTS", (5,))
    for name, edit in (("faded-film", styles.faded_film), ("studio-print", styles.studio_print)):
        write_pairs(tmp_path / name, edit, range(5), range(20, 23))
    command = [str(tmp_path), str(tmp_path), "--rows", "look", "-o", str(tmp_path / "found.json")]
    assert all_tables.main(command) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    for name in ("faded film", "studio print"):
        assert list(found[name]) == ["curve", "delta_e_2000", "controls by looks"]
        assert list(found[name]["delta_e_2000"])[-1] == "look" and len(found[name]["controls by looks"]) == 5
        assert found[name]["curve"]["5"]["look"]["interval"][0] <= found[name]["curve"]["5"]["look"]["mean"]
    assert found["faded film"]["controls by looks"]["reversed pairs"]["worse_by"]["interval"][0] > 0
    row = tmp_path / "faded-film" / "rows" / "no-change.json"
    row.write_text("[1.0, 2.0, 3.0]")
    (tmp_path / "faded-film" / "rows" / "look.json").unlink()
    assert all_tables.main(command) == 0
    again = json.loads((tmp_path / "found.json").read_text())
    assert again["faded film"]["delta_e_2000"]["no change"]["mean"] == 2
    assert again["faded film"]["delta_e_2000"]["look"] == found["faded film"]["delta_e_2000"]["look"]


def test_rows_of_adapters_that_are_there_need_no_training(all_tables, tmp_path) -> None:
    trained, everything = (all_tables.Work(tmp_path, tmp_path, rows) for rows in ("trained", "all"))
    assert list(all_tables._trained(trained, "studio print")) == ["bundled model, c = 0"]
    (trained.of_bundle / "studio-print-data" / "final").mkdir(parents=True)
    assert list(all_tables._trained(trained, "studio print")) == ["bundled model, c = 0", "ours"]
    assert list(all_tables._trained(everything, "studio print"))[1:] == ["LoRA as it was", "ours"]


def test_data_for_controls_is_the_same_photos_turned_round_or_with_others_targets(all_tables, tmp_path) -> None:
    from diffretouch.data.dataset import read_split

    data = write_data_set(tmp_path / "data", {"train": 3, "validation": 1})
    rows = list(read_split(data, "train"))
    for kind in ("reversed", "mismatched"):
        all_tables.write_altered(data, tmp_path / kind, kind)
    turned = list(read_split(tmp_path / "reversed", "train"))
    assert [row["input"]["bytes"] for row in turned] == [row["target"]["bytes"] for row in rows]
    assert [row["target"]["bytes"] for row in turned] == [row["input"]["bytes"] for row in rows]
    others = list(read_split(tmp_path / "mismatched", "train"))
    assert [row["input"]["bytes"] for row in others] == [row["input"]["bytes"] for row in rows]
    assert len(others) == len(rows) and len(list(read_split(tmp_path / "mismatched", "validation"))) > 0


def test_table_look_and_curve_on_pairs_of_a_fixed_style(my_style, styles, tmp_path, monkeypatch, capsys) -> None:
    write_pairs(tmp_path, styles.faded_film, range(6), range(20, 23))
    monkeypatch.setattr(my_style, "COUNTS", (5,))
    assert my_style.main(["curve", str(tmp_path), "-o", str(tmp_path / "curve.json")]) == 0
    rows = json.loads((tmp_path / "curve.json").read_text())["5"]
    assert rows["look"]["mean"] < 3 and rows["LUT from the same pairs"]["mean"] < 5
    assert rows["look"]["less_ours"]["mean"] == 0
    assert my_style.main(["controls", str(tmp_path), "--other", str(tmp_path), "-o", str(tmp_path / "c.json")]) == 0
    found = json.loads((tmp_path / "c.json").read_text())["controls"]
    wrong = [name for name in found if name != "another photographer's look"]  # here it is the same one
    assert len(wrong) == 4 and all(found[name]["worse_by"]["interval"][0] > 0 for name in wrong)
    assert my_style.main(["measure", str(tmp_path / "none"), "-o", str(tmp_path / "x.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
