"""Every command of the READMEs: run as it stands, or, where that takes a network, a GPU or minutes, read as its own
parser reads it. A command that is in no table here, or that does not exist, fails."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

from diffretouch import BUNDLED_MODEL
from diffretouch.commands import cli

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "*/*.md", ".github/*.md", "docs/site/**/*.md", "pipeline/diffretouch/bundled/README.md")
# The changelog tells of the past too.
READMES = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern)) if path.name != "CHANGELOG.md"]
PROGRAMS = r"(diffretouch|python3?|make|tensorboard|uv|torchrun|accelerate|pip|hf|curl|export|\.|\S+/\S+\.py)\s"

HUB = "writes to the Hub; tests/test_hub.py pushes to a stand-in of it"
TRAINED = "needs a run of minutes; tests/test_train_lora.py and test_train_full.py train for seconds"
SETUP = "installs packages from an index; the tests run in what it installs"
CHECKS = "is what runs this test, or takes minutes: its lines are read here"
PHOTOS = "downloads gigabytes from package indexes; tests/test_fetch_photos.py has small ones"
OTHERS = "another program, which needs what is not here: that it is installed is all that is looked at"

# In this order, in one folder: later ones find what the earlier ones made.
RUN = (
    "diffretouch retouch IMG_1234.jpg -o better.jpg --brightness 0.3 --temperature -0.5 --strength 0.8",
    "diffretouch retouch shoot -o retouched --recursive",
    "diffretouch retouch a.jpg -o b.jpg --save-look evening.safetensors --cube evening.cube",
    "diffretouch retouch shoot -o web --format webp --quality 80",
    "diffretouch retouch shoot -o evening --look evening.safetensors",
    "diffretouch match liked.jpg IMG_1234.jpg -o like-it.jpg",
    "diffretouch sweep IMG_1234.jpg -o sliders.jpg",
    "diffretouch variants IMG_1234.jpg -o styles.jpg --count 6",
    "diffretouch export --model official -o folder",
    "diffretouch dataset pairs before after -o my-style/data",
    "diffretouch look before after -o mine.safetensors",
    "diffretouch retouch shoot -o mine --look mine.safetensors",
    "diffretouch doctor",
)

READ = {
    "make retouch": SETUP,
    "make retouch PHOTO=IMG_1234.jpg": SETUP,
    "make test": CHECKS,
    "make space": "serves until it is stopped; tests/test_space.py serves the same page",
    "make train-demo": CHECKS,
    "make bench": CHECKS,
    "make lint": CHECKS,
    "make bounds": CHECKS,
    "make foreign DIFFUSERS=path/to/its/checkout": CHECKS,
    "make mutation": CHECKS,
    "make fuzz": CHECKS,
    "make bundle-code": "tests/test_bundled.py compares the copies",
    "benchmarks/corpus.py FOLDER --metadata": "needs a folder of other people's photos",
    "diffretouch retouch IMG_1234.jpg -o better.jpg --brightness 0.3 --temperature -0.5": "is run above, with more",
    "diffretouch retouch IMG_1234.jpg -o better.jpg --brightness 0.3": "is run above, with more",
    "diffretouch match liked.jpg mine.jpg -o like-it.jpg": "is run above, with another photo",
    "diffretouch retouch mine.jpg -o better.jpg --sign cert.pem key.pem": "needs a certificate; test_credentials.py",
    "diffretouch retouch shoot -o signed --sign cert.pem key.pem": "needs a certificate; tests/test_credentials.py",
    "make docs": "tests/test_docs.py builds the site",
    "diffretouch space": "serves until it is stopped; tests/test_space.py serves the same page",
    "diffretouch convert model.ckpt -o official": "needs the authors' weights; tests/test_convert.py has small ones",
    "diffretouch init path-or-id-of-stable-diffusion -o untrained": "needs Stable Diffusion; tests/test_convert.py",
    "diffretouch push folder me/my-model --private": HUB,
    "diffretouch push space me/my-space": HUB,
    "diffretouch push space OWNER/NAME": HUB,
    "diffretouch push runs/my-style/final me/my-style": HUB,
    "diffretouch push my-style/data me/my-pairs --private": HUB,
    "diffretouch retouch photo.jpg -o better.jpg --lora runs/my-style/final": TRAINED,
    "diffretouch retouch photo.jpg -o better.jpg --lora runs/my-style/final --lora-scale 0.8 "
    "--brightness 0.2": TRAINED,
    "diffretouch evaluate data-synthetic --model runs/bundled-calibrated -o evaluation": TRAINED,
    "diffretouch evaluate data-synthetic -o evaluation": TRAINED,
    "python train_lora/train_lora.py --recipe my_style dataset=my-style/data": TRAINED,
    "python train_lora/train_full.py --recipe bundled dataset=data-synthetic": TRAINED,
    "python dataset_card/fetch_photos.py photos": PHOTOS,
    "dataset_card/fetch_photos.py photos": PHOTOS,
    "python dataset_card/build_dataset.py photos data-synthetic": PHOTOS,
    "diffretouch look IMG_1.CR3 IMG_1-edit.jpg -o mine.safetensors --cube mine.cube": "needs a camera's RAW file",
    "python benchmarks/my_style.py pairs photos my-style": PHOTOS,
    "uv run train_lora/train_lora.py --recipe my_style dataset=my-style/data": SETUP,
}

NOT_OURS = {
    "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt && "
    ".venv/bin/pip install --no-deps -e .": SETUP,
    ". .venv/bin/activate": SETUP,
    "pip wheel --no-deps . -w dist": SETUP,
    "pip install 'diffretouch[mcp]'": SETUP,
    "pip install 'diffretouch[c2pa]'": SETUP,
    'pip install ".[fast,raw]"': SETUP,
    "pip install torch --index-url https://download.pytorch.org/whl/cpu": SETUP,
    "hf auth login": HUB,
    "tensorboard --logdir runs/my-style": OTHERS,
    "torchrun --nproc_per_node 8 train_lora/train_full.py ...": OTHERS,
    "accelerate launch": OTHERS,
    "export GOMP_SPINCOUNT=2000": "of the shell",
    "uv run --no-sources --find-links URL_OR_FOLDER_OF_THE_WHEEL https://.../train_lora.py --recipe my.yaml "
    "dataset=me/my-pairs": "stands for an address that is the reader's",
}

# Not commands to type: named, without their arguments.
NAMED = {"diffretouch dataset synthetic", "diffretouch evaluate", "diffretouch look", "diffretouch convert"}

# The curl lines of space/README.md need the page: tests/test_space.py runs them.
ELSEWHERE = re.compile(r"(URL|FILE|DATA|ASK|EVENT)=|curl ")


class Read(BaseException):
    """The parser took the command line; nothing is to be done."""


def commands_of(text: str) -> list[str]:
    """The lines of shell blocks without their comments, and what stands in backticks and starts like a command."""
    blocks = re.findall(r"(?ms)^ *```sh\n(.*?)^ *```", text)
    lines = [line.partition(" #")[0] for block in blocks for line in block.splitlines()]
    prose = re.sub(r"(?ms)^ *```.*?^ *```", "", text)
    lines += [code for code in re.findall(r"`([^`]+)`", prose) if re.match(PROGRAMS, code)]
    return [" ".join(line.split()) for line in lines if line.strip()]


FOUND = {command for name in READMES for command in commands_of(name.read_text(encoding="utf-8"))}


def test_every_command_of_the_readmes_stands_in_one_of_the_tables_and_none_is_left_over():
    known = [*RUN, *READ, *NOT_OURS, *NAMED]
    assert len(known) == len(set(known))
    assert {command for command in FOUND if not ELSEWHERE.match(command)} == set(known)


def test_commands_are_found_in_blocks_and_in_prose():
    text = "Run\n```sh\nmake it   # now\n\n```\nor `diffretouch space\n--port 1`, not `make`.\n"
    text += "  ```sh\n  uv run x\n  ```\n"
    assert commands_of(text) == ["make it", "uv run x", "diffretouch space --port 1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the READMEs' reader has: a few photos, pairs of them, and a model folder."""
    place = tmp_path_factory.mktemp("reader")
    for name in ("shoot/deeper", "before", "after"):
        (place / name).mkdir(parents=True)
    photo = Image.open(ROOT / "examples" / "cinema.jpg").reduce(2)
    for name in ("IMG_1234.jpg", "a.jpg", "shoot/1.jpg", "shoot/deeper/2.jpg"):
        photo.save(place / name)
    for number in range(12):
        picture = ImageEnhance.Brightness(photo).enhance(0.7 + number / 30)
        picture.save(place / f"before/IMG_{number}.jpg", quality=95)
        ImageEnhance.Contrast(picture).enhance(1.2).save(place / f"after/IMG_{number}-edit.tif")
    shutil.copy(ROOT / "examples" / "horses.jpg", place / "liked.jpg")
    shutil.copytree(BUNDLED_MODEL, place / "official")
    return place


def test_commands_that_need_nothing_else_run_as_they_stand(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    for command in RUN:
        assert cli.main(shlex.split(command)[1:]) == 0, (command, capfd.readouterr().err)
    made = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert made >= {"better.jpg", "retouched/1-retouched.jpg", "retouched/deeper/2-retouched.jpg", "b.jpg"}
    assert made >= {"evening.safetensors", "evening.cube", "evening/1-retouched.jpg", "sliders.jpg", "styles.jpg"}
    assert made >= {"folder/model_index.json", "folder/README.md", "my-style/data/README.md"}


@pytest.mark.parametrize("command", READ)
def test_other_commands_are_what_their_own_parsers_take(command, monkeypatch):
    assert READ[command]
    read(command, monkeypatch)


@pytest.mark.parametrize(
    "command",
    [
        "diffretouch polish photo.jpg",
        "diffretouch retouch photo.jpg -o better.jpg --vividness 1",
        "diffretouch push folder",
        "make coffee",
        "python train_lora/train_lora.py --recipe none_such",
        "python train_lora/train_lora.py --recipe my_style datasets=my-style/data",
        "python train_lora/train_style.py",
        "python dataset_card/fetch_photos.py",
    ],
)
def test_a_command_that_does_not_exist_is_found(command, monkeypatch, capsys):
    with pytest.raises((AssertionError, FileNotFoundError, SystemExit)):
        read(command, monkeypatch)


def read(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a command to its own parser, and go no further."""
    program, *arguments = shlex.split(command)
    if (program, *arguments[:1]) == ("uv", "run"):
        program, *arguments = arguments[1:]
    if program == "make":
        read_target(arguments, monkeypatch)
    elif program == "diffretouch":
        cli._parser(arguments).parse_args(arguments)
    else:
        words = arguments if program == "python" else [program, *arguments]
        read_script(words, monkeypatch)


def read_target(targets: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make` would run, whatever is installed here; ours among it is read too."""
    done = subprocess.run(["make", "--dry-run", "--always-make", *targets], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        ours = re.match(r"\.venv/bin/(diffretouch .*|python [a-z_]+/\w+\.py.*)", line)
        if ours:
            read(ours[1], monkeypatch)


def read_script(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One of our scripts up to where its arguments are read; a training script up to where its recipe is."""
    script = ROOT / words[0]
    assert script.is_file(), f"there is no {words[0]}"
    if words == ["space/app.py"]:
        return  # takes no arguments
    trains = script.name.startswith("train_")
    parse = argparse.ArgumentParser.parse_known_args

    def parsed(self: argparse.ArgumentParser, *given: object, **named: object) -> object:
        taken = parse(self, *given, **named)  # type: ignore[arg-type]
        if trains or taken[1]:  # what is left over goes to another parser, or is refused by this one
            return taken
        raise Read

    def train(*given: object, **named: object) -> None:
        raise Read

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_known_args", parsed)
        patched.setattr("diffretouch.training.loop.train", train)
        patched.setattr(sys, "argv", [str(script), *words[1:]])
        patched.setattr(sys, "path", [str(script.parent), *sys.path])
        with pytest.raises(Read):
            runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("command", NOT_OURS)
def test_programs_of_others_exist(command):
    assert NOT_OURS[command]
    program = shlex.split(command)[0]
    scripts = {entry.name for entry in importlib.metadata.entry_points(group="console_scripts")}
    ours_to_install = {"uv"}  # of the extra dev
    builtin = {".", "export"}
    assert program in scripts | ours_to_install | builtin or shutil.which(program, path=os.environ["PATH"])
    for name in re.findall(r"-r (\S+)", command):
        assert (ROOT / name).is_file()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for names in re.findall(r"\[([a-z0-9,]+)\]", command):
        assert set(names.split(",")) <= set(extras)
