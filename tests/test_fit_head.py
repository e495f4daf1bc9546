"""Fitting the head's global path: it learns what one transform can do, and starts the rest from nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from scenes import overrides, write_data_set

from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline, attribute_scores
from diffretouch.data.dataset import read_split
from diffretouch.model.modeling_affine_grid import identity_coefficients
from diffretouch.training.config import load_config
from diffretouch.training.data import PairCache
from diffretouch.training.models import new_pipeline
from diffretouch.training.objective import retouch_spread

SCRIPT = Path(__file__).parents[1] / "train_lora" / "fit_head.py"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("fit_head", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data"), {"train": 2}, num_inputs=2)


def tiny_pipeline(global_channels: int = 32) -> DiffRetouchPipeline:
    torch.manual_seed(0)
    changes = overrides(model_head_global_channels=global_channels, model_head_area_channels=min(4, global_channels))
    return new_pipeline(load_config(None, changes).model)


def test_fitting_brings_pictures_nearer_to_the_experts_and_leaves_the_unet(script, dataset, tmp_path) -> None:
    pipe = tiny_pipeline()
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    pairs = PairCache(read_split(dataset, "train"), pipe, 16, tmp_path)
    first = script.fit(pipe, pairs, 1, 16, seed=0)
    last = script.fit(pipe, pairs, 120, 16, seed=0)
    assert last < 0.5 * first
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())


def test_sliders_learn_their_attribute_from_the_contrastive_loss_alone(
    script, dataset, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "CONDITION_DROPOUT", 1.0)  # no pair is ever shown with its expert's c
    monkeypatch.setattr(script, "CONTRASTIVE_WEIGHT", 1.0)
    pipe = tiny_pipeline()
    pairs = PairCache(read_split(dataset, "train"), pipe, 16, tmp_path)
    script.fit(pipe, pairs, 150, 16, seed=0)
    head, ends = pipe.grid_head, torch.cat([torch.eye(4), -torch.eye(4)])
    batch = pairs.batch(torch.zeros(8, dtype=torch.long), ends, torch.zeros(8, dtype=torch.bool))
    told = ends, torch.zeros(8, 4), torch.full((8,), 999), *head.statistics(batch.photo_latents)
    coefficients = identity_coefficients(head.config.grid_depth, 1, 1) + head.global_coefficients(*told)
    scores = attribute_scores(((head.retouch(coefficients, batch.photo) + 1) / 2).clamp(0, 1))
    change = (scores[:4] - scores[4:]) / retouch_spread(pairs)
    assert (change.diagonal() > 0.5).all()
    assert (change.diagonal() > change.abs().amax(1) - 1e-6).all(), "each moves its own attribute most"


def test_a_silenced_head_leaves_the_photo_whatever_it_had_learned(script) -> None:
    head = tiny_pipeline().grid_head
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    features, told = torch.zeros(1, 5, 8, 8), (torch.rand(1, 7, 8, 8) * 2 - 1, torch.tensor([900]), torch.ones(1, 4))
    neutral = identity_coefficients(4, 1, 1)
    learned = head(features, *told) - neutral
    script.silence(head)
    silent = head(features, *told) - neutral
    assert silent.abs().mean() < 0.2 * learned.abs().mean()
    louder = head(features + 1, *told) - neutral
    assert 0 < (louder - silent).abs().mean() < 0.2 * learned.abs().mean(), "it hears the features, and whispers"


def test_the_fitted_path_reads_the_style_from_latents_that_are_not_all_noise(
    script, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One photo, five styles, c = 0 throughout: only the noised latents say which one is meant."""
    monkeypatch.setattr(script, "CONDITION_DROPOUT", 1.0)
    monkeypatch.setattr(script, "LEARNING_RATE", 1e-2)
    pipe = tiny_pipeline()
    rows = read_split(write_data_set(tmp_path / "data", {"train": 1}), "train")
    pairs = PairCache(rows, pipe, 16, tmp_path / "cache")
    remaining = []
    for stop in (0, 998):
        pipe.register_to_config(min_timestep=stop)
        remaining.append(script.fit(pipe, pairs, 200, 16, seed=0))
    assert remaining[0] < 0.97 * remaining[1]


def test_the_program_writes_a_pipeline_that_loads(script, dataset, tmp_path, capsys) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    arguments = [
        str(tmp_path / "model"),
        str(dataset),
        "--steps",
        "2",
        "--batch_size",
        "4",
        "-o",
        str(tmp_path / "out"),
    ]
    assert script.main(arguments) == 0
    assert "Mean error 0." in capsys.readouterr().out
    assert DiffRetouchPipeline.from_pretrained(tmp_path / "out").grid_head.config.global_channels == 32


@pytest.mark.parametrize("mistake", ["no data", "no steps", "no number", "no global path"])
def test_mistakes_are_one_line_and_write_nothing(script, dataset, tmp_path, capsys, mistake) -> None:
    model, data, steps, offset = BUNDLED_MODEL, str(dataset), "2", "0.3"
    if mistake == "no data":
        data = str(tmp_path / "none")
    elif mistake == "no steps":
        steps = "0"
    elif mistake == "no number":
        offset = "nan"
    else:
        tiny_pipeline(0).save_pretrained(tmp_path / "plain")
        model = str(tmp_path / "plain")
    arguments = [model, data, "--steps", steps, "--noise_offset", offset, "-o", str(tmp_path / "out")]
    assert script.main(arguments) == 2
    said = capsys.readouterr().err.splitlines()  # after the bar of a model that loads
    assert said[-1].startswith("fit_head.py: ") and "Traceback" not in "".join(said)
    assert not (tmp_path / "out").exists()
