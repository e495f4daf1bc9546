"""The styles that the kit is measured by, and that its rivals and controls are what they are called."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from scenes import scene

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def styles() -> ModuleType:
    return _load("styles")


@pytest.fixture(scope="module")
def my_style() -> ModuleType:
    return _load("my_style")


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
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


def test_table_look_and_curve_on_pairs_of_a_fixed_style(my_style, styles, tmp_path, monkeypatch, capsys) -> None:
    for part, seeds in (("train", range(6)), ("unseen", range(20, 23))):
        for side in ("before", "after"):
            (tmp_path / part / side).mkdir(parents=True)
        for seed in seeds:
            photo = scene(seed, 96, 144)
            Image.fromarray(photo).save(tmp_path / part / "before" / f"{seed}.png")
            Image.fromarray(styles.faded_film(photo)).save(tmp_path / part / "after" / f"{seed}.png")
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
