"""Which photos a batch takes, what their files are called, and which clashes are told before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffretouch.batch.plan import Job, Naming, Refusal, UsageError, place, plan


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def sources(folder: Path, entries: list[Job | Refusal]) -> list[str]:
    return [str(entry.source.relative_to(folder)) for entry in entries if isinstance(entry, Job)]


def reasons(entries: list[Job | Refusal]) -> list[str]:
    return [entry.reason for entry in entries if isinstance(entry, Refusal)]


def test_a_folder_gives_its_photos_by_name_and_nothing_else(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.png", "c.dng", "notes.txt", ".hidden.jpg", "sub/d.jpg", ".cache/e.jpg")
    assert sources(tmp_path, plan([tmp_path], Naming(tmp_path / "out"))) == ["a.png", "b.JPG", "c.dng"]


def test_recursive_repeats_the_tree_of_folders(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jpg", "day/a.jpg", "day/night/a.jpg")
    jobs = plan([tmp_path / "in"], Naming(tmp_path / "out", variants=1, compare=True), recursive=True)
    made = [[str(target.relative_to(tmp_path / "out")) for target in job.targets] for job in jobs]
    assert made == [
        ["a-retouched.jpg", "a-variant-1.jpg", "a-compare.jpg"],
        ["day/a-retouched.jpg", "day/a-variant-1.jpg", "day/a-compare.jpg"],
        ["day/night/a-retouched.jpg", "day/night/a-variant-1.jpg", "day/night/a-compare.jpg"],
    ]


def test_the_output_inside_of_the_input_holds_no_photos(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "out/old.jpg")
    assert sources(tmp_path, plan([tmp_path], Naming(tmp_path / "out"), recursive=True)) == ["a.jpg"]


def test_the_files_of_an_earlier_run_are_no_photos_of_the_next(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a-retouched.jpg")
    entries = plan([tmp_path], Naming(tmp_path), overwrite=True)
    assert sources(tmp_path, entries) == ["a.jpg"]


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("{stem}{suffix}", ["x.JPEG", "x.tif"]),
        ("{stem}-{kind}.png", ["x-JPEG.png", "x-nef.png"]),
        ("shoot-{number:03}.tif", ["shoot-001.tif", "shoot-002.tif"]),
    ],
)
def test_a_template_names_the_retouch(tmp_path: Path, template: str, made: list[str]) -> None:
    touch(tmp_path, "x.JPEG", "x.nef")
    jobs = plan([tmp_path], Naming(tmp_path / "out", template))
    assert [job.retouched.name for job in jobs] == made


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{stem", "`name` has to hold no other fields than {stem}, {suffix}, {kind}, {number}, got {stem"),
        (
            "{camera}.jpg",
            "`name` has to hold no other fields than {stem}, {suffix}, {kind}, {number}, got {camera}.jpg",
        ),
        ("{}.jpg", "`name` has to hold no other fields"),
        ("{stem.__class__}.jpg", "`name` has to hold no other fields"),
        ("{stem:d}.jpg", "`name` has to hold no other fields"),
        ("{stem}", "`name` has to end in .jpg"),
        ("../{stem}.jpg", "`name` has to give the name of a file, without folders, got ../a.jpg"),
    ],
)
def test_a_bad_template_is_refused(tmp_path: Path, template: str, message: str) -> None:
    touch(tmp_path, "a.jpg")
    with pytest.raises(UsageError) as error:
        plan([tmp_path], Naming(tmp_path / "out", template))
    assert message in str(error.value)


def test_a_format_is_that_of_every_file_of_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "x.JPEG", "y.nef")
    for template, made in (
        (None, ["x-retouched.webp", "y-retouched.webp"]),
        ("{number}{suffix}", ["1.webp", "2.webp"]),
    ):
        jobs = plan([tmp_path], Naming(tmp_path / "out", template, variants=1, format="webp"))
        assert [job.retouched.name for job in jobs] == made
        assert {target.suffix for job in jobs for target in job.targets} == {".webp"}


@pytest.mark.parametrize(
    ("output", "template", "format", "message"),
    [
        ("out", None, "bmp", "`format` has to be one of jpg, jpeg, jpe, jfif, png, webp, tif"),
        ("out", None, ".png", "got .png"),
        ("out", "{stem}.jpg", "png", "`name` has to end in {suffix} where there is a `format`, got {stem}.jpg"),
        ("b.jpg", None, "png", "`format` has to be left out where `output` is a file, got png and"),
    ],
)
def test_a_bad_format_is_refused(tmp_path: Path, output: str, template: str | None, format: str, message: str) -> None:
    touch(tmp_path, "a.jpg")
    with pytest.raises(UsageError) as error:
        plan([tmp_path / "a.jpg"], Naming(tmp_path / output, template, format=format))
    assert message in str(error.value)


def test_looks_are_named_by_templates_of_whole_paths(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    naming = Naming(tmp_path / "out", extras={"cube": f"{tmp_path}/luts/{{stem}}.cube"})
    made = [job.extras["cube"].relative_to(tmp_path) for job in plan([tmp_path], naming)]
    assert made == [Path("luts/a.cube"), Path("luts/b.cube")]
    clash = plan([tmp_path], Naming(tmp_path / "out", extras={"look": f"{tmp_path}/one.safetensors"}))
    assert reasons(clash) == [
        f"{tmp_path}/a.jpg and {tmp_path}/b.jpg would both be written to {tmp_path}/one.safetensors"
    ]


def test_a_clash_inside_of_a_folder_costs_one_photo(tmp_path: Path) -> None:
    touch(tmp_path, "a.gif", "a.jpg", "a.nef", "b.jpg")
    touch(tmp_path / "out", "b.tif")
    entries = plan([tmp_path], Naming(tmp_path / "out", "{stem}.tif"))
    assert sources(tmp_path, entries) == ["a.jpg"]
    assert reasons(entries) == [
        f"{tmp_path}/a.jpg and {tmp_path}/a.nef would both be written to {tmp_path}/out/a.tif",
        f"{tmp_path}/out/b.tif exists; choose another output or pass --overwrite",
    ]


def test_a_link_back_up_is_one_line_and_the_rest_is_found(tmp_path: Path) -> None:
    touch(tmp_path / "in", "deep/a.jpg", "b.jpg")
    (tmp_path / "in" / "deep" / "again").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self.jpg").symlink_to(tmp_path / "in" / "self.jpg")
    entries = plan([tmp_path / "in"], Naming(tmp_path / "out"), recursive=True)
    assert sources(tmp_path / "in", entries) == ["b.jpg", "deep/a.jpg", "self.jpg"]
    assert reasons(entries) == [f"cannot open {tmp_path}/in/deep/again: it is a link back to {tmp_path}/in"]


def test_a_name_longer_than_names_can_be_is_no_folder(tmp_path: Path) -> None:
    (job,) = plan([tmp_path / ("a" * 300 + ".jpg")], Naming(tmp_path / "out"))
    assert job.source.stem == "a" * 300


def test_a_linked_folder_is_followed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "a.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (job,) = plan([tmp_path / "in"], Naming(tmp_path / "out"), recursive=True)
    assert job.retouched == tmp_path / "out" / "linked" / "a-retouched.jpg"


def test_a_folder_without_photos_says_what_may_be_missing(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.jpg")
    entries = plan([tmp_path], Naming(tmp_path / "out"))
    assert reasons(entries) == [
        f"cannot open {tmp_path}: it is a folder without photos (pass --recursive to look into its folders)"
    ]


def test_addresses_are_places_and_file_addresses_are_paths() -> None:
    assert place("file:///shoot/a.jpg") == Path("/shoot/a.jpg")
    assert str(place("memory://shoot/a.jpg")) == "memory://shoot/a.jpg"
    with pytest.raises(UsageError, match="cannot use nonsense://a"):
        place("nonsense://a")


def test_photos_of_a_store_are_planned_like_files() -> None:
    shoot = place("memory://plan-shoot")
    for name in ("a.jpg", "day/b.png"):
        (shoot / name).parent.mkdir(parents=True, exist_ok=True)
        (shoot / name).write_bytes(b"photo")
    jobs = plan([shoot], Naming(place("memory://plan-out")), recursive=True)
    assert [str(job.retouched) for job in jobs] == [
        "memory://plan-out/a-retouched.jpg",
        "memory://plan-out/day/b-retouched.png",
    ]
    jobs[0].retouched.parent.mkdir(parents=True, exist_ok=True)
    jobs[0].retouched.write_bytes(b"precious")
    assert len(reasons(plan([shoot], Naming(place("memory://plan-out"))))) == 1
