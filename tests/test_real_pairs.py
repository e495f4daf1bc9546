"""Folders of real photos: what is paired, what is refused, and the figures of pairs with known answers."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from scenes import scene

from diffretouch.evaluation.folders import LONG_SIDE, Pair, Pairs, read_finished, read_pairs
from diffretouch.evaluation.methods import Methods, Model, quantised, unit
from diffretouch.evaluation.metrics import delta_e_2000
from diffretouch.evaluation.one_photo import variant_seeds
from diffretouch.evaluation.real_pairs import measure_real_pairs


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(picture).save(path)


# ---- folders --------------------------------------------------------------------------------------------------------


def test_pairs_go_by_their_endings_and_files_without_a_partner_are_named(tmp_path, caplog) -> None:
    for name in ("1_input.png", "1_expert.png", "2_input.png", "3_expert.png", "sheet.png"):
        save(tmp_path / name, scene(len(name)))
    save(tmp_path / "more" / "1_input.png", scene(1))
    save(tmp_path / "more" / "1_expert.png", scene(2))
    (tmp_path / "LICENCE.txt").write_text("research")
    with caplog.at_level(logging.WARNING):
        pairs = read_pairs(tmp_path)
    assert [pair.name for pair in pairs.pairs] == ["1", "more/1"]
    np.testing.assert_array_equal(pairs.pairs[1].picture, scene(1))
    np.testing.assert_array_equal(pairs.pairs[1].target, scene(2))
    told = "\n".join(pairs.unused)
    assert len(pairs.unused) == 3 and all(name in told for name in ("2_input.png", "3_expert.png", "sheet.png"))
    assert all(line in caplog.text for line in pairs.unused)


def test_pairs_of_before_and_after_go_by_name_as_in_a_data_set_of_ones_own(tmp_path) -> None:
    save(tmp_path / "before" / "IMG_1.png", scene(0))
    save(tmp_path / "before" / "IMG_2.png", scene(1))
    save(tmp_path / "after" / "img_1-edit.png", scene(2))
    pairs = read_pairs(tmp_path)
    assert [pair.name for pair in pairs.pairs] == ["IMG_1"] and "IMG_2.png" in pairs.unused[0]
    np.testing.assert_array_equal(pairs.pairs[0].target, scene(2))


def test_folders_that_cannot_be_measured_are_refused_with_their_names(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="`pairs` has to be a folder, got .*nowhere"):
        read_pairs(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="`finished` has to be a folder, got .*nowhere"):
        read_finished(tmp_path / "nowhere")
    save(tmp_path / "1_input.png", scene(0))
    with pytest.raises(ValueError, match="got no pair in"):
        read_pairs(tmp_path)
    save(tmp_path / "1_expert.png", scene(0, 40, 72))
    with pytest.raises(ValueError, match=r"1_input.png and .*1_expert.png have to be of one size, got 72 x 48 and 72"):
        read_pairs(tmp_path)
    (tmp_path / "1_expert.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot open .*1_expert.png"):
        read_pairs(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="`finished` has to be a folder with photos, got none"):
        read_finished(tmp_path / "empty")


def test_large_photos_are_averaged_down_and_small_ones_left_alone(tmp_path) -> None:
    large = np.full((30, 2 * LONG_SIDE, 3), 100, np.uint8)
    large[:, ::2] = 150
    save(tmp_path / "large.png", large)
    save(tmp_path / "sub" / "small.png", scene(0))
    photos = read_finished(tmp_path)
    assert list(photos) == ["large.png", "sub/small.png"]
    assert photos["large.png"].shape == (15, LONG_SIDE, 3) and (photos["large.png"] == 125).all()
    np.testing.assert_array_equal(photos["sub/small.png"], scene(0))


# ---- figures --------------------------------------------------------------------------------------------------------


def test_a_perfect_method_is_all_of_the_way_nearer_and_a_bad_one_is_counted_worse(tiny_pipeline) -> None:
    pairs = Pairs(tuple(Pair(f"{n}", scene(n, 24, 36), scene(n + 50, 24, 36)) for n in range(3)), ("x.png: alone",))
    answers = {pair.picture.tobytes(): unit(pair.target) for pair in pairs.pairs}
    methods = Methods(
        {
            "no change": lambda picture: picture,
            "teacher": lambda picture: answers[quantised(picture).tobytes()],
            "bad": lambda picture: np.zeros_like(picture),
        },
        {"c = 0": Model(tiny_pipeline())},
    )
    found = measure_real_pairs(methods, pairs, seed=0)
    figures = found["methods"]
    assert list(figures) == ["no change", "teacher", "bad", "c = 0", "8 seeds"]
    before = figures["no change"]["delta_e"]["mean"]
    assert figures["teacher"]["delta_e"]["mean"] == 0 and figures["teacher"]["psnr"]["mean"] == 100
    assert figures["teacher"]["to_no_change"]["mean"] == pytest.approx(-before)
    low, high = figures["teacher"]["to_no_change"]["interval"]
    assert low <= -before <= high < 0
    assert figures["bad"]["worse"]["mean"] == 1 and figures["teacher"]["worse"]["mean"] == 0
    assert figures["no change"]["to_no_change"] == {"mean": 0, "interval": [0, 0]}
    assert found["unused"] == ["x.png: alone"]


def test_of_the_seeds_the_nearest_counts(tiny_pipeline) -> None:
    model, pair = Model(tiny_pipeline()), Pair("a", scene(0, 24, 36), scene(1, 24, 36))
    found = measure_real_pairs(Methods({"no change": lambda one: one}, {"c = 0": model}), Pairs((pair,), ()), seed=3)
    variants = model.variants(unit(pair.picture), variant_seeds(3, "a"))
    errors = [delta_e_2000(variant, unit(pair.target)) for variant in variants]
    assert len(errors) == 8 and max(errors) > min(errors)
    assert found["methods"]["8 seeds"]["delta_e"] == {"mean": pytest.approx(min(errors)), "interval": None}
