"""The training command line as it is used: the real script, killed and resumed, and its one-line errors."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from scenes import overrides, write_data_set

from diffretouch import DiffRetouchPipeline

SCRIPT = Path(__file__).parents[1] / "train_lora" / "train_full.py"

# Runs the script with the disk's worst case: the process dies while half of the state of step 4 is written.
KILLED_WHILE_SAVING = """
import os, runpy, signal, sys, torch
whole = torch.save
def half(state, path, *rest):
    whole(state, path, *rest)
    if state["step"] == 4:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = half
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_full", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data"), {"train": 1, "validation": 1})


@pytest.fixture
def command(data: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def build(run: str = "run", **changes: object) -> list[str]:
        return ["--recipe", "smoke", *overrides(**{"dataset": data, "output_dir": tmp_path / run, **changes})]

    return build


def launch(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    pipe = DiffRetouchPipeline.from_pretrained(folder)
    return {**pipe.unet.state_dict(), **pipe.grid_head.state_dict()}


def test_a_run_killed_while_saving_resumes_to_the_very_same_weights(command, script, tmp_path: Path) -> None:
    killed = launch("-c", KILLED_WHILE_SAVING, str(SCRIPT), *command("killed"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = tmp_path / "killed"
    assert sorted(path.name for path in folder.glob("*checkpoint*")) == [
        ".checkpoint-000004.part",
        "checkpoint-000002",
    ]

    resumed = launch(str(SCRIPT), *command("killed"), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"The trained pipeline is in {folder / 'final'}" in resumed.stdout
    assert sorted(path.name for path in folder.glob("*checkpoint*")) == ["checkpoint-000004", "checkpoint-000006"]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert script.main(command("straight")) == 0
    torch.set_num_threads(threads)
    straight, other = weights(tmp_path / "straight" / "final"), weights(folder / "final")
    assert straight.keys() == other.keys()
    assert [name for name in straight if not torch.equal(straight[name], other[name])] == []

    for run in ("killed", "straight"):
        log = [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        assert [record["step"] for record in log if "loss" in record] == [2, 4, 6]
        assert [record["step"] for record in log if "delta_e_c0" in record] == [3, 6]
        assert (tmp_path / run / "validation" / "000006.png").is_file()
        for checkpoint in ("checkpoint-000004", "checkpoint-000006"):
            DiffRetouchPipeline.from_pretrained(tmp_path / run / checkpoint)


def test_a_recipe_may_be_a_file(script, command, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("contrastive: none\nmax_train_steps: 100\n")
    arguments = command(max_train_steps=1)
    arguments[1] = str(tmp_path / "mine.yaml")
    assert script.main(arguments) == 0
    assert "contrastive: none" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "none"], "none"),
        (["--recipe", "smoke", "speed=1"], "Unknown recipe key 'speed'"),
        (["--recipe", "smoke", "seed=x"], "`seed` has to be of type int, got 'x'"),
        (["--recipe", "smoke"], "`dataset` has to be the folder of a data set"),
        (["--recipe", "smoke", "dataset=missing"], "`folder` has to hold data/train-*.parquet, got missing"),
        (["--recipe", "."], "directory"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(script, arguments, message, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert script.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train_full: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_exists_is_refused_without_resume(script, command, tmp_path: Path, capsys) -> None:
    (tmp_path / "run" / "checkpoint-000002").mkdir(parents=True)
    assert script.main(command()) == 2
    assert "holds checkpoints: pass --resume, or choose another folder" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["checkpoint-000002"]


def test_a_loss_that_is_no_number_is_exit_code_1_and_keeps_the_checkpoint(script, command, tmp_path, capsys) -> None:
    assert script.main(command(max_train_steps=2)) == 0
    arguments = command(learning_rate=1e30, max_train_steps=20, checkpointing_steps=100, validation_steps=100)
    assert script.main([*arguments, "--resume"]) == 1
    assert "the last checkpoint is kept" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in (tmp_path / "run").glob("*checkpoint*")] == ["checkpoint-000002"]
    assert script.main([*command(max_train_steps=3), "--resume"]) == 0


def test_a_missing_pretrained_model_is_one_line(script, command, tmp_path: Path, capsys) -> None:
    assert script.main(command(pretrained_model=tmp_path / "no" / "such" / "model")) == 2
    assert "`pretrained_model` has to be" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
