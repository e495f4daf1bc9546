"""`diffretouch evaluate` with folders to measure with: sections in every output, refusals before any model work."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import pytest
from scenes import scene, write_data_set

from diffretouch.commands.cli import main
from diffretouch.section_tables import section_tables


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data") / "my-set", {"train": 1, "test": 2})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders")
    for number, name in enumerate(("pairs/1_input", "pairs/1_expert", "pairs/2_input", "finished/a", "finished/b")):
        (folder / name).parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(scene(number, 24, 36)).save(folder / f"{name}.png")
    return folder


def test_every_section_is_in_the_figures_the_printed_tables_and_the_report(
    tiny_pipeline, data: Path, folders: Path, tmp_path: Path, capsys
) -> None:
    model, out = tmp_path / "model", tmp_path / "evaluation"
    tiny_pipeline(default_num_inference_steps=1).save_pretrained(model)
    given = ["--finished", str(folders / "finished"), "--pairs", str(folders / "pairs"), "--beside", f"other={model}"]
    assert main(["evaluate", str(data), "--model", str(model), "-o", str(out), "--num_photos", "2", *given]) == 0
    result = json.loads((out / "quality.json").read_text())
    printed, html = capsys.readouterr().out, (out / "report.html").read_text()
    baselines, singles = ["no change", "auto-contrast", "global LUT"], ["c = 0", "other"]
    seeds = ["8 seeds", "other, 8 seeds"]
    assert list(result["causality"]["models"]) == singles
    assert list(result["distribution"]["methods"]) == baselines + singles + seeds
    assert list(result["harm"]["methods"]) == baselines + singles and result["harm"]["source"] == "finished"
    assert list(result["real_pairs"]["methods"]) == baselines + singles + seeds
    assert set(result["harm"]["farther"]) >= {*baselines, *singles} and "oracle c" not in result["harm"]["farther"]
    assert "2_input.png" in result["real_pairs"]["unused"][0]
    assert result["settings"]["pairs"] == "pairs" and result["settings"]["finished"] == "finished"
    tables = section_tables(result)
    assert set(tables) == {"causality", "distribution", "harm", "farther", "real_pairs"}
    for header, rows in tables.values():
        assert all(len(row) == len(header) for row in rows)
        assert f"| {header[0]} |" in printed and f"<caption>{header[0]}</caption>" in html
        assert all(f"| {row[0]} | {row[1]} |" in printed for row in rows)
    # c = 0 is the same picture in every section
    quality = result["quality"]["c = 0"]["delta_e"]
    assert result["causality"]["models"]["c = 0"]["unaltered"]["mean"] == pytest.approx(quality, rel=1e-3)


@pytest.mark.parametrize(
    ("option", "make", "message"),
    [
        ("--pairs", None, "`pairs` has to be a folder, got"),
        ("--finished", None, "`finished` has to be a folder, got"),
        ("--pairs", {"1_input": (24, 36)}, "got no pair in"),
        ("--pairs", {"1_input": (24, 36), "1_expert": (24, 40)}, "have to be of one size, got 36 x 24 and 40 x 24"),
        ("--finished", {}, "`finished` has to be a folder with photos, got none in"),
        ("--teacher", {}, "has no readable package.json"),
    ],
)
def test_what_cannot_be_measured_with_is_refused_in_one_line_before_any_model_is_loaded(
    option: str, make: dict | None, message: str, data: Path, tmp_path: Path, capsys
) -> None:
    folder, out = tmp_path / "folder", tmp_path / "evaluation"
    if make is not None:
        folder.mkdir()
        for name, size in make.items():
            PIL.Image.fromarray(scene(0, *size)).save(folder / f"{name}.png")
    code = main(["evaluate", str(data), "--model", "no model", "-o", str(out), option, str(folder)])
    assert code == 2 and not out.exists()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diffretouch: ")]
    assert len(lines) == 1 and message in lines[0]
