"""The bundled model is what a stranger meets first: it has to load, fit, and belong to this very code."""

import re
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
from diffretouch.model import pipeline_diffretouch
from diffretouch.model.folder_diffretouch import CODE_MODULES

MODEL_CODE = Path(pipeline_diffretouch.__file__).parent
EXAMPLE = Path(__file__).parents[1] / "examples" / "horses.jpg"


@pytest.fixture(scope="module")
def pipe():
    pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_is_at_most_25_mb():
    assert sum(file.stat().st_size for file in Path(BUNDLED_MODEL).rglob("*") if file.is_file()) <= 25e6


@pytest.mark.parametrize(
    "path",
    [*(f"{name}.py" for name in CODE_MODULES), "grid_head/modeling_affine_grid.py", "vae/modeling_latent_codec.py"],
)
def test_its_code_files_are_this_packages(path):
    """Copies, not links: wheel, sdist and remote code take links as files, but a Windows checkout makes text of them.

    There `trust_remote_code=True` would run the one line that such a text is.
    """
    source = MODEL_CODE / Path(path).name
    assert (Path(BUNDLED_MODEL) / path).read_bytes() == source.read_bytes(), "run `make bundle-code`"


def test_no_other_code_travels():
    travelling = {"modeling_affine_grid", "modeling_latent_codec", *CODE_MODULES}
    assert {path.stem for path in MODEL_CODE.glob("*.py")} - {"__init__"} == travelling
    assert {path.stem for path in Path(BUNDLED_MODEL).rglob("*.py")} == travelling


def test_the_pipelines_file_names_all_that_travels_with_it():
    """diffusers copies what the pipeline's own file imports, and not what these files import in turn."""
    code = (MODEL_CODE / "pipeline_diffretouch.py").read_text()
    named = set(re.findall(r"^from \.(\w+) import", code, re.MULTILINE))
    assert named | {"pipeline_diffretouch"} == set(CODE_MODULES)


def test_the_code_of_a_component_is_one_file():
    """By Hub id, diffusers fetches the one file that model_index.json names for a component, and no neighbour."""
    for name in ("modeling_affine_grid", "modeling_latent_codec"):
        assert not re.search(r"^\s*(from|import) +\.", (MODEL_CODE / f"{name}.py").read_text(), re.MULTILINE)


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
