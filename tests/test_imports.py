"""The rooms of the package: who may import whom, as pyproject.toml says it, and how long modules and functions are."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

import diffretouch

ROOT = Path(__file__).parents[1]
PACKAGE = Path(diffretouch.__file__).parent
OURS = sorted(
    path
    for folder in ("pipeline", "space", "train_lora", "dataset_card", "benchmarks", "docs")
    for path in (ROOT / folder).rglob("*.py")
    if "bundled" not in path.parts  # copies of model/
)
MOST_LINES_OF_A_MODULE = 500
MOST_LINES_OF_A_FUNCTION = 60

# By Hub id, diffusers fetches one code file for a component, so that this one cannot be cut into several.
ONE_FILE = {"modeling_affine_grid.py"}


def lint_imports(source: Path) -> subprocess.CompletedProcess[str]:
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(source), "COLUMNS": "119"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def import_table() -> str:
    """Which room imports which, from the street down."""
    graph = grimp.build_graph("diffretouch", cache_dir=None)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    order = [room for layer in settings["contracts"][0]["layers"] for room in layer.split(" | ")]
    below = {room: set() for room in order}
    for module in graph.modules - {"diffretouch"}:
        for imported in graph.find_modules_directly_imported_by(module):
            below[module.split(".")[1]].add(imported.split(".")[1])
    return "\n".join(
        f"{room:12}{', '.join(other for other in order if other in below[room] - {room})}" for room in order
    )


def test_every_room_imports_only_what_stands_below_it_and_there_are_no_circles():
    done = lint_imports(PACKAGE.parent)
    print(f"{import_table()}\n{done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("look/lut.py", "from ..hub.card import model_card", "Rooms import only what stands below them"),
        ("model/checks_diffretouch.py", "from ..files import save_json", "Rooms import only what stands below them"),
        ("photo/core.py", "from .photo import Photo", "No circles, neither of rooms nor in one"),
    ],
)
def test_an_arrow_that_is_wrong_is_found(tmp_path, module, line, broken):
    copy = tmp_path / "diffretouch"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("bundled", "__pycache__"))
    with open(copy / module, "a") as file:
        file.write(f"\n\ndef later():\n    {line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1 and re.search(rf"^{broken} +BROKEN", done.stdout, re.MULTILINE), done.stdout


def test_nothing_below_imports_the_package_itself():
    graph = grimp.build_graph("diffretouch", cache_dir=None)
    assert graph.find_modules_that_directly_import("diffretouch") == set()


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """(name, lines without the docstring) of every function in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = ast.get_docstring(node) is not None
            told = first.end_lineno - first.lineno + 1 if documented else 0
            yield node.name, node.end_lineno - node.lineno + 1 - told


def test_no_module_is_long():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in OURS}
    assert {
        str(path): count
        for path, count in lines.items()
        if count > MOST_LINES_OF_A_MODULE and path.name not in ONE_FILE
    } == {}


def test_no_function_is_long():
    lengths = {f"{path}: {name}": length for path in OURS for name, length in functions(path)}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES_OF_A_FUNCTION} == {}
