"""benchmarks/against.py: two versions retouch the same folder in turns, each by its own code."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = spec_from_file_location("benchmark_against", ROOT / "benchmarks" / "against.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_MEGAPIXELS", (0.02, 0.05))
    return module


def test_both_versions_run_in_turns_and_the_other_runs_its_own_code(benchmark, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other"
    shutil.copytree(ROOT / "pipeline", other / "pipeline")
    loop = other / "pipeline" / "diffretouch" / "batch" / "loop.py"
    slow = loop.read_text().replace("        accepted = [", "        import time; time.sleep(2)\n        accepted = [")
    loop.write_text(slow)
    photos = sorted(map(str, (ROOT / "examples").glob("*.jpg")))[:2]
    line = ["against.py", str(other), *photos, "--photos", "2", "--turns", "1", "-o", str(tmp_path / "a.json")]
    monkeypatch.setattr(sys, "argv", line)
    assert benchmark.main() == 0
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["settings"]["photos"] == 2
    for what in ("look", "model"):
        this, slower = (result[what]["medians"][name][0] for name in ("this", "other"))
        assert slower > 2 and result[what]["ratio_wall"] == pytest.approx(this / slower)
        assert len(result[what]["seconds"]["other"]) == 1
    assert "look: " in capsys.readouterr().out
