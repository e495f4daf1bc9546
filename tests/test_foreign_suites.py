""".ci/foreign_suites.py: diffusers' common tests are found in a checkout, run, and compared with the table."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

CI = Path(__file__).parents[1] / ".ci"
PIPELINE_SUITE = """
    import pytest, torch

    class BasePipelineTesterConfig:
        pass

    class PipelineTesterMixin:
        def test_returns_pictures(self):
            pipe = self.pipeline_class(**self.get_dummy_components())
            images = pipe(**self.get_dummy_inputs())[0]
            assert images[0].shape == self.output_shape

        def test_fails(self):
            raise AssertionError("as it should")

    class LoraMemoryTesterMixin:
        def test_on_a_device(self):
            pytest.skip("test requires a hardware accelerator")
"""
MODEL_SUITE = """
    class ModelTesterMixin:
        def test_is_built(self):
            model = self.model_class(**self.get_init_dict())
            assert model.config and self.get_dummy_inputs()
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = spec_from_file_location("foreign_suites", CI / "foreign_suites.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def checkout(folder: Path, **suites: str) -> Path:
    """What the script takes for a checkout of diffusers: suites by their place, with __ for a slash."""
    for name, code in {"testing_utils": 'torch_device = "cpu"', **suites}.items():
        path = folder / "tests" / name.replace("__", "/")
        path = path / "__init__.py" if "__" in name else path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(code))
    return folder


def test_a_suite_runs_and_what_differs_from_the_table_fails(tmp_path: Path) -> None:
    """One run: a failure that the table names and one it does not, a pass that it takes for a failure, a skip."""
    suites = {"pipelines__testing_utils": PIPELINE_SUITE, "models__testing_utils": MODEL_SUITE}
    folder = checkout(tmp_path / "diffusers", **suites)
    table = tmp_path / "table.toml"
    table.write_text('[failed]\n"TestHeadModel::test_is_built" = "It was broken."\n')
    line = [sys.executable, CI / "foreign_suites.py", folder, "--table", table]
    run = subprocess.run(line, capture_output=True, text=True, timeout=600)
    assert run.returncode == 1, run.stdout + run.stderr
    wrong = [text for text in run.stdout.splitlines() if text.startswith("NOT AS THE TABLE SAYS")]
    assert [text.split()[5] for text in wrong] == ["TestPipeline::test_fails", "TestHeadModel::test_is_built"], (
        run.stdout
    )
    assert "skipped TestLoraMemory::test_on_a_device: test requires a hardware accelerator" in run.stdout
    assert "TestCodecModel             1       0        0" in run.stdout
    assert "TestPipeline               1       1        0" in run.stdout


@pytest.mark.parametrize(
    ("what", "why", "table", "right"),
    [
        ("passed", "", {}, True),
        ("failed", "AssertionError", {}, False),
        ("failed", "AssertionError", {"failed": {"TestLora::test_x": "because"}}, True),
        ("failed", "AssertionError", {"failed": {"TestLora::test_x*": "because"}}, True),
        ("failed", "AssertionError", {"skipped": {"TestLora::test_x": "because"}}, False),
        ("failed", "AssertionError", {"failed": {"TestPipeline::test_x": "because"}}, False),
        ("passed", "", {"failed": {"TestLora::test_x": "because"}}, False),
        ("passed", "", {"skipped": {"TestLora::test_x": "because"}}, False),
        ("skipped", "no prompt", {}, False),
        ("skipped", "no prompt", {"skipped": {"*::test_x": "because"}}, True),
        ("skipped", "test requires a hardware accelerator", {}, True),
        ("failed", "accelerator", {}, False),
    ],
)
def test_an_outcome_is_held_against_the_table(
    script: ModuleType, what: str, why: str, table: dict[str, dict[str, str]], right: bool
) -> None:
    outcome = script.Outcome("TestLora::test_x[4-True]", what, why)
    assert (script.differences([outcome], table) == []) is right


def test_a_folder_without_tests_is_refused(tmp_path: Path) -> None:
    line = [sys.executable, CI / "foreign_suites.py", tmp_path]
    run = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2 and "tests/testing_utils.py" in run.stderr


def test_every_line_of_the_table_has_a_sentence() -> None:
    table = tomllib.loads((CI / "foreign_suites.toml").read_text(encoding="utf-8"))
    assert set(table) == {"failed", "skipped"}
    for reasons in table.values():
        assert all(name.partition("::")[1] and reason.endswith(".") for name, reason in reasons.items())
