"""The contact sheets: which photo goes on which is decided by numbers, and every row is made by the model."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import contact_sheets  # noqa: E402


def noise(low: int, high: int) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (60, 80, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (np.ascontiguousarray(astronaut()[:300, 80:380]), ["people"]),
        (noise(0, 60), ["night"]),
        (noise(190, 256), ["high-key"]),
        (noise(60, 190)[..., :1].repeat(3, 2), ["black-and-white"]),
        (noise(0, 256), []),
    ],
)
def test_a_photo_goes_on_the_sheets_of_its_kind(pixels: np.ndarray, kind: list[str]) -> None:
    assert contact_sheets.kinds(pixels) == kind


def test_a_face_in_colours_of_no_skin_is_no_person() -> None:
    blue = np.ascontiguousarray(astronaut()[:300, 80:380, ::-1])
    assert contact_sheets.kinds(blue) == []


def test_every_kind_has_its_sheet_and_a_broken_file_costs_none(tmp_path, capsys) -> None:
    (tmp_path / "photos").mkdir()
    for number, pixels in enumerate((noise(0, 60), noise(60, 190), noise(0, 256))):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "3.png").write_bytes(b"no picture")
    contact_sheets.main([str(tmp_path / "photos"), "-o", str(tmp_path / "out"), "--every", "2"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["finished.jpg", "night.jpg"]
    assert "left out" in capsys.readouterr().out
    with (
        Image.open(tmp_path / "out" / "night.jpg") as night,
        Image.open(tmp_path / "out" / "finished.jpg") as finished,
    ):
        assert night.width == finished.width == 5 * 80 and finished.height == 2 * night.height
