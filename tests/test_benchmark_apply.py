"""benchmarks/apply.py: every way it times gives the same picture, and the table says what was measured."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch

from diffretouch import AffineGrid

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def benchmark():
    spec = spec_from_file_location("benchmark_apply", ROOT / "benchmarks" / "apply.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_all_ways_give_the_same_picture(benchmark, dtype: str) -> None:
    grid = AffineGrid.identity()
    grid.coefficients += 0.05 * torch.randn(grid.coefficients.shape, generator=torch.Generator().manual_seed(0))
    photo = benchmark.load_photo(ROOT / "examples" / "photo.jpg", 0.3, dtype)
    ways = benchmark.ways_to_apply(grid, photo)
    top = 1 if dtype == "float32" else np.iinfo(dtype).max
    pictures = {name: way().astype(np.float64) / top for name, way in ways.items()}
    assert tuple(pictures) == benchmark.WAYS
    for name in ("tiled", "whole"):
        assert np.abs(pictures[name] - pictures["apply"]).max() <= (1.01 / top if top > 1 else 1e-5)
    np.testing.assert_array_equal(pictures["copy"], photo / top)


def test_a_cell_is_measured_and_shown(benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(ROOT / "examples" / "photo.jpg"), "--measure", "--megapixels", "0.3", "--dtypes", "uint8"]
    assert benchmark.main([*arguments, "--repeats", "1", "-o", "unused.json"]) == 0
    cell = json.loads(capsys.readouterr().out)
    assert cell["megapixels"] == pytest.approx(0.3, rel=0.01) and set(cell["seconds"]) == set(benchmark.WAYS)
    lines = benchmark.format_table([cell]).splitlines()
    assert len(lines) == 2 + len(benchmark.WAYS) and "1.0 faster" in lines[4]


def test_a_folder_that_is_missing_is_told_before_anything_is_measured(benchmark, capsys, tmp_path: Path) -> None:
    assert benchmark.main([str(ROOT / "examples" / "photo.jpg"), "-o", str(tmp_path / "missing" / "a.json")]) == 2
    assert "`--output` has to be in an existing folder" in capsys.readouterr().err
