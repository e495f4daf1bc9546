"""What a pipeline tells its UNet beside R and the token: statistics and c; and what it keeps black-and-white."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from scenes import TINY_RECIPE, scene

from diffretouch import AffineGridHead, DiffRetouchPipeline
from diffretouch.model.photo_statistics_diffretouch import (
    NUM_LABELS,
    NUM_STATISTICS,
    class_labels,
    photo_statistics,
    statistics_view,
)
from diffretouch.training.config import ModelConfig
from diffretouch.training.models import new_pipeline
from diffretouch.training.objective import predict

MODEL = {name.removeprefix("model."): value for name, value in TINY_RECIPE.items() if name.startswith("model.")}
PHOTO = scene(0)


def tiny(**changes: object) -> DiffRetouchPipeline:
    """A pipeline whose sliders, statistics and features all matter, weights drawn at random."""
    torch.manual_seed(0)
    pipe = new_pipeline(ModelConfig(**{**MODEL, "default_num_inference_steps": 2, **changes}))
    for parameter in [*pipe.unet.parameters(), *pipe.grid_head.out.parameters()]:
        parameter.data += 0.05 * torch.randn_like(parameter)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(pipe: DiffRetouchPipeline, photo: np.ndarray, **sliders: float) -> np.ndarray:
    return np.asarray(pipe(photo, generator=torch.Generator().manual_seed(3), **sliders).images[0]).astype(int)


def test_labels_are_each_photos_statistics_and_then_c() -> None:
    pipe = tiny()
    condition = torch.arange(16.0).view(4, 1, 4) / 16
    labels = pipe.class_labels([PHOTO, scene(1)], condition)
    assert labels.shape == (4, NUM_LABELS)
    assert torch.equal(labels[:, NUM_STATISTICS:], condition[:, 0])
    assert torch.equal(labels[0, :NUM_STATISTICS], labels[1, :NUM_STATISTICS]), "two variants of one photo"
    assert not torch.allclose(labels[1, :NUM_STATISTICS], labels[2, :NUM_STATISTICS], atol=0.1)


def test_a_unet_without_a_class_embedding_is_told_nothing() -> None:
    pipe = tiny(statistics=False)
    assert pipe.class_labels([PHOTO], torch.zeros(1, 1, 4)) is None
    assert picture(pipe, PHOTO).shape == PHOTO.shape


def test_statistics_move_the_picture() -> None:
    pipe = tiny()
    before = picture(pipe, PHOTO)
    pipe.unet.class_embedding.linear_1.weight.data[:, :NUM_STATISTICS] = 0
    assert np.abs(picture(pipe, PHOTO) - before).max() > 0


def test_training_tells_the_unet_what_a_call_tells_it() -> None:
    pipe = tiny()
    view = pipe.photo_view(PHOTO) * 2 - 1
    condition, latents = torch.tensor([[0.3, 0, -0.5, 1]]), torch.randn(1, 4, 8, 8)
    seen = pipe.encode_photo(PHOTO)
    told = pipe.class_labels([PHOTO], condition[:, None])
    assert torch.equal(told, class_labels(view, condition))
    expected = pipe.unet(
        torch.cat([latents, seen], 1), 500, encoder_hidden_states=condition[:, None], class_labels=told
    ).sample
    assert torch.equal(
        predict(pipe.unet, latents, 500, seen, condition, photo_statistics(statistics_view(view))), expected
    )


@pytest.mark.parametrize(
    "options",
    [
        {"class_embed_type": "timestep"},
        {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 7},
        {"num_class_embeds": 10, "class_embed_type": "identity"},
    ],
)
def test_other_class_embeddings_are_refused(options) -> None:
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=7,
        out_channels=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=4,
        attention_head_dim=2,
        **options,
    )
    with pytest.raises(ValueError, match=r"`unet` has to have no class embedding, or a projection of 142 numbers"):
        DiffRetouchPipeline(unet, tiny().scheduler, AffineGridHead())


@pytest.mark.parametrize("kind", ["grey", "rounded"])
def test_a_black_and_white_photo_stays_exactly_neutral(kind) -> None:
    photo = PHOTO[..., :1].repeat(3, 2)
    if kind == "rounded":  # as JPEG leaves it
        photo = photo.copy()
        photo[::2, ::3, 0] = np.clip(photo[::2, ::3, 0].astype(int) + 1, 0, 255)
    pipe = tiny()
    for sliders in ({}, {"brightness": 1.0, "contrast": -1.0}):
        retouched = picture(pipe, photo, **sliders)
        assert np.ptp(retouched, axis=2).max() == 0
        assert np.abs(retouched - photo).max() > 0, "it was retouched all the same"
    assert np.ptp(picture(pipe, photo, temperature=1.0), axis=2).max() > 0, "warmth was asked for"


def test_a_coloured_photo_keeps_its_colours() -> None:
    assert np.ptp(picture(tiny(), PHOTO), axis=2).max() > 20
