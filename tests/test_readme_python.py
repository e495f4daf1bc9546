"""The Python of the README, the index page and the cards runs as it stands, on a model and data of the test's."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from scenes import write_data_set
from tiny import build_tiny_pipeline

from diffretouch import open_photo
from diffretouch.data.card import _usage
from diffretouch.hub.upload import export

ROOT = Path(__file__).parents[1]


def blocks_of(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader stands: with a photo, under its two names."""
    (tmp_path / "examples").mkdir()
    for name in ("photo.jpg", "examples/photo.jpg"):
        shutil.copy(ROOT / "examples" / "cinema.jpg", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "docs/index_page.md"])
def test_the_first_lines_of_python_write_a_photo(place: Path, page: str) -> None:
    exec(blocks_of((ROOT / page).read_text(encoding="utf-8"))[0], {})
    assert open_photo("better.jpg").pixels.shape == open_photo("photo.jpg").pixels.shape


def test_both_ways_to_use_a_model_that_its_card_shows(place: Path) -> None:
    export(build_tiny_pipeline(), place / "me" / "model", repo_id="me/model")
    with_ours, with_diffusers = blocks_of((place / "me" / "model" / "README.md").read_text())
    for block in (with_ours, with_diffusers):
        exec(block, {})
        assert open_photo("retouched.jpg").pixels.shape == open_photo("photo.jpg").pixels.shape
        (place / "retouched.jpg").unlink()


def test_the_use_of_a_data_set_that_its_card_shows(place: Path) -> None:
    write_data_set(place / "set", {"train": 1})
    (block,) = blocks_of(_usage("synthetic"))
    names: dict = {}
    exec(block.replace("path/or/id", str(place / "set")), names)
    assert len(names["rows"]) == 5 and names["rows"][0]["input"].size == (36, 24)
