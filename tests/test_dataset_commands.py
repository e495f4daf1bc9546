"""`diffretouch dataset` as it is used: what it prints, returns, refuses, sends to the Hub and leaves when stopped."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hub_server import HubServer
from huggingface_hub import constants
from scenes import scene

from diffretouch.commands import cli
from diffretouch.data.dataset import read_split

ROOT = Path(__file__).parents[1]

# Builds and pushes by the command line, then reads by id what the Hub has, both ways.
PUSH_AND_READ = """
import json, sys
from diffretouch.commands import cli
from diffretouch.data.dataset import good_rows, read_split
photos, out = sys.argv[1:]
code = cli.main(["dataset", "synthetic", photos, "-o", out, "--num-inputs", "1", "--push_to_hub", "me/set"])
rows = {
    how: [(row["photo_id"], row["expert"], len(row["target"]["bytes"])) for row in good_rows(read)]
    for how, read in (
        ("streamed", read_split("me/set", "train", streaming=True)),
        ("loaded", read_split("me/set", "train")),
        ("local", read_split(out, "train")),
    )
}
errors = []
for source in ("me/set", "me/none"):
    try:
        read_split(source, "other")
    except FileNotFoundError as error:
        errors.append(str(error))
print(json.dumps({"code": code, "rows": rows, "errors": errors}))
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(4):
        PIL.Image.fromarray(scene(seed)).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def pairs(photos: Path, tmp_path: Path) -> list[str]:
    after = tmp_path / "after"
    after.mkdir()
    for seed in range(3):
        PIL.Image.fromarray(scene(seed, 192, 288)).save(photos / f"{seed}.png")
        PIL.Image.fromarray(scene(seed, 192, 288) // 2).save(after / f"{seed}-edit.jpg", quality=95)
    return [str(photos), str(after)]


def test_pairs_are_built_and_unused_files_named(pairs: list[str], tmp_path: Path, capsys) -> None:
    assert cli.main(["dataset", "pairs", *pairs, "-o", str(tmp_path / "out"), "--expert", "me"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'out'}\n"
    assert "diffretouch: 3.png: there is no retouched version" in said.err
    assert read_split(tmp_path / "out", "train")["expert"] == ["me"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after", "out", "photos"]


def test_a_bad_pair_is_named_and_the_rest_built_with_exit_1(pairs: list[str], tmp_path: Path, capsys) -> None:
    Path(pairs[1], "3-edit.jpg").write_bytes(b"no photo")
    assert cli.main(["dataset", "pairs", *pairs, "-o", str(tmp_path / "out")]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diffretouch")]
    assert lines[0].startswith("diffretouch: 3: cannot open 3-edit.jpg")
    assert lines[1] == "diffretouch: 1 photos left out, the rest is built"
    assert (tmp_path / "out" / "build.json").is_file()


def test_a_pair_that_is_one_picture_twice_is_left_out_and_said(pairs: list[str], tmp_path: Path, capsys) -> None:
    PIL.Image.open(Path(pairs[0], "1.png")).save(Path(pairs[1], "1-edit.jpg"), quality=95)
    assert cli.main(["dataset", "pairs", *pairs, "-o", str(tmp_path / "out"), "--test", "0"]) == 1
    same = "1.png and 1-edit.jpg are the same picture: there is no edit to learn"
    assert f"diffretouch: 1: {same}" in capsys.readouterr().err
    for seed in (0, 2):
        PIL.Image.open(Path(pairs[0], f"{seed}.png")).save(Path(pairs[1], f"{seed}-edit.jpg"), quality=95)
    assert cli.main(["dataset", "pairs", *pairs, "-o", str(tmp_path / "none")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diffretouch: The")]
    assert line.endswith(f"of 3 left out the first: 1: {same}.")
    assert not (tmp_path / "none").exists()


def test_negatives_are_pairs(pairs: list[str], tmp_path: Path) -> None:
    for seed in range(3):
        negative = 255 - np.array(PIL.Image.open(Path(pairs[0], f"{seed}.png")).convert("RGB"))
        PIL.Image.fromarray(negative).save(Path(pairs[1], f"{seed}-edit.jpg"), quality=95)
    assert cli.main(["dataset", "pairs", *pairs, "-o", str(tmp_path / "out"), "--test", "0"]) == 0
    assert len(read_split(tmp_path / "out", "train")) == 2  # and one to validate on


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pairs", "{none}", "{photos}"], "`before` has to be a folder"),
        (["pairs", "{photos}", "{none}"], "`after` has to be a folder"),
        (["fivek", "{photos}"], "`folder` has to hold one folder of inputs"),
        (["fivek", "{none}"], "`folder` has to be a folder"),
        (["ppr10k", "{photos}"], "`folder` has to hold source and target_a"),
        (["synthetic", "{none}"], "`photos` has to be a folder"),
        (["synthetic", "{photos}", "--table", "{none}"], "No such file"),
        (["synthetic", "{photos}", "--long-side", "0"], "`long_side` has to be at least 1, got 0"),
        (["synthetic", "{photos}", "--num_inputs", "-1"], "`num_inputs` has to be at least 1, got -1"),
        (["synthetic", "{photos}", "--validation", "0.6", "--test", "0.4"], "`validation` and `test` have to be"),
        (["synthetic", "{photos}", "--validation", "nan"], "`validation` and `test` have to be"),
        (["synthetic", "{photos}", "-o", "{photos}"], "`output` has to be a new or empty folder"),
        (
            ["synthetic", "{photos}", "--push_to_hub", "a/b/c"],
            "`push_to_hub` has to be NAME or OWNER/NAME, got 'a/b/c'",
        ),
        (["fivek", "{photos}", "--push_to_hub", "me/set"], "`private` has to be given to push fivek"),
    ],
)
def test_a_bad_argument_is_one_line_and_exit_2(photos: Path, tmp_path: Path, capsys, arguments, message) -> None:
    places = {"none": tmp_path / "none", "photos": photos}
    filled = [argument.format(**places) for argument in arguments]
    output = [] if "-o" in filled else ["-o", str(tmp_path / "out")]
    assert cli.main(["dataset", *filled, *output]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_build_that_is_told_to_end_leaves_nothing(photos: Path, tmp_path: Path) -> None:
    for seed in range(4, 14):
        PIL.Image.fromarray(scene(seed, 600, 900)).save(photos / f"{seed}.png")
    command = [
        sys.executable,
        "-m",
        "diffretouch.commands.cli",
        "dataset",
        "synthetic",
        str(photos),
        "-o",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen([*command, "--long-side", "900"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / ".out.part").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 130, said
    assert "diffretouch: stopped; nothing was left behind\n" in said  # a progress bar may have the last word
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_set_that_cannot_be_pushed_stays_with_the_command_to_push_it(
    photos: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    out = tmp_path / "out"
    command = ["dataset", "synthetic", str(photos), "-o", str(out), "--num-inputs", "1", "--push-to-hub", "me/set"]
    assert cli.main([*command, "--private"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("diffretouch: Pushing needs a token")
    assert last.endswith(f"to push it later: diffretouch push {out} me/set --private")
    assert (out / "README.md").is_file()


def test_a_pushed_set_streams_and_loads_by_id(photos: Path, tmp_path: Path) -> None:
    with HubServer({"hf_me": "me"}) as hub:
        done = subprocess.run(
            [sys.executable, "-c", PUSH_AND_READ, str(photos), str(tmp_path / "out")],
            env={**os.environ, **hub.environment("hf_me", tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        result = json.loads(done.stdout.splitlines()[-1])
        assert set(hub.files("dataset", "me/set")) >= {"README.md", "build.json", "data/train-00000-of-00001.parquet"}
    assert result["code"] == 0
    assert result["rows"]["streamed"] == result["rows"]["loaded"] == result["rows"]["local"]
    assert [expert for _, expert, _ in result["rows"]["local"][:5]] == list("ABCDE")
    assert result["errors"][0].startswith("The data set me/set has no usable other split")
    assert result["errors"][1].startswith("There is no data set me/none")


def test_the_bundled_sets_script_writes_the_bytes_on_record_whatever_the_processor(tmp_path: Path) -> None:
    settings = ["--table", str(ROOT / "examples" / "photos.tsv"), "--num_scenes", "1", "--long_side", "96"]
    out = tmp_path / "out"
    done = run_script(str(ROOT / "examples"), str(out), *settings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(read_split(str(out), "train")) == (4 + 24) * 8 * 5  # the photos and the drawn pages, inputs, experts
    if platform.machine() == "x86_64":
        digests = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted((out / "data").iterdir())]
        assert digests == ["3bc9c90ea7683059", "a0bd2ce31877eb8c", "990a9bc20ebe4b0d"]


def test_the_bundled_sets_script_names_missing_photos_in_one_line(photos: Path, tmp_path: Path) -> None:
    done = run_script(str(photos), str(tmp_path / "other"))
    assert done.returncode == 2
    assert "`photos` lacks 997 of 997 photos" in done.stderr and done.stderr.count("\n") == 1


def run_script(*arguments: str) -> subprocess.CompletedProcess:
    """build_dataset.py in a process of its own, since it says how NumPy is to start, where others said otherwise."""
    return subprocess.run(
        [sys.executable, str(ROOT / "dataset_card" / "build_dataset.py"), *arguments],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": "", "OPENBLAS_CORETYPE": "SkylakeX"},
        capture_output=True,
        text=True,
        timeout=300,
    )
