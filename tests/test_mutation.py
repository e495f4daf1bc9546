""".ci/mutation.py: which changes it makes, how it swaps them in, and what it makes of the outcomes."""

from __future__ import annotations

import ast
import importlib
import json
import sys
import textwrap
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "mutation.py"
SOURCE = b'''
"""Words."""
from __future__ import annotations

SIZE: int = 4


def first(values: list[int], least: int = 2) -> int | None:
    """More words: 7."""
    if not values or len(values) < least:
        raise ValueError(f"`values` has to be {least} or more, got {len(values) + 1}.")
    values.sort()
    return min(values) + 1  # \xc3\xa4: columns count bytes
'''
CHANGES = {
    "SIZE: int = 5",
    "least: int = 3",
    "if (values) or",
    "if (not (not values or len(values) < least)):",
    "if not values and len",
    "len(values) <= least",
    "    pass\n    values.sort()",
    "    pass\n    return min",
    "return None",
    "return max(values)",
    "min(values) - 1",
    "min(values) + 2",
}


@pytest.fixture(scope="module")
def mutation() -> ModuleType:
    spec = spec_from_file_location("mutation", SCRIPT)
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_operator_changes_one_place_and_leaves_words_and_types_alone(mutation: ModuleType) -> None:
    found = mutation.Finder("module.py", SOURCE).found
    texts = [mutant.text(SOURCE).decode() for mutant in found]
    assert len(found) == len(CHANGES)
    for change in CHANGES:
        assert sum(change in text for text in texts) == 1, change
    for text in texts:
        ast.parse(text)


def test_what_runs_on_import_is_told_from_what_runs_late(mutation: ModuleType) -> None:
    found = mutation.Finder("module.py", SOURCE).found
    assert sorted(mutant.after for mutant in found if not mutant.late) == ["3", "5"]


def test_a_mutant_keeps_its_name_when_lines_before_it_change(mutation: ModuleType) -> None:
    moved = SOURCE.replace(b"SIZE: int = 4", b"# A comment.\nSIZE: int = 4")
    names = [mutant.key for mutant in mutation.Finder("module.py", SOURCE).found]
    assert names == [mutant.key for mutant in mutation.Finder("module.py", moved).found]
    assert len(set(names)) == len(names)


def test_a_larger_sample_of_the_same_seed_holds_the_smaller(mutation: ModuleType) -> None:
    small, large, other = (mutation.chosen("model", n, seed) for n, seed in ((10, 0), (30, 0), (10, 1)))
    assert small == large[:10] and small != other


def test_functions_that_are_imported_get_the_code_of_the_changed_file(
    mutation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
        class Thing:
            @property
            def size(self):
                return self._size

            @size.setter
            def size(self, size):
                self._size = size

            def larger(self):
                return [self._size + n for n in (1, 2)]

        def decorated(function):
            return lambda: function()

        @decorated
        def answer():
            return 42
    """
    file = tmp_path / "swapped_module.py"
    file.write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("swapped_module")
    thing, answer = module.Thing(), module.answer
    file.write_text(
        file.read_text().replace("= size", "= size * 10").replace("_size + n", "_size - n").replace("42", "(\n\n43)")
    )
    mutation.swap("swapped_module.py")
    thing.size = 3
    assert (thing.size, thing.larger(), answer()) == (30, [29, 28], 43)


def test_survivors_lower_the_score_and_reasons_take_them_out(
    mutation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mutants = mutation.chosen("photo", 10, 0)
    known = dict.fromkeys((mutant.key for mutant in mutants), "killed")
    known[mutants[0].key] = known[mutants[1].key] = "survived"
    known[mutants[2].key] = "timed out"
    monkeypatch.setattr(mutation, "EQUIVALENTS", tmp_path / "equivalents.json")
    (tmp_path / "equivalents.json").write_text("{}")
    assert not mutation.summary("photo", mutants, known)
    assert mutants[1].key in capsys.readouterr().out

    def give_reason(key: str) -> None:
        (tmp_path / "equivalents.json").write_text(json.dumps({key: "No difference."}))

    give_reason(mutants[1].key)
    assert mutation.summary("photo", mutants, known)  # 8 of 9
    assert f"survived: {mutants[1].path}" not in capsys.readouterr().out.replace(mutants[0].key, "")
    give_reason(mutants[5].key)
    assert not mutation.summary("photo", mutants, known)
    assert f"listed as equivalent, yet killed: {mutants[5].key}" in capsys.readouterr().out
