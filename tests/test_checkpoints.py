"""Checkpoints load as pipelines, survive damage and failures, and never leave half of themselves."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from diffretouch import DiffRetouchPipeline
from diffretouch.files import folder_atomically, write_atomically
from diffretouch.training.checkpoints import (
    append_log,
    best_so_far,
    clear_leftovers,
    cut_log,
    list_checkpoints,
    load_latest_state,
    load_state,
    rotate_checkpoints,
    save_checkpoint,
    save_folder,
)


@pytest.fixture(scope="module")
def pipe(tiny_pipeline: Callable[..., DiffRetouchPipeline]) -> DiffRetouchPipeline:
    return tiny_pipeline()


STATE = {"model": {"weight": torch.arange(6.0)}, "optimizer": {}, "ema": {"decay": 0.5}}


@contextmanager
def full_disk(bytes_left: int):
    """Files of this process cannot grow beyond `bytes_left`."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_loads_as_a_pipeline_and_as_a_state(tmp_path: Path, pipe) -> None:
    folder = save_checkpoint(tmp_path, 12, pipe.save_pretrained, STATE)
    assert folder == tmp_path / "checkpoint-000012"
    assert names(tmp_path) == ["checkpoint-000012"]
    loaded = DiffRetouchPipeline.from_pretrained(folder)
    for name in ("unet", "grid_head"):
        saved = getattr(pipe, name).state_dict()
        assert all(torch.equal(value, saved[key]) for key, value in getattr(loaded, name).state_dict().items())
    state = load_latest_state(tmp_path)
    assert state["step"] == 12
    assert torch.equal(state["model"]["weight"], STATE["model"]["weight"])


def test_there_is_no_state_without_checkpoints(tmp_path: Path) -> None:
    assert load_latest_state(tmp_path) is None
    assert load_latest_state(tmp_path / "missing") is None


def test_checkpoints_are_ordered_by_number_not_by_name(tmp_path: Path) -> None:
    for name in ("checkpoint-1000000", "checkpoint-000999", "checkpoint-000020", ".checkpoint-000030.part"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-notes").mkdir()
    (tmp_path / "checkpoint-000500").write_text("a file")
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "checkpoint-000020",
        "checkpoint-000999",
        "checkpoint-1000000",
    ]


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "text"])
def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(tmp_path: Path, pipe, caplog, damage: str) -> None:
    save_checkpoint(tmp_path, 2, pipe.save_pretrained, STATE)
    state = save_checkpoint(tmp_path, 4, pipe.save_pretrained, STATE) / "training_state.pt"
    if damage == "gone":
        state.unlink()
    else:
        state.write_bytes({"cut": state.read_bytes()[:-200], "empty": b"", "text": b"no checkpoint"}[damage])
    assert load_latest_state(tmp_path)["step"] == 2
    assert "damaged checkpoint" in caplog.text
    assert "checkpoint-000004" in caplog.text


def test_a_state_that_would_run_code_is_not_loaded(tmp_path: Path, pipe) -> None:
    class Attack:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "attacked"),))

    folder = save_checkpoint(tmp_path, 2, pipe.save_pretrained, STATE)
    torch.save({"step": 2, "model": Attack()}, folder / "training_state.pt")
    assert load_latest_state(tmp_path) is None
    assert not (tmp_path / "attacked").exists()


def test_rotation_keeps_the_newest(tmp_path: Path) -> None:
    for step in (5, 40, 300, 2000):
        (tmp_path / f"checkpoint-{step:06d}").mkdir()
    rotate_checkpoints(tmp_path, 2000, 2)
    assert names(tmp_path) == ["checkpoint-000300", "checkpoint-002000"]
    rotate_checkpoints(tmp_path, 2000, 5)
    assert len(names(tmp_path)) == 2


def test_rotation_spares_what_was_just_saved_behind_a_damaged_checkpoint(tmp_path: Path) -> None:
    for step in (20, 40, 60):  # 60 cannot be read, so the run went on from 20 and is at 40
        (tmp_path / f"checkpoint-{step:06d}").mkdir()
    rotate_checkpoints(tmp_path, 40, 1)
    assert names(tmp_path) == ["checkpoint-000040", "checkpoint-000060"]


def test_a_step_saved_again_replaces_the_old_checkpoint(tmp_path: Path, pipe) -> None:
    (tmp_path / "checkpoint-000002" / "junk").mkdir(parents=True)
    save_checkpoint(tmp_path, 2, pipe.save_pretrained, STATE)
    assert not (tmp_path / "checkpoint-000002" / "junk").exists()
    assert load_latest_state(tmp_path)["step"] == 2


def test_what_a_kill_left_behind_is_cleared(tmp_path: Path, pipe) -> None:
    save_checkpoint(tmp_path, 8, pipe.save_pretrained, STATE)
    (tmp_path / ".checkpoint-000009.part" / "unet").mkdir(parents=True)
    (tmp_path / ".config.yaml.part").write_text("half")
    clear_leftovers(tmp_path)
    assert names(tmp_path) == ["checkpoint-000008"]


def test_a_chosen_checkpoint_that_is_missing_or_damaged_is_an_error(tmp_path: Path, pipe) -> None:
    state = save_checkpoint(tmp_path, 2, pipe.save_pretrained, STATE) / "training_state.pt"
    assert load_state(state.parent)["step"] == 2
    state.write_bytes(state.read_bytes()[:-200])
    with pytest.raises(ValueError, match="The checkpoint .*checkpoint-000002 has to be undamaged") as raised:
        load_state(state.parent)
    assert "\n" not in str(raised.value)
    with pytest.raises(FileNotFoundError, match="has to hold training_state.pt"):
        load_state(tmp_path)


def test_the_best_value_so_far_is_read_from_the_log(tmp_path: Path) -> None:
    assert best_so_far(tmp_path, "delta_e_c0") == math.inf
    for step, value in ((1, 5.0), (2, 4.0), (3, 4.5)):
        append_log(tmp_path, {"step": step, "delta_e_c0": value})
        append_log(tmp_path, {"step": step, "loss": 0.1})
    assert best_so_far(tmp_path, "delta_e_c0") == 4.0
    cut_log(tmp_path, 1)
    assert best_so_far(tmp_path, "delta_e_c0") == 5.0


def test_a_failure_while_saving_leaves_the_earlier_checkpoint_and_nothing_else(tmp_path: Path, pipe) -> None:
    save_checkpoint(tmp_path, 2, pipe.save_pretrained, STATE)
    unpicklable = {"model": (entry for entry in ())}
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, 4, pipe.save_pretrained, unpicklable)
    assert names(tmp_path) == ["checkpoint-000002"]
    assert load_latest_state(tmp_path)["step"] == 2


@pytest.mark.parametrize("kibibytes", [0, 4, 40])
def test_a_full_disk_is_an_oserror_that_leaves_the_earlier_checkpoint(tmp_path: Path, pipe, kibibytes: int) -> None:
    """Wherever the disk runs full: at the configuration, at the weights or at the state."""
    save_checkpoint(tmp_path, 2, pipe.save_pretrained, STATE)
    large = {"model": {"weight": torch.zeros(100_000)}}
    with full_disk(1024 * kibibytes), pytest.raises(OSError):
        save_checkpoint(tmp_path, 4, pipe.save_pretrained, large)
    assert names(tmp_path) == ["checkpoint-000002"]
    with full_disk(1024 * kibibytes), pytest.raises(OSError):
        save_folder(tmp_path / "checkpoint-000002", pipe.save_pretrained)
    assert load_latest_state(tmp_path)["step"] == 2


def test_a_saved_pipeline_replaces_the_older_one_whole(tmp_path: Path, pipe) -> None:
    (tmp_path / "final" / "old").mkdir(parents=True)
    save_folder(tmp_path / "final", pipe.save_pretrained)
    assert "old" not in names(tmp_path / "final")
    assert names(tmp_path) == ["final"]
    DiffRetouchPipeline.from_pretrained(tmp_path / "final")


def test_the_log_gets_one_json_line_per_record(tmp_path: Path) -> None:
    append_log(tmp_path, {"step": 1, "loss": 0.5})
    append_log(tmp_path, {"step": 2})
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        {"step": 1, "loss": 0.5},
        {"step": 2},
    ]


def test_cutting_the_log_drops_later_steps_and_a_half_line(tmp_path: Path) -> None:
    for step in (10, 20, 20, 30):
        append_log(tmp_path, {"step": step})
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 4')
    cut_log(tmp_path, 20)
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [10, 20, 20]


def test_cutting_a_log_that_is_not_there_makes_none(tmp_path: Path) -> None:
    cut_log(tmp_path, 0)
    assert names(tmp_path) == []


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with full_disk(10), pytest.raises(OSError):
        write_atomically(tmp_path / "file", b"x" * 100)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(KeyboardInterrupt), folder_atomically(target) as folder:
        (folder / "new").touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == ["target"]
    assert names(target) == ["old"]
    with folder_atomically(target) as folder:
        assert names(target) == ["old"]
        (folder / "new").touch()
    assert names(target) == ["new"]
    shutil.rmtree(target)
    with folder_atomically(target):
        pass
    assert names(tmp_path) == ["target"]
