"""Module paths of before the rooms: each still imports, with one DeprecationWarning; nothing of ours needs it."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import diffretouch
from diffretouch.moved import MOVED, MOVED_NAMES

PACKAGE = Path(diffretouch.__file__).parent


@pytest.fixture
def forgotten():
    """Old modules are imported anew, as in a fresh process."""
    before = {name: module for name, module in sys.modules.items() if name.removeprefix("diffretouch.") in MOVED}
    for name in before:
        del sys.modules[name]
    yield
    for name in list(sys.modules):
        if name.removeprefix("diffretouch.") in MOVED:
            del sys.modules[name]


@pytest.mark.parametrize("old", MOVED)
def test_an_old_module_imports_with_one_warning_that_names_the_new_one(old, forgotten):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        module = importlib.import_module(f"diffretouch.{old}")
        again = importlib.import_module(f"diffretouch.{old}")
    assert module is again
    said = [
        str(warning.message) for warning in heard if warning.category is DeprecationWarning and old in str(warning)
    ]
    assert said == [f"diffretouch.{old} is diffretouch.{MOVED[old][0]} now; the old name goes with version 0.2."]
    for home in MOVED[old]:
        new = importlib.import_module(f"diffretouch.{home}")
        names = [name for name, value in vars(new).items() if getattr(value, "__module__", "") == new.__name__]
        assert names and all(getattr(module, name) is getattr(new, name) for name in names)
    with pytest.raises(AttributeError, match=f"module 'diffretouch.{old}' has no attribute 'never'"):
        module.never  # noqa: B018
    with pytest.raises(ImportError):
        exec(f"from diffretouch.{old} import never")


def test_star_imports_give_what_the_new_modules_offer(forgotten):
    with pytest.warns(DeprecationWarning, match=r"diffretouch.lut is diffretouch.look.lut now"):
        names: dict[str, object] = {}
        exec("from diffretouch.lut import *", names)
    assert names["grid_to_lut"] is importlib.import_module("diffretouch.look.lut").grid_to_lut


@pytest.mark.parametrize(("room", "name"), [(room, name) for room in MOVED_NAMES for name in MOVED_NAMES[room]])
def test_a_name_of_a_module_that_is_a_room_now_imports_with_one_warning(room, name, monkeypatch):
    package = importlib.import_module(f"diffretouch.{room}")
    monkeypatch.delitem(vars(package), name, raising=False)
    with pytest.warns(DeprecationWarning) as heard:
        found: dict[str, object] = {}
        exec(f"from diffretouch.{room} import {name}", found)
    assert [str(warning.message).partition(" is ")[0] for warning in heard] == [f"diffretouch.{room}.{name}"]
    assert found[name] is getattr(importlib.import_module(f"diffretouch.{MOVED_NAMES[room][name]}"), name)
    monkeypatch.delitem(vars(package), name)


def test_a_room_has_no_other_names():
    with pytest.raises(ImportError):
        exec("from diffretouch.hub import never")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("diffretouch.never")


def test_the_warning_points_to_the_line_that_imports():
    program = "import warnings\nwarnings.simplefilter('default')\n\nfrom diffretouch.plan import plan\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert re.fullmatch(
        r"<string>:4: DeprecationWarning: diffretouch\.plan is diffretouch\.batch\.plan now.*\n", done.stderr
    )


def test_the_command_line_still_runs_as_a_module_by_its_old_name():
    command = [sys.executable, "-W", "ignore", "-m", "diffretouch.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("usage: ") and "retouch" in done.stdout


def test_nothing_of_ours_uses_an_old_name():
    old = "|".join(re.escape(name) for name in MOVED)
    pattern = re.compile(rf"diffretouch\.({old})\b(?!\.)(?!\S*: )")
    root = Path(__file__).parents[1]
    folders = ("space", "train_lora", "benchmarks", "dataset_card", "docs")
    files = [path for folder in folders for path in (root / folder).rglob("*.py")]
    files += [path for path in PACKAGE.rglob("*.py") if path.name != "moved.py"]
    assert [str(path) for path in files if pattern.search(path.read_text(encoding="utf-8"))] == []
