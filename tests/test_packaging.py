"""What is handed out: the source distribution has all that its tests need, the wheel its metadata and the page; and
code that travels with a model says which diffusers it needs."""

from __future__ import annotations

import email
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import diffusers
import pytest

from diffretouch.hub import card
from diffretouch.model import adapter_file_diffretouch

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOT_HANDED_OUT = (".git", ".venv", ".github", "__pycache__", "*.egg-info", ".*_cache", "build", "dist", "runs")
NOT_HANDED_OUT += ("retouched",)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with its two distributions, built without a network."""
    copy = tmp_path_factory.mktemp("build") / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_HANDED_OUT))
    code = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return copy


def test_the_source_distribution_is_the_checkout(built):
    (archive,) = (built / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    made = shutil.ignore_patterns("dist", "build", "*.egg-info", "__pycache__")
    there = set()
    for path in built.rglob("*"):
        inside = path.relative_to(built)
        if path.is_file() and not any(made("", [part]) for part in inside.parts):
            there.add(inside.as_posix())
    assert {"tests/conftest.py", "tests/hub_server.py", "Makefile", "requirements.txt"} <= there
    assert there - names == set()


def test_the_wheel_says_who_made_it_for_whom_and_under_which_licences(built):
    (archive,) = (built / "dist").glob("*.whl")
    with zipfile.ZipFile(archive) as wheel:
        names = wheel.namelist()
        told = email.message_from_bytes(
            wheel.read(next(name for name in names if name.endswith(".dist-info/METADATA")))
        )
    assert told["Author"] and told["Keywords"] and told.get_all("Project-URL")
    assert "Programming Language :: Python :: 3.13" in told.get_all("Classifier")
    assert any(line.startswith("huggingface_hub>=") for line in told.get_all("Requires-Dist"))
    licences = told["License-Expression"].split(" AND ")
    assert licences[0] == "Apache-2.0"
    credits = (ROOT / "pipeline/diffretouch/bundled/README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"CC0|CC BY(?:-SA)? \d\.\d", credits))
    assert len(named) > 2 and {name.replace("CC0", "CC0 1.0").replace(" ", "-") for name in named} <= set(licences)
    page = {name.partition(".data/data/share/diffretouch/space/")[2] for name in names}
    assert page >= {"app.py", "endpoints.py", "style.css", "presets.json", "examples/photo.jpg"}
    assert {path.name for path in (ROOT / "space").glob("*.py")} <= page


def test_the_text_of_the_index_page_stands_by_itself(built):
    (archive,) = (built / "dist").glob("*.whl")
    with zipfile.ZipFile(archive) as wheel:
        told = email.message_from_bytes(wheel.read(next(n for n in wheel.namelist() if n.endswith("/METADATA"))))
    text = told.get_payload()
    assert text.startswith("# DiffRetouch")
    assert all(link.startswith("https://") for link in re.findall(r"\]\(([^)]*)\)", text)), "an index has no files"
    extras = set(re.findall(r"(?m)^\| `(\w+)` \|", text))
    assert extras == set(PROJECT["optional-dependencies"]) - {"dev", "docs"}


@pytest.mark.parametrize(("version", "is_enough"), [("0.36.0", False), ("0.9.1", False), ("0.37.0.dev0", True)])
def test_older_diffusers_is_refused_in_one_sentence_by_what_a_model_imports_first(monkeypatch, version, is_enough):
    monkeypatch.setattr(diffusers, "__version__", version)
    name = "diffretouch.model.travelling_adapter_file"  # its neighbours are found by it
    spec = importlib.util.spec_from_file_location(name, adapter_file_diffretouch.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    if is_enough:
        spec.loader.exec_module(module)
        return
    with pytest.raises(
        ImportError, match=rf"^This model needs diffusers 0\.37 or newer, got {re.escape(version)}: pip "
    ):
        spec.loader.exec_module(module)


def test_the_card_names_the_same_diffusers(tmp_path):
    oldest = adapter_file_diffretouch.OLDEST_DIFFUSERS
    pipeline = Path(adapter_file_diffretouch.__file__).with_name("pipeline_diffretouch.py").read_text(encoding="utf-8")
    first = re.findall(r"(?m)^from \.(\w+) import", pipeline)[0]
    assert first == "adapter_file_diffretouch", "whatever a model imports first says which diffusers it needs"
    assert f"diffusers alone, {oldest} or newer" in card._use_model("me/model", None)
    assert f"diffusers alone, {oldest} or newer" in (ROOT / "pipeline/diffretouch/bundled/README.md").read_text()


FAKE_PYTHON = """#!/bin/sh
if [ "$2" = venv ]; then mkdir -p .venv/bin; cp "$0" .venv/bin/python; exit; fi
echo "$@" >> calls
case "$*" in *--index-url*) exit $FETCHED;; esac
"""


@pytest.mark.parametrize(
    ("setting", "fetched", "calls"),
    [
        (["TORCH_INDEX=https://cpu.example/whl"], "0", 3),
        (["TORCH_INDEX=https://cpu.example/whl"], "1", 3),
        (["TORCH_INDEX="], "0", 2),
    ],
)
def test_make_fetches_the_cpu_build_first_and_goes_on_where_its_index_is_out_of_reach(
    tmp_path, setting, fetched, calls
):
    for name in ("Makefile", "requirements.txt", "requirements-no-deps.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "fakepython"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    command = ["make", f"PYTHON={python}", *setting, ".venv/ready"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "FETCHED": fetched}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and (tmp_path / ".venv" / "ready").exists(), done.stderr
    said = (tmp_path / "calls").read_text().splitlines()
    assert len(said) == calls and said[-2].endswith("-r requirements.txt")
    pinned = re.search("(?m)^torch==.*$", (ROOT / "requirements.txt").read_text())[0]
    if calls == 3:
        assert said[0].endswith(f"--no-deps --index-url https://cpu.example/whl {pinned}")
    assert ("No PyTorch from https://cpu.example/whl" in done.stdout) == (fetched == "1")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyPI has CPU builds alone")
@pytest.mark.parametrize("driver", [True, False])
def test_only_linux_without_a_driver_asks_pytorchs_own_index(tmp_path, driver):
    for tool in ("uname", "sh", "make"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    if driver:
        (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    shown = subprocess.run(
        ["make", "--dry-run", "--always-make", ".venv/ready"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert ('--index-url "https://download.pytorch.org/whl/cpu"' in shown) != driver
