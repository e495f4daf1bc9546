"""The evaluation of a model in a folder: JSON, tables and a report that agree with each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scenes import write_data_set

from diffretouch.evaluation.report import evaluate_to_folder, write_evaluation_report
from diffretouch.tables import NOTES, format_table


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data") / "my-set", {"train": 1, "test": 2})


@pytest.fixture(scope="module")
def evaluated(data: Path, tiny_pipeline, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    models, folder = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("evaluation")
    tiny_pipeline().save_pretrained(models / "my-model")
    tiny_pipeline(default_num_inference_steps=1).save_pretrained(models / "other")
    beside = {"one step": str(models / "other")}
    return folder, evaluate_to_folder(str(models / "my-model"), str(data), folder, beside=beside)


def test_json_tables_and_report_tell_the_same(evaluated: tuple[Path, dict]) -> None:
    folder, result = evaluated
    assert json.loads((folder / "quality.json").read_text()) == result
    assert (folder / "quality.md").read_text() == format_table(result) + "\n"
    html = (folder / "report.html").read_text()
    assert "<h1>Evaluation: my-model</h1>" in html and "The test split of my-set: 2 of 2 photos" in html
    for method, values in result["quality"].items():
        assert f'<th scope="row">{method}</th><td>{values["psnr"]:.2f}</td>' in html
    assert html.count("<svg ") == 4 and f">{result['diversity']['delta_e']:.2f}<small>" in html
    for values in result["coverage_beside"].values():
        assert f'<th scope="row">one step</th><td>{values["delta_e"]:.2f}</td>' in html
    assert NOTES["Zero-DCE++"] in html
    for name, reason in result["missing"].items():
        assert f'<th scope="row">{name}</th>' in html and reason.split("'")[0] in html


def test_the_report_shows_every_kind_of_picture(evaluated: tuple[Path, dict]) -> None:
    html = (evaluated[0] / "report.html").read_text()
    for name in (
        "input",
        "target E",
        "oracle A",
        "global LUT",
        "Zero-DCE++",
        "one step",
        "decoded",
        "seed 4",
        "contrast +1",
    ):
        assert f'alt="test-0#0: {name}"' in html and f'alt="test-1#0: {name}"' in html
    for name in ("ink on paper: input", "light on dark: c = 0", "faint on colour: decoded"):
        assert f'alt="{name}"' in html
    assert 'no change"><figcaption' not in html  # it is the input


def test_the_global_lut_is_fitted_to_the_training_split(evaluated: tuple[Path, dict]) -> None:
    assert "global LUT" in evaluated[1]["quality"]


def test_the_decoded_ablation_stands_beside_the_grid(evaluated: tuple[Path, dict]) -> None:
    texture = evaluated[1]["texture"]
    assert texture["decoded"]["mean"] < texture["c = 0"]["mean"]
    assert all(set(methods) == {"c = 0", "decoded"} for methods in texture["text"].values())


def test_a_report_without_its_pictures_still_has_its_numbers(evaluated: tuple[Path, dict], tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    html = write_evaluation_report(evaluated[1], tmp_path).read_text()
    assert "<img " not in html and html.count("<svg ") == 4


def test_one_grey_photo_has_a_report_too(tiny_pipeline, data: Path, tmp_path: Path) -> None:
    """No colourfulness to measure a slider by, no interval for one photo."""
    import numpy as np
    from PIL import Image

    from diffretouch.evaluation.measure import evaluate

    ramp = Image.fromarray(np.tile(np.linspace(60, 180, 32, dtype=np.uint8), (24, 1))).convert("RGB")
    darker = ramp.point(lambda value: value * 0.8)
    row = {"photo_id": "x", "expert": "me", "input": ramp, "target": darker, "condition": [0.0, -1.0, 0.0, 0.0]}
    result = evaluate(tiny_pipeline(), [row], seed=0, folder=tmp_path)
    assert result["spread"]["colorfulness"] is None
    assert "Cross-talk" in write_evaluation_report(result, tmp_path).read_text()


def test_a_model_beside_that_is_not_there_is_named(tiny_pipeline, data: Path, tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    with pytest.raises((OSError, ValueError), match="nowhere"):
        evaluate_to_folder(
            str(tmp_path / "model"), str(data), tmp_path / "out", beside={"x": str(tmp_path / "nowhere")}
        )
    assert not (tmp_path / "out").exists()


def test_a_missing_split_is_named_before_the_model_is_loaded(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no usable exam split"):
        evaluate_to_folder("no model", str(data), tmp_path, split="exam")
