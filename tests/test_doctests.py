"""The examples in docstrings are true, and every public function and class has one."""

import doctest
import shutil
from importlib import import_module
from pathlib import Path

import pytest

import diffretouch

ROOT = Path(__file__).parents[1]
PACKAGE = Path(diffretouch.__file__).parent
WITHOUT = {"PhotoError", "DiffRetouchPipelineOutput"}  # what others raise and return


def modules_with_examples():
    """Found by their text, so that collecting tests imports nothing."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] != "bundled" and ">>> " in path.read_text(encoding="utf-8"):
            yield ".".join([PACKAGE.name, *parts]).removesuffix(".__init__")


@pytest.fixture
def folder_with_a_photo(tmp_path, monkeypatch):
    """Examples open "photo.jpg" and write beside it."""
    shutil.copy(ROOT / "examples" / "photo.jpg", tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", list(modules_with_examples()))
def test_examples_are_true(name, folder_with_a_photo):
    said = []
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder(exclude_empty=True).find(import_module(name)):
        runner.run(example, out=said.append)
    assert runner.tries > 0, "no example was found in it"
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("name", [name for name in diffretouch.__all__ if callable(getattr(diffretouch, name))])
def test_every_public_name_has_an_example(name):
    assert (">>> " in (getattr(diffretouch, name).__doc__ or "")) != (name in WITHOUT)
