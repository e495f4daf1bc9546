"""Reports: self-contained, escaped, readable by everyone; sheets come apart as they were put together."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from diffretouch import report

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Every element with its attributes; fails on a tag that is closed out of turn."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def flat(*colour: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.tile(np.uint8(colour), (height, width, 1))


# ---- sheets ---------------------------------------------------------------------------------------------------------


def test_a_sheet_comes_apart_into_the_pictures_it_was_made_of(tmp_path: Path) -> None:
    sheet = {
        "wide/ünïcode#0": {"input": flat(255, 0, 0), "c = 0": flat(0, 0, 255), "target A": flat(0, 255, 0)},
        "tall": {"input": flat(10, 200, 90, height=33, width=21)},
    }
    report.save_sheet(tmp_path / "sheet.jpg", sheet)
    again = report.load_sheet(tmp_path / "sheet.jpg")
    assert {photo: list(pictures) for photo, pictures in again.items()} == {p: list(s) for p, s in sheet.items()}
    for photo, pictures in sheet.items():
        for name, picture in pictures.items():
            # Saturated neighbours: a cell that is no whole number of JPEG blocks would bleed by far more.
            np.testing.assert_allclose(again[photo][name], picture, atol=4)


@pytest.mark.parametrize("content", [b"", b"no picture at all"])
def test_a_file_that_is_no_picture_is_an_os_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sheet.jpg").write_bytes(content)
    with pytest.raises(OSError):
        report.load_sheet(tmp_path / "sheet.jpg")


@pytest.mark.parametrize("comment", [b"", b"no JSON", b'{"photo": 1}', b'[{"photo": "x"}]', b"7"])
def test_a_picture_that_is_no_sheet_is_named(tmp_path: Path, comment: bytes) -> None:
    PIL.Image.fromarray(flat(1, 2, 3)).save(tmp_path / "photo.jpg", comment=comment)
    with pytest.raises(ValueError, match=r"`path` has to be a sheet of pictures, got .*photo.jpg"):
        report.load_sheet(tmp_path / "photo.jpg")


def test_a_truncated_sheet_is_an_os_error(tmp_path: Path) -> None:
    path = tmp_path / "sheet.jpg"
    report.save_sheet(path, {"x": {"input": np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)}})
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(OSError):
        report.load_sheet(path)


# ---- the page -------------------------------------------------------------------------------------------------------

EVIL = "<script src=https://x.test/a.js>\"'&"


def full_page(text: str = "text") -> str:
    line = [(0.0, 1.0), (1.0, 2.0)]
    picture = flat(9, 9, 9)
    return report.page(
        text,
        text,
        [
            report.section(text, report.paragraph(text), report.heading(text), note=text),
            report.key_figures([(text, text, text)]),
            report.table(text, [text, text], [[text, text]], strong=[0]),
            report.heat_table(text, [text, text], {text: [1.0]}),
            report.tiles([report.pair(report.figure(picture, text, text), report.figure(picture, text))]),
            report.strip([report.figure(picture, text, text)]),
            report.charts([report.line_chart(text, {text: line}, text, text)]),
        ],
    )


def test_a_page_asks_nobody_for_anything() -> None:
    html = full_page()
    page = Page(html)
    assert [image["src"].partition(",")[0] for image in page.all("img")] == ["data:image/jpeg;base64"] * 3
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert not re.search(r"https?:|url\(|@import", re.sub(r"base64,[^\"]*", "", html))
    (policy,) = (m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_every_text_is_escaped() -> None:
    page = Page(full_page(EVIL))
    assert not page.all("script")
    assert page.text.count(EVIL) > 15  # it arrives as text, and every tag is still closed in turn
    assert all(image["alt"] == EVIL for image in page.all("img"))


def test_a_page_is_made_for_phones_dark_rooms_and_screen_readers() -> None:
    page = Page(full_page())
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert "prefers-color-scheme:dark" in page.text and "color-scheme:light dark" in page.text
    assert all(image["alt"] and image["width"] == "30" and image["height"] == "20" for image in page.all("img"))
    for region in (a for a in page.all("div") if a.get("class") == "scroll"):
        assert region["tabindex"] == "0" and region["aria-label"]  # a table scrolls by keyboard too
    (chart,) = page.all("svg")
    assert chart["role"] == "img" and chart["aria-label"] == "text: text from 1 to 2."


def test_a_report_replaces_an_older_one_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    report.write_report(path, "one", "", [])
    with pytest.raises(RuntimeError):
        report.write_report(path, "two", "", (part for part in iter(failing, None)))
    assert "<h1>one</h1>" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def failing() -> str:
    raise RuntimeError


# ---- tables and charts ----------------------------------------------------------------------------------------------


def test_the_heat_of_a_cell_is_its_size_beside_the_largest() -> None:
    html = report.heat_table("t", ["slider", "a", "b", "c"], {"x": [2.0, -1.0, None], "y": [0.0, 0.5, 0.5]})
    assert re.findall(r'class="(\w+)" style="--share:(\d+)%">([^<]*)<', html) == [
        ("heat", "100", "+2.00"),
        ("cold", "50", "-1.00"),
        ("heat", "0", "+0.00"),
        ("heat", "25", "+0.50"),
        ("heat", "25", "+0.50"),
    ]
    assert html.count("<td>-</td>") == 1
    report.heat_table("t", ["slider", "a"], {"x": [0.0]})  # nothing moves anything: no division by zero


def points(html: str) -> list[np.ndarray]:
    return [
        np.asarray([[float(n) for n in point.split(",")] for point in line.split()])
        for line in re.findall(r'points="([^"]*)"', html)
    ]


@pytest.mark.parametrize(
    "line",
    [
        [(5.0, 3.0)],
        [(0.0, 0.0), (1.0, 0.0)],
        [(-1.0, -7.0), (1.0, -7.5)],
        [(1.0, 1e-9), (1e6, 1e9)],
        [(n, 1.0) for n in range(100)] + [(100, 1e6)],
    ],
)
def test_lines_stay_inside_their_frame(line: list[tuple[float, float]]) -> None:
    (drawn,) = points(report.line_chart("t", {"a": line}, "x", "y"))
    assert len(drawn) == len(line)
    assert (drawn >= 0).all() and (drawn <= [440, 260]).all()


def test_a_spike_does_not_flatten_the_rest() -> None:
    line = [(float(n), 1.0 + n / 100) for n in range(100)]
    spiked = [*line[:50], (50.0, 1000.0), *line[51:]]
    heights = [
        np.ptp(np.delete(points(report.line_chart("t", {"a": one}, "x", "y"))[0][:, 1], 50)) for one in (line, spiked)
    ]
    assert heights[1] > 0.8 * heights[0]


def test_larger_is_further_up_and_later_further_right() -> None:
    (drawn,) = points(report.line_chart("t", {"a": [(0, 1.0), (10, 2.0), (20, 4.0)]}, "x", "y"))
    assert (np.diff(drawn[:, 0]) > 0).all() and (np.diff(drawn[:, 1]) < 0).all()
    assert np.diff(drawn[:, 1])[1] == pytest.approx(2 * np.diff(drawn[:, 1])[0], abs=0.2)


def test_lines_without_points_are_left_out_and_a_chart_without_lines_too() -> None:
    assert report.line_chart("t", {"a": [], "b": []}, "x", "y") == ""
    html = report.line_chart("t", {"a": [], "b": [(0, 1.0)]}, "x", "y")
    assert len(points(html)) == 1 and "b <b>1</b>" in html


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (3, 9.7, [2, 4, 6, 8, 10]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 6000, [0, 2000, 4000, 6000]),
    ],
)
def test_ticks_are_round_numbers_around_the_values(low: float, high: float, expected: list[float]) -> None:
    assert report.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-12, 1e12])
def test_a_flat_line_has_an_axis_too(value: float) -> None:
    ticks = report.ticks(value, value)
    assert len(ticks) >= 2 and ticks[0] <= value <= ticks[-1] and ticks[0] < ticks[-1]
