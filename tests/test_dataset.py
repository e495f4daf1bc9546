"""The data set: exact schema, conditions from scores, order-independent, split by photo, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
import torch
from scenes import scene

from diffretouch.attributes import ATTRIBUTES, attribute_scores, attribute_view, conditions_quantile
from diffretouch.data.dataset import (
    FEATURES,
    SPLITS,
    build_synthetic,
    decode,
    encode,
    open_resized,
    photos_of,
    read_photo_table,
    read_split,
    scores_of,
    synthetic_rows,
    write_parquet,
)
from diffretouch.data.synthetic import EXPERTS
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
    build_synthetic(write_photos(folder / "photos"), folder / "table.tsv", folder / "out", num_inputs=2, long_side=48)
    return folder / "out"


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return synthetic_rows(scene(0), "photo", num_inputs=2, seed=7)


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
        difference = np.asarray(decode(row["target"])).astype(int) - expert.retouch(scene(0))
        assert np.abs(difference).mean() < 2
    assert [row["target"] for row in rows[:5]] == [row["target"] for row in rows[5:]]


def test_scores_are_those_of_the_target_on_the_512_view(rows) -> None:
    row = rows[3]
    exact = torch.from_numpy(EXPERTS[3].retouch(scene(0))).permute(2, 0, 1)[None].float() / 255
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
    first = synthetic_rows(scene(1), "x", 1, seed=3)
    synthetic_rows(scene(2), "y", 2, seed=3)
    assert synthetic_rows(scene(1), "x", 1, seed=3) == first
    for other in (synthetic_rows(scene(1), "x", 1, seed=4), synthetic_rows(scene(1), "z", 1, seed=3)):
        assert other[0]["input"] != first[0]["input"]
        assert other[0]["target"] == first[0]["target"]


def test_more_inputs_begin_with_the_same_inputs(rows) -> None:
    one = synthetic_rows(scene(0), "photo", num_inputs=1, seed=7)
    assert one == rows[:5]


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


def test_files_follow_the_schema_exactly(built: Path) -> None:
    for split in SPLITS:
        file = pq.ParquetFile(built / "data" / f"{split}-00000-of-00001.parquet")
        assert datasets.Features.from_arrow_schema(file.schema_arrow) == FEATURES
        assert file.schema_arrow.names == ["photo_id", "expert", "input", "target", *ATTRIBUTES, "condition"]
        assert file.schema_arrow.field("brightness").type == "float"
        assert str(file.schema_arrow.field("condition").type).startswith("fixed_size_list<")
        assert file.schema_arrow.field("condition").type.list_size == 4


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
    assert sorted(path.name for path in built.iterdir()) == ["build.json", "data"]


def test_building_across_processes_gives_the_rows_of_one_process(built: Path) -> None:
    photo = open_resized(built.parent / "photos" / "sub" / "c.jpg", 48)
    expected = synthetic_rows(photo, "sub/c", 1, seed=0)
    stored = [dict(row) for row in read_split(built, "validation")]
    assert [row["input"]["bytes"] for row in stored] == [row["input"]["bytes"] for row in expected]
    assert [row["target"]["bytes"] for row in stored] == [row["target"]["bytes"] for row in expected]


def test_the_same_rows_make_the_same_file(tmp_path: Path, rows) -> None:
    for name in ("one", "two"):
        write_parquet([rows[:5], rows[5:]], tmp_path / f"{name}.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert pq.ParquetFile(tmp_path / "one.parquet").num_row_groups == 2


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
        build_synthetic(photos, tmp_path / "table.tsv", tmp_path / "out", num_inputs=1, long_side=32)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_photo_is_named_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text(TABLE)
    (write_photos(tmp_path / "photos") / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"`photos` lacks 1 of 4 photos, first b\.png"):
        build_synthetic(tmp_path / "photos", tmp_path / "table.tsv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["num_inputs", "long_side"])
def test_build_refuses_numbers_below_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` has to be at least 1, got 0"):
        build_synthetic(tmp_path, tmp_path / "table.tsv", tmp_path / "out", **{name: 0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one photo"),
        ("# only a comment\n", "at least one photo"),
        ("file\tsplit\n", "at least one photo"),
        ("file\na.jpg\n", "a `file` and a `split`"),
        ("file\tsplit\na.jpg\tdev\n", "a `file` and a `split`"),
        ("file\tsplit\n\ttrain\n", "a `file` and a `split`"),
        ("file\tsplit\na.jpg\ttrain\na.jpg\ttest\n", "each photo once"),
        ("file\tsplit\na.jpg\ttrain\na.png\ttest\n", "each photo once"),
    ],
)
def test_bad_photo_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "table.tsv").write_text(text)
    with pytest.raises(ValueError, match=f"`table` has to .*{message}"):
        read_photo_table(tmp_path / "table.tsv")


def test_photo_tables_may_have_comments_and_other_columns(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text("# c\nlicence\tfile\tsplit\nCC0\ta b.jpg\ttest\n# d\n")
    assert read_photo_table(tmp_path / "table.tsv") == [{"licence": "CC0", "file": "a b.jpg", "split": "test"}]


def test_the_demo_table_covers_the_example_photos_with_all_splits() -> None:
    entries = read_photo_table(EXAMPLES / "photos.tsv")
    assert {entry["file"] for entry in entries} == {path.name for path in EXAMPLES.glob("*.jpg")}
    assert {entry["split"] for entry in entries} == set(SPLITS)


def test_reading_a_split_keeps_pictures_encoded(built: Path) -> None:
    row = read_split(built, "test")[0]
    assert row["photo_id"] == "d#0"
    assert set(row["input"]) == {"bytes", "path"}
    assert decode(row["input"]).mode == "RGB"


def test_reading_a_missing_split_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`folder` has to hold data/train-\*\.parquet"):
        read_split(tmp_path, "train")


def test_reading_a_data_set_without_a_column_names_it(built: Path, tmp_path: Path) -> None:
    table = pq.read_table(built / "data" / "test-00000-of-00001.parquet").drop_columns(["condition", "expert"])
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "test-0.parquet")
    with pytest.raises(ValueError, match=r"lacks the columns \['condition', 'expert'\]"):
        read_split(tmp_path, "test")


def test_rows_are_grouped_by_photo_in_order_of_appearance(built: Path) -> None:
    groups = list(photos_of(read_split(built, "train")))
    assert [group[0]["photo_id"] for group in groups] == ["a#0", "a#1", "b#0", "b#1"]
    assert all([row["expert"] for row in group] == list("ABCDE") for group in groups)
