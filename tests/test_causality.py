"""What a model's answer comes from: exchanging one thing at a time finds side doors and blind denoisers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from scenes import scene

from diffretouch import AffineGridHead, DiffRetouchPipeline
from diffretouch.evaluation.causality import (
    NO_FEATURES,
    OTHER_FEATURES,
    OTHER_NOISE,
    OTHER_PIXELS,
    OTHER_STATISTICS,
    another,
    exchanged,
    measure_causality,
    recorded_features,
)
from diffretouch.evaluation.methods import Model, Split, unit
from diffretouch.evaluation.metrics import delta_e_2000
from diffretouch.evaluation.photos import EvaluatedPhoto
from diffretouch.model.photo_statistics_diffretouch import NUM_STATISTICS

PICTURES = {f"photo-{seed}": unit(scene(seed, 24, 36)) for seed in range(3)}


def knowing_pipeline(tiny_pipeline: Callable[..., DiffRetouchPipeline]) -> DiffRetouchPipeline:
    """A pipeline whose UNet is told the photo's statistics and c by its class embedding."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=7,
            out_channels=8,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=2,
            norm_num_groups=4,
            cross_attention_dim=4,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=NUM_STATISTICS + 4,
        )
    return tiny_pipeline(unet=unet)


def split_that_wants(answers: dict[str, np.ndarray]) -> Split:
    """A split whose one expert made `answers` of the pictures."""
    photos = {name: EvaluatedPhoto(name, PICTURES[name], {"A": wanted}, {}) for name, wanted in answers.items()}
    return Split(tuple(photos), photos.__getitem__)


def test_a_head_that_ignores_the_features_has_all_of_its_gain_left(tiny_pipeline) -> None:
    """A side door: the picture is made without the denoiser, and nothing that it is given matters."""
    head: AffineGridHead = tiny_pipeline().grid_head
    torch.nn.init.zeros_(head.out.weight)
    torch.nn.init.normal_(head.out.bias, std=0.3)
    model = Model(tiny_pipeline(grid_head=head))
    split = split_that_wants({name: model(picture) for name, picture in PICTURES.items()})
    found = measure_causality({"c = 0": model}, split, seed=0)["models"]["c = 0"]
    assert found["no_change"]["mean"] > 1 and found["unaltered"]["mean"] == pytest.approx(0, abs=1e-4)
    assert set(found["alterations"]) == {NO_FEATURES, OTHER_FEATURES, OTHER_PIXELS, OTHER_NOISE}
    for what in found["alterations"].values():
        assert what["left"]["mean"] == pytest.approx(1, abs=1e-4)
        assert what["moved"]["mean"] == pytest.approx(0, abs=1e-3)


def test_a_model_that_makes_its_picture_by_its_denoiser_loses_by_every_exchange(tiny_pipeline) -> None:
    model = Model(knowing_pipeline(tiny_pipeline))
    split = split_that_wants({name: model(picture) for name, picture in PICTURES.items()})
    found = measure_causality({"c = 0": model}, split, seed=0)
    alterations = found["models"]["c = 0"]["alterations"]
    assert set(alterations) == {NO_FEATURES, OTHER_FEATURES, OTHER_STATISTICS, OTHER_PIXELS, OTHER_NOISE}
    for what in alterations.values():
        assert what["moved"]["mean"] > 0 and what["left"]["mean"] < 1
        assert what["moved"]["mean"] == pytest.approx(what["delta_e"]["mean"], abs=0.01)  # its answer is the target
        low, high = what["moved"]["interval"]
        assert low <= what["moved"]["mean"] <= high
    assert [record["photo_id"] for record in found["records"]["c = 0"]] == list(PICTURES)


def test_features_of_another_photo_are_that_photos_own_answer_applied_to_this_one(tiny_pipeline) -> None:
    """Of the next photo, of the same seed: neither this photo's own nor noise."""
    model = Model(tiny_pipeline())
    names = list(PICTURES)
    split = split_that_wants(PICTURES)
    record = measure_causality({"c = 0": model}, split, seed=0)["records"]["c = 0"][0]
    (others,) = model.grids([PICTURES[names[1]]], [0])
    picture = PICTURES[names[0]]
    moved = delta_e_2000(others.apply(picture), model(picture))
    assert record["alterations"][OTHER_FEATURES]["moved"] == pytest.approx(moved, rel=1e-3)


def test_exchanging_leaves_no_trace_even_after_an_error(tiny_pipeline) -> None:
    pipe = knowing_pipeline(tiny_pipeline)
    model, picture = Model(pipe), PICTURES["photo-0"]
    before = model(picture)
    with pytest.raises(RuntimeError, match="on purpose"), exchanged(pipe, features=torch.zeros(1, 4, 8, 8)):
        assert np.abs(model(picture) - before).max() > 1e-3
        raise RuntimeError("on purpose")
    assert not pipe.unet._forward_pre_hooks and not pipe.grid_head._forward_pre_hooks
    np.testing.assert_array_equal(model(picture), before)


def test_exchanging_something_for_itself_changes_nothing(tiny_pipeline) -> None:
    """The wrong channels or columns would show here: c, the noise and the other statistics stay the call's own."""
    pipe = knowing_pipeline(tiny_pipeline)
    model, picture = Model(pipe), PICTURES["photo-1"]
    photo = np.round(picture * 255).astype(np.uint8)
    with recorded_features(pipe) as features:
        before = model(picture)
    labels = pipe.class_labels([photo], torch.zeros(1, 1, 4))
    own = {"features": features[0], "statistics": labels[:, :NUM_STATISTICS], "pixels": pipe.encode_photo(photo)}
    for name, value in own.items():
        with exchanged(pipe, **{name: value}):
            np.testing.assert_allclose(model(picture), before, atol=1e-6)
    with exchanged(pipe, statistics=own["statistics"] + 1):
        assert np.abs(model(picture) - before).max() > 1e-4


@pytest.mark.parametrize(
    "photo_ids",
    [
        ["a", "b"],
        ["a#0", "a#1", "b#0", "b#1", "c#0"],
        ["a#0", "b#0", "a#1", "c#0", "b#1", "a#2"],
        ["a#b", "a#c", "x", "y", "#"],
    ],
)
def test_another_photo_is_never_an_input_of_the_same_photo(photo_ids: list[str]) -> None:
    partners = another(photo_ids)
    assert partners is not None and sorted(partners) == list(range(len(photo_ids)))
    names = [photo_id.rpartition("#")[0] or photo_id for photo_id in photo_ids]
    assert all(names[number] != names[partner] for number, partner in enumerate(partners))


def test_one_photo_has_no_other_and_still_has_its_other_rows(tiny_pipeline) -> None:
    assert another(["a#0", "a#1", "b"]) is None
    split = split_that_wants({"photo-0": PICTURES["photo-1"]})
    found = measure_causality({"c = 0": Model(tiny_pipeline())}, split, seed=0)["models"]["c = 0"]
    assert set(found["alterations"]) == {NO_FEATURES, OTHER_NOISE}
    assert found["unaltered"]["interval"] is None


def test_a_model_without_a_gain_has_no_share_of_it_left(tiny_pipeline) -> None:
    split = split_that_wants(PICTURES)  # the best is to do nothing
    found = measure_causality({"c = 0": Model(tiny_pipeline())}, split, seed=0)["models"]["c = 0"]
    assert all(what["left"] is None for what in found["alterations"].values())
