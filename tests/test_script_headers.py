"""The training scripts' PEP 723 headers are true: they parse, and ask for what pyproject.toml says."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "train_lora").glob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")  # as the PEP has it


def header_of(script):
    blocks = [match for match in BLOCK.finditer(script.read_text(encoding="utf-8")) if match["type"] == "script"]
    assert len(blocks) == 1, f"{script.name} has {len(blocks)} headers"
    return tomllib.loads(
        "".join(line.removeprefix("#").removeprefix(" ") for line in blocks[0]["content"].splitlines(True))
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_it_asks_for_the_package_and_pins_nothing_itself(script):
    header = header_of(script)
    assert header["requires-python"] == PROJECT["requires-python"]
    needed = [Requirement(dependency) for dependency in header["dependencies"]]
    assert [one.name for one in needed] == [PROJECT["name"]]
    assert needed[0].extras and needed[0].extras <= set(PROJECT["optional-dependencies"])
    assert not needed[0].specifier and not needed[0].url, "bounds are pyproject.toml's, pins requirements.txt's"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_its_source_is_this_checkout(script):
    source = header_of(script)["tool"]["uv"]["sources"][PROJECT["name"]]
    assert (script.parent / source["path"]).resolve() == ROOT


def test_pins_lie_within_the_bounds():
    """One source of truth each: pyproject.toml says what is allowed, requirements.txt what is tested together."""
    lines = [
        line
        for name in ("requirements.txt", "requirements-docs.txt")
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    pins = {Requirement(line).name.lower().replace("_", "-"): Requirement(line).specifier for line in lines}
    asked = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
    for bound in map(Requirement, asked):
        pin = pins.get(bound.name.lower().replace("_", "-"))
        if pin is not None:
            assert str(pin).removeprefix("==") in bound.specifier, f"{bound} excludes the pinned {pin}"
