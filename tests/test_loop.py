"""The training loop: draws repeat, resuming is exact, what is logged and saved is what was trained."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from scenes import overrides, scene, write_data_set

from diffretouch import DiffRetouchPipeline
from diffretouch.attributes import attribute_scores
from diffretouch.data.dataset import decode, read_split
from diffretouch.evaluation import delta_e_2000
from diffretouch.training.config import TrainingConfig, load_config
from diffretouch.training.data import PairCache, vae_scale_factor
from diffretouch.training.loop import Trainer, learning_rate_factor, new_pipeline, train, validate
from diffretouch.training.losses import signed_contrastive_loss
from diffretouch.training.objective import Objective, Retoucher, pair_indices, retouch_spread


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data"), {"train": 2, "validation": 2}, num_inputs=2)


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture
def make_config(data: Path, tmp_path: Path):
    def make(**changes: object) -> TrainingConfig:
        return load_config(None, overrides(**{"dataset": data, "output_dir": tmp_path / "run", **changes}))

    return make


def objective_of(config: TrainingConfig) -> Objective:
    pipe = new_pipeline(config.model)
    return Objective(config, pipe, PairCache(read_split(config.dataset, "train"), pipe, config.pixel_size))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    pipe = DiffRetouchPipeline.from_pretrained(folder)
    parts = {"unet": pipe.unet, "grid_head": pipe.grid_head}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# Pairs


def test_pairs_hold_what_the_pipeline_and_the_codec_make_of_the_rows(make_config) -> None:
    config = make_config()
    pipe = new_pipeline(config.model)
    rows = read_split(config.dataset, "train")
    pairs = PairCache(rows, pipe, 16)
    index = 13
    batch = pairs.batch(torch.tensor([index]), pairs.conditions(torch.tensor([index])), torch.tensor([False]))
    source, target = (
        torch.from_numpy(np.array(decode(rows[index][name]))).permute(2, 0, 1).float() / 255
        for name in ("input", "target")
    )
    assert torch.allclose(batch.photo_latents, pipe.encode_photo(source), atol=1e-6)
    squashed = torch.nn.functional.interpolate(target[None], (64, 64), mode="bilinear", antialias=True)
    assert torch.allclose(batch.latents, pipe.vae.encode(squashed * 2 - 1).latent_dist.mode(), atol=1e-5)
    assert batch.condition[0].tolist() == pytest.approx(rows[index]["condition"])
    for picture, whole in ((batch.photo, source), (batch.target, target)):
        small = torch.nn.functional.interpolate(whole[None], (16, 16), mode="bilinear", antialias=True)
        assert torch.allclose(picture, small * 2 - 1, atol=1.01 / 255)


def test_mirrored_pairs_are_mirrored_everywhere(make_config) -> None:
    config = make_config()
    pairs = objective_of(config).pairs
    indices = torch.tensor([0, 7])
    plain = pairs.batch(indices, pairs.conditions(indices), torch.tensor([False, False]))
    mixed = pairs.batch(indices, pairs.conditions(indices), torch.tensor([False, True]))
    for name in ("photo_latents", "latents", "photo", "target"):
        one, other = getattr(plain, name), getattr(mixed, name)
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1].flip(-1), other[1])
        assert not torch.equal(one[1], other[1])


def test_pictures_that_rows_share_are_kept_once(make_config) -> None:
    groups = objective_of(make_config()).pairs.target_groups()
    # Two photos with five experts, though each photo has two inputs.
    assert [tuple(group.shape) for group in groups] == [(5, 3, 16, 16)] * 2


def test_training_needs_a_codec(make_config, tiny_pipeline) -> None:
    with pytest.raises(ValueError, match="`pretrained_model` has to have a vae"):
        PairCache(read_split(make_config().dataset, "train"), tiny_pipeline(vae=None), 16)


def test_the_scale_of_a_stock_vae_is_told_by_its_blocks(tiny_pipeline) -> None:
    vae = AutoencoderKL(block_out_channels=(4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 3,
                        up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=2)  # fmt: skip
    assert vae_scale_factor(vae) == 4
    assert vae_scale_factor(tiny_pipeline().vae) == 8


# Draws


def test_every_pair_comes_once_per_epoch_in_an_order_of_its_own() -> None:
    stream = torch.cat([pair_indices(step, 4, 10, seed=1) for step in range(10)]).tolist()
    epochs = [stream[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert stream != torch.cat([pair_indices(step, 4, 10, seed=2) for step in range(10)]).tolist()


def test_a_batch_larger_than_the_data_set_spans_epochs() -> None:
    counts = Counter(pair_indices(0, 9, 3, seed=0).tolist())
    assert counts == {0: 3, 1: 3, 2: 3}


def test_draws_depend_on_seed_and_step_alone(make_config) -> None:
    objective = objective_of(make_config())
    first = objective.draw(5)
    objective.draw(1)
    torch.manual_seed(99)
    again, other_step = objective.draw(5), objective.draw(6)
    other_seed = objective_of(make_config(seed=1)).draw(5)
    assert torch.equal(first[0].photo, again[0].photo)
    for one, same, step, seed in zip(first[1:], again[1:], other_step[1:], other_seed[1:], strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, step)
        assert not torch.equal(one, seed)


def test_timesteps_stay_in_the_range_that_sampling_visits_and_lean_to_low_noise(make_config) -> None:
    draws = {
        power: torch.cat([objective_of(make_config(timestep_power=power, train_batch_size=256)).draw(0)[1]])
        for power in (1.0, 3.0)
    }
    for timesteps in draws.values():
        assert timesteps.min() >= 200
        assert timesteps.max() <= 999
    assert draws[1.0].float().mean() == pytest.approx(600, abs=50)
    assert draws[3.0].float().mean() == pytest.approx(200 + 800 / 4, abs=50)


@pytest.mark.parametrize(
    ("changes", "zero_rows", "zero_entries"),
    [
        ({"condition_dropout": 0, "attribute_dropout": 0}, 0, 0),
        ({"condition_dropout": 1, "attribute_dropout": 0}, 1, 1),
        ({"condition_dropout": 0.5, "attribute_dropout": 0}, 0.5, 0.5),
        ({"condition_dropout": 0, "attribute_dropout": 0.5}, 0.5**4, 0.5),
    ],
)
def test_conditions_drop_out_as_often_as_asked(make_config, changes, zero_rows, zero_entries) -> None:
    condition = objective_of(make_config(train_batch_size=400, **changes)).draw(0)[0].condition
    assert (condition == 0).all(1).float().mean() == pytest.approx(zero_rows, abs=0.07)
    assert (condition == 0).float().mean() == pytest.approx(zero_entries, abs=0.07)


# The objective


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_losses_are_those_of_the_equations(make_config, accelerator, prediction: str) -> None:
    """Held against the three branches run one by one, as the paper writes them."""
    config = make_config(
        contrastive_warmup_steps=0,
        beta=2.0,
        contrastive_weight=0.5,
        condition_dropout=0,
        model_prediction_type=prediction,
    )
    torch.manual_seed(0)
    objective = objective_of(config)
    pipe = new_pipeline(config.model)
    torch.nn.init.normal_(pipe.grid_head.out.weight, std=0.1)
    model = Retoucher(pipe.unet, pipe.grid_head)
    with torch.no_grad():
        terms = objective(model, 3, accelerator)

        batch, timesteps, noise, other_noise = objective.draw(3)

        def branch(condition: torch.Tensor, eps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            noisy = pipe.scheduler.add_noise(batch.latents, eps, timesteps)
            return model(noisy, timesteps, batch.photo_latents, condition, batch.photo)

        noise_pred, picture = branch(batch.condition, noise)
        scores = [
            attribute_scores(((chosen[:2] + 1) / 2).clamp(0, 1)) / retouch_spread(objective.pairs)
            for chosen in (picture, branch(batch.condition, other_noise)[1], branch(-batch.condition, noise)[1])
        ]
    signal = pipe.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    velocity = signal.sqrt() * noise - (1 - signal).sqrt() * batch.latents  # Salimans and Ho 2022, appendix D
    expected = {
        "noise": (noise_pred - (noise if prediction == "epsilon" else velocity)).square().mean(),
        "pixel": (picture - batch.target).square().mean(),
        "contrastive": signed_contrastive_loss(*scores, batch.condition[:2]),
    }
    expected["loss"] = expected["noise"] + 2 * expected["pixel"] + 0.5 * expected["contrastive"]
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-4
    )


@pytest.mark.parametrize(
    ("changes", "step", "contrasts"),
    [
        ({"contrastive": "signed"}, 2, True),
        ({"contrastive": "published"}, 2, True),
        ({"contrastive": "signed"}, 1, False),  # warm-up lasts two steps
        ({"contrastive": "none"}, 2, False),
        ({"contrastive_batch_size": 0}, 2, False),
    ],
)
def test_the_contrastive_term_comes_when_asked_for_and_after_the_warm_up(
    make_config, accelerator, changes, step, contrasts
) -> None:
    config = make_config(**changes)
    trainer = Trainer(config, accelerator, read_split(config.dataset, "train"), None)
    trainer.step = step
    assert ("contrastive" in trainer.advance()) is contrasts


def test_scores_are_standardised_by_what_experts_do_to_one_photo(make_config) -> None:
    pairs = objective_of(make_config()).pairs
    by_hand = [attribute_scores(targets).numpy().std(axis=0) for targets in pairs.target_groups()]
    assert retouch_spread(pairs).tolist() == pytest.approx(np.mean(by_hand, axis=0).tolist(), rel=1e-4)


def test_the_learning_rate_rises_and_falls(make_config) -> None:
    config = make_config(lr_warmup_steps=4, max_train_steps=24)
    factors = [learning_rate_factor(step, config) for step in range(24)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[14] == pytest.approx(0.5)
    assert all(later < earlier for earlier, later in zip(factors[4:], factors[5:], strict=False))
    assert 0 < factors[-1] < 0.02
    assert learning_rate_factor(0, make_config(lr_warmup_steps=0)) == 1.0


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_attention_sits_on_the_lowest_resolutions(make_config, levels: int) -> None:
    unet = new_pipeline(make_config(model_attention_levels=levels).model).unet
    attending = [hasattr(block, "attentions") for block in unet.down_blocks]
    assert attending == [False] * (2 - levels) + [True] * levels
    assert [hasattr(block, "attentions") for block in unet.up_blocks] == attending[::-1]


def test_an_untrained_pipeline_returns_nearly_the_photo(make_config) -> None:
    pipe = new_pipeline(make_config().model)
    pipe.set_progress_bar_config(disable=True)
    photo = scene(0)
    retouched = pipe(
        photo, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np"
    ).images[0]
    assert np.abs(retouched - photo / 255).mean() < 0.2


# Runs


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert train(load_config(None, overrides(dataset=data, output_dir=folder))) == folder / "final"
    return folder


def test_a_run_leaves_what_it_should_and_nothing_else(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoint-000004",
        "checkpoint-000006",
        "config.yaml",
        "final",
        "log.jsonl",
        "validation",
    ]
    assert sorted(path.name for path in (finished / "validation").iterdir()) == ["000003.png", "000006.png"]


def test_the_configuration_of_a_run_is_kept(finished: Path, data: Path) -> None:
    assert load_config(finished / "config.yaml", []) == load_config(None, overrides(dataset=data, output_dir=finished))


def test_the_log_holds_each_logging_step_once_and_each_validation_once(finished: Path) -> None:
    log = log_of(finished)
    assert [record["step"] for record in log if "loss" in record] == [2, 4, 6]
    assert [record["step"] for record in log if "delta_e_oracle" in record] == [3, 6]
    assert "contrastive" not in log[0]
    assert {"noise", "pixel", "contrastive", "seconds"} <= set(log[-2])
    assert all(math.isfinite(value) for record in log for value in record.values())


def test_the_validation_sheet_shows_input_result_and_pairs(finished: Path) -> None:
    with PIL.Image.open(finished / "validation" / "000006.png") as sheet:
        assert sheet.size == (192 * (2 + 2 * 5), 144)


def test_final_is_the_last_checkpoint(finished: Path) -> None:
    assert_same(weights(finished / "final"), weights(finished / "checkpoint-000006"))


def test_the_saved_pipeline_holds_averaged_weights_and_the_state_the_raw_ones(finished: Path) -> None:
    state = torch.load(finished / "checkpoint-000006" / "training_state.pt", weights_only=True)
    raw, saved = state["model"], weights(finished / "final")
    average = dict(zip(raw, state["ema"]["shadow_params"], strict=True))
    assert_same(average, saved)
    assert not torch.equal(raw["unet.conv_in.weight"], saved["unet.conv_in.weight"])


def test_training_changes_unet_head_and_guide(finished: Path, data: Path) -> None:
    config = load_config(None, overrides(dataset=data))
    torch.manual_seed(config.seed)
    start = new_pipeline(config.model)
    trained = weights(finished / "final")
    assert not torch.equal(start.unet.state_dict()["conv_in.weight"], trained["unet.conv_in.weight"])
    assert not torch.equal(start.grid_head.state_dict()["out.bias"], trained["grid_head.out.bias"])
    assert not torch.equal(start.grid_head.state_dict()["guide.slopes"], trained["grid_head.guide.slopes"])


def test_the_same_recipe_gives_the_same_weights(finished: Path, make_config, tmp_path: Path) -> None:
    train(make_config(checkpointing_steps=6, validation_steps=6))
    assert_same(weights(tmp_path / "run" / "final"), weights(finished / "final"))


def copied(finished: Path, folder: Path, *without: str) -> Path:
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns(*without))
    return folder


def test_a_resumed_run_ends_with_the_weights_and_the_log_of_an_uninterrupted_one(
    finished: Path, make_config, tmp_path: Path
) -> None:
    """As killed after step 5: the log already holds a step that is run again, and a half line."""
    folder = copied(finished, tmp_path / "run", "checkpoint-000006", "final")
    with open(folder / "log.jsonl", "a") as file:
        file.write('{"step": 5, "lo')
    train(make_config(), resume=True)
    assert_same(weights(folder / "final"), weights(finished / "final"))
    resumed, straight = (
        torch.load(run / "checkpoint-000006" / "training_state.pt", weights_only=True) for run in (folder, finished)
    )
    assert_same(resumed["model"], straight["model"])
    for one, other in zip(resumed["ema"]["shadow_params"], straight["ema"]["shadow_params"], strict=True):
        assert torch.equal(one, other)
    assert resumed["ema"]["optimization_step"] == straight["ema"]["optimization_step"] == 6
    for index, moments in straight["optimizer"]["state"].items():
        assert_same(resumed["optimizer"]["state"][index], moments)
    assert resumed["optimizer"]["param_groups"] == straight["optimizer"]["param_groups"]
    clocks = [
        [{k: v for k, v in record.items() if k != "seconds"} for record in log_of(run)] for run in (folder, finished)
    ]
    assert clocks[0] == clocks[1]


def test_a_damaged_newest_checkpoint_costs_only_its_steps(finished: Path, make_config, tmp_path: Path, caplog) -> None:
    folder = copied(finished, tmp_path / "run", "final")
    state = folder / "checkpoint-000006" / "training_state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    train(make_config(), resume=True)
    assert "Skipping the damaged checkpoint" in caplog.text
    assert_same(weights(folder / "final"), weights(finished / "final"))


def test_a_run_killed_before_its_last_save_still_gets_its_final_pipeline(finished, make_config, tmp_path) -> None:
    """The last checkpoint was there, `final` was not yet."""
    folder = copied(finished, tmp_path / "run", "final")
    train(make_config(), resume=True)
    assert_same(weights(folder / "final"), weights(finished / "final"))
    assert log_of(folder) == log_of(finished)


def test_resuming_with_more_steps_goes_on(finished: Path, make_config, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run")
    train(make_config(max_train_steps=8), resume=True)
    assert (folder / "checkpoint-000008").is_dir()
    assert not torch.equal(
        weights(folder / "final")["unet.conv_in.weight"], weights(finished / "final")["unet.conv_in.weight"]
    )


def test_resuming_where_nothing_was_saved_starts_anew(finished: Path, make_config, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run", "checkpoint-*", "final")
    train(make_config(), resume=True)
    assert_same(weights(folder / "final"), weights(finished / "final"))
    assert len(log_of(folder)) == len(log_of(finished))


def test_a_run_is_not_overwritten_unasked(finished: Path, make_config, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(FileExistsError, match="`output_dir` .* holds checkpoints"):
        train(make_config())
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_checkpoint_of_another_model_is_refused_in_one_sentence(finished: Path, make_config, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run")
    before = (folder / "config.yaml").read_bytes()
    with pytest.raises(ValueError, match="`output_dir` .* has to hold checkpoints of the recipe's model") as raised:
        train(make_config(model_block_out_channels=[16, 16]), resume=True)
    assert "\n" not in str(raised.value)
    assert (folder / "config.yaml").read_bytes() == before


def test_training_continues_from_a_pretrained_pipeline(finished: Path, make_config, tmp_path: Path) -> None:
    train(make_config(pretrained_model=finished / "final", learning_rate=1e-12, max_train_steps=1))
    trained, start = weights(tmp_path / "run" / "final"), weights(finished / "final")
    assert all(torch.allclose(trained[name], start[name], atol=1e-9) for name in start)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(finished, make_config, tmp_path) -> None:
    folder = copied(finished, tmp_path / "run", "checkpoint-000006", "final")
    before = {path: path.read_bytes() for path in (folder / "checkpoint-000004").rglob("*") if path.is_file()}
    with pytest.raises(FloatingPointError, match=r"The loss at step \d+ is .*; the last checkpoint is kept"):
        train(
            make_config(learning_rate=1e30, checkpointing_steps=100, validation_steps=100, max_train_steps=20),
            resume=True,
        )
    assert [path.name for path in folder.glob("*checkpoint*")] == ["checkpoint-000004"]
    assert {path: path.read_bytes() for path in (folder / "checkpoint-000004").rglob("*") if path.is_file()} == before


def test_a_gradient_that_is_not_a_number_never_reaches_the_weights(make_config, accelerator) -> None:
    config = make_config()
    trainer = Trainer(config, accelerator, read_split(config.dataset, "train"), None)
    before = trainer.state()["model"]
    with trainer.averaged() as pipe:
        parameter = pipe.grid_head.guide.bias
    parameter.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(FloatingPointError, match="its gradient nan"):
        trainer.advance()
    assert_same(trainer.state()["model"], before)
    assert trainer.step == 0


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_split_is_refused_before_anything_is_written(make_config, tmp_path: Path, split: str) -> None:
    write_data_set(tmp_path / "data", {"train": 1, "validation": 1} | {split: 0})
    with pytest.raises(ValueError, match=f"The {split} split .* has to hold at least one row"):
        train(make_config(dataset=tmp_path / "data"))
    assert not (tmp_path / "run").exists()


def test_a_missing_data_set_is_refused_before_anything_is_written(make_config, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`folder` has to hold data/train"):
        train(make_config(dataset=tmp_path))
    with pytest.raises(ValueError, match="`dataset` has to be the folder of a data set"):
        train(make_config(dataset="''"))
    assert not (tmp_path / "run").exists()


def test_the_loss_falls_on_a_pair_that_is_seen_again_and_again(make_config, accelerator, tmp_path: Path) -> None:
    """All parts of the model learn: one photo, no random conditions, forty steps."""
    write_data_set(tmp_path / "one", {"train": 1})
    config = make_config(
        dataset=tmp_path / "one", max_train_steps=40, learning_rate=5e-3, contrastive="none", condition_dropout=0,
        attribute_dropout=0, horizontal_flip=False,
    )  # fmt: skip
    trainer = Trainer(config, accelerator, read_split(config.dataset, "train"), None)
    terms = [{name: value.item() for name, value in trainer.advance().items()} for _ in range(40)]
    for name, share in (("noise", 0.8), ("pixel", 0.5)):
        first, last = (np.mean([entry[name] for entry in part]) for part in (terms[:5], terms[-5:]))
        assert last < share * first


def test_averaged_weights_are_only_lent(make_config, accelerator) -> None:
    config = make_config()
    trainer = Trainer(config, accelerator, read_split(config.dataset, "train"), None)
    for _ in range(3):
        trainer.advance()
    raw = trainer.state()["model"]
    with pytest.raises(RuntimeError, match="while validating"), trainer.averaged() as pipe:
        assert not torch.equal(pipe.unet.conv_in.weight, raw["unet.conv_in.weight"])
        raise RuntimeError("while validating")
    assert_same(trainer.state()["model"], raw)


def test_validation_measures_the_pipeline_and_leaves_it_in_training_mode(make_config, tmp_path: Path) -> None:
    config = make_config(num_validation_photos=2)
    pipe = new_pipeline(config.model)
    pipe.set_progress_bar_config(disable=True)
    torch.nn.init.zeros_(pipe.grid_head.out.weight)  # exactly the identity
    rows = read_split(config.dataset, "validation")
    random_state = torch.get_rng_state()
    pipe.unet.train()
    report = validate(pipe, rows, config, tmp_path / "sheets" / "1.png")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert pipe.unet.training
    chosen = list(rows)[:5] + list(rows)[5:10]
    pairs = [(np.asarray(decode(row["input"])) / 255, np.asarray(decode(row["target"])) / 255) for row in chosen]
    expected = np.mean([delta_e_2000(*pair) for pair in pairs])
    for name in ("input", "c0", "oracle"):
        assert report[f"delta_e_{name}"] == pytest.approx(expected, abs=0.02)
    with PIL.Image.open(tmp_path / "sheets" / "1.png") as sheet:
        assert sheet.size == (192 * 12, 144 * 2)


def test_photos_with_fewer_experts_still_fit_on_the_validation_sheet(make_config, tmp_path: Path) -> None:
    config = make_config(num_validation_photos=2)
    pipe = new_pipeline(config.model)
    pipe.set_progress_bar_config(disable=True)
    rows = read_split(config.dataset, "validation").select([0, 1, 2, 3, 4, 10, 11])
    validate(pipe, rows, config, tmp_path / "sheet.png")
    with PIL.Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (192 * 12, 144 * 2)
        assert sheet.getpixel((192 * 12 - 1, 287)) == (255, 255, 255)
