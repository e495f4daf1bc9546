"""Batches: the same files however they are run, stopped, killed and resumed; and nothing replaced on the way."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hub_server import HubServer
from scenes import scene

from diffretouch import AffineGrid, open_photo
from diffretouch.batch.loop import retouch_files
from diffretouch.batch.plan import Job, Naming, UsageError, place, plan
from diffretouch.batch.report import Report
from diffretouch.batch.retouch import Retoucher, retouch_photo
from diffretouch.batch.settings import Settings
from diffretouch.commands.cli import main

PHOTOS = 5


@pytest.fixture(scope="module")
def model(tiny_pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def shoot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of photos, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    folder = Path("shoot")
    folder.mkdir()
    for number in range(PHOTOS):
        PIL.Image.fromarray(scene(number)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def retouch(model: Path) -> Callable[..., int]:
    def run(*arguments: object) -> int:
        given = [] if {"--look", "--model"} & set(arguments) else ["--model", model]
        try:
            return main(["retouch", *map(str, [*arguments, *given])])
        except SystemExit as stop:
            return int(stop.code or 0)

    return run


def files(folder: Path) -> dict[str, bytes]:
    """All files but reports, hidden ones too."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jsonl")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def records(report: Path | str) -> list[dict]:
    return [json.loads(line) for line in Path(report).read_text().splitlines()]


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    shown = [line.split("\r")[-1] for line in capsys.readouterr().err.split("\n")]
    return [line for line in shown if line.startswith("diffretouch")]


# What a batch gives


def test_a_batch_on_threads_gives_byte_for_byte_what_one_photo_after_another_gives(shoot, model) -> None:
    settings = Settings(model=str(model), brightness=0.5)
    jobs = plan([shoot], Naming(Path("threads"), variants=1, compare=True))
    assert all(record["error"] is None for record in retouch_files(jobs, settings, workers=3))
    retoucher = Retoucher(settings)
    for job in plan([shoot], Naming(Path("one"), variants=1, compare=True)):
        assert retouch_photo(job, retoucher)["error"] is None
    assert files(Path("threads")) == files(Path("one"))
    assert len(files(Path("one"))) == 3 * PHOTOS


def test_the_report_has_a_line_per_photo_with_what_was_done(shoot, retouch, model) -> None:
    (shoot / "3.png").write_bytes(b"not a photo")
    assert retouch(shoot, "-o", "out", "--contrast", 0.5, "--report", "log.jsonl") == 1
    lines = records("log.jsonl")
    assert [line["source"] for line in lines] == [f"shoot/{number}.png" for number in range(PHOTOS)]
    for number, line in enumerate(lines):
        assert line["settings"]["contrast"] == 0.5
        assert line["settings"]["model"] == str(model)
        if number == 3:
            assert "shoot/3.png" in line["error"]
            assert line["outputs"] == {}
        else:
            target = f"out/{number}-retouched.png"
            assert line["error"] is None
            assert line["outputs"] == {target: os.path.getsize(target)}
            parts = sum(line["seconds"][stage] for stage in ("decode", "model", "apply", "encode"))
            assert 0 < parts <= line["seconds"]["total"] + 0.01


def test_photos_of_a_store_are_retouched_into_a_store(shoot, model) -> None:
    stored, out = place("memory://batch-shoot"), place("memory://batch-out")
    stored.mkdir(parents=True, exist_ok=True)
    for path in shoot.iterdir():
        (stored / path.name).write_bytes(path.read_bytes())
    (stored / "bad.png").write_bytes(b"not a photo")
    settings = Settings(model=str(model))
    outcome = list(retouch_files(plan([stored], Naming(out)), settings))
    assert [record["error"] is None for record in outcome] == [True] * PHOTOS + [False]
    assert outcome[-1]["error"].startswith("cannot open memory://batch-shoot/bad.png: ")
    list(retouch_files(plan([shoot], Naming(Path("local"))), settings))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files(Path("local"))
    (out / "0-retouched.png").write_bytes(b"precious")
    retoucher = Retoucher(settings)
    again = retouch_photo(Job(stored / "0.png", out / "0-retouched.png"), retoucher)
    assert again["error"] == "cannot save memory://batch-out/0-retouched.png: it exists already and is another file"
    assert (out / "0-retouched.png").read_bytes() == b"precious"


_ON_THE_HUB = """
import sys
from pathlib import Path
from huggingface_hub import HfApi
from diffretouch.commands.cli import main

api = HfApi()
for name in ("shoot", "out"):
    api.create_repo(f"me/{name}", repo_type="dataset")
api.upload_folder(repo_id="me/shoot", repo_type="dataset", folder_path="shoot", path_in_repo="day")
command = ["retouch", "hf://datasets/me/shoot", "-o", "hf://datasets/me/out", "--recursive"]
command += ["--report", "hub.jsonl", "--model", sys.argv[1]]
codes = [main(command), main(command)]
for path in api.list_repo_files("me/out", repo_type="dataset"):
    api.hf_hub_download("me/out", path, repo_type="dataset", local_dir="hub")
sys.exit(max(codes))
"""


def test_photos_of_the_hub_are_retouched_into_the_hub(shoot, model, retouch) -> None:
    with HubServer({"hf_me": "me"}) as hub:
        where = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_me", "HF_HUB_DISABLE_XET": "1", "HF_HOME": "cache"}
        command = [sys.executable, "-c", _ON_THE_HUB, str(model)]
        done = subprocess.run(command, env={**os.environ, **where}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"{PHOTOS} of {PHOTOS} photos were done already" in done.stderr
    assert retouch(shoot, "-o", "local") == 0
    assert files(Path("hub/day")) == files(Path("local"))


# Resuming


def test_a_repeated_command_does_nothing_and_a_new_photo_is_added(shoot, retouch, capsys) -> None:
    assert retouch(shoot, "-o", "out") == 0
    before = {path: path.stat().st_mtime_ns for path in Path("out").glob("*.png")}
    capsys.readouterr()
    assert retouch(shoot, "-o", "out") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"diffretouch: {PHOTOS} of {PHOTOS} photos were done already" in captured.err
    PIL.Image.fromarray(scene(9)).save(shoot / "new.png")
    assert retouch(shoot, "-o", "out") == 0
    assert capsys.readouterr().out == "out/new-retouched.png\n"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(records("out/diffretouch.jsonl")) == PHOTOS + 1


def test_a_failed_photo_is_tried_again(shoot, retouch) -> None:
    whole = (shoot / "2.png").read_bytes()
    (shoot / "2.png").write_bytes(whole[:100])
    assert retouch(shoot, "-o", "out") == 1
    (shoot / "2.png").write_bytes(whole)
    assert retouch(shoot, "-o", "out") == 0
    assert len(files(Path("out"))) == PHOTOS


def test_a_deleted_result_is_made_again(shoot, retouch) -> None:
    assert retouch(shoot, "-o", "out", "--compare") == 0
    before = files(Path("out"))
    (Path("out") / "1-compare.jpg").unlink()
    assert retouch(shoot, "-o", "out", "--compare") == 0
    assert files(Path("out")) == before


@pytest.mark.parametrize("change", ["settings", "photo", "model", "result"])
def test_what_was_made_otherwise_is_neither_taken_for_done_nor_replaced(shoot, retouch, model, change, capsys) -> None:
    mine = Path("model")
    shutil.copytree(model, mine)
    assert retouch(shoot, "-o", "out", "--model", mine) == 0
    options: list[object] = ["--model", mine]
    if change == "settings":
        options += ["--brightness", "0.4"]
    elif change == "photo":
        PIL.Image.fromarray(scene(9)).save(shoot / "0.png")
    elif change == "model":
        weights = next((mine / "unet").glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-4] + b"\1\2\3\4")
    else:
        (Path("out") / "0-retouched.png").write_bytes(b"precious")
    before = files(Path("out"))
    capsys.readouterr()
    assert retouch(shoot, "-o", "out", *options) == 1
    said = errors(capsys)
    if change in ("settings", "model"):  # of all photos: one line
        assert [line for line in said if "made with other settings" in line and "photos are there already" in line]
    else:
        assert any("out/0-retouched.png" in line and "exists" in line for line in said)
    assert files(Path("out")) == before
    assert retouch(shoot, "-o", "out", "--overwrite", *options) == 0
    assert retouch(shoot, "-o", "anew", *options) == 0
    assert files(Path("out")) == files(Path("anew")) != before


def test_a_result_that_a_kill_kept_out_of_the_report_is_recognised_by_its_bytes(shoot, retouch, capsys) -> None:
    assert retouch(shoot, "-o", "out") == 0
    before = files(Path("out"))
    report = Path("out/diffretouch.jsonl")
    lines = report.read_bytes().splitlines(keepends=True)
    report.write_bytes(b"".join(lines[:3]) + lines[3][:50])  # the last two photos, one line of them cut short
    (Path("out") / "4-retouched.png").write_bytes(b"precious")
    assert retouch(shoot, "-o", "out") == 1
    assert errors(capsys)[-2] == (
        "diffretouch: cannot save out/4-retouched.png: it exists already and is another file"
    )
    assert files(Path("out")) == {**before, "4-retouched.png": b"precious"}
    assert [record["source"] for record in records(report)] == [f"shoot/{number}.png" for number in range(PHOTOS)]


def test_a_batch_killed_in_the_middle_is_resumed_to_the_same_result(shoot, model, retouch) -> None:
    assert retouch(shoot, "-o", "whole", "--steps", 30, "--workers", 2) == 0
    command = [
        sys.executable,
        "-m",
        "diffretouch.commands.cli",
        "retouch",
        "shoot",
        "-o",
        "out",
        "--model",
        str(model),
    ]
    command += ["--steps", "30", "--workers", "2"]
    batch = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    report = Path("out/diffretouch.jsonl")
    while batch.poll() is None and not (report.exists() and report.read_bytes().count(b"\n")):
        time.sleep(0.01)
    batch.kill()
    batch.wait()
    assert 0 < len(records(report)) < PHOTOS
    assert retouch(shoot, "-o", "out", "--steps", 30, "--workers", 2) == 0
    assert files(Path("out")) == files(Path("whole"))
    assert not list(Path("out").glob(".*"))


# What goes wrong


def test_two_runs_do_not_write_one_report(shoot, retouch, capsys) -> None:
    report = Report(Path("log.jsonl"))
    with report.open():
        assert retouch(shoot, "-o", "out", "--report", "log.jsonl") == 2
    assert errors(capsys) == ["diffretouch: another run is writing the report log.jsonl"]
    assert not Path("out").exists()


@pytest.mark.parametrize("content", [b"a diary\n", b'{"a": 1}\n', b"[]\n", b"\xff\xfe\n"])
def test_a_file_that_is_no_report_is_not_written_to(shoot, retouch, content, capsys) -> None:
    Path("diary").write_bytes(content)
    assert retouch(shoot, "-o", "out", "--report", "diary") == 2
    assert errors(capsys) == ["diffretouch: `report` has to be a new file or the report of an earlier run, got diary"]
    assert Path("diary").read_bytes() == content


def test_a_file_too_large_for_the_disk_is_one_line_and_the_rest_is_done(shoot, retouch, capsys) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(shoot / "2.png")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        assert retouch(shoot, "-o", "out") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert errors(capsys)[-2] == "diffretouch: cannot save out/2-retouched.png: File too large"
    assert len(files(Path("out"))) == PHOTOS - 1
    assert not list(Path("out").glob(".*"))


def test_a_target_folder_that_is_a_file_is_one_line_and_the_rest_is_done(shoot, retouch, capsys) -> None:
    (shoot / "day").mkdir()
    PIL.Image.fromarray(scene(7)).save(shoot / "day" / "7.png")
    Path("out").mkdir()
    Path("out/day").write_text("precious")
    assert retouch(shoot, "-o", "out", "--recursive") == 1
    assert errors(capsys)[-2] == "diffretouch: cannot save out/day/7-retouched.png: File exists"
    assert Path("out/day").read_text() == "precious"
    assert len(files(Path("out"))) == PHOTOS + 1


def test_breaking_off_leaves_whole_files_and_no_others(shoot, model) -> None:
    jobs = plan([shoot], Naming(Path("out")))
    batch = retouch_files(jobs, Settings(model=str(model), steps=60), workers=2)
    first = next(batch)
    batch.close()
    written = list(Path("out").iterdir())
    assert first["error"] is None
    assert 1 <= len(written) < PHOTOS
    assert all(open_photo(path).pixels.shape == (48, 72, 3) for path in written)


# Looks


def test_a_saved_look_gives_the_same_retouch_without_any_model(shoot, retouch, monkeypatch) -> None:
    assert retouch(shoot / "1.png", "-o", "one.png", "--save-look", "{stem}.safetensors", "--strength", 0.7) == 0
    # Neither the model nor what loads it is touched.
    monkeypatch.setattr("diffretouch.batch.retouch.load_pipeline", None)
    assert retouch(shoot, "-o", "out", "--look", "1.safetensors", "--strength", 0.7) == 0
    assert np.array_equal(open_photo("out/1-retouched.png").pixels, open_photo("one.png").pixels)
    grid = AffineGrid.load("1.safetensors")
    expected = grid.apply(open_photo(shoot / "4.png").pixels, 0.7)
    assert np.array_equal(open_photo("out/4-retouched.png").pixels, expected)


@pytest.mark.parametrize("option", [("--brightness", 1), ("--seed", 4), ("--steps", 3), ("--variants", 2)])
def test_a_look_takes_no_settings_of_the_model(shoot, retouch, option, capsys) -> None:
    assert retouch(shoot, "-o", "out", "--look", "any.safetensors", *option) == 2
    name = option[0].removeprefix("--")
    assert errors(capsys) == [f"diffretouch: `{name}` has to be left out with `look`, which holds a finished retouch"]


@pytest.mark.parametrize("kind", ["missing", "photo", "nan"])
def test_a_bad_look_is_one_line(shoot, retouch, kind, capsys) -> None:
    path = Path("bad.safetensors")
    if kind == "photo":
        path.write_bytes((shoot / "0.png").read_bytes())
    elif kind == "nan":
        grid = AffineGrid.identity()
        grid.coefficients[0, 0, 0, 0] = float("nan")
        grid.save(path)
    assert retouch(shoot, "-o", "out", "--look", path) == 2
    (line,) = errors(capsys)
    assert line.startswith("diffretouch: `look` has to be a saved retouch, got bad.safetensors: ")
    assert not list(Path("out").glob("*.png"))


def test_luts_are_written_with_their_error(shoot, retouch, capsys) -> None:
    assert (
        retouch(shoot / "0.png", "-o", "a.png", "--cube", "a.cube", "--lut-size", 17, "--haldclut", "a-hald.png") == 0
    )
    assert "LUT_3D_SIZE 17" in Path("a.cube").read_text()
    assert open_photo("a-hald.png").pixels.shape == (512, 512, 3)
    said = errors(capsys)
    assert [line.split(" differs")[0] for line in said] == [
        "diffretouch: shoot/0.png: the cube",
        "diffretouch: shoot/0.png: the haldclut",
    ]
    assert all("Delta E 2000" in line for line in said)


def test_photos_of_one_name_put_their_looks_into_one_folder_at_once(shoot, retouch) -> None:
    for number in range(PHOTOS):
        (shoot / str(number)).mkdir()
        (shoot / f"{number}.png").rename(shoot / str(number) / "a.png")
    looks = ["--save-look", "looks/{number}.safetensors", "--recursive", "--workers", PHOTOS]
    assert retouch(shoot, "-o", "out", *looks) == 0
    assert len(files(Path("looks"))) == len(files(Path("out"))) == PHOTOS


def test_the_place_is_left_out_on_request(shoot, retouch) -> None:
    exif = PIL.Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8825)[1] = "N"
    PIL.Image.fromarray(scene(0)).save("here.jpg", exif=exif)
    assert retouch("here.jpg", "-o", "kept.jpg") == 0
    assert retouch("here.jpg", "-o", "gone.jpg", "--remove-gps") == 0
    places = {name: PIL.Image.open(name).getexif() for name in ("kept.jpg", "gone.jpg")}
    assert [len(exif.get_ifd(0x8825)) > 0 for exif in places.values()] == [True, False]
    assert all(exif[0x010F] == "Maker" for exif in places.values())


def test_a_missing_adapter_is_one_line(shoot, retouch, capsys) -> None:
    assert retouch(shoot, "-o", "out", "--lora", "./nowhere") == 2
    (line,) = errors(capsys)
    assert "`lora` has to be an adapter of" in line
    assert "./nowhere" in line


def test_settings_with_equal_files_are_equal_wherever_the_files_lie(model, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "copy")
    here, there = (Settings(model=str(folder)).described() for folder in (model, tmp_path / "copy"))
    assert here["fingerprints"] == there["fingerprints"]
    with pytest.raises(UsageError, match="`model` has to be"):
        Retoucher(Settings(model=str(tmp_path / "none")))
