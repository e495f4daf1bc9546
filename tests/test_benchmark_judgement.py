"""What the judgement benchmark holds the model against: whom it learns from, what it can tell of others."""

import json
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from scenes import scene, write_data_set

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import judgement  # noqa: E402


def inputs(count: int, seed: int) -> judgement.Inputs:
    """Two inputs a photo, whose experts' measures follow from the statistics, not in straight lines."""
    statistics = np.random.default_rng(seed).normal(size=(count, 4))
    after = np.stack([np.sin(statistics[:, k % 4]) * (k + 1) for k in range(5)], 1)
    photos = [f"photo {place // 2}" for place in range(count)]
    return judgement.Inputs(photos, statistics, np.zeros((count, 5)), after)


def test_a_grey_picture_has_lightness_and_nothing_else():
    grey = judgement.measures(np.full((40, 60, 3), 119, np.uint8))
    assert grey == pytest.approx([50, 0, 0, 0, 0], abs=0.1)


def test_more_photos_bring_the_regression_nearer_to_what_can_be_told():
    unseen = inputs(60, seed=1)
    told = list(judgement.learning_curve(inputs(800, seed=0), unseen.statistics, most=800).items())[1:]
    means = [np.abs(one - unseen.after).mean() for _, one in told]
    assert [name for name, _ in told][::3] == [
        "kernel regression, 100 inputs of 50 photos",
        "kernel regression, 800 inputs of 400 photos",
    ]
    assert means == sorted(means, reverse=True) and means[-1] < 0.3 * np.abs(unseen.after).mean()


def test_a_network_trained_for_longer_tells_more_and_strong_weight_decay_holds_it_back():
    known, unseen = inputs(800, seed=0), inputs(60, seed=1)

    def error(steps, decay):
        return np.abs(
            judgement.told_by_network(known, unseen.statistics, steps, decay, width=32) - unseen.after
        ).mean()

    short, long, decayed = error(20, 0.01), error(600, 0.01), error(600, 30.0)
    assert long < 0.3 * short and long < 0.5 * decayed


@pytest.mark.parametrize(
    ("share", "per_photo", "most", "photos", "count"),
    [(1, 1, 99, 10, 10), (0.5, None, 99, 5, 15), (1, None, 7, 6, 7), (1, 2, 99, 10, 20)],
)
def test_a_part_of_the_photos_or_of_their_inputs_is_learned_from(share, per_photo, most, photos, count):
    names = [f"photo {place // 3}" for place in range(30)]
    chosen = judgement.some_of(names, share, per_photo, most)
    assert len(chosen) == len(set(chosen)) == count
    found = {names[place] for place in chosen}
    assert len(found) == photos if most > count else len(found) >= 3


def test_a_photo_counts_once_however_many_inputs_it_has():
    means = judgement.by_photo(["a", "b", "a", "a"], np.array([[1.0], [10.0], [2.0], [3.0]]))
    assert means.tolist() == [[2.0], [10.0]]


def test_every_input_is_measured_beside_the_model_in_all_that_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(judgement, "STEPS", (2, 3))
    first = write_data_set(tmp_path / "first", {"train": 8, "validation": 2}, num_inputs=2)
    second = write_data_set(tmp_path / "second", {"validation": 2})
    out = tmp_path / "judgement.json"
    real = tmp_path / "real"
    real.mkdir()
    for seed, part in ((1, "a_input"), (1, "a_expert"), (2, "b_input"), (3, "b_expert")):
        PIL.Image.fromarray(scene(seed)).save(real / f"{part}.png")
    arguments = [str(first), "--validation", str(first), str(second), "--pairs", str(real), "-o", str(out)]
    assert judgement.main(arguments) == 0
    pairs = json.loads(out.read_text())["real pairs"]
    assert (pairs["inputs"], pairs["photos"]) == (2, 2)
    itself = judgement.measures(scene(2)) - judgement.measures(scene(3))
    assert pairs["mean absolute error"]["the input itself"]["lightness"]["mean"] == pytest.approx(abs(itself[0]) / 2)
    found = json.loads(out.read_text())["validation"]
    assert (found["inputs"], found["photos"]) == (6, 2)
    table = found["mean absolute error"]
    rows = list(table)
    assert rows[0] == "the input itself" and rows[-6:] == [
        "kernel regression, 16 inputs of 8 photos",
        "network, weight decay 0.01, 2 steps",
        "network, weight decay 0.01, 3 steps",
        "network, weight decay 1, 2 steps",
        "network, weight decay 1, 3 steps",
        "the model at c = 0",
    ]
    assert list(table[rows[0]]) == list(judgement.MEASURES)
    for name, row in (("kernel regression", rows[-6]), ("network", rows[-2])):
        difference = found[f"lightness: the model less the last {name}"]["mean"]
        assert difference == pytest.approx(table[rows[-1]]["lightness"]["mean"] - table[row]["lightness"]["mean"])
    lightness = table["the model at c = 0"]["lightness"]["mean"]
    assert f"validation, the model at c = 0: lightness {lightness:.2f}, spread" in capsys.readouterr().out


def test_what_cannot_be_measured_is_said_in_one_line(tmp_path, capsys):
    assert judgement.main([str(tmp_path), "-o", str(tmp_path / "missing" / "out.json")]) == 2
    assert "`--output` has to be in an existing folder" in capsys.readouterr().err
    assert judgement.main([str(tmp_path), "--most", "1", "-o", str(tmp_path / "out.json")]) == 2
    assert "`most` has to be at least 2, got 1" in capsys.readouterr().err
