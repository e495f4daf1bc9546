"""The training loop: draws repeat, resuming is exact, what is logged and saved is what was trained."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from safetensors import safe_open
from scenes import overrides, scene, write_data_set

from diffretouch import DiffRetouchPipeline
from diffretouch.attributes import attribute_scores
from diffretouch.data.dataset import decode, read_split
from diffretouch.model.photo_statistics_diffretouch import NUM_STATISTICS, photo_statistics, statistics_view
from diffretouch.training.checkpoints import load_state
from diffretouch.training.config import TrainingConfig, load_config
from diffretouch.training.data import PairCache, vae_scale_factor
from diffretouch.training.loop import Trainer, learning_rate_factor, train
from diffretouch.training.losses import linear_contrastive_loss, signed_contrastive_loss
from diffretouch.training.models import new_pipeline
from diffretouch.training.objective import (
    Objective,
    Retoucher,
    pair_indices,
    predict,
    retouch_spread,
    slider_reach,
)


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
        paths = {"dataset": data, "output_dir": tmp_path / "run", "cache_dir": data / "cache"}
        return load_config(None, overrides(**{**paths, **changes}))

    return make


def objective_of(config: TrainingConfig) -> Objective:
    pipe = new_pipeline(config.model)
    pairs = PairCache(read_split(config.dataset, "train"), pipe, config.pixel_size, Path(config.cache_dir))
    return Objective(config, pipe, pairs)


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
    pairs = PairCache(rows, pipe, 16, Path(config.cache_dir))
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
    groups = list(objective_of(make_config()).pairs.target_groups())
    # Two photos with five experts, though each photo has two inputs.
    assert [tuple(group.shape) for group in groups] == [(5, 3, 16, 16)] * 2


def test_training_needs_a_codec(make_config, tiny_pipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`pretrained_model` has to have a vae"):
        PairCache(read_split(make_config().dataset, "train"), tiny_pipeline(vae=None), 16, tmp_path)


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
    for name in ("indices", "condition", "timesteps", "noise", "other_noise", "middle_noise"):
        one, same, step, seed = (getattr(draw, name) for draw in (first, again, other_step, other_seed))
        assert torch.equal(one, same)
        assert not torch.equal(one, step)
        assert not torch.equal(one, seed)


def test_timesteps_stay_in_the_range_that_sampling_visits_and_lean_to_low_noise(make_config) -> None:
    draws = {
        power: objective_of(make_config(timestep_power=power, train_batch_size=256)).draw(0).timesteps
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
    condition = objective_of(make_config(train_batch_size=400, **changes)).draw(0).condition
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
        draw = objective.draw(3)
        terms = objective(model, 3, draw, 0, 1, accelerator.device)
        batch = objective.pairs.batch(draw.indices, draw.condition, draw.flip)
        timesteps, noise, other_noise = draw.timesteps, draw.noise, draw.other_noise

        def branch(condition: torch.Tensor, eps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            noisy = pipe.scheduler.add_noise(batch.latents, eps, timesteps)
            return model(noisy, timesteps, batch.photo_latents, condition, batch.photo, batch.statistics)

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


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_linear_form_moves_one_slider_along_what_sampling_sees(make_config, accelerator, prediction: str) -> None:
    """Held against two sampling steps run by hand with diffusers' scheduler: pure noise, then the drawn timestep."""
    config = make_config(
        contrastive="linear", contrastive_warmup_steps=0, contrastive_alone=0.5, model_prediction_type=prediction
    )
    torch.manual_seed(0)
    objective = objective_of(config)
    pipe = new_pipeline(config.model)
    torch.nn.init.normal_(pipe.grid_head.out.weight, std=0.1)
    objective._unet = pipe.unet
    model = Retoucher(pipe.unet, pipe.grid_head)
    n = config.contrastive_batch_size
    with torch.no_grad():
        draw = objective.draw(3)
        draw.alone[:2] = torch.tensor([True, False])
        terms = objective(model, 3, draw, 0, 1, accelerator.device)
        batch = objective.pairs.batch(draw.indices, draw.condition, draw.flip)
        photo_latents, photo, t = batch.photo_latents[:n], batch.photo[:n], draw.timesteps[:n]
        statistics = batch.statistics[:n]
        asked = draw.condition[:n] * ~draw.alone[:n, None]
        placed = asked.clone()
        placed[range(n), draw.slider[:n]] = draw.position[:n]

        def scores_of(z0: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
            noisy = pipe.scheduler.add_noise(z0, draw.noise[:n], t)
            picture = model(noisy, t, photo_latents, condition, photo, statistics)[1]
            return attribute_scores(((picture + 1) / 2).clamp(0, 1)) / objective.score_scale

        def sampled(condition: torch.Tensor) -> torch.Tensor:
            pipe.scheduler.set_timesteps(timesteps=[999, 700])
            output = predict(pipe.unet, draw.other_noise[:n], 999, photo_latents, condition, statistics)[:, :4]
            z0 = pipe.scheduler.step(output, 999, draw.other_noise[:n]).pred_original_sample
            return scores_of(z0, condition)

        regular = scores_of(batch.latents[:n], draw.condition[:n])
        expected = linear_contrastive_loss(
            regular, sampled(asked), sampled(placed), asked, placed - asked, objective._reach[draw.indices[:n]]
        )
    assert terms["contrastive"].item() == pytest.approx(expected.item(), rel=1e-3)


def test_the_settling_term_is_what_a_second_pass_changes(make_config, accelerator) -> None:
    """Held against a second pass by hand, of other strengths of the first; counts where the contrastive form rests."""
    config = make_config(
        contrastive_warmup_steps=2, contrastive_every=2, settling_weight=0.5, beta=2.0, sampled_batch_size=2
    )
    torch.manual_seed(0)
    objective = objective_of(config)
    pipe = new_pipeline(config.model)
    torch.nn.init.normal_(pipe.grid_head.out.weight, std=0.1)
    objective._unet, objective._pipe = pipe.unet, pipe
    model = Retoucher(pipe.unet, pipe.grid_head)
    assert [objective.settles(step) for step in range(5)] == [False, False, False, True, False]
    with torch.no_grad():
        draw = objective.draw(3)
        terms = objective(model, 3, draw, 0, 1, accelerator.device)
        batch = objective.pairs.batch(draw.indices, draw.condition, draw.flip)

        def once(*photos: torch.Tensor) -> torch.Tensor:
            return model(*objective._sampled(3, draw.middle_noise[:2], *photos))[1]

        first = once(batch.photo_latents[:2], batch.photo[:2], batch.statistics[:2])
        wanted, strength = first.clamp(-1, 1), draw.strength[:2].view(-1, 1, 1, 1)
        part = batch.photo[:2] + strength * (wanted - batch.photo[:2])
        unit = (((part + 1) / 2).clamp(0, 1) * 255).round() / 255
        seen, photo = torch.cat([pipe.encode_photo(one) for one in unit]), unit * 2 - 1
        second = once(seen, photo, photo_statistics(statistics_view(photo)))
    assert terms["sampled"].item() == pytest.approx((first - batch.target[:2]).square().mean().item(), rel=1e-4)
    assert terms["settling"].item() == pytest.approx((second - wanted).square().mean().item(), rel=0.02)
    whole = terms["noise"] + 2.0 * (terms["pixel"] + terms["sampled"] + 0.5 * terms["settling"])
    assert terms["loss"].item() == pytest.approx(whole.item(), rel=1e-5)
    assert draw.strength[:2].sub(1).abs().min() > 0.01, "else strength would not be tried"


def test_a_share_of_the_pairs_starts_from_pure_noise(make_config) -> None:
    plain, some = (objective_of(make_config(pure_noise_share=share, train_batch_size=400)) for share in (0, 0.5))
    last = some.timestep_range[1]
    usual, drawn = (objective.draw(1).timesteps for objective in (plain, some))
    assert 0.4 < (drawn == last).float().mean() < 0.6
    assert torch.equal(drawn[drawn != last], usual[drawn != last]), "the others are spread as before"


def test_what_is_sampled_in_training_is_the_middle_of_the_styles(make_config) -> None:
    config = make_config(model_noise_offset=5.0, train_batch_size=16)
    draw = objective_of(config).draw(1)
    middle, other = (noise.mean((2, 3)).std() for noise in (draw.middle_noise, draw.other_noise))
    assert middle < 1 < 3 < other


def test_a_slider_reaches_as_far_as_the_experts_of_its_photo(make_config) -> None:
    pairs = objective_of(make_config()).pairs
    scale = torch.tensor([0.5, 1.0, 2.0, 4.0])
    reach = slider_reach(pairs, scale)
    assert reach.shape == (len(pairs), 4)
    halves = {}
    for number, targets in enumerate(pairs.target_groups()):
        scores = attribute_scores(targets)
        halves[number] = (scores.max(0).values - scores.min(0).values) / 2 / scale
    least = 0.25 * torch.stack(list(halves.values())).mean(0)
    for row, number in enumerate(pairs.group_of.tolist()):
        assert torch.allclose(reach[row], torch.maximum(halves[number], least))


def test_mixed_precision_applies_grids_in_full(make_config) -> None:
    """Half floats would tell 256 levels of the guide apart, and the losses would see banding that nobody gets."""
    pipe = new_pipeline(make_config().model)
    torch.nn.init.normal_(pipe.grid_head.out.weight, std=0.1)
    model, made = Retoucher(pipe.unet, pipe.grid_head), []
    pipe.grid_head.register_forward_hook(lambda head, features, coefficients: made.append(coefficients))
    photo = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            _, pictures = model(
                torch.randn(1, 4, 8, 8),
                torch.tensor([500]),
                torch.rand(1, 3, 8, 8),
                torch.zeros(1, 4),
                photo,
                torch.zeros(1, NUM_STATISTICS),
            )
        assert made[0].dtype == torch.float32
        assert torch.equal(pictures, pipe.grid_head.retouch(made[0], photo))


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


def trained(config: TrainingConfig, accelerator: Accelerator, steps: int = 3) -> tuple[Trainer, list[dict]]:
    trainer = Trainer(config, accelerator, read_split(config.dataset, "train"), None)
    return trainer, [{name: value.item() for name, value in trainer.advance().items()} for _ in range(steps)]


def test_the_contrastive_term_comes_every_so_many_steps_and_counts_as_many_times(make_config, accelerator) -> None:
    config = make_config(contrastive_every=2, contrastive_warmup_steps=1, contrastive_weight=0.5, beta=2.0)
    _, terms = trained(config, accelerator, 4)
    assert ["contrastive" in entry for entry in terms] == [False, True, False, True]
    for entry in terms:
        expected = entry["noise"] + 2 * entry["pixel"] + 0.5 * 2 * entry.get("contrastive", 0)
        assert entry["loss"] == pytest.approx(expected, rel=1e-5)


# Uneven: three of the eight pairs contrast, and conditions drop out.
UNEVEN = {"train_batch_size": 8, "contrastive_batch_size": 3, "contrastive_warmup_steps": 0, "use_ema": False}


@pytest.mark.parametrize("passes", [2, 8])
def test_accumulated_gradients_of_unet_and_head_are_those_of_the_whole_batch(make_config, accelerator, passes) -> None:
    whole, whole_terms = trained(make_config(**UNEVEN), accelerator, 1)
    parts, part_terms = trained(make_config(gradient_accumulation_steps=passes, **UNEVEN), accelerator, 1)
    assert part_terms[0] == pytest.approx(whole_terms[0], rel=1e-5)
    # Adam's first moment after one step is a tenth of the clipped gradient.
    one, other = (trainer.state()["optimizer"]["state"] for trainer in (whole, parts))
    assert len(one) == len(whole.state()["model"])
    scale = max(moments["exp_avg"].abs().max() for moments in one.values())
    for index, moments in one.items():
        assert torch.allclose(moments["exp_avg"], other[index]["exp_avg"], atol=1e-5 * scale)


@pytest.mark.parametrize("form", ["published", "linear"])
def test_other_forms_accumulate_alike(make_config, accelerator, form: str) -> None:
    form = {"contrastive": form, **UNEVEN}
    _, whole = trained(make_config(**form), accelerator, 1)
    _, parts = trained(make_config(gradient_accumulation_steps=4, **form), accelerator, 1)
    assert whole[0]["contrastive"] > 0
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)


def test_a_batch_that_processes_and_passes_do_not_divide_is_refused(make_config, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`train_batch_size` has to be a multiple of 3 .1 processes x 3 accumulation"):
        train(make_config(gradient_accumulation_steps=3))
    assert not (tmp_path / "run").exists()


def test_gradient_checkpointing_changes_memory_not_the_result(make_config, accelerator) -> None:
    plain, checkpointed = (
        trained(make_config(gradient_checkpointing=on), accelerator)[0].state()["model"] for on in (False, True)
    )
    assert_same(plain, checkpointed)


def test_min_snr_weighting_changes_the_noise_loss_alone(make_config, accelerator) -> None:
    (even,), (weighted,) = (trained(make_config(snr_gamma=gamma), accelerator, 1)[1] for gamma in ("null", 0.01))
    assert weighted["noise"] < 0.5 * even["noise"]
    assert weighted["pixel"] == even["pixel"]


def test_without_averaging_the_latest_weights_are_saved(make_config, accelerator, tmp_path: Path) -> None:
    trainer, _ = trained(make_config(use_ema=False), accelerator)
    with trainer.averaged():
        trainer.save_model(tmp_path / "saved")
    assert_same(weights(tmp_path / "saved"), trainer.state()["model"])
    assert "ema" not in trainer.state()


def test_8_bit_adam_is_refused_where_it_is_not_installed(make_config, accelerator) -> None:
    if importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    config = make_config(use_8bit_adam=True)
    with pytest.raises(ValueError, match="`use_8bit_adam` has to be false where bitsandbytes is not installed"):
        Trainer(config, accelerator, read_split(config.dataset, "train"), None)


def test_what_reads_the_statistics_has_its_own_weight_decay(make_config, accelerator) -> None:
    def after_a_step(decay: float | str) -> dict[str, torch.Tensor]:
        decays = {"statistics_weight_decay": decay, "adam_weight_decay": 0, "lr_warmup_steps": 0}
        config = make_config(**{"model.statistics": True, "use_ema": False, **decays})
        return trained(config, accelerator, 1)[0].state()["model"]

    free, decayed = after_a_step("null"), after_a_step(100)
    moved = {name for name in free if not torch.equal(free[name], decayed[name])}
    assert moved and moved == {name for name in free if "class_embedding" in name and free[name].any()}
    name = "unet.class_embedding.linear_1.weight"
    kept = (decayed[name].norm() / free[name].norm()).item()
    assert kept == pytest.approx(1 - 100 * 5e-4, abs=0.005)


def test_a_decay_of_what_reads_the_statistics_needs_a_model_that_reads_them(make_config, accelerator) -> None:
    config = make_config(**{"model.statistics": False, "statistics_weight_decay": 1})
    with pytest.raises(ValueError, match=r"`statistics_weight_decay` has to be null .* got 1.0"):
        trained(config, accelerator, 0)


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


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("constant_with_warmup", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("constant", [1.0] * 6),
    ],
)
def test_other_schedules(make_config, schedule: str, expected: list[float]) -> None:
    config = make_config(lr_scheduler=schedule, lr_warmup_steps=2, max_train_steps=6)
    assert [learning_rate_factor(step, config) for step in range(6)] == expected


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
        "best",
        "cache",
        "checkpoint-000004",
        "checkpoint-000006",
        "config.yaml",
        "final",
        "log.jsonl",
        "report.html",
        "validation",
    ]
    assert [path.name for path in finished.rglob(".*")] == []


def test_the_configuration_of_a_run_is_kept(finished: Path, data: Path) -> None:
    assert load_config(finished / "config.yaml", []) == load_config(None, overrides(dataset=data, output_dir=finished))


def test_the_log_holds_each_logging_step_once_and_each_validation_once(finished: Path) -> None:
    log = log_of(finished)
    assert [record["step"] for record in log if "loss" in record] == [2, 4, 6]
    assert [record["step"] for record in log if "delta_e_oracle" in record] == [3, 6]
    assert "contrastive" not in log[0]
    assert {"noise", "pixel", "contrastive", "seconds"} <= set(log[-2])
    assert all(math.isfinite(value) for record in log for value in record.values())


def test_final_is_the_last_checkpoint(finished: Path) -> None:
    assert_same(weights(finished / "final"), weights(finished / "checkpoint-000006"))


def test_best_holds_the_weights_of_the_best_validation(make_config, tmp_path: Path) -> None:
    train(make_config(validation_steps=2, checkpoints_total_limit=3))
    scores = {record["step"]: record["delta_e_c0"] for record in log_of(tmp_path / "run") if "delta_e_c0" in record}
    best = min(scores, key=lambda step: (scores[step], step))
    assert len(set(scores.values())) > 1
    assert_same(weights(tmp_path / "run" / "best"), weights(tmp_path / "run" / f"checkpoint-{best:06d}"))


def test_a_worse_validation_leaves_best_as_it_was(finished: Path, make_config, tmp_path: Path) -> None:
    """Resumed behind a validation that nothing will beat."""
    folder = copied(finished, tmp_path / "run", "checkpoint-000006", "final")
    log = folder / "log.jsonl"
    log.write_text(json.dumps({"step": 3, "delta_e_c0": 0.0}) + "\n" + log.read_text())
    (folder / "best" / "mark").touch()
    train(make_config(), resume="latest")
    assert (folder / "best" / "mark").exists()


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
    train(make_config(), resume="latest")
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
    train(make_config(), resume="latest")
    assert "Skipping the damaged checkpoint" in caplog.text
    assert_same(weights(folder / "final"), weights(finished / "final"))


def test_a_run_killed_before_its_last_save_still_gets_its_final_pipeline(finished, make_config, tmp_path) -> None:
    """The last checkpoint was there, `final` was not yet."""
    folder = copied(finished, tmp_path / "run", "final")
    train(make_config(), resume="latest")
    assert_same(weights(folder / "final"), weights(finished / "final"))
    assert log_of(folder) == log_of(finished)


def test_resuming_with_more_steps_goes_on(finished: Path, make_config, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run")
    train(make_config(max_train_steps=8), resume="latest")
    assert (folder / "checkpoint-000008").is_dir()
    assert not torch.equal(
        weights(folder / "final")["unet.conv_in.weight"], weights(finished / "final")["unet.conv_in.weight"]
    )


def test_resuming_where_nothing_was_saved_starts_anew(finished: Path, make_config, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run", "checkpoint-*", "final")
    train(make_config(), resume="latest")
    assert_same(weights(folder / "final"), weights(finished / "final"))
    assert len(log_of(folder)) == len(log_of(finished))


def test_a_run_is_not_overwritten_unasked(finished: Path, make_config, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(FileExistsError, match="`output_dir` .* holds checkpoints"):
        train(make_config())
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.1}, "`learning_rate` has to be 0.0005 to continue the checkpoint of step 6, got 0.1"),
        ({"train_batch_size": 8}, "`train_batch_size` has to be 4 to continue"),
        ({"model_block_out_channels": [16, 16]}, "`model` has to be {.*} to continue"),
        ({"contrastive": "published"}, "`contrastive` has to be signed to continue"),
        ({"lora_rank": 4, "pretrained_model": "bundled"}, "`pretrained_model` has to be None to continue"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_in_one_sentence(
    finished: Path, make_config, tmp_path: Path, change, message
) -> None:
    folder = copied(finished, tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=message) as raised:
        train(make_config(**change), resume="latest")
    assert "\n" not in str(raised.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_checkpoint_of_another_data_set_is_refused(finished: Path, make_config, tmp_path: Path) -> None:
    copied(finished, tmp_path / "run")
    other = write_data_set(tmp_path / "other", {"train": 1, "validation": 1})
    with pytest.raises(ValueError, match="`dataset` has to be the data of the checkpoint of step 6, got other"):
        train(make_config(dataset=other), resume="latest")


def test_a_data_set_that_moved_is_the_same_data_set(finished: Path, data: Path, make_config, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run", "checkpoint-000006", "final")
    shutil.copytree(data, tmp_path / "moved")
    train(make_config(dataset=tmp_path / "moved"), resume="latest")
    assert_same(weights(folder / "final"), weights(finished / "final"))


def test_a_run_may_be_continued_from_a_checkpoint_of_choice(finished: Path, make_config, tmp_path: Path) -> None:
    """With other checkpoints at hand, and other settings of what does not touch the weights."""
    train(make_config(checkpointing_steps=100, num_validation_photos=2), resume=finished / "checkpoint-000004")
    assert_same(weights(tmp_path / "run" / "final"), weights(finished / "final"))


def test_a_chosen_checkpoint_is_not_continued_over_later_ones(finished: Path, make_config, tmp_path: Path) -> None:
    """Their log would be cut off, and the next `--resume` would take up the other run."""
    folder = copied(finished, tmp_path / "run")
    with pytest.raises(FileExistsError, match="holds checkpoints ahead of step 4: move them away"):
        train(make_config(), resume=folder / "checkpoint-000004")
    assert log_of(folder) == log_of(finished)


def test_training_continues_from_a_pretrained_pipeline(finished: Path, make_config, tmp_path: Path) -> None:
    train(make_config(pretrained_model=finished / "final", learning_rate=1e-12, max_train_steps=1))
    trained, start = weights(tmp_path / "run" / "final"), weights(finished / "final")
    assert all(torch.allclose(trained[name], start[name], atol=1e-9) for name in start)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_checkpoint_and_batch(make_config, tmp_path) -> None:
    with pytest.raises(FloatingPointError, match="The loss at step 1 is .*; the batch is in .*, the last") as e:
        train(make_config(learning_rate=1e30, checkpointing_steps=1, validation_steps=100, max_train_steps=20))
    run = tmp_path / "run"
    assert [path.name for path in run.glob("*checkpoint*")] == ["checkpoint-000001"]
    assert load_state(run / "checkpoint-000001")["step"] == 1
    (path,) = run.glob("*.safetensors")
    assert str(path) in str(e.value)
    objective = objective_of(make_config())
    draw = objective.draw(1)
    with safe_open(path, framework="pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        photo_ids = json.loads(file.metadata()["photo_ids"])
    batch = objective.pairs.batch(draw.indices, draw.condition, draw.flip)
    assert_same(saved, {**vars(batch), **vars(draw)})
    assert photo_ids == [read_split(make_config().dataset, "train")[i]["photo_id"] for i in draw.indices.tolist()]


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
    with pytest.raises(ValueError, match="`dataset` has to be the folder or Hub id of a data set"):
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
