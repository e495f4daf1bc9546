"""The bundled model is what a stranger meets first: it has to load, fit, and belong to this very code."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

import diffretouch
from diffretouch import (
    ATTRIBUTES,
    BUNDLED_MODEL,
    DiffRetouchPipeline,
    attribute_scores,
    open_photo,
)
from diffretouch.attributes import attribute_view
from diffretouch.model import lora_diffretouch, modeling_affine_grid, modeling_latent_codec, pipeline_diffretouch

EXAMPLE = Path(__file__).parents[1] / "examples" / "horses.jpg"


@pytest.fixture(scope="module")
def pipe():
    pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_is_at_most_25_mb():
    assert sum(file.stat().st_size for file in Path(BUNDLED_MODEL).rglob("*") if file.is_file()) <= 25e6


@pytest.mark.parametrize(
    ("module", "folder"),
    [
        (pipeline_diffretouch, ""),
        (lora_diffretouch, ""),
        (modeling_affine_grid, "grid_head"),
        (modeling_latent_codec, "vae"),
    ],
)
def test_its_code_files_are_this_packages(module, folder):
    source = Path(inspect.getfile(module))
    assert (Path(BUNDLED_MODEL) / folder / source.name).read_bytes() == source.read_bytes(), "export the bundle anew"


def test_its_card_states_the_measured_quality():
    card = (Path(BUNDLED_MODEL) / "README.md").read_text()
    assert "license: apache-2.0" in card and "oracle c" in card and "c = 0" in card


def test_sliders_move_their_own_attribute_the_right_way_on_a_photo_it_never_saw(pipe):
    photo = open_photo(EXAMPLE).pixels
    asked = {name: [sign * (name == own) for own in ATTRIBUTES for sign in (-1.0, 1.0)] for name in ATTRIBUTES}
    generators = [torch.Generator().manual_seed(0) for _ in range(8)]
    pictures = pipe([photo] * 8, **asked, generator=generators, output_type="pt").images
    scores = attribute_scores(attribute_view(pictures))
    for i in range(4):
        assert scores[2 * i + 1, i] > scores[2 * i, i], ATTRIBUTES[i]


def test_four_seeds_are_four_styles(pipe):
    photo = open_photo(EXAMPLE).pixels
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    pictures = pipe(photo, num_variants=4, generator=generators, output_type="np").images
    differences = [np.abs(pictures[i] - pictures[j]).mean() * 255 for i in range(4) for j in range(i)]
    assert min(differences) > 0.5 and np.mean(differences) > 2


def test_every_public_name_can_be_imported():
    assert all(getattr(diffretouch, name) is not None for name in diffretouch.__all__)
