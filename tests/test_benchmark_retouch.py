"""benchmarks/retouch.py: it measures every stage, and leaves nothing but its result behind."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import PIL.Image
import pytest
from scenes import scene

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def benchmark():
    spec = spec_from_file_location("benchmark_retouch", ROOT / "benchmarks" / "retouch.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_stage_is_timed_beside_the_files_alone_and_the_photo_is_left_alone(benchmark, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    PIL.Image.fromarray(scene(0)).save(photo)
    before = photo.read_bytes()
    output = tmp_path / "retouch.json"
    assert benchmark.main([str(photo), "--megapixels", "0.2", "--repeats", "1", "-o", str(output)]) == 0
    result = json.loads(output.read_text())
    (size,) = result["sizes"]
    assert size["width"] * size["height"] == pytest.approx(0.2e6, rel=0.01)
    assert set(size["median_seconds"]) == {*benchmark.STAGES, "files_alone", "total"}
    assert all(seconds > 0 for seconds in size["median_seconds"].values())
    assert size["ratio"] == pytest.approx(size["median_seconds"]["total"] / size["median_seconds"]["files_alone"])
    assert result["cold_start_seconds"]["model"] > result["cold_start_seconds"]["python"] > 0
    assert "decode JPEG" in capsys.readouterr().out
    assert photo.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png", "retouch.json"]


def test_a_file_that_is_no_photo_is_named_in_one_line(benchmark, tmp_path, capsys):
    (tmp_path / "photo.jpg").write_text("no photo")
    assert benchmark.main([str(tmp_path / "photo.jpg"), "-o", str(tmp_path / "retouch.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("retouch.py: cannot identify image file") and error.count("\n") == 1
