"""Watching a run: what is measured, that watching changes nothing, and a report from whatever a run left behind."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import overrides, write_data_set
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffretouch.attributes import ATTRIBUTES, attribute_scores
from diffretouch.commands.cli import main
from diffretouch.data.dataset import decode, photos_of, read_split
from diffretouch.evaluation.metrics import delta_e_2000, psnr
from diffretouch.evaluation.one_photo import variant_seeds
from diffretouch.hub.card import write_model_card
from diffretouch.report import load_sheet
from diffretouch.training import run_report
from diffretouch.training.config import TrainingConfig, load_config, save_config
from diffretouch.training.run_report import write_training_report
from diffretouch.training.tracking import Tracker
from diffretouch.training.validation import LONG_SIDE, NUM_SEEDS, Validator

NAMES = [f"{metric}_{method}" for metric in ("delta_e", "psnr") for method in ("input", "c0", "oracle")]
NAMES += ["diversity", *(f"control_{slider}" for slider in ATTRIBUTES)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data"), {"validation": 3})


@pytest.fixture
def make_config(data: Path, tmp_path: Path):
    def make(**changes: object) -> TrainingConfig:
        settings = {"dataset": data, "output_dir": tmp_path / "run", "num_validation_photos": 2, **changes}
        return load_config(None, overrides(**settings))

    return make


def small(picture: Image.Image) -> np.ndarray:
    size = (LONG_SIDE, round(LONG_SIDE * picture.height / picture.width))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS), dtype=np.float32) / 255


# ---- measuring ------------------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_pipeline_s_own_retouches(make_config, data: Path, tiny_pipeline) -> None:
    pipe, rows = tiny_pipeline(), read_split(data, "validation")
    figures = Validator(make_config(num_validation_photos=1), rows).run(pipe, 3)
    assert sorted(figures) == sorted(NAMES)

    (group, *_) = photos_of(rows)
    photo, targets = decode(group[0]["input"]), [small(decode(row["target"])) for row in group]
    seeds = variant_seeds(0, group[0]["photo_id"])[:NUM_SEEDS]

    def retouch(seed: int, **sliders: float) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        view = photo.resize((512, 512), Image.Resampling.BILINEAR)
        return pipe(view, **sliders, generator=generator, output_type="grid").grids[0].apply(small(photo))

    plain = [retouch(seed) for seed in seeds]
    oracles = [retouch(seeds[0], **dict(zip(ATTRIBUTES, row["condition"], strict=True))) for row in group]
    for name, metric in (("delta_e", delta_e_2000), ("psnr", psnr)):
        expected = {
            "input": [metric(small(photo), target) for target in targets],
            "c0": [metric(plain[0], target) for target in targets],
            "oracle": [metric(oracle, target) for oracle, target in zip(oracles, targets, strict=True)],
        }
        for method, values in expected.items():
            assert figures[f"{name}_{method}"] == pytest.approx(np.mean(values), abs=2e-3)
    distances = [delta_e_2000(plain[a], plain[b]) for b in range(NUM_SEEDS) for a in range(b)]
    assert figures["diversity"] == pytest.approx(np.mean(distances), abs=2e-3) and figures["diversity"] > 0.1

    def scores(pictures: list[np.ndarray]) -> np.ndarray:
        return attribute_scores(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)).numpy()

    unit = np.ptp(scores([small(photo), *targets]), axis=0)
    for number, slider in enumerate(ATTRIBUTES):
        low, high = scores([retouch(seeds[0], **{slider: end}) for end in (-1.0, 1.0)])[:, number]
        assert figures[f"control_{slider}"] == pytest.approx((high - low) / unit[number], rel=0.02, abs=2e-3)
    assert max(abs(figures[f"control_{slider}"]) for slider in ATTRIBUTES) > 0.01


def test_watching_changes_neither_model_nor_global_randomness(make_config, data: Path, tiny_pipeline) -> None:
    """Otherwise a run that validates more often would end in other weights, and resuming would not be exact."""
    pipe = tiny_pipeline()
    pipe.unet.train()
    pipe.grid_head.eval()
    weights = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    validator = Validator(make_config(), read_split(data, "validation"))
    figures = validator.run(pipe, 1)
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(before[0], after[0]) and (before[1] == after[1]).all() and before[2] == after[2]
    assert pipe.unet.training and not pipe.grid_head.training
    assert all(torch.equal(value, weights[name]) for name, value in pipe.unet.state_dict().items())
    assert all(parameter.grad is None for parameter in pipe.unet.parameters())
    torch.randn(3)
    assert validator.run(pipe, 2) == figures


def test_training_modes_come_back_after_a_failure_too(make_config, data: Path, tiny_pipeline, monkeypatch) -> None:
    pipe = tiny_pipeline()
    pipe.unet.train()
    validator = Validator(make_config(), read_split(data, "validation"))
    monkeypatch.setattr(pipe.grid_head, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        validator.run(pipe, 1)
    assert pipe.unet.training


def shown(config: TrainingConfig, step: int) -> dict[str, dict[str, np.ndarray]]:
    return load_sheet(Path(config.output_dir) / "validation" / f"{step:06d}.jpg")


def test_the_pictures_of_a_step_are_kept_on_one_sheet(make_config, data: Path, tiny_pipeline) -> None:
    config = make_config()
    Validator(config, read_split(data, "validation")).run(tiny_pipeline(), 12)
    sheet = shown(config, 12)
    assert list(sheet) == ["validation-0#0", "validation-1#0"]
    experts = [name for row in "ABCDE" for name in (f"target {row}", f"oracle {row}")]
    ends = [f"{slider} {end}" for slider in ATTRIBUTES for end in ("-1", "+1")]
    for pictures in sheet.values():
        assert list(pictures) == ["input", "c = 0", *experts, "seed 2", "seed 3", "seed 4", *ends]
        assert {picture.shape for picture in pictures.values()} == {(LONG_SIDE * 24 // 36, LONG_SIDE, 3)}
    photo = next(photos_of(read_split(data, "validation")))
    difference = np.abs(sheet["validation-0#0"]["target B"] / 255 - small(decode(photo[1]["target"])))
    assert difference.mean() < 0.01


def test_photos_are_spread_over_the_split_and_a_stream_gives_its_first(make_config, data: Path, tiny_pipeline) -> None:
    pipe, config = tiny_pipeline(), make_config(num_validation_photos=1)
    rows = read_split(data, "validation")
    for step, source in enumerate((rows.select(range(5, 15)), read_split(data, "validation", streaming=True))):
        Validator(config, source).run(pipe, step)
    assert list(shown(config, 0)) == ["validation-1#0"] and list(shown(config, 1)) == ["validation-0#0"]
    Validator(make_config(num_validation_photos=99), rows).run(pipe, 2)
    assert len(shown(config, 2)) == 3


def test_a_photo_with_one_expert_is_measured_beside_one_with_five(make_config, data: Path, tiny_pipeline) -> None:
    config, rows = make_config(), read_split(data, "validation").select([0, 1, 2, 3, 4, 7])
    figures = Validator(config, rows).run(tiny_pipeline(), 1)
    assert all(np.isfinite(value) for value in figures.values())
    assert [len(pictures) for pictures in shown(config, 1).values()] == [23, 15]


def test_an_attribute_that_experts_leave_alone_has_no_measure_of_control(make_config, data: Path, tiny_pipeline):
    def unchanged(row):
        return {"target": row["input"]}

    rows = read_split(data, "validation").select([0]).map(unchanged)
    figures = Validator(make_config(), rows).run(tiny_pipeline(), 1)
    assert sorted(figures) == sorted(name for name in NAMES if not name.startswith("control"))
    assert figures["delta_e_input"] == 0


def test_a_broken_picture_stops_or_is_skipped_as_the_recipe_says(make_config, data: Path, tiny_pipeline) -> None:
    def broken(row, number):
        return {"target": {"bytes": b"no picture", "path": None}} if number == 1 else {}

    rows = read_split(data, "validation").map(broken, with_indices=True)
    with pytest.raises(ValueError, match=r"bad row 1 \(photo 'validation-0#0', expert 'B'\): `target` is broken"):
        Validator(make_config(), rows)
    config = make_config(bad_rows="skip")
    Validator(config, rows).run(tiny_pipeline(), 1)
    assert "target B" not in shown(config, 1)["validation-0#0"]


# ---- TensorBoard and wandb ------------------------------------------------------------------------------------------


def events(config: TrainingConfig) -> EventAccumulator:
    folder = EventAccumulator(str(Path(config.output_dir) / "tensorboard"), size_guidance={"images": 0})
    folder.Reload()
    return folder


def test_tensorboard_gets_curves_and_pictures(make_config, data: Path, tiny_pipeline) -> None:
    config = make_config(report_to="tensorboard")
    figures = Validator(config, read_split(data, "validation")).run(tiny_pipeline(), 4)
    tracker = Tracker(config, 0)
    tracker.scalars(2, {"step": 2, "loss": 0.5})
    tracker.scalars(4, figures, "validation")
    tracker.pictures(4)
    tracker.close()
    logged = events(config)
    assert [(event.step, event.value) for event in logged.Scalars("train/loss")] == [(2, 0.5)]
    assert logged.Scalars("validation/delta_e_c0")[0].value == pytest.approx(figures["delta_e_c0"])
    assert sorted(logged.Tags()["images"]) == ["validation/experts", "validation/seeds", "validation/sliders"]
    widths = {name: logged.Images(f"validation/{name}")[0].width for name in ("experts", "seeds", "sliders")}
    assert widths == {"experts": 12 * LONG_SIDE, "seeds": 5 * LONG_SIDE, "sliders": 9 * LONG_SIDE}


def test_a_run_that_goes_on_forgets_what_it_does_again(make_config) -> None:
    config = make_config(report_to="tensorboard")
    for start, steps, loss in ((0, (2, 4, 6), 1.0), (4, (6, 8), 2.0)):
        tracker = Tracker(config, start)
        for step in steps:
            tracker.scalars(step, {"loss": loss})
        tracker.close()
    assert [(event.step, event.value) for event in events(config).Scalars("train/loss")] == [
        (2, 1.0),
        (4, 1.0),
        (6, 2.0),
        (8, 2.0),
    ]


def test_trackio_gets_curves_and_pictures_and_a_run_that_goes_on_stays_one(
    make_config, data: Path, tiny_pipeline, tmp_path: Path
) -> None:
    """In a process of its own, because trackio reads its folder's place when it is imported."""
    config = make_config(report_to="trackio")
    Validator(config, read_split(data, "validation")).run(tiny_pipeline(), 4)
    save_config(config, Path(config.output_dir) / "config.yaml")
    program = """
import sys
from diffretouch.training.config import load_config
from diffretouch.training.tracking import Tracker
config = load_config(sys.argv[1], [])
for start, steps in ((0, (2, 4)), (4, (6,))):
    tracker = Tracker(config, start)
    for step in steps:
        tracker.scalars(step, {"step": step, "loss": step / 8})
    if not start:
        tracker.pictures(4)
    tracker.close()
import trackio
(run,) = trackio.Api().runs("diffretouch")
print("name:", run.name)
"""
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    command = [sys.executable, "-c", program, str(Path(config.output_dir) / "config.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (name,) = re.findall("(?m)^name: (run-.*)$", done.stdout)
    ask = [sys.executable, "-m", "trackio.cli", "get", "metric", "--project", "diffretouch", "--run", name]
    told = subprocess.run(
        [*ask, "--metric", "train/loss", "--json"], env=environment, capture_output=True, timeout=300
    )
    points = json.loads(told.stdout)["values"]
    assert [(point["step"], point["value"]) for point in points] == [(2, 0.25), (4, 0.5), (6, 0.75)]
    assert len(list((tmp_path / "trackio").rglob("*.png"))) == 3
    tracked = json.loads((tmp_path / "run" / "tracking.json").read_text())
    assert tracked == {"tracker": "trackio", "run": name, "url": None}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (None, "Tracked with trackio as mine, on the machine it ran on alone."),
        ("https://x.y/z", 'Tracked with trackio as mine: <a href="https://x.y/z">https://x.y/z</a>'),
    ],
)
def test_the_report_and_the_card_link_to_the_tracker(run: Path, tiny_pipeline, tmp_path: Path, url, shown) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "tracking.json").write_text(json.dumps({"tracker": "trackio", "run": "mine", "url": url}))
    assert shown in write_training_report(copy).read_text()
    tiny_pipeline().save_pretrained(tmp_path / "model")
    card = write_model_card(tmp_path / "model", config=copy / "config.yaml").read_text()
    assert (f"All curves and pictures of the run: <{url}>" in card) == (url is not None)


def test_no_tracker_writes_nothing(make_config, data: Path, tiny_pipeline, tmp_path: Path) -> None:
    config = make_config(report_to="none")
    Validator(config, read_split(data, "validation")).run(tiny_pipeline(), 1)
    tracker = Tracker(config, 0)
    tracker.scalars(1, {"loss": 1.0})
    tracker.pictures(1)
    tracker.close()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["validation"]


@pytest.mark.parametrize(
    ("report_to", "module"), [("wandb", "wandb"), ("trackio", "trackio"), ("tensorboard", "torch.utils.tensorboard")]
)
def test_a_tracker_that_is_not_installed_is_named(make_config, monkeypatch, report_to: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=f"`report_to` has to name an installed package or be none, got {report_to}"):
        Tracker(make_config(report_to=report_to), 0)


# ---- the report -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(data: Path, tiny_pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 8 steps that was resumed at 4, without its model."""
    folder = tmp_path_factory.mktemp("runs") / "my-run"
    settings = {"dataset": data, "output_dir": folder, "max_train_steps": 8, "num_validation_photos": 2}
    config = load_config(None, overrides(**settings))
    validator = Validator(config, read_split(data, "validation"))
    pipe = tiny_pipeline()
    lines = []
    for step, seconds in ((2, 10.0), (4, 20.0), (6, 9.0), (8, 21.0)):
        lines.append({"step": step, "seconds": seconds, "loss": 1 / step, "noise": 0.5 / step, "pixel": 0.1 / step})
        if step in (4, 8):
            lines.append({"step": step, **validator.run(pipe, step)})
    save_config(config, folder / "config.yaml")
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "my-run"))


def test_the_report_shows_the_whole_run(run: Path, data: Path) -> None:
    path = write_training_report(run)
    assert path == run / "report.html"
    html = path.read_text()
    assert "<h1>Training report: my-run</h1>" in html and "; complete.</p>" in html
    assert ">41 s<small>" in html  # 20 s before and 21 s after it was resumed
    for title in ("Training loss", "Pixel loss", "Validation: Delta E 2000 to the experts", "Validation: control"):
        assert f"<figcaption>{title}</figcaption><svg" in html
    assert "Contrastive loss" not in html  # never logged
    assert html.count("<img ") == 2 * (2 + 10) + 2 * 4 * 3 + 2 * 4 + 2 * 2
    assert html.count('alt="validation-0#0: input"') == 1 and 'alt="validation-1#0: c = 0, step 4"' in html
    assert '<tr class=strong><th scope="row">max_train_steps</th><td>8</td>' in html
    assert '<tr><th scope="row">beta</th><td>10.0</td>' in html
    assert str(data.parent) not in html and str(run.parent) not in html  # folders of this machine


@pytest.mark.parametrize(("metric", "step", "name"), [("delta_e_c0", 8, "c = 0"), ("delta_e_oracle", 4, "oracle c")])
def test_the_stressed_validation_is_the_one_that_best_holds(run: Path, metric: str, step: int, name: str) -> None:
    (run / "config.yaml").write_text(f"max_train_steps: 8\nmetric_for_best_model: {metric}\n")
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for record in records:
        if "psnr_c0" in record:
            record |= {"delta_e_c0": 10.0 - record["step"], "delta_e_oracle": float(record["step"])}
    (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    html = write_training_report(run).read_text()
    assert f"Bold: the best at {name}." in html
    assert f'<tr class=strong><th scope="row">{step}</th>' in html
    assert f'<tr class=strong><th scope="row">{12 - step}</th>' not in html


def test_an_interrupted_run_has_a_report_too(run: Path) -> None:
    log = run / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:3]) + '{"step": 6, "lo')
    html = write_training_report(run).read_text()
    assert "stopped or still running at step 4 of 8" in html
    assert "step 4" in html and "step 8" not in html


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(b"\xff\xd8 broken")])
def test_pictures_that_are_gone_or_broken_do_not_cost_the_report(run: Path, harm) -> None:
    harm(run / "validation" / "000008.jpg")
    html = write_training_report(run).read_text()
    assert "Before, after and target, step 4" in html
    harm(run / "validation" / "000004.jpg")
    html = write_training_report(run).read_text()
    assert "holds no validation pictures" in html and "<svg" in html


def test_a_run_that_stopped_before_its_first_record_says_so(run: Path) -> None:
    (run / "log.jsonl").write_text("")
    html = write_training_report(run).read_text()
    assert "stopped or still running at step 0 of 8" in html and "stopped before its first validation" in html


def test_a_loss_that_is_no_number_leaves_a_gap(run: Path) -> None:
    with open(run / "log.jsonl", "a") as file:
        file.write('{"step": 10, "seconds": 30.0, "loss": NaN, "noise": Infinity, "pixel": 0.1}\n')
    assert (
        "Training loss: loss from 0.5 to 0.125; noise from 0.25 to 0.0625." in write_training_report(run).read_text()
    )


@pytest.mark.parametrize("name", ["config.yaml", "log.jsonl"])
def test_what_is_no_run_is_named_in_one_line(run: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    (run / name).write_text("[1, 2]\n")
    assert main(["report", str(run)]) == 2
    assert f"has to hold the {name} of a run" in capsys.readouterr().err
    (run / name).unlink()
    assert main(["report", str(run)]) == 2
    error = capsys.readouterr().err
    assert error == f"diffretouch: `output_dir` has to be the folder of a training run, got {run} without {name}.\n"
    assert not (run / "report.html").exists()


def test_the_command_line_builds_the_report_and_names_it(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"


def test_losses_are_smoothed_without_looking_ahead() -> None:
    line = [(float(n), float(n)) for n in range(5)]
    assert [y for _, y in run_report._moving_mean(line, 3)] == [0, 0.5, 1, 2, 3]
    assert run_report._moving_mean(line, 1) == line
