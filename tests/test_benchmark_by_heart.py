"""Known by heart or not: which photos are held against which, and how the difference is told."""

import sys
from pathlib import Path

import numpy as np
import pytest

from diffretouch.data.dataset import read_photo_table

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import by_heart  # noqa: E402


@pytest.fixture
def table(tmp_path: Path) -> Path:
    splits = ["train"] * 6 + ["validation"] * 2 + ["test"] * 2
    lines = [f"{number}.jpg\t{split}" for number, split in enumerate(splits)]
    (tmp_path / "photos.tsv").write_text("\n".join(["# of all photos", "file\tsplit", *lines]))
    return tmp_path / "photos.tsv"


def test_training_photos_are_held_against_the_unseen_ones_and_test_photos_are_left_alone(table: Path) -> None:
    out = table.with_name("chosen.tsv")
    by_heart.write_table(table, out, 4)
    chosen = {split: {int(entry["file"][0]) for entry in read_photo_table(out) if entry["split"] == split}
              for split in ("train", "validation", "test")}  # fmt: skip
    assert chosen["validation"] == {6, 7} and len(chosen["test"]) == 4 and len(chosen["train"]) == 1
    assert chosen["test"] | chosen["train"] < set(range(6)) and not chosen["test"] & chosen["train"]


@pytest.mark.parametrize("count", [0, 6])
def test_a_number_of_photos_that_leaves_none_is_refused(table: Path, count: int) -> None:
    with pytest.raises(ValueError, match=f"`num_photos` has to be from 1 to 5, got {count}"):
        by_heart.write_table(table, table.with_name("chosen.tsv"), count)


def test_what_is_known_by_heart_shows_with_an_interval_above_zero() -> None:
    rng = np.random.default_rng(1)
    known, unseen, same = (np.stack([rng.normal(12, 2, 80), rng.normal(mean, 1, 80)], 1) for mean in (5, 7, 5))
    found = by_heart.compared(known, unseen)
    assert found["unseen less training"] == pytest.approx(2, abs=0.5) and found["interval"][0] > 1
    assert by_heart.compared(known, same)["interval"][0] < 0 < by_heart.compared(known, same)["interval"][1]
    assert found["training photos"] == {
        "number": 80,
        "no change": pytest.approx(12, abs=1),
        "c = 0": pytest.approx(5, abs=0.5),
    }
