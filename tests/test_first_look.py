"""The look that training starts from: chosen on held-back pairs, kept in the adapter, left alone if it is enough."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from scenes import overrides, scene, write_data_set

from diffretouch import DiffRetouchPipeline
from diffretouch.data.dataset import encode, write_parquet
from diffretouch.hub.card import write_model_card
from diffretouch.model.sampling_diffretouch import set_timesteps, step_arguments
from diffretouch.training.checkpoints import load_latest_state
from diffretouch.training.config import load_config
from diffretouch.training.first_look import AFTER, ALONE
from diffretouch.training.loop import Trainer, train
from diffretouch.training.objective import predict

PAIRS, UNSEEN = 6, 90


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Callable[..., DiffRetouchPipeline]) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny-base"
    tiny_pipeline().save_pretrained(folder)
    return folder


def faded(picture: np.ndarray) -> np.ndarray:
    return np.round(40 + 0.7 * picture * np.array([1, 0.95, 0.85])).astype(np.uint8)


def data_of(folder: Path, edit: Callable[[np.ndarray], np.ndarray], pairs: int = PAIRS) -> Path:
    """`pairs` scenes to train on and two to validate on, before and after `edit`, of a single expert."""
    (folder / "data").mkdir(parents=True)
    scores = {name: 0.0 for name in ("colorfulness", "brightness", "contrast", "temperature")}
    for split, seeds in (("train", range(pairs)), ("validation", range(50, 52))):
        rows: list[list[dict[str, Any]]] = []
        for seed in seeds:
            photo = scene(seed, 24, 36)
            pictures = {"input": {"bytes": encode(photo)}, "target": {"bytes": encode(edit(photo))}}
            rows.append([{"photo_id": f"{seed}", "expert": "own", **pictures, **scores, "condition": [0.0] * 4}])
        write_parquet(rows, folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture
def make(base: Path, tmp_path: Path) -> Callable[..., Any]:
    def build(**changes: object) -> Any:
        settings = {
            "output_dir": tmp_path / "run",
            "pretrained_model": base,
            "lora_rank": 2,
            "fit_look": True,
            "num_validation_photos": 2,
        }
        return load_config(None, overrides(**{**settings, **changes}))

    return build


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_an_edit_that_one_look_holds_is_learned_without_a_step(make, base, tmp_path) -> None:
    config = make(dataset=data_of(tmp_path / "data", faded))
    final = train(config)
    pipe = DiffRetouchPipeline.from_pretrained(base)
    photo = scene(UNSEEN, 24, 36)
    pipe.load_lora_weights(final)
    made = pipe(photo, output_type="np").images[0]
    assert np.abs(made - faded(photo) / 255).mean() < 0.02 < np.abs(photo - faded(photo).astype(float)).mean() / 255
    (validation,) = log_of(tmp_path / "run")
    assert validation["step"] == 0 and validation["delta_e_c0"] < 0.3 * validation["delta_e_input"]
    recorded = pipe.lora_state_dict(final, return_lora_metadata=True)[2]["base"]["look"]
    write_model_card(final, repo_id="me/style")
    assert "| Start | the look alone; Delta E 2000 on held-back pairs: no look " in (final / "README.md").read_text()
    assert "No step was trained: the look alone is nearest |" in (final / "README.md").read_text()
    assert recorded["chosen"] == ALONE == min(recorded["held_back_delta_e"], key=recorded["held_back_delta_e"].get)


def test_a_look_after_the_model_stays_while_layers_train_and_resumes_exactly(make, base, tmp_path) -> None:
    pipe = DiffRetouchPipeline.from_pretrained(base)

    def after_the_model(photo: np.ndarray) -> np.ndarray:
        return faded(np.asarray(pipe(photo, output_type="np").images[0] * 255))

    data = data_of(tmp_path / "data", after_the_model)
    settings = {"dataset": data, "sampled_batch_size": 2, "max_train_steps": 4, "cache_dir": tmp_path / "cache"}
    final = train(make(**settings))
    tensors, _, metadata = DiffRetouchPipeline.lora_state_dict(final, return_lora_metadata=True)
    assert metadata["base"]["look"]["chosen"] == AFTER and tensors["look.share"] == 1
    assert any(tensors[name].any() for name in tensors if "lora_B" in name)
    assert [record["step"] for record in log_of(tmp_path / "run") if "sampled" in record] == [2, 4]

    expected = {name: tensor.clone() for name, tensor in tensors.items()}
    shutil.rmtree(tmp_path / "run" / "checkpoint-000004")
    again, _ = DiffRetouchPipeline.lora_state_dict(train(make(**settings), resume="latest"))
    assert [name for name in expected if not torch.equal(again[name], expected[name])] == []


def test_pairs_of_another_style_are_left_out_named_and_stay_so_when_resumed(make, base, tmp_path, caplog) -> None:
    pipe, seen = DiffRetouchPipeline.from_pretrained(base), itertools.count()

    def edit(photo: np.ndarray) -> np.ndarray:
        return 255 - photo if next(seen) in (2, 7) else faded(pipe(photo, output_type="np").images[0] * 255)

    data = data_of(tmp_path / "data", edit, pairs=10)
    settings = {"dataset": data, "max_train_steps": 2, "cache_dir": tmp_path / "cache", "fewest_pairs": 8}
    with caplog.at_level("INFO"):
        final = train(make(**settings))
    assert "Left out, as of another style: 2, 7" in caplog.text
    assert [record["left_out"] for record in log_of(tmp_path / "run") if "left_out" in record] == [["2", "7"]]
    assert "Left out, as of another style" in (tmp_path / "run" / "report.html").read_text()
    _, _, metadata = DiffRetouchPipeline.lora_state_dict(final, return_lora_metadata=True)
    assert metadata["base"]["look"]["left_out"] == 2
    write_model_card(final, repo_id="me/style")
    assert "Left out, as of another style: 2 pairs" in (final / "README.md").read_text()
    state = load_latest_state(tmp_path / "run")
    trainer = Trainer(make(**settings), Accelerator(), _rows(data), state)
    assert sorted(trainer._pairs.photo_ids) == sorted(set(map(str, range(10))) - {"2", "7"})
    assert len(trainer._pairs) == len(trainer._objective.pairs.score_changes()) == 8


def _rows(data: Path) -> Any:
    from diffretouch.data.dataset import read_split

    return read_split(data, "train")


def test_fewer_pairs_than_asked_for_train_no_layer(make, base, tmp_path, caplog) -> None:
    pipe = DiffRetouchPipeline.from_pretrained(base)
    data = data_of(tmp_path / "data", lambda photo: faded(pipe(photo, output_type="np").images[0] * 255), pairs=3)
    with caplog.at_level("INFO"):
        final = train(make(dataset=data, fewest_pairs=4))
    assert "No step is trained: 3 pairs are fewer than `fewest_pairs`, 4" in caplog.text
    assert "Delta E 2000 on held-back pairs: no look " in caplog.text
    tensors, _ = DiffRetouchPipeline.lora_state_dict(final)
    assert not any(tensors[name].any() for name in tensors if "lora_B" in name) and "look.table" in tensors


def test_a_run_that_gets_no_better_stops_and_ends_with_its_best(make, tmp_path) -> None:
    # So high a rate destroys what the start had.
    config = make(
        dataset=write_data_set(tmp_path / "data", {"train": 2, "validation": 1}),
        fit_look=False,
        learning_rate=1.0,
        max_train_steps=40,
        validation_steps=1,
        patience=2,
        num_validation_photos=1,
    )
    final = train(config)
    errors = [record["delta_e_c0"] for record in log_of(tmp_path / "run") if "delta_e_c0" in record]
    assert len(errors) == errors.index(min(errors)) + 3 < 40
    best = (tmp_path / "run" / "best" / "pytorch_lora_weights.safetensors").read_bytes()
    assert (final / "pytorch_lora_weights.safetensors").read_bytes() == best


def test_pairs_that_are_sampled_see_what_sampling_sees(make, tmp_path) -> None:
    """Held against the pipeline's own loop: the latents before its last call, and the picture after it."""
    config = make(dataset=data_of(tmp_path / "data", faded), fit_look=False, sampled_batch_size=2)
    trainer = Trainer(config, Accelerator(), _rows(tmp_path / "data"), None)
    objective, pipe = trainer._objective, trainer._pipe
    draw = objective.draw(5)
    batch = objective.pairs.batch(draw.indices, draw.condition, draw.flip)
    noise = draw.middle_noise[:2]
    seen, timesteps, *_ = objective._sampled(5, noise, batch.photo_latents[:2], batch.photo[:2], batch.statistics[:2])
    latents = pipe.prepare_latents(2, noise.dtype, noise.device, None, noise)
    schedule = set_timesteps(pipe.scheduler, 2, None, pipe.config.min_timestep, noise.device)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        output = predict(
            pipe.unet, latents, schedule[0], batch.photo_latents[:2], torch.zeros(2, 4), batch.statistics[:2]
        )
        step = pipe.scheduler.step(output[:, :4], schedule[0], latents, **step_arguments(pipe.scheduler, generator))
    torch.testing.assert_close(seen, step.prev_sample)
    assert timesteps.tolist() == [int(schedule[-1])] * 2


def test_looks_are_for_adapters(make) -> None:
    with pytest.raises(ValueError, match="`fit_look` has to be false to train every weight"):
        make(lora_rank="null")
