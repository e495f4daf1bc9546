"""Reading a data set: any layout, streaming or not, checked column by column and row by row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from scenes import scene, scene_light, write_data_set

from diffretouch.data.dataset import FEATURES, SPLITS, decode, good_rows, photos_of, read_photo_table, read_split
from diffretouch.data.scenes import scene_of, synthetic_rows

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("built"), {"train": 2, "test": 1}, num_inputs=2)


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
    assert row["photo_id"] == "test-0#0"
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
    assert [group[0]["photo_id"] for group in groups] == ["train-0#0", "train-0#1", "train-1#0", "train-1#1"]
    assert all([row["expert"] for row in group] == list("ABCDE") for group in groups)


def test_streaming_gives_the_rows_of_reading_in_their_order(built: Path) -> None:
    rows = read_split(built, "train", streaming=True)
    assert not isinstance(rows, Dataset)
    assert list(good_rows(rows)) == list(good_rows(read_split(built, "train")))
    assert [len(group) for group in photos_of(rows)] == [5, 5, 5, 5]


@pytest.fixture
def imagefolder(tmp_path: Path) -> Path:
    """Two pairs as picture files, with a metadata file that `datasets` understands and a column of its owner's."""
    folder = tmp_path / "pictures" / "train"
    folder.mkdir(parents=True)
    lines = []
    for number in range(2):
        for kind in ("input", "target"):
            PIL.Image.fromarray(scene(number)).save(folder / f"{kind}-{number}.png")
        numbers: dict = {"colorfulness": 1, "brightness": 0.5, "contrast": 0.1, "temperature": 3}
        numbers["condition"] = [0, 1, -1, 0.5]
        files = {f"{kind}_file_name": f"{kind}-{number}.png" for kind in ("input", "target")}
        lines.append(json.dumps({"photo_id": f"p{number}", "expert": "me", **files, **numbers, "stars": 5}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder.parent


@pytest.mark.parametrize("streaming", [False, True])
def test_an_imagefolder_gives_the_files_bytes_and_the_schemas_columns(imagefolder: Path, streaming: bool) -> None:
    rows = list(good_rows(read_split(imagefolder, "train", streaming=streaming)))
    assert [row["photo_id"] for row in rows] == ["p0", "p1"]
    assert rows[1]["target"]["bytes"] == (imagefolder / "train" / "target-1.png").read_bytes()
    assert rows[0]["condition"] == [0, 1, -1, 0.5]
    assert set(rows[0]) == set(FEATURES)
    with pytest.raises(FileNotFoundError, match="has no usable validation split"):
        read_split(imagefolder, "validation", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_of_another_type_is_named(imagefolder: Path, streaming: bool) -> None:
    file = imagefolder / "train" / "metadata.jsonl"
    file.write_text(file.read_text().replace('"brightness": 0.5', '"brightness": "rather dark"'))
    with pytest.raises(
        ValueError, match=r"`brightness` of the data set .* has to be Value\('float32'\), got Value\('string'\)"
    ):
        read_split(imagefolder, "train", streaming=streaming)


def test_neither_folder_nor_id_is_one_line(tmp_path: Path) -> None:
    for source in (tmp_path / "none", "none", "a/b/c", "../elsewhere"):
        with pytest.raises(FileNotFoundError, match="`dataset` has to be a folder or the id of a data set on the Hub"):
            read_split(source, "train")


# ---- rows ----------------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict, str]] = {
    "no target": ({"target": None}, "`target` is missing"),
    "no bytes": ({"input": {"bytes": None, "path": "x.jpg"}}, "`input` is missing"),
    "cut short": ({"input": "half"}, "`input` is broken"),
    "no picture": ({"target": {"bytes": b"text", "path": None}}, "`target` is broken"),
    "another size": ({"target": "small"}, "have to be of one size, got 72 x 48 and 30 x 20"),
    "no name": ({"photo_id": ""}, "`photo_id` is missing"),
    "no score": ({"contrast": None}, "four finite numbers"),
    "NaN score": ({"temperature": float("nan")}, "four finite numbers"),
    "short condition": ({"condition": [0.0, 0.0, 0.0]}, r"`condition` has to be four numbers in \[-1, 1\]"),
    "wide condition": ({"condition": [0.0, 0.0, 0.0, 1.5]}, r"`condition` has to be four numbers in \[-1, 1\]"),
}


@pytest.fixture(scope="module")
def spoilt() -> Callable[[str], list[dict]]:
    """Five good rows, the third of them made bad."""
    good = synthetic_rows(scene_of(scene_light(0), None), "photo", 1, seed=0)
    small = synthetic_rows(scene_of(scene_light(0, 20, 30), None), "small", 1, seed=0)[0]["target"]

    def make(kind: str) -> list[dict]:
        change = dict(BAD[kind][0])
        for name, value in change.items():
            if value == "half":
                change[name] = {"bytes": good[2][name]["bytes"][:700], "path": None}
            elif value == "small":
                change[name] = small
        return [*good[:2], {**good[2], **change}, *good[3:]]

    return make


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_stops_or_is_skipped_with_its_number_photo_and_expert(spoilt, kind: str, caplog) -> None:
    rows = spoilt(kind)
    where = rf"row 2 \(photo {rows[2]['photo_id']!r}, expert 'C'\): .*{BAD[kind][1]}"
    with pytest.raises(ValueError, match=where):
        list(good_rows(rows))
    assert list(good_rows(rows, "skip")) == [*rows[:2], *rows[3:]]
    (message,) = caplog.messages
    assert message.startswith("Skipped row 2")


def test_rows_that_are_all_bad_are_refused_also_when_skipping(spoilt) -> None:
    with pytest.raises(ValueError, match="at least one good row, got none in 3"):
        list(good_rows([spoilt("no target")[2]] * 3, "skip"))
    with pytest.raises(ValueError, match="at least one good row, got none in 0"):
        list(good_rows([]))
    with pytest.raises(ValueError, match="`bad_rows` has to be one of"):
        list(good_rows([], "ignore"))
