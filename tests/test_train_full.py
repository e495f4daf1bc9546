"""The training command line as it is used: the real script, killed and resumed, and its one-line errors."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
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


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def kill_at_step(step: int, log: Path, *arguments: str) -> None:
    """Start the script and SIGKILL it as soon as its log has reached `step`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    run = subprocess.Popen([sys.executable, *arguments], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while run.poll() is None and time.monotonic() < deadline:
        if log.is_file() and f'"step": {step}' in log.read_text():
            run.kill()
        time.sleep(0.001)
    assert run.wait() == -signal.SIGKILL, run.stderr.read()


def test_a_run_killed_at_work_and_killed_while_saving_ends_with_the_very_same_weights(
    command, script, tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "killed"
    killed = launch("-c", KILLED_WHILE_SAVING, str(SCRIPT), *command("killed", max_train_steps=30))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sorted(path.name for path in folder.glob("*checkpoint*")) == [
        ".checkpoint-000004.part",
        "checkpoint-000002",
    ]
    (folder / "cache" / ".entry.part").touch()
    kill_at_step(10, folder / "log.jsonl", str(SCRIPT), *command("killed", max_train_steps=30), "--resume")

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    arguments = command("killed", max_train_steps=30)
    assert script.main([*arguments, "--resume_from_checkpoint", "latest"]) == 0
    assert f"The trained pipeline is in {folder / 'final'}" in capsys.readouterr().out
    assert sorted(path.name for path in folder.glob("*checkpoint*")) == ["checkpoint-000028", "checkpoint-000030"]
    assert [path.name for path in folder.rglob(".*")] == []
    assert script.main(command("straight", max_train_steps=30)) == 0
    torch.set_num_threads(threads)
    assert_same(weights(tmp_path / "straight" / "final"), weights(folder / "final"))
    logs = [(tmp_path / run / "log.jsonl").read_text().splitlines() for run in ("killed", "straight")]
    records = [[{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in log] for log in logs]
    assert records[0] == records[1]
    for checkpoint in ("checkpoint-000028", "checkpoint-000030"):
        DiffRetouchPipeline.from_pretrained(folder / checkpoint)


def test_two_processes_train_as_one_does(command, script, tmp_path: Path) -> None:
    """The same global batch, three of whose four pairs contrast; each process accumulates two passes."""
    recipe = {"contrastive_batch_size": 3, "contrastive_warmup_steps": 0, "max_train_steps": 4}
    processes = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = launch(*processes, str(SCRIPT), *command("two", gradient_accumulation_steps=2, **recipe))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The trained pipeline is in") == 1
    assert script.main(command("one", **recipe)) == 0

    logs = [(tmp_path / run / "log.jsonl").read_text().splitlines() for run in ("two", "one")]
    losses = [[json.loads(line)["loss"] for line in log if "loss" in line] for log in logs]
    assert losses[0] == pytest.approx(losses[1], abs=2e-5)
    two, one = weights(tmp_path / "two" / "final"), weights(tmp_path / "one" / "final")
    for name, value in one.items():
        assert torch.allclose(two[name], value, atol=1e-4), name  # steps of 5e-4: Adam enlarges sums' last digits


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
        (["--recipe", "smoke"], "`dataset` has to be the folder or Hub id of a data set"),
        (["--recipe", "smoke", "dataset=./missing"], "`dataset` has to be a folder or the id of a data set"),
        (["--recipe", "."], "directory"),
        (["--recipe", "smoke", "--fast"], "An override has to be key=value, got 'fast'"),
        (["--recipe", "my_style", "dataset=x"], "`lora_rank` has to be null to train every weight, got 16"),
        (["--recipe", "smoke", "dataset=x", "--resume", "missing"], "A checkpoint to resume has to hold"),
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


def test_a_loss_that_is_no_number_is_exit_code_1_and_names_the_batch(script, command, tmp_path, capsys) -> None:
    changes = {"learning_rate": 1e30, "max_train_steps": 20, "checkpointing_steps": 1, "validation_steps": 100}
    assert script.main(command(**changes)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"the batch is in {tmp_path / 'run' / 'not-finite-000001.safetensors'}" in last
    assert "the last checkpoint is kept" in last
    assert [path.name for path in (tmp_path / "run").glob("*checkpoint*")] == ["checkpoint-000001"]


def test_a_missing_pretrained_model_is_one_line(script, command, tmp_path: Path, capsys) -> None:
    assert script.main(command(pretrained_model=tmp_path / "no" / "such" / "model")) == 2
    assert "`pretrained_model` has to be" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_path_that_is_not_there_is_no_hub_id(script, command, tmp_path: Path, capsys, monkeypatch) -> None:
    """A path beside a folder that is there is no Hub id, and no Hub is asked for it."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffretouch.training.models.DiffRetouchPipeline.from_pretrained", None)
    for missing in ("runs/start", "./start", "runs/2/final", str(tmp_path / "start")):
        assert script.main(command(pretrained_model=missing)) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert "`pretrained_model` has to be" in said and said.endswith(f"got {missing}: there is no such folder")
