"""Which files of two folders belong together: every habit of cameras and editors, and what is ambiguous."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffretouch.data.matching import match_names


def match(before: str, after: str) -> tuple[dict[str, str], list[str]]:
    pairs, unused = match_names([Path(name) for name in before.split("|")], [Path(name) for name in after.split("|")])
    return {source.as_posix(): target.as_posix() for source, target in pairs.values()}, unused


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("IMG_1.jpg", "IMG_1.jpg"),
        ("IMG_1.CR3", "img_1.JPEG"),
        ("IMG_1.jpg", "IMG_1-edit.tif"),
        ("IMG_1.jpg", "IMG_1 (Edited).jpg"),
        ("IMG_1.jpg", "IMG_1-my-look-2.jpg"),
        ("IMG_1_before.jpg", "IMG_1_after.jpg"),
        ("IMG_1-orig.jpg", "IMG_1.jpg"),
        ("2024/IMG_1.jpg", "2024/IMG_1.jpg"),
    ],
)
def test_names_that_belong_together(before: str, after: str) -> None:
    assert match(before, after) == ({before: after}, [])


@pytest.mark.parametrize(
    ("before", "after"), [("IMG_1.jpg", "IMG_11.jpg"), ("IMG_1.jpg", "DSC_1.jpg"), ("a/IMG_1.jpg", "b/IMG_1.jpg")]
)
def test_names_that_do_not(before: str, after: str) -> None:
    pairs, unused = match(before, after)
    assert pairs == {}
    assert unused == [f"{after}: there is no photo before the retouch", f"{before}: there is no retouched version"]


def test_the_longest_photo_name_wins() -> None:
    assert match("IMG_1.jpg|IMG_1-2.jpg", "IMG_1-2-edit.jpg|IMG_1-edit.jpg") == (
        {"IMG_1.jpg": "IMG_1-edit.jpg", "IMG_1-2.jpg": "IMG_1-2-edit.jpg"},
        [],
    )


def test_of_several_files_of_one_photo_one_is_used_and_the_others_are_named() -> None:
    pairs, unused = match("IMG_1.NEF|IMG_1.jpg", "IMG_1-edit-2.jpg|IMG_1-edit.tif|IMG_1-edit.jpg")
    assert pairs == {"IMG_1.jpg": "IMG_1-edit.jpg"}
    assert sorted(unused) == [
        "IMG_1-edit-2.jpg: IMG_1-edit.jpg is used for IMG_1.jpg",
        "IMG_1-edit.tif: IMG_1-edit.jpg is used instead",
        "IMG_1.NEF: IMG_1.jpg is used instead",
    ]


def test_usual_endings_do_not_pair_ambiguous_names() -> None:
    pairs, unused = match("IMG_1-raw.jpg|IMG_1-orig.jpg", "IMG_1-edit.jpg")
    assert pairs == {}
    assert len(unused) == 3
