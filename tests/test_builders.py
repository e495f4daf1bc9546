"""The builders: exact schema, conditions, pairs matched and fitted, published layouts, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import datasets
import imagecodecs
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import torch
from scenes import scene, scene_light

from diffretouch.attributes import (
    ATTRIBUTES,
    attribute_scores,
    attribute_view,
    conditions_extreme,
    conditions_quantile,
)
from diffretouch.data import builders
from diffretouch.data import dataset as data_files
from diffretouch.data.build import (
    BadPhoto,
    Job,
    Rows,
    open_light,
    open_resized,
    open_srgb,
    schema_row,
    split_of_groups,
    write_data_set,
)
from diffretouch.data.builders import build_fivek, build_pairs, build_ppr10k, build_synthetic
from diffretouch.data.dataset import (
    FEATURES,
    SPLITS,
    decode,
    encode,
    good_rows,
    read_split,
    scores_of,
    write_parquet,
)
from diffretouch.data.experts import EXPERTS, natural
from diffretouch.data.light import quantise, to_linear
from diffretouch.data.panorama import encode_light
from diffretouch.data.scenes import scene_of, synthetic_rows
from diffretouch.data.synthetic import camera_photo, finished
from diffretouch.data.teacher import TeacherError, answer_table
from diffretouch.photo import PhotoError

EXAMPLES = Path(__file__).parents[1] / "examples"
TABLE = "# a comment\nfile\tsplit\na.jpg\ttrain\nb.png\ttrain\nsub/c.jpg\tvalidation\nd.jpg\ttest\n"
SPLIT_OF = {"a": "train", "b": "train", "sub/c": "validation", "d": "test"}


def write_photos(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    for seed, name in enumerate(("a.jpg", "b.png", "sub/c.jpg", "d.jpg")):
        PIL.Image.fromarray(scene(seed, 40 + 4 * seed, 60)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    (folder / "table.tsv").write_text(TABLE)
    settings = {"table": folder / "table.tsv", "num_inputs": 2, "long_side": 48, "processes": 2}
    build_synthetic(write_photos(folder / "photos"), folder / "out", **settings)
    return folder / "out"


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return synthetic_rows(scene_of(scene_light(0), None), "photo", num_inputs=2, seed=7)


def test_one_row_per_input_and_expert(rows) -> None:
    assert [(row["photo_id"], row["expert"]) for row in rows] == [
        (f"photo#{index}", name) for index in range(2) for name in "ABCDE"
    ]
    assert all(list(row) == list(FEATURES) for row in rows)


def test_rows_of_one_input_share_it_and_targets_are_the_experts(rows) -> None:
    inputs = [row["input"]["bytes"] for row in rows]
    assert len(set(inputs[:5])) == len(set(inputs[5:])) == 1
    assert inputs[0] != inputs[5]
    for row, expert in zip(rows, EXPERTS, strict=False):
        difference = np.asarray(decode(row["target"])).astype(int) - expert.retouch(finished(scene_light(0)))
        assert np.abs(difference).mean() < 2
    targets = [row["target"]["bytes"] for row in rows]
    assert targets[:5] == targets[5:], "of what a camera failed at"


def test_scores_are_those_of_the_target_on_the_512_view(rows) -> None:
    row = rows[3]
    exact = torch.from_numpy(EXPERTS[3].retouch(finished(scene_light(0)))).permute(2, 0, 1)[None].float() / 255
    expected = attribute_scores(attribute_view(exact, 512))[0]
    assert [row[name] for name in ATTRIBUTES] == pytest.approx(expected.tolist())


def test_conditions_are_the_linear_ones_of_the_scores(rows) -> None:
    scores = torch.tensor([[row[name] for name in ATTRIBUTES] for row in rows[:5]])
    conditions = torch.tensor([row["condition"] for row in rows[:5]])
    assert torch.allclose(conditions, conditions_quantile(scores), atol=1e-6)
    assert conditions.amin(0).tolist() == [-1] * 4
    assert conditions.amax(0).tolist() == [1] * 4


def test_scores_do_not_depend_on_the_stored_size() -> None:
    small, large = scores_of([scene(2, 64, 96), np.repeat(np.repeat(scene(2, 64, 96), 3, 0), 3, 1)])
    assert small[[0, 1, 3]].tolist() == pytest.approx(large[[0, 1, 3]].tolist(), rel=0.03)


def test_rows_depend_on_seed_and_photo_alone() -> None:
    """Not on what was built before: adding a photo to a set leaves the others' rows as they were."""
    first = synthetic_rows(scene_of(scene_light(1), None), "x", 1, seed=3)
    synthetic_rows(scene_of(scene_light(2), None), "y", 2, seed=3)
    assert synthetic_rows(scene_of(scene_light(1), None), "x", 1, seed=3) == first
    one = scene_of(scene_light(1), None)
    for other in (synthetic_rows(one, "x", 1, seed=4), synthetic_rows(one, "z", 1, seed=3)):
        assert other[0]["input"]["bytes"] != first[0]["input"]["bytes"]
        assert other[0]["target"]["bytes"] == first[0]["target"]["bytes"]


def test_more_inputs_begin_with_the_same_inputs(rows) -> None:
    one = synthetic_rows(scene_of(scene_light(0), None), "photo", num_inputs=1, seed=7)
    assert one == rows[:5]


def test_more_scenes_follow_the_photo_itself_each_with_targets_of_its_own(rows) -> None:
    three = synthetic_rows(scene_of(scene_light(0), None), "photo", num_inputs=2, seed=7, num_scenes=3)
    assert three[:10] == rows
    assert [row["photo_id"] for row in three[::5]] == [f"photo#{index}" for index in range(6)]
    targets = [three[start]["target"]["bytes"] for start in range(0, 30, 5)]
    assert targets[0::2] == targets[1::2] and len(set(targets)) == 3
    assert synthetic_rows(scene_of(scene_light(0), None), "photo", num_inputs=2, seed=7, num_scenes=2) == three[:20]


def test_only_training_photos_have_more_scenes(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text(TABLE)
    settings = {"table": tmp_path / "table.tsv", "num_inputs": 1, "num_scenes": 2, "long_side": 48, "processes": 1}
    build_synthetic(write_photos(tmp_path / "photos"), tmp_path / "out", **settings)
    for split, scenes in (("train", 2), ("validation", 1), ("test", 1)):
        ids = read_split(tmp_path / "out", split)["photo_id"]
        assert {photo_id.partition("#")[2] for photo_id in ids} == {str(scene) for scene in range(scenes)}
    assert "2 scenes of 1 inputs each per training photo" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "build.json").read_text())["num_scenes"] == 2


def test_stored_photos_are_off_by_less_than_two_levels() -> None:
    photo = open_resized(EXAMPLES / "photo.jpg", 320)
    stored = np.asarray(PIL.Image.open(io.BytesIO(encode(photo)))).astype(int)
    assert np.abs(stored - photo).mean() < 2
    assert np.abs((stored - photo).mean((0, 1))).max() < 0.2


def test_the_resize_rule_keeps_the_aspect_and_never_enlarges(tmp_path: Path) -> None:
    PIL.Image.fromarray(scene(0, 50, 100)).save(tmp_path / "wide.png")
    assert open_resized(tmp_path / "wide.png", 40).shape == (20, 40, 3)
    assert np.array_equal(open_resized(tmp_path / "wide.png", 400), scene(0, 50, 100))
    PIL.Image.fromarray(scene(0, 1, 300)).save(tmp_path / "line.png")
    assert open_resized(tmp_path / "line.png", 30).shape == (1, 30, 3)


def test_training_photos_are_turned_upright(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(scene(0, 40, 60)).save(tmp_path / "phone.png", exif=exif)
    assert np.array_equal(open_resized(tmp_path / "phone.png", 100), np.rot90(scene(0, 40, 60), -1))


def test_grey_and_16_bit_training_photos_become_8_bit_rgb(tmp_path: Path) -> None:
    PIL.Image.fromarray(scene(0)[..., 0]).save(tmp_path / "grey.png")
    PIL.Image.fromarray(scene(0)[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    grey, deep = (open_resized(tmp_path / name, 100) for name in ("grey.png", "deep.png"))
    assert grey.dtype == deep.dtype == np.uint8
    assert np.array_equal(grey, np.repeat(scene(0)[..., :1], 3, 2))
    assert np.array_equal(deep, grey)


def test_an_8_bit_photo_is_made_linear_after_its_resize() -> None:
    light = open_light(EXAMPLES / "photo.jpg", 64)
    assert light.dtype == np.float32
    assert np.array_equal(light, to_linear(open_resized(EXAMPLES / "photo.jpg", 64)))


def test_a_floating_point_tiff_is_linear_light_as_it_is(tmp_path: Path) -> None:
    light = scene_light(0, 20, 30).astype(np.float16).astype(np.float32)
    light[3, 4] = (40, 8, 2)  # a lamp
    (tmp_path / "view.tif").write_bytes(encode_light(light))
    assert np.array_equal(open_light(tmp_path / "view.tif", 30), light)
    small = open_light(tmp_path / "view.tif", 15)
    assert small.shape == (10, 15, 3) and small.dtype == np.float32
    assert small.min() >= 0 and small.max() > 1
    # Half the size of linear light is its mean over neighbours, whose sRGB values would come out darker.
    assert small.mean((0, 1)) == pytest.approx(light.mean((0, 1)), rel=0.02)


def test_light_above_white_reaches_the_experts_through_the_builder(tmp_path: Path) -> None:
    light = 0.3 * scene_light(0, 40, 60)
    light[:20, 30:] = (6, 3, 1)
    clipped = np.minimum(light, 1)
    rows = {}
    for name, picture in (("bright", light), ("clipped", clipped)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "view.tif").write_bytes(encode_light(picture))
        build_synthetic(tmp_path / name, tmp_path / f"{name}-out", num_inputs=1, validation=0, test=0, processes=1)
        rows[name] = list(read_split(tmp_path / f"{name}-out", "train"))
    assert [(row["photo_id"], row["expert"]) for row in rows["bright"]] == [("view#0", name) for name in "ABCDE"]
    stored = np.asarray(decode(rows["bright"][0]["target"])).astype(int)
    assert np.abs(stored - EXPERTS[0].retouch(finished(light.astype(np.float16).astype(np.float32)))).mean() < 2
    assert rows["bright"][0]["target"] != rows["clipped"][0]["target"]


def test_light_that_is_none_is_a_bad_photo(tmp_path: Path) -> None:
    for name, wrong in (("nan", np.nan), ("dark", -0.5), ("inf", np.inf)):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.full((4, 4, 3), wrong, np.float32), photometric="rgb")
        with pytest.raises(PhotoError, match=rf"{name}\.tif: linear light has to be finite and not negative"):
            open_light(tmp_path / f"{name}.tif", 8)
    tifffile.imwrite(tmp_path / "grey.tif", np.ones((4, 4), np.float32))
    with pytest.raises(PhotoError, match=r"has to have the shape \(H, W, 3\), got \(4, 4\)"):
        open_light(tmp_path / "grey.tif", 8)
    (tmp_path / "torn.tif").write_bytes(b"II*\0")
    with pytest.raises(PhotoError, match=r"torn\.tif"):
        open_light(tmp_path / "torn.tif", 8)


def test_a_16_bit_tiff_is_still_a_photo_in_srgb(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "deep.tif", scene(1).astype(np.uint16) * 257, photometric="rgb")
    assert np.array_equal(open_light(tmp_path / "deep.tif", 100), scene_light(1))


def test_files_follow_the_schema_exactly(built: Path) -> None:
    for split in SPLITS:
        file = pq.ParquetFile(built / "data" / f"{split}-00000-of-00001.parquet")
        assert datasets.Features.from_arrow_schema(file.schema_arrow) == FEATURES
        assert file.schema_arrow.names == ["photo_id", "expert", "input", "target", *ATTRIBUTES, "condition"]
        assert file.schema_arrow.field("brightness").type == "float"
        assert str(file.schema_arrow.field("condition").type).startswith("fixed_size_list<")
        assert file.schema_arrow.field("condition").type.list_size == 4


def test_every_column_has_a_page_index(built: Path, own: Path) -> None:
    for path in [*built.glob("data/*"), *own.glob("data/*")]:  # those of one expert are written twice
        group = pq.ParquetFile(path).metadata.row_group(0)
        assert all(group.column(number).has_offset_index for number in range(group.num_columns)), path


def test_pictures_have_names_that_tell_them_apart(built: Path) -> None:
    rows = list(read_split(built, "train"))
    assert [row["input"]["path"] for row in rows[::5]] == ["a-0.jpg", "a-1.jpg", "b-0.jpg", "b-1.jpg"]
    assert [row["target"]["path"] for row in rows[:5]] == [f"a-0-{expert}.jpg" for expert in "ABCDE"]


def test_training_photos_get_several_inputs_the_others_one(built: Path) -> None:
    counts = {split: pq.ParquetFile(next((built / "data").glob(f"{split}-*"))).metadata.num_rows for split in SPLITS}
    assert counts == {"train": 2 * 2 * 5, "validation": 5, "test": 5}


def test_datasets_reads_the_files_as_they_are(built: Path, tmp_path: Path) -> None:
    files = {split: str(next((built / "data").glob(f"{split}-*"))) for split in SPLITS}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path))
    assert loaded["train"].features == FEATURES
    row = loaded["validation"][0]
    assert isinstance(row["input"], PIL.Image.Image)
    assert row["input"].size == row["target"].size == (48, 38)
    assert len(row["condition"]) == 4


def test_splits_share_no_photo(built: Path) -> None:
    seen = {}
    for split in SPLITS:
        for photo_id in read_split(built, split)["photo_id"]:
            name = photo_id.rpartition("#")[0]
            assert SPLIT_OF[name] == split
            seen.setdefault(name, set()).add(split)
    assert {name: splits.pop() for name, splits in seen.items() if len(splits) == 1} == SPLIT_OF


def test_build_report_holds_hashes_and_the_resize_rule(built: Path) -> None:
    report = json.loads((built / "build.json").read_text())
    assert (report["num_inputs"], report["long_side"], report["seed"]) == (2, 48, 0)
    assert "48 px" in report["resize"]
    for name, digest in report["sha256"].items():
        assert hashlib.sha256((built / "data" / name).read_bytes()).hexdigest() == digest
    assert len(report["sha256"]) == 3
    names = ["LICENSE.md", "README.md", "build.json", "data", "photos.tsv"]
    assert sorted(path.name for path in built.iterdir()) == names


def test_building_across_processes_gives_the_rows_of_one_process(built: Path) -> None:
    light = open_light(built.parent / "photos" / "sub" / "c.jpg", 48)
    expected = synthetic_rows(scene_of(light, None), "sub/c", 1, seed=0, drawn=camera_photo)
    stored = [dict(row) for row in read_split(built, "validation")]
    assert [row["input"]["bytes"] for row in stored] == [row["input"]["bytes"] for row in expected]
    assert [row["target"]["bytes"] for row in stored] == [row["target"]["bytes"] for row in expected]


def test_a_label_becomes_the_natural_experts_retouch_at_the_photos_own_size(tmp_path: Path) -> None:
    """The teacher answers to a small view; its colours, not its pixels, reach the photo."""
    light = scene_light(0, 96, 144)
    photo = finished(light)
    small = photo.reshape(32, 3, 48, 3, 3).mean((1, 3))
    answer = np.clip(0.9 * small * np.float32([1.1, 1, 0.85]) + 0.03, 0, 1)
    label = tmp_path / "label.png"
    table = answer_table(quantise(small), quantise(answer))
    PIL.Image.fromarray(table.reshape(17 * 17, 17, 3)).save(label)
    scene = scene_of(light, label)
    wanted = natural(photo, np.clip(0.9 * photo * np.float32([1.1, 1, 0.85]) + 0.03, 0, 1))
    assert scene.natural.shape == photo.shape
    assert np.abs(scene.natural - wanted).mean() < 0.01 < np.abs(scene.natural - photo).mean()


def test_a_picture_is_no_label(tmp_path: Path) -> None:
    """Labels of an earlier version were the teacher's pictures."""
    PIL.Image.fromarray(scene(0)).save(tmp_path / "label.png")
    with pytest.raises(BadPhoto, match=r"label.png has to be a label of 17 x 289 pixels, got \(\d+, \d+\)"):
        scene_of(scene_light(0), tmp_path / "label.png")


def test_missing_and_foreign_labels_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    photos, labels = tmp_path / "photos", tmp_path / "labels"
    photos.mkdir(), labels.mkdir()
    PIL.Image.fromarray(scene(0)).save(photos / "a.jpg")
    with pytest.raises(FileNotFoundError, match=r"`labels` has to hold the teacher's answer .* none for a in"):
        build_synthetic(photos, tmp_path / "out", labels=labels)
    PIL.Image.fromarray(scene(1)).save(labels / "a.jpg.png")
    with pytest.raises(ValueError, match=r"`labels` has to be a folder made by dataset_card/label_photos.py"):
        build_synthetic(photos, tmp_path / "out", labels=labels)
    assert not (tmp_path / "out").exists()


def test_the_same_rows_make_the_same_file(tmp_path: Path, rows) -> None:
    for name in ("one", "two"):
        write_parquet([rows[:5], rows[5:]], tmp_path / f"{name}.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_a_file_is_what_datasets_would_write_but_nothing_is_hashed(tmp_path: Path, monkeypatch, rows) -> None:
    """The hashing imports transformers: a second of foreign code, in which an interrupt may get lost."""
    table = datasets.Dataset.from_list(rows[:5], features=FEATURES).data.table

    def refused(*given: object) -> None:
        raise AssertionError("hashed")

    monkeypatch.setattr(datasets.arrow_dataset, "generate_fingerprint", refused)
    with pytest.raises(AssertionError, match="hashed"):
        datasets.Dataset.from_list(rows[:5], features=FEATURES)
    write_parquet([rows[:5]], tmp_path / "a.parquet")
    written = pq.read_table(tmp_path / "a.parquet")
    assert written.equals(table) and written.schema.metadata == table.schema.metadata


def test_row_groups_hold_whole_photos_up_to_100_rows_or_100_mb(tmp_path: Path, monkeypatch, rows) -> None:
    """A group for each photo makes a footer of megabytes; the Hub's viewer does not read groups of 300 MB."""

    def groups() -> list[int]:
        write_parquet([rows[:7]] * 33, tmp_path / "a.parquet")
        metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
        return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]

    assert groups() == [105, 105, 21]
    photo = sum(len(row[name]["bytes"]) for row in rows[:7] for name in ("input", "target"))
    monkeypatch.setattr(data_files, "_GROUP_BYTES", 2 * photo)
    assert groups() == [14] * 16 + [7]


def test_pictures_that_rows_share_are_stored_once_in_a_group(tmp_path: Path) -> None:
    """Also beyond the megabyte at which pyarrow gives up its dictionary."""
    noise = encode(np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8))
    scores = torch.zeros(4)
    batches = [
        [schema_row(f"{photo}", expert, noise + bytes([photo]), b"small", scores, scores) for expert in "ABCDE"]
        for photo in range(3)
    ]
    assert len(noise) > 2**19
    write_parquet(batches, tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 3.5 * len(noise)


def test_a_data_set_of_before_is_read_with_the_same_rows(built: Path, tmp_path: Path) -> None:
    """Its pictures had no names, its files no page index, and every photo a row group of its own."""
    table = pq.read_table(built / "data" / "train-00000-of-00001.parquet")
    unnamed = [
        {**row, **{name: {**row[name], "path": None} for name in ("input", "target")}} for row in table.to_pylist()
    ]
    (tmp_path / "data").mkdir()
    with pq.ParquetWriter(
        tmp_path / "data" / "train-00000-of-00001.parquet", table.schema, compression="zstd"
    ) as file:
        for start in range(0, len(unnamed), 5):
            file.write_table(pa.Table.from_pylist(unnamed[start : start + 5], table.schema))
    now, before = list(good_rows(read_split(built, "train"))), list(good_rows(read_split(tmp_path, "train")))
    assert [row["input"]["path"] for row in before] == [None] * 20
    assert [{**row, "input": row["input"]["bytes"], "target": row["target"]["bytes"]} for row in before] == [
        {**row, "input": row["input"]["bytes"], "target": row["target"]["bytes"]} for row in now
    ]


def test_a_failure_half_way_leaves_the_old_file_and_no_other(tmp_path: Path, rows) -> None:
    def failing():
        yield rows[:5]
        raise RuntimeError("power cut")

    file = tmp_path / "train.parquet"
    file.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="power cut"):
        write_parquet(failing(), file)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_bad_photo_in_the_last_split_leaves_no_split_at_all(tmp_path: Path) -> None:
    """The training split is complete by then, but half a data set would pass for a whole one."""
    photos = write_photos(tmp_path / "photos")
    (photos / "d.jpg").write_bytes((photos / "d.jpg").read_bytes()[:300])
    (tmp_path / "table.tsv").write_text("file\tsplit\na.jpg\ttrain\nd.jpg\ttest\n")
    with pytest.raises(PhotoError, match=r"d\.jpg.*cut short"):
        build_synthetic(photos, tmp_path / "out", table=tmp_path / "table.tsv", num_inputs=1, long_side=32)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "table.tsv"]


def test_a_missing_photo_is_named_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text(TABLE)
    (write_photos(tmp_path / "photos") / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"`photos` lacks 1 of 4 photos, first b\.png"):
        build_synthetic(tmp_path / "photos", tmp_path / "out", table=tmp_path / "table.tsv")
    assert not (tmp_path / "out").exists()


def test_only_training_photos_are_darker_where_that_is_asked(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text(TABLE)
    photos, shown = write_photos(tmp_path / "photos"), {}
    for factor in (1.0, 3.0):
        out = tmp_path / f"out-{factor}"
        settings = {"table": tmp_path / "table.tsv", "num_inputs": 8, "long_side": 48, "processes": 1}
        build_synthetic(photos, out, underexposure=factor, **settings)
        shown[factor] = {split: [decode(row["input"]) for row in read_split(out, split)] for split in SPLITS}
        assert json.loads((out / "build.json").read_text())["underexposure"] == factor
    mean = {factor: np.mean([np.mean(picture) for picture in of["train"]]) for factor, of in shown.items()}
    assert mean[3.0] < mean[1.0] - 3
    for split in ("validation", "test"):
        assert all(map(np.array_equal, shown[1.0][split], shown[3.0][split]))


def test_a_teacher_changes_targets_of_training_photos_alone(tmp_path: Path, monkeypatch) -> None:
    class White:
        def answer(self, picture: np.ndarray) -> np.ndarray:
            return np.ones(picture.shape, np.float32)

    (tmp_path / "table.tsv").write_text(TABLE)
    photos, targets = write_photos(tmp_path / "photos"), {}
    monkeypatch.setattr(builders, "check_package", lambda folder: None)
    monkeypatch.setattr(builders, "_teacher_of", lambda folder: White())
    for teacher in (None, tmp_path):
        out = tmp_path / f"out-{teacher is None}"
        settings = {"table": tmp_path / "table.tsv", "num_inputs": 8, "long_side": 48, "processes": 1}
        build_synthetic(photos, out, teacher=teacher, **settings)
        targets[teacher] = {split: [decode(row["target"]) for row in read_split(out, split)] for split in SPLITS}
    assert json.loads((out / "build.json").read_text())["teacher"]["version"] == "0.1.0"
    assert "six tenths" in (out / "README.md").read_text()
    brighter = [np.mean(b) - np.mean(a) for a, b in zip(*(of["train"] for of in targets.values()), strict=True)]
    assert max(brighter) > 10 and min(brighter) > -1
    for split in ("validation", "test"):
        assert all(map(np.array_equal, targets[None][split], targets[tmp_path][split]))


def test_a_missing_teacher_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"@upscalerjs/maxim-retouching 0\.1\.0"):
        build_synthetic(tmp_path, tmp_path / "out", teacher=tmp_path / "none")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_an_underexposure_that_is_none_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="`underexposure` has to be"):
        build_synthetic(tmp_path, tmp_path / "out", underexposure=value)


@pytest.mark.parametrize("name", ["num_inputs", "num_scenes", "long_side"])
def test_build_refuses_numbers_below_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` has to be at least 1, got 0"):
        build_synthetic(tmp_path, tmp_path / "out", **{name: 0})


# ---- what all builders share ---------------------------------------------------------------------------------------


def test_splits_depend_on_names_and_seed_alone_and_leave_training_photos() -> None:
    names = [f"photo-{number}" for number in range(40)]
    splits = split_of_groups(names, 0.1, 0.2, seed=3)
    assert splits == split_of_groups(reversed(names), 0.1, 0.2, seed=3) != split_of_groups(names, 0.1, 0.2, seed=4)
    assert [list(splits.values()).count(split) for split in SPLITS] == [28, 4, 8]
    assert sum(splits[name] != split for name, split in split_of_groups(names[:-1], 0.1, 0.2, seed=3).items()) <= 2
    assert set(split_of_groups(["only"], 0.5, 0.4, seed=0).values()) == {"train"}
    assert sorted(split_of_groups("abc", 0.1, 0.1, seed=0).values()) == ["test", "train", "validation"]
    assert set(split_of_groups(names, 0, 0, seed=0).values()) == {"train"}


def test_colours_of_a_wide_profile_are_converted_to_srgb(tmp_path: Path) -> None:
    """FiveK's TIFF files are ProPhoto RGB: without this, every target would be dull and the scores wrong."""
    wide = imagecodecs.cms_profile("adobergb")
    photo = scene(3, 40, 60)
    stored = imagecodecs.cms_transform(
        photo, imagecodecs.cms_profile("srgb"), wide, colorspace="rgb", outcolorspace="rgb", outdtype="uint16"
    )
    tifffile.imwrite(tmp_path / "wide.tif", stored, photometric="rgb", iccprofile=wide)
    assert np.abs((stored // 257).astype(int) - photo).max() > 10
    assert np.abs(open_srgb(tmp_path / "wide.tif").astype(int) - photo).max() <= 1


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="`output` has to be a new or empty folder"):
        write_data_set(tmp_path / "out", [], Rows, {})
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_an_interrupted_build_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupted(job: Job) -> Rows:
        if job.photo_id == "b":
            raise KeyboardInterrupt
        return Rows(synthetic_rows(scene_of(scene_light(0), None), job.photo_id, 1, seed=0))

    jobs = [Job(name, "train", ()) for name in "abc"]
    with pytest.raises(KeyboardInterrupt):
        write_data_set(tmp_path / "out", jobs, interrupted, {})
    assert list(tmp_path.iterdir()) == []


def test_a_set_without_a_training_photo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"not a photo")
    with pytest.raises(ValueError, match=r"of 1 left out the first: a: cannot open a\.jpg: it is not"):
        build_synthetic(tmp_path / "photos", tmp_path / "out", bad_photos="skip")
    assert not (tmp_path / "out").exists()


def test_any_folder_becomes_a_synthetic_set_less_its_bad_photos(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    PIL.Image.fromarray(scene(9)).save(photos / "a.png")
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:200])
    (photos / "notes.txt").write_text("no photo")
    report = build_synthetic(photos, tmp_path / "out", num_inputs=1, long_side=32, test=0, bad_photos="skip")
    assert [line.partition(":")[0] for line in report.left_out] == ["broken"]
    assert json.loads((tmp_path / "out" / "build.json").read_text())["left_out"] == list(report.left_out)
    found = {name for split in ("train", "validation") for name in read_split(tmp_path / "out", split)["photo_id"]}
    assert found == {"a.jpg#0", "a.png#0", "b#0", "sub/c#0", "d#0"}
    assert str(tmp_path) not in (tmp_path / "out" / "README.md").read_text()


# ---- own pairs -----------------------------------------------------------------------------------------------------


def darker(photo: np.ndarray, amount: float) -> np.ndarray:
    return np.round(photo * amount).astype(np.uint8)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders before and after, with what photographers do to names, sizes and framing."""
    root = tmp_path_factory.mktemp("pairs")
    before, after = root / "before", root / "after"
    before.mkdir()
    after.mkdir()
    photos = [scene(seed, 192, 288) for seed in range(8)]
    for number, photo in enumerate(photos[:5]):
        PIL.Image.fromarray(photo).save(before / f"plain-{number}.png")
        PIL.Image.fromarray(darker(photo, 0.5 + 0.1 * number)).save(after / f"plain-{number}-edit.tif")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(np.rot90(photos[5])).save(before / "phone.png", exif=exif)
    PIL.Image.fromarray(darker(photos[5], 0.7)).save(after / "phone.png")
    PIL.Image.fromarray(photos[6]).save(before / "cut.png")
    PIL.Image.fromarray(darker(photos[6], 0.8)[20:160, 30:240]).save(after / "Cut (Edited).png")
    PIL.Image.fromarray(photos[6]).save(before / "wrong.png")
    PIL.Image.fromarray(darker(photos[7], 0.8)).save(after / "wrong.png")
    PIL.Image.fromarray(photos[7]).save(before / "unedited.png")
    return before, after


@pytest.fixture(scope="module")
def own(pairs: tuple[Path, Path]) -> Path:
    out = pairs[0].parent / "own"
    report = build_pairs(*pairs, out, long_side=144, validation=0.2, test=0.2)
    assert [line.partition(":")[0] for line in report.left_out] == ["wrong"]
    assert "do not show the same" in report.left_out[0]
    assert [line.partition(":")[0] for line in report.notes] == ["unedited.png", "cut"]
    assert "cropped to 72.9% x 72.9%" in report.notes[1]
    return out


def test_pairs_of_all_kinds_of_names_and_framings_are_found_and_fitted(own: Path) -> None:
    rows = {row["photo_id"]: row for split in SPLITS for row in read_split(own, split)}
    assert set(rows) == {"phone", "cut", *(f"plain-{number}" for number in range(5))}
    sizes = {name: (decode(row["input"]).size, decode(row["target"]).size) for name, row in rows.items()}
    assert sizes["phone"] == sizes["plain-0"] == ((144, 96), (144, 96))
    assert sizes["cut"] == ((144, 96), (144, 96))
    for name, amount in (("phone", 0.7), ("cut", 0.8)):
        source, target = (np.asarray(decode(rows[name][column])).astype(int) for column in ("input", "target"))
        assert np.abs(source * amount - target)[4:-4, 4:-4].mean() < 3, f"{name} does not lie on its target"


def test_conditions_of_one_expert_are_quantiles_of_the_change_over_all_splits(own: Path) -> None:
    rows = [row for split in SPLITS for row in read_split(own, split)]
    views = [[np.array(decode(row[column])) for row in rows] for column in ("input", "target")]
    changes = scores_of(views[1]) - scores_of(views[0])
    found = torch.tensor([row["condition"] for row in rows])
    assert (found.amin(0).tolist(), found.amax(0).tolist()) == ([-1] * 4, [1] * 4)
    # Brightness: its changes lie far enough apart for the stored pictures' rounding.
    assert torch.equal(found[:, 1].argsort(), changes[:, 1].argsort())
    assert torch.allclose(found.sort(0).values, torch.linspace(-1, 1, len(rows))[:, None].expand(-1, 4), atol=1e-6)


def test_files_of_one_expert_follow_the_schema_exactly(own: Path) -> None:
    for split in SPLITS:
        (path,) = own.glob(f"data/{split}-*")
        file = pq.ParquetFile(path)
        assert datasets.Features.from_arrow_schema(file.schema_arrow) == FEATURES
        assert json.loads((own / "build.json").read_text())["sha256"][path.name] == (
            hashlib.sha256(path.read_bytes()).hexdigest()
        )
    assert "quantile among all pairs" in (own / "README.md").read_text()


def test_the_first_bad_pair_stops_the_build_when_asked(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=r"wrong: wrong\.png and wrong\.png do not show the same"):
        build_pairs(*pairs, tmp_path / "out", long_side=64, validation=0, test=0, bad_photos="stop")
    assert list(tmp_path.iterdir()) == []


def test_folders_without_a_common_name_are_refused(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    PIL.Image.fromarray(scene(0)).save(tmp_path / "other" / "x.jpg")
    with pytest.raises(ValueError, match=r"`after` has to hold files named like those of `before`"):
        build_pairs(pairs[0], tmp_path / "other", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="`before` has to be a folder"):
        build_pairs(tmp_path / "none", pairs[1], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="`after` has to hold photos, got none"):
        build_pairs(pairs[0], tmp_path / "empty", tmp_path / "out")


# ---- published sets ------------------------------------------------------------------------------------------------


def write_fivek(root: Path, names: list[str], experts: str = "abcde") -> Path:
    """The layout of the published archive and its experts' files: one raw folder, one folder of 16-bit TIFF each."""
    raw = root / "raw_photos" / "HQa1to700" / "photos"
    raw.mkdir(parents=True)
    for seed, name in enumerate(names):
        photo = scene(seed)
        PIL.Image.fromarray(photo).save(raw / f"{name}.png")
        for number, expert in enumerate(experts):
            (root / f"tiff16_{expert}").mkdir(exist_ok=True)
            deep = darker(photo, 0.5 + 0.1 * number).astype(np.uint16) * 257
            tifffile.imwrite(root / f"tiff16_{expert}" / f"{name}.tif", deep, photometric="rgb")
    return root


def test_fivek_gets_five_rows_a_photo_and_the_papers_conditions(tmp_path: Path) -> None:
    names = ["a0001-jmac_DSC1459", "a0002-dgw_005", "a0003-NKIM_MG_8178"]
    folder = write_fivek(tmp_path / "fivek", names)
    (tmp_path / "test.txt").write_text("a0002-dgw_005.tif\n")
    settings = {"conditions": "extreme", "validation": 0.3, "test_list": tmp_path / "test.txt"}
    assert build_fivek(folder, tmp_path / "out", **settings).left_out == ()
    rows = read_split(tmp_path / "out", "test")
    assert [(row["photo_id"], row["expert"]) for row in rows] == [("a0002-dgw_005", name) for name in "ABCDE"]
    scores = torch.tensor([[row[name] for name in ATTRIBUTES] for row in rows])
    assert torch.equal(torch.tensor(list(rows["condition"])), conditions_extreme(scores))
    assert {len(read_split(tmp_path / "out", split)) for split in ("train", "validation")} == {5}
    assert "redistributable: false" in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "test.txt").write_text("a9999-nobody\n")
    with pytest.raises(ValueError, match="`test_list` has to name photos of the set, got a9999-nobody"):
        build_fivek(folder, tmp_path / "other", **settings)


def test_one_expert_of_fivek_falls_back_to_the_change_over_the_set(tmp_path: Path) -> None:
    folder = write_fivek(tmp_path / "fivek", ["a0001-x", "a0002-y", "a0003-z"], experts="c")
    report = build_fivek(folder, tmp_path / "out", validation=0, test=0, conditions="extreme")
    assert report.notes == ("expert C alone: c is the quantile of the score change over the set, not extreme",)
    conditions = torch.tensor(list(read_split(tmp_path / "out", "train")["condition"]))
    assert sorted(conditions[:, 1].tolist()) == [-1, 0, 1]
    assert "quantile of the score change" in json.loads((tmp_path / "out" / "build.json").read_text())["conditions"]


def test_other_folders_are_not_taken_for_fivek(tmp_path: Path) -> None:
    write_fivek(tmp_path / "fivek", ["a0001-x"])
    (tmp_path / "fivek" / "raw_photos").rename(tmp_path / "fivek" / "holiday")
    with pytest.raises(ValueError, match=r"`folder` has to hold one folder of inputs .*, got \[\] and \['A', 'B'"):
        build_fivek(tmp_path / "fivek", tmp_path / "out")


def test_ppr10k_keeps_series_together_and_the_published_test_split(tmp_path: Path) -> None:
    """Groups from 1356 on are the test split; a photo's further developments are inputs of the same targets."""
    root = tmp_path / "ppr10k"
    for number, name in enumerate(("0_0", "0_1", "0_2", "7_0", "7_1", "1355_0", "1356_0", "1680_3")):
        split = "train" if int(name.partition("_")[0]) < 1356 else "val"
        photo = scene(number, 24, 36)
        for kind, amount in (("source", 1.0), ("target_a", 0.6), ("target_b", 0.7), ("target_c", 0.9)):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(root / split / kind / f"{name}.tif", darker(photo, amount), photometric="rgb")
    (root / "train" / "source_aug_6").mkdir()
    tifffile.imwrite(root / "train" / "source_aug_6" / "0_1_4.tif", darker(scene(1, 24, 36), 0.5), photometric="rgb")

    build_ppr10k(root, tmp_path / "out", validation=0.3)
    found = {split: read_split(tmp_path / "out", split) for split in SPLITS}
    groups = {split: {name.partition("_")[0] for name in rows["photo_id"]} for split, rows in found.items()}
    assert groups["test"] == {"1356", "1680"}
    assert groups["train"] | groups["validation"] == {"0", "7", "1355"}
    assert not groups["train"] & groups["validation"]
    assert set(found["test"]["expert"]) == {"a", "b", "c"}
    everything = [row for rows in found.values() for row in rows]
    assert len(everything) == 3 * (8 + ("0" in groups["train"]))
    if "0" in groups["train"]:
        versions = [row for row in everything if row["photo_id"].startswith("0_1#")]
        assert [(row["photo_id"], row["expert"]) for row in versions] == [
            (f"0_1#{version}", expert) for version in (0, 1) for expert in "abc"
        ]
        assert versions[0]["input"] != versions[3]["input"] and versions[0]["target"] == versions[3]["target"]
        assert [row["condition"] for row in versions[:3]] == [row["condition"] for row in versions[3:]]
