"""Encoded pairs on disk: made once, found again, repaired when damaged; what one expert alone means."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import scene, write_data_set

from diffretouch import FixedLatentCodec
from diffretouch.attributes import attribute_scores, conditions_quantile
from diffretouch.data.dataset import encode, read_split
from diffretouch.training.data import PairCache
from diffretouch.training.objective import retouch_spread


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data"), {"train": 2, "validation": 1}, num_inputs=2)


@pytest.fixture
def pairs_of(data: Path, tmp_path: Path, tiny_pipeline) -> Callable[..., PairCache]:
    def build(rows: Any = None, pixel_size: int = 16, **pipe: Any) -> PairCache:
        return PairCache(rows or read_split(data, "train"), tiny_pipeline(**pipe), pixel_size, tmp_path / "cache")

    return build


def entries(folder: Path) -> dict[str, int]:
    """{file: when it was last written}."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


def everything(pairs: PairCache) -> list[torch.Tensor]:
    indices = torch.arange(len(pairs))
    return list(vars(pairs.batch(indices, pairs.conditions(indices), indices < 0)).values())


def own_rows(conditions: list[list[float]], count: int = 4) -> list[dict[str, Any]]:
    """Rows of one photographer, who brightens each photo more than the one before and never touches its size."""
    rows = []
    for number in range(count):
        before = scene(number, 24, 36)
        after = np.round(255 * (before / 255) ** (1 / (1.1 + 0.2 * number))).astype(np.uint8)
        pictures = {"input": {"bytes": encode(before)}, "target": {"bytes": encode(after)}}
        names = ("colorfulness", "brightness", "contrast", "temperature")
        scores = dict.fromkeys(names, 0.5)
        row = {"photo_id": str(number), "expert": "own", **scores, "condition": conditions[number % len(conditions)]}
        rows.append(row | pictures)
    return rows


def test_every_distinct_picture_is_encoded_once_and_found_again(pairs_of, tmp_path: Path) -> None:
    first = pairs_of()
    before = entries(tmp_path / "cache")
    assert len(before) == 2 * 2 + 2 * 5  # inputs of two photos, targets of five experts
    again = pairs_of()
    assert entries(tmp_path / "cache") == before
    for one, other in zip(everything(first), everything(again), strict=True):
        assert torch.equal(one, other)
    assert first.fingerprint == again.fingerprint


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "gone"])
def test_a_damaged_entry_is_made_anew(pairs_of, tmp_path: Path, damage: str) -> None:
    whole = everything(pairs_of())
    before = entries(tmp_path / "cache")
    victim = tmp_path / "cache" / min(before)
    content = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    else:
        flipped = content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]
        victim.write_bytes({"cut": content[:-5], "empty": b"", "flipped": flipped}[damage])
    for one, other in zip(whole, everything(pairs_of()), strict=True):
        assert torch.equal(one, other)
    assert victim.read_bytes() == content
    others = {name: time for name, time in entries(tmp_path / "cache").items() if name != victim.name}
    assert others == {name: time for name, time in before.items() if name != victim.name}


def test_damage_while_training_is_an_error_that_says_so(pairs_of, tmp_path: Path) -> None:
    pairs = pairs_of()
    for path in (tmp_path / "cache").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OSError, match="was damaged while in use"):
        pairs.batch(torch.tensor([0]), torch.zeros(1, 4), torch.tensor([False]))


@pytest.mark.parametrize(
    ("changes", "new"),
    [
        ({"pixel_size": 8}, 14),
        ({"conditioning_size": 16}, 4),  # inputs alone depend on it
        ({"conditioning_resize": "area"}, 4),
        ({"vae": FixedLatentCodec(shift=(0.0, 0.0, 0.0, 0.0))}, 10),
    ],
)
def test_another_encoder_makes_entries_of_its_own(pairs_of, tmp_path: Path, changes, new: int) -> None:
    pairs_of()
    before = entries(tmp_path / "cache")
    pairs_of(**changes)
    assert len(entries(tmp_path / "cache")) == len(before) + new


def test_a_codec_of_equal_configuration_but_other_weights_makes_entries_of_its_own(pairs_of, tmp_path: Path) -> None:
    codec = FixedLatentCodec()
    with torch.no_grad():
        codec.latent_scale.mul_(2)
    latents = [everything(pairs_of(vae=vae))[1] for vae in (FixedLatentCodec(), codec)]
    assert torch.allclose(latents[0] / 2, latents[1])


def test_a_killed_encoding_leaves_nothing_that_stays(pairs_of, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".half.safetensors.part").write_bytes(b"half")
    pairs_of()
    assert list((tmp_path / "cache").glob(".*")) == []


def test_runs_may_fill_a_cache_at_the_same_time(pairs_of, tmp_path: Path) -> None:
    """Forked, so that they start within milliseconds of each other."""
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()

    def fill() -> None:
        torch.set_num_threads(1)  # OpenMP's threads do not come along, and waiting for them would never end
        results.put(pairs_of().fingerprint)

    runs = [fork.Process(target=fill, daemon=True) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(timeout=240)
    assert [run.exitcode for run in runs] == [0, 0, 0]
    assert len({results.get() for _ in runs}) == 1
    assert len(entries(tmp_path / "cache")) == 14
    assert pairs_of().fingerprint


def test_a_stream_of_rows_gives_the_same_pairs(pairs_of, data: Path) -> None:
    stored, streamed = pairs_of(), pairs_of(read_split(data, "train", streaming=True))
    assert stored.fingerprint == streamed.fingerprint


@pytest.mark.parametrize("bad_rows", ["stop", "skip"])
def test_a_broken_picture_is_fatal_or_left_out_by_choice(tmp_path: Path, tiny_pipeline, bad_rows: str, caplog) -> None:
    rows = own_rows([[0.5, 0, 0, 0]])
    rows[2]["target"] = {"bytes": rows[2]["target"]["bytes"][:300]}
    if bad_rows == "stop":
        with pytest.raises(ValueError, match="bad row 2 .photo '2'"):
            PairCache(rows, tiny_pipeline(), 16, tmp_path, bad_rows)
    else:
        assert PairCache(rows, tiny_pipeline(), 16, tmp_path, bad_rows).photo_ids == ["0", "1", "3"]
        assert "Skipped row 2" in caplog.text


def test_the_fingerprint_tells_data_sets_apart(pairs_of) -> None:
    rows = own_rows([[0.5, 0, 0, 0]])
    prints = {
        pairs_of(rows).fingerprint,
        pairs_of(rows[:3]).fingerprint,
        pairs_of(rows[::-1]).fingerprint,
        pairs_of(own_rows([[0.25, 0, 0, 0]])).fingerprint,
    }
    assert len(prints) == 4


# One expert


def test_conditions_of_one_expert_fall_back_to_quantiles_of_the_change(pairs_of) -> None:
    pairs = pairs_of(own_rows([[0.0, 0, 0, 0]]))
    assert pairs.one_expert
    conditions = pairs.conditions(torch.arange(4))
    assert torch.equal(conditions, conditions_quantile(pairs.score_changes()))
    # Brightened more and more.
    assert conditions[:, 1].argsort().tolist() == [0, 1, 2, 3]


def test_conditions_that_a_builder_gave_one_expert_stay(pairs_of) -> None:
    pairs = pairs_of(own_rows([[0.5, -0.5, 0, 0], [1, 0, 0, 0]]))
    assert pairs.one_expert
    assert pairs.conditions(torch.arange(2)).tolist() == [[0.5, -0.5, 0, 0], [1, 0, 0, 0]]


def test_several_experts_are_no_single_one(pairs_of) -> None:
    assert not pairs_of().one_expert


def test_the_scale_of_one_expert_is_how_far_scores_move_with_a_floor(pairs_of) -> None:
    pairs = pairs_of(own_rows([[0.5, 0, 0, 0]]))
    targets = torch.cat([attribute_scores(group) for group in pairs.target_groups()])
    moved = pairs.score_changes().square().mean(0).sqrt()
    expected = torch.maximum(moved, 0.1 * targets.std(0, correction=0))
    assert torch.allclose(retouch_spread(pairs), expected)
    untouched = own_rows([[0.5, 0, 0, 0]])
    for row in untouched:
        row["target"] = row["input"]
    still = pairs_of(untouched)
    floor = 0.1 * torch.cat([attribute_scores(group) for group in still.target_groups()]).std(0, correction=0)
    assert torch.allclose(retouch_spread(still), floor)
