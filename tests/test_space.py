"""The Space: its page in a real browser, its endpoints through the real client, its limits, its habits."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from hub_server import HubServer
from huggingface_hub import metadata_load
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from PIL import Image, ImageCms

from diffretouch import BUNDLED_MODEL, AffineGrid, DiffRetouchPipeline, open_photo
from diffretouch.attributes import ATTRIBUTES
from diffretouch.look.match import tones

SPACE = Path(__file__).parent.parent / "space"
EXAMPLES = Path(__file__).parent.parent / "examples"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
GPS_TAG, ARTIST_TAG = 0x8825, 0x013B

sys.path.insert(0, str(SPACE))  # the Space's modules lie beside each other, as on the Hub

import tabs  # noqa: E402
from editor import Editor, Refused, Workroom  # noqa: E402
from settings import Settings, read_settings  # noqa: E402
from styles import find_style  # noqa: E402
from visitors import TooMany, Visitors  # noqa: E402

# ---- a running page ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(folder: Path, **settings: str) -> Iterator[str]:
    """The page, served as on the Hub: by `python app.py` in a process of its own.

    Whatever its visitors got wrong, its log has no traceback at the end.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        **{f"DIFFRETOUCH_{name.upper()}": value for name, value in settings.items()},
        "SPACE_ID": "me/my-space",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "files"),
        "DIFFRETOUCH_ALLOW_FOLDERS": "0",
    }
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=SPACE, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(1200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
                break
            assert process.poll() is None, (folder / "log.txt").read_text()
            time.sleep(0.1)
        else:
            raise AssertionError("the page did not start within two minutes")
        yield f"http://127.0.0.1:{port}"
        log = (folder / "log.txt").read_text()
        assert process.poll() is None, log
        assert "Traceback" not in log, log
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(
        tmp_path_factory.mktemp("space"), max_megapixels="3", max_batch_files="3", max_per_minute="100000"
    ) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: the page is not tested in a browser")
    sync_api = pytest.importorskip("playwright.sync_api")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    arguments += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """The page in a fresh browser profile; fails the test if it asks any other host or a script fails."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    tab = context.new_page()
    tab.set_default_timeout(120_000)  # a machine at work for others takes its time
    asked: list[str] = []
    failures: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: failures.append(str(error)))
    tab.goto(url, wait_until="domcontentloaded")
    tab.wait_for_selector("#photo input[type=file]", state="attached")
    yield tab
    context.close()
    assert not failures
    assert [address for address in asked if not address.startswith((url, "data:", "blob:"))] == []


def upload(page: Any, path: Path) -> None:
    page.set_input_files("#photo input[type=file]", path)
    page.wait_for_selector("#compare img")
    page.wait_for_function("document.querySelectorAll('#compare img').length == 2")


def clear(page: Any) -> None:
    """Take the photo away, and wait until its pictures are gone too."""
    page.click("#photo button[aria-label='Clear']")
    page.wait_for_function("document.querySelectorAll('#compare img').length == 0")


def pictures(page: Any) -> list[str]:
    """Addresses of the before and the after picture."""
    return [image.get_attribute("src") for image in page.query_selector_all("#compare img")]


def pixels_of(page: Any, address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.request.get(address).body())).convert("RGB")).astype(float)


def changed(page: Any, act: Callable[[], Any]) -> str:
    """Do something and wait for another after picture; its address."""
    old = pictures(page)[1]
    act()
    page.wait_for_function("old => document.querySelectorAll('#compare img')[1]?.getAttribute('src') != old", arg=old)
    return pictures(page)[1]


def wait_for_picture(page: Any, is_it: Callable[[np.ndarray], bool]) -> None:
    """Until the after picture is the one meant."""
    deadline = time.monotonic() + 120
    while not is_it(pixels_of(page, pictures(page)[1])):
        assert time.monotonic() < deadline, "the picture did not come"
        page.wait_for_timeout(200)


def set_slider(page: Any, name: str, value: float) -> None:
    """As a visitor types it into the slider's number field."""
    field = page.locator(f"#{name} input[type=number]")
    field.fill(str(value))
    field.press("Enter")
    field.blur()


def press_until(page: Any, act: Callable[[], Any], done: Callable[[], bool]) -> None:
    """As a visitor does who presses again when nothing comes: on a busy machine the page can miss a first press."""
    for _ in range(4):
        act()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if done():
                return
            page.wait_for_timeout(200)
    raise AssertionError(f"nothing came; told {page.locator('.toast-wrap').all_inner_texts()}")


def show_variants(page: Any, number: int) -> None:
    def act() -> None:
        set_slider(page, "variants-count", number)
        page.click("#variants-go")

    press_until(page, act, lambda: page.locator("#variants img").count() == number)


@pytest.fixture(scope="module")
def phone_photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG as a phone writes it: lying on its side, with EXIF, GPS and a wide profile's bytes."""
    exif = Image.Exif()
    exif[ARTIST_TAG] = "Somebody"
    exif[0x0112] = 6
    exif.get_ifd(GPS_TAG)[2] = (52.0, 31.0, 12.0)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path_factory.mktemp("photo") / "IMG_1234.jpg"
    picture = Image.open(EXAMPLES / "horses.jpg").convert("RGB").transpose(Image.Transpose.ROTATE_90)
    picture.save(path, quality=95, exif=exif, icc_profile=profile)
    return path


def dim(picture: np.ndarray) -> np.ndarray:
    """A fixed edit: darker and warmer."""
    return np.round(picture * np.array([0.75, 0.65, 0.5])).astype(np.uint8)


@pytest.fixture(scope="module")
def edited_pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """Two photos before and after `dim`, one pair that does not belong together, one photo without a partner."""
    folder, before, after = tmp_path_factory.mktemp("pairs"), [], []
    for name, edited in (("horses", "horses"), ("photo", "photo"), ("bee", "musician")):
        before.append(EXAMPLES / f"{name}.jpg")
        after.append(folder / f"{name}-edit.png")
        Image.fromarray(dim(np.asarray(Image.open(EXAMPLES / f"{edited}.jpg").convert("RGB")))).save(after[-1])
    return [*before, EXAMPLES / "memorial.jpg"], after


# ---- in the browser ------------------------------------------------------------------------------------------------


def test_the_downloaded_file_keeps_size_exif_and_profile_and_has_the_librarys_pixels(page, phone_photo, tmp_path):
    upload(page, phone_photo)
    changed(page, lambda: set_slider(page, "brightness", 1.0))
    page.click("#prepare")
    page.wait_for_selector("#save")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "IMG_1234-retouched.jpg"
    saved = tmp_path / "saved.jpg"
    download.value.save_as(saved)

    before, after = open_photo(phone_photo), open_photo(saved)
    assert after.pixels.shape == before.pixels.shape == (664, 1024, 3)
    assert after.icc_profile == before.icc_profile is not None
    exif = Image.open(saved).getexif()
    assert exif[ARTIST_TAG] == "Somebody" and exif.get(0x0112, 1) == 1 and exif.get_ifd(GPS_TAG)
    pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)
    pipe.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(0)
    (wanted,) = pipe(before.pixels, brightness=1.0, generator=seed, output_type="np").images
    difference = np.abs(after.pixels / 255 - wanted)
    assert difference.mean() < 0.006 and np.abs(before.pixels / 255 - wanted).mean() > 0.03  # JPEG's own loss, no more


def test_every_slider_moves_the_picture_and_a_double_click_sets_it_back(page):
    upload(page, EXAMPLES / "horses.jpg")
    neutral = pixels_of(page, pictures(page)[1])
    dark = pixels_of(page, changed(page, lambda: set_slider(page, "brightness", -1)))
    assert dark.mean() < neutral.mean() - 2
    page.locator("#brightness input[type=range]").dblclick()
    page.wait_for_function("document.querySelector('#brightness input[type=range]').value == '0'")
    wait_for_picture(page, lambda picture: np.array_equal(picture, neutral))


def test_the_keyboard_moves_a_slider(page):
    upload(page, EXAMPLES / "horses.jpg")
    cool = pixels_of(page, pictures(page)[1])
    page.locator("#temperature input[type=range]").focus()
    warm = pixels_of(page, changed(page, lambda: page.keyboard.press("End")))
    assert (warm[..., 0] - warm[..., 2]).mean() > (cool[..., 0] - cool[..., 2]).mean() + 5


def test_of_several_quick_changes_the_newest_wins(page):
    upload(page, EXAMPLES / "horses.jpg")
    alone = pixels_of(page, changed(page, lambda: set_slider(page, "brightness", 0.9)))
    changed(page, lambda: page.click("#reset"))
    for value in (-1, -0.5, 0.3, 0.9):
        set_slider(page, "brightness", value)
    wait_for_picture(page, lambda picture: np.array_equal(picture, alone))
    page.wait_for_timeout(2000)  # for an older one that comes later
    assert np.array_equal(pixels_of(page, pictures(page)[1]), alone)


def test_pictures_have_alt_texts_and_controls_have_names(page):
    upload(page, EXAMPLES / "bee.jpg")
    page.wait_for_function("[...document.querySelectorAll('#compare img')].every(image => image.alt)")
    alts = [image.get_attribute("alt") for image in page.query_selector_all("#compare img, #examples img")]
    assert len(set(alts)) == 2 + len(list(EXAMPLES.glob("*.jpg")))
    for knob in page.query_selector_all(".retouch-slider input"):
        assert knob.get_attribute("aria-label")


def test_strength_zero_shows_the_photo_itself(page):
    upload(page, EXAMPLES / "bee.jpg")
    after = pixels_of(page, changed(page, lambda: set_slider(page, "strength", 0)))
    assert np.array_equal(after, pixels_of(page, pictures(page)[0]))


def test_dice_rolls_a_seed_and_a_locked_seed_survives_the_next_photo(page):
    upload(page, EXAMPLES / "bee.jpg")
    changed(page, lambda: page.click("#dice"))
    seed = page.input_value("#seed input")
    page.check("#lock input")
    clear(page)
    upload(page, EXAMPLES / "horses.jpg")
    assert page.input_value("#seed input") == seed
    page.uncheck("#lock input")
    clear(page)
    upload(page, EXAMPLES / "bee.jpg")
    page.wait_for_function("document.querySelector('#seed input').value == '0'")


def test_a_variant_that_is_clicked_is_edited_on(page):
    upload(page, EXAMPLES / "bee.jpg")
    page.get_by_role("tab", name="Variants").click()
    show_variants(page, 3)
    third = page.query_selector_all("#variants img")[2].get_attribute("src")
    page.locator("#variants .thumbnail-item").nth(2).click()
    page.wait_for_selector("#compare")
    page.wait_for_function("document.querySelector('#seed input').value == '2'")
    wanted = pixels_of(page, third)
    wait_for_picture(page, lambda picture: np.abs(wanted - picture).max() <= 2)


def test_a_batch_returns_every_good_photo_and_names_the_bad_one(page, tmp_path):
    (tmp_path / "notes.jpg").write_text("no photo")
    page.get_by_role("tab", name="Batch").click()
    files = [EXAMPLES / "bee.jpg", tmp_path / "notes.jpg", EXAMPLES / "cinema.jpg"]
    page.set_input_files("#batch-files input[type=file]", files)
    page.wait_for_function("document.querySelectorAll('#batch-files tr.file').length == 3")
    page.click("#batch-go")
    page.wait_for_selector("#batch-zip a")
    with page.expect_download() as download:
        page.locator("#batch-zip a").first.click()
    archive = zipfile.ZipFile(download.value.path())
    assert sorted(archive.namelist()) == ["bee-retouched.jpg", "cinema-retouched.jpg", "report.json"]
    assert Image.open(archive.open("cinema-retouched.jpg")).size == (480, 360)
    report = {row["file"]: row for row in json.loads(archive.read("report.json"))}
    assert report["bee.jpg"]["error"] is None
    assert report["notes.jpg"]["error"].startswith("cannot open notes.jpg: ")


def test_a_look_goes_from_one_photo_to_another(page, tmp_path):
    upload(page, EXAMPLES / "bee.jpg")
    changed(page, lambda: set_slider(page, "temperature", 1))
    page.get_by_role("button", name="Looks").click()
    page.click("#look-save")
    page.wait_for_selector("#look-files a")
    paths = []
    for link in page.locator("#look-files a").all():
        with page.expect_download() as download:
            link.click()
        paths.append(tmp_path / download.value.suggested_filename)
        download.value.save_as(paths[-1])
    look_file = next(path for path in paths if path.suffix == ".safetensors")
    cube = next(path for path in paths if path.suffix == ".cube")
    assert "LUT_3D_SIZE 33" in cube.read_text()

    clear(page)
    upload(page, EXAMPLES / "horses.jpg")
    shown = pixels_of(page, changed(page, lambda: page.set_input_files("#look-load input[type=file]", look_file)))
    wanted = AffineGrid.load(look_file).apply(Image.open(EXAMPLES / "horses.jpg").convert("RGB"))
    assert np.abs(shown - np.asarray(wanted)).mean() < 3  # the preview is a JPEG
    assert "bee-look.safetensors" in page.inner_text("#note")


def test_a_photo_is_made_to_look_like_another(page):
    upload(page, EXAMPLES / "horses.jpg")
    page.get_by_role("button", name="Make it look like this").click()
    page.set_input_files("#match-file input[type=file]", EXAMPLES / "photo.jpg")
    page.wait_for_selector("#match-file tr.file")
    changed(page, lambda: page.click("#match-go"))
    assert "Delta E apart" in page.inner_text("#match-line")
    values = [float(page.input_value(f"#{name} input[type=number]")) for name in ATTRIBUTES]
    assert any(values) and all(-1 <= value <= 1 for value in values)
    apart = [tones(pixels_of(page, address)[::4, ::4] / 255) for address in pictures(page)]
    wanted = tones(np.asarray(Image.open(EXAMPLES / "photo.jpg").convert("RGB"))[::4, ::4] / 255)
    assert apart[1].distance(wanted) < 0.8 * apart[0].distance(wanted)


def test_a_style_is_found_from_pairs_and_applied_to_a_batch(page, edited_pairs, tmp_path):
    before, after = edited_pairs[0][:3], edited_pairs[1]  # as many as a batch of this page may have
    page.get_by_role("tab", name="My style").click()
    page.set_input_files("#style-before input[type=file]", before)
    page.set_input_files("#style-after input[type=file]", after)
    for side, files in (("before", before), ("after", after)):
        page.wait_for_function(
            "([side, n]) => document.querySelectorAll(`#style-${side} tr.file`).length == n", arg=[side, len(files)]
        )
    page.click("#style-go")
    page.wait_for_selector("#style-files a")
    assert "the look comes within" in page.inner_text("#style-told")
    assert "horses.jpg → horses-edit.png" in page.inner_text("#style-pairs")
    page.click("#style-use")
    page.set_input_files("#batch-files input[type=file]", EXAMPLES / "cinema.jpg")
    page.wait_for_function("document.querySelectorAll('#batch-files tr.file').length == 1")
    page.click("#batch-go")
    page.wait_for_selector("#batch-zip a")
    with page.expect_download() as download:
        page.locator("#batch-zip a").first.click()
    archive = zipfile.ZipFile(download.value.path())
    made = np.asarray(Image.open(archive.open("cinema-retouched.jpg")), float)
    wanted = dim(np.asarray(Image.open(EXAMPLES / "cinema.jpg").convert("RGB"))).astype(float)
    assert np.abs(made - wanted).mean() < 4


def test_what_the_library_refuses_is_a_toast_in_its_own_words_and_the_page_goes_on(page, tmp_path):
    bad = tmp_path / "page.jpg"
    bad.write_text("<html><script>alert(1)</script></html>")
    page.set_input_files("#photo input[type=file]", bad)
    page.wait_for_selector(".toast-body")
    assert "cannot open page.jpg: it is not a" in page.inner_text(".toast-body")
    clear(page)
    upload(page, EXAMPLES / "bee.jpg")


def test_a_model_that_does_not_load_leaves_the_old_one_working(page):
    upload(page, EXAMPLES / "bee.jpg")
    page.get_by_role("button", name="Model").click()
    field = page.locator("#model textarea, #model input")

    def act() -> None:
        field.fill("/etc")
        field.blur()
        page.click("#model-load")

    press_until(page, act, lambda: page.locator(".toast-body").count() > 0)
    assert "Hub id" in page.locator(".toast-body").first.inner_text()
    changed(page, lambda: set_slider(page, "contrast", 1))


# ---- for programs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False)


def ask(client: Client, photo: Path, **changes: Any) -> str:
    arguments = {**dict.fromkeys(ATTRIBUTES, 0.0), "strength": 1.0, "seed": 0, "remove_gps": False, **changes}
    return client.predict(handle_file(photo), **arguments, api_name="/retouch")


def test_clients_at_once_each_get_the_retouch_of_their_own_photo(url):
    names = [path.name for path in sorted(EXAMPLES.glob("*.jpg"))]

    def retouch(name: str) -> tuple[str, tuple[int, int]]:
        with Image.open(ask(Client(url, verbose=False), EXAMPLES / name)) as result:
            return name, result.size

    with ThreadPoolExecutor(len(names)) as pool:
        sizes = dict(pool.map(retouch, names))
    assert sizes == {name: Image.open(EXAMPLES / name).size for name in names}


def test_the_place_is_removed_on_request_and_the_rest_stays(client, phone_photo):
    exif = Image.open(ask(client, phone_photo, remove_gps=True)).getexif()
    assert not exif.get_ifd(GPS_TAG) and exif[ARTIST_TAG] == "Somebody"


def test_sixteen_bits_stay_sixteen_bits(client, tmp_path):
    import tifffile

    rng = np.random.default_rng(0)
    tifffile.imwrite(tmp_path / "deep.tif", rng.integers(0, 65536, (40, 60, 3), dtype=np.uint16), photometric="rgb")
    result = Path(ask(client, tmp_path / "deep.tif"))
    assert result.name == "deep-retouched.tif"
    assert open_photo(result).pixels.dtype == np.uint16


def test_a_look_made_by_the_api_applies_to_another_photo(client):
    sliders = dict.fromkeys(ATTRIBUTES, 0.5)
    look = client.predict(handle_file(EXAMPLES / "bee.jpg"), **sliders, seed=3, api_name="/look")
    photo = handle_file(EXAMPLES / "cinema.jpg")
    result = client.predict(photo, handle_file(look), strength=1.0, remove_gps=False, api_name="/apply_look")
    wanted = AffineGrid.load(look).apply(open_photo(EXAMPLES / "cinema.jpg").pixels)
    assert np.abs(open_photo(result).pixels.astype(float) - wanted).mean() < 3  # JPEG's own loss


def test_a_photo_is_matched_to_an_example_and_told_how_near_it_came(client):
    photo, example = EXAMPLES / "cinema.jpg", EXAMPLES / "bee.jpg"
    result, found = client.predict(handle_file(photo), handle_file(example), remove_gps=False, api_name="/match")
    assert Image.open(result).size == Image.open(photo).size
    assert found["delta_e"]["after"] < found["delta_e"]["before"] and "Delta E apart" in found["nearness"]
    assert all(-1 <= found[name] <= 1 for name in ATTRIBUTES) and 0 < found["strength"] <= 1
    asked = {name: found[name] for name in (*ATTRIBUTES, "strength", "seed")}
    again = open_photo(ask(client, photo, **asked)).pixels  # what was found can be asked for
    assert np.abs(open_photo(result).pixels.astype(float) - again).mean() < 1


def test_an_example_without_tones_is_refused(client, tmp_path):
    Image.new("RGB", (64, 64), (200, 10, 10)).save(tmp_path / "flat.png")
    with pytest.raises(AppError, match="one colour"):
        client.predict(handle_file(EXAMPLES / "bee.jpg"), handle_file(tmp_path / "flat.png"), False, api_name="/match")


def test_measure_returns_the_four_scores(client):
    scores = client.predict(handle_file(EXAMPLES / "bee.jpg"), api_name="/measure")
    assert sorted(scores) == sorted(ATTRIBUTES) and scores["temperature"] > 0


@pytest.mark.parametrize("changes", [{"brightness": 7}, {"strength": 3}, {"seed": -1}, {"contrast": "x"}])
def test_numbers_out_of_range_are_refused_by_name(client, changes):
    (name,) = changes
    with pytest.raises((AppError, ValueError), match="contrast|float|number" if name == "contrast" else name):
        ask(client, EXAMPLES / "bee.jpg", **changes)


def called(url: str, data: str, endpoint: str = "retouch") -> str:
    """What the server sends to a program that knows only HTTP and calls with this JSON list."""
    call = httpx.post(
        f"{url}/gradio_api/call/{endpoint}",
        content=f'{{"data": {data}}}',
        headers={"Content-Type": "application/json"},
        timeout=120,
    )
    assert call.status_code == 200, call.text
    return httpx.get(f"{url}/gradio_api/call/{endpoint}/{call.json()['event_id']}", timeout=120).text


@pytest.fixture(scope="module")
def uploaded(url: str) -> str:
    """A photo that has been uploaded, as JSON."""
    with open(EXAMPLES / "cinema.jpg", "rb") as file:
        path = httpx.post(f"{url}/gradio_api/upload", files={"files": file}, timeout=120).json()[0]
    return json.dumps({"path": path, "meta": {"_type": "gradio.FileData"}})


def test_numbers_as_they_should_be_are_answered(url, uploaded):
    """That what the next test refuses is refused for its numbers, and not for how it is sent."""
    answer = called(url, f"[{uploaded}, 0, 0.3, 0, 0, 1, 0, false]")
    assert "event: complete" in answer and "cinema-retouched.jpg" in answer, answer


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ("0, NaN, 0, 0, 1, 0, false", "`brightness` has to be a number in [-1.5, 1.5], got nan."),
        ("0, 0, Infinity, 0, 1, 0, false", "`contrast` has to be a number in [-1.5, 1.5], got inf."),
        ("null, 0, 0, 0, 1, 0, false", "`colorfulness` has to be a number in [-1.5, 1.5], got NoneType."),
        ("0, 0, 0, 0, null, 0, false", "`strength` has to be a number in [0, 2], got NoneType."),
        ("0, 0, 0, 0, 1, null, false", "`seed` has to be an integer in [0, 4294967295], got None."),
        ("0, 0, 0, 0, 1, 1.5, false", "`seed` has to be an integer in [0, 4294967295], got 1.5."),
        ("0, true, 0, 0, 1, 0, false", "`brightness` has to be a number in [-1.5, 1.5], got bool."),
        ('0, "0.3", 0, 0, 1, 0, false', "`brightness` has to be a number in [-1.5, 1.5], got str."),
        ("0, 0, 0, 0, 1, 0, null", "`remove_gps` has to be true or false, got None."),
        ('0, 0, 0, 0, 1, 0, "no"', "`remove_gps` has to be true or false, got 'no'."),
    ],
)
def test_a_number_that_is_none_is_refused_in_one_sentence_without_an_answer(url, uploaded, numbers, sentence):
    answer = called(url, f"[{uploaded}, {numbers}]")
    assert "event: error" in answer and "event: complete" not in answer, answer
    assert sentence in html.unescape(json.loads(answer.rpartition("data: ")[2])["error"])


@pytest.mark.parametrize("endpoint", ["retouch", "look", "apply_look", "match", "measure"])
def test_a_call_without_a_photo_is_refused_in_one_sentence(url, endpoint):
    numbers = {
        "retouch": ", 0, 0, 0, 0, 1, 0, false",
        "look": ", 0, 0, 0, 0, 0",
        "apply_look": ", null, 1, false",
        "match": ", null, false",
    }
    answer = called(url, f"[null{numbers.get(endpoint, '')}]", endpoint)
    assert "event: error" in answer and "`photo` has to be a file, got none." in answer, answer


def test_the_curl_lines_of_the_readme_are_true_as_they_stand(url, tmp_path):
    readme = (SPACE / "README.md").read_text()
    lines = re.search(r"```sh\n(URL=.*?)```", readme, re.DOTALL)[1]
    shutil.copy(EXAMPLES / "cinema.jpg", tmp_path / "IMG_1234.jpg")
    script = lines.replace("http://127.0.0.1:7860", url)
    assert script != lines and "curl" in script
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "event: complete" in done.stdout, done.stdout + done.stderr
    (file,) = json.loads(done.stdout.rpartition("data: ")[2])
    with Image.open(io.BytesIO(httpx.get(file["url"], timeout=120).content)) as result:
        assert result.size == (480, 360) and file["orig_name"] == "IMG_1234-retouched.jpg"


def test_the_python_lines_of_the_readme_are_true_as_they_stand(url, tmp_path, monkeypatch):
    lines = re.search(r"```python\n(from gradio_client.*?)```", (SPACE / "README.md").read_text(), re.DOTALL)[1]
    for name in ("IMG_1234.jpg", "IMG_1235.jpg", "liked.jpg"):
        shutil.copy(EXAMPLES / "cinema.jpg", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(lines.replace("OWNER/NAME", url), found)
    assert Image.open(found["better"]).size == Image.open(found["other"]).size == (480, 360)
    assert Image.open(found["alike"]).size == (480, 360) and found["found"]["seed"] >= 0
    assert AffineGrid.load(found["look"]) and sorted(found["scores"]) == sorted(ATTRIBUTES)


@pytest.mark.parametrize("kind", ["empty", "truncated", "html", "svg", "huge", "bomb"])
def test_bad_files_are_refused_in_one_sentence_without_server_paths(client, tmp_path, kind):
    path = tmp_path / "photo.jpg"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes((EXAMPLES / "bee.jpg").read_bytes()[:20_000])
    elif kind == "html":
        path.write_text("<html><body>hello</body></html>")
    elif kind == "svg":
        path.write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    elif kind == "huge":
        Image.new("RGB", (2000, 1600)).save(path)
    else:
        path = tmp_path / "photo.png"
        Image.new("1", (30_000, 30_000)).save(path)
    with pytest.raises(AppError) as refusal:
        ask(client, path)
    message = str(refusal.value)
    assert path.name in message and "\n" not in message and "/" not in message.replace("</", "")


def test_a_file_of_another_kind_is_no_look(client):
    with pytest.raises(AppError, match="look"):
        photo = handle_file(EXAMPLES / "bee.jpg")
        client.predict(photo, photo, strength=1.0, remove_gps=False, api_name="/apply_look")


def test_only_the_documented_endpoints_are_public(client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert sorted(named) == ["/apply_look", "/look", "/match", "/measure", "/retouch"]


def test_the_schema_says_what_every_endpoint_and_argument_is_its_range_and_its_default(url):
    """As programs and agents read it: the page's list of endpoints, and its OpenAPI description."""
    named = httpx.get(f"{url}/gradio_api/info", timeout=120).json()["named_endpoints"]
    assert len(named) == 5
    for endpoint in named.values():
        assert endpoint["description"]
        for parameter in endpoint["parameters"]:
            name = parameter["parameter_name"]
            assert parameter["parameter_has_default"] == (name not in ("photo", "look", "example"))
            told = parameter["type"].get("description", "")
            ranges = {"strength": "[0, 2]", "seed": "[0, 4294967295]", **dict.fromkeys(ATTRIBUTES, "[-1.5, 1.5]")}
            assert ranges.get(name, "") in told and len(told) > 10, parameter
    defaults = {p["parameter_name"]: p["parameter_default"] for p in named["/retouch"]["parameters"][1:]}
    assert defaults == {**dict.fromkeys(ATTRIBUTES, 0), "strength": 1, "seed": 0, "remove_gps": False}


# ---- agents, and visitors who ask for much -------------------------------------------------------------------------


def test_an_agent_finds_the_endpoints_as_tools_and_every_visitor_has_a_limit(tmp_path):
    """With the client of the Model Context Protocol; the third and further requests of a minute are too many."""
    photo = "data:image/jpeg;base64," + base64.b64encode((EXAMPLES / "cinema.jpg").read_bytes()).decode()

    async def session(address: str) -> None:
        async with (
            streamable_http_client(f"{address}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as agent,
        ):
            await agent.initialize()
            tools = {tool.name.removeprefix("my-space_"): tool for tool in (await agent.list_tools()).tools}
            assert sorted(tools) == ["apply_look", "look", "match", "measure", "retouch"]
            brightness = tools["retouch"].inputSchema["properties"]["brightness"]
            assert (brightness["minimum"], brightness["maximum"]) == (-1.5, 1.5) and tools["retouch"].description
            measure = tools["measure"].name
            refused = await agent.call_tool(measure, {"photo": "data:image/jpeg;base64,AAAA"})
            assert refused.isError and "\n" not in refused.content[0].text, refused
            scores = await agent.call_tool(measure, {"photo": photo})
            assert not scores.isError and all(name in scores.content[0].text for name in ATTRIBUTES), scores
            refused = await agent.call_tool(tools["retouch"].name, {"photo": photo, "brightness": 9})
            assert refused.isError and "1.5" in refused.content[0].text, refused  # by the schema: it is no request yet
            refused = await agent.call_tool(measure, {"photo": photo})
            assert refused.isError, refused
            assert re.search(
                r"A visitor may ask for 2 things in a minute, .* in \d+ seconds\.", refused.content[0].text
            )

    with served(tmp_path, mcp="1", max_per_minute="2") as address, ThreadPoolExecutor(1) as thread:
        thread.submit(anyio.run, session, address).result()  # the browser's tests keep a loop in this one


def test_agents_are_not_served_unless_the_switch_is_on(url):
    assert httpx.post(f"{url}/gradio_api/mcp/", json={}, timeout=120).status_code in (404, 405)


def test_the_switch_without_its_package_is_one_sentence(monkeypatch, capsys):
    import app

    monkeypatch.setenv("DIFFRETOUCH_MCP", "1")
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert app.main() == 2
    assert capsys.readouterr().err == (
        "space: `DIFFRETOUCH_MCP` needs mcp, which is not installed: pip install 'diffretouch[mcp]'\n"
    )


def test_a_visitor_is_admitted_again_a_minute_after_and_others_all_the_time(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    visitors = Visitors(2)
    for seconds in (0, 30):
        now[0] = 1000.0 + seconds
        visitors.admit("a")
    visitors.admit("b")
    now[0] = 1059.5
    with pytest.raises(TooMany, match="for 2 things in a minute, and you have: please go on in 1 seconds"):
        visitors.admit("a")
    now[0] = 1060.0
    visitors.admit("a")
    with pytest.raises(TooMany, match="in 30 seconds"):
        visitors.admit("a")


# ---- without the page ----------------------------------------------------------------------------------------------


def test_results_are_deleted_after_their_time(tmp_path):
    room = Workroom(tmp_path / "results", keep_minutes=10)
    old, new = room.folder(), room.folder()
    (old / "photo.jpg").write_bytes(b"x")
    os.utime(old, (time.time() - 601, time.time() - 601))
    room.clean()
    assert not old.exists() and new.exists()


def test_a_model_that_takes_long_to_load_keeps_nobody_else_waiting(tmp_path):
    models = Editor(Settings(), tmp_path).models
    with ThreadPoolExecutor(1) as pool, models._loading:
        assert pool.submit(models.get, models.default).result(timeout=120)


def test_the_operators_token_opens_private_models_to_the_operator_only(tmp_path):
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from diffretouch import BUNDLED_MODEL
from diffretouch.hub.upload import push
from editor import Models, Refused
from settings import Settings
push(BUNDLED_MODEL, "me/private", private=True)
try:
    Models(Settings(allow_folders=False)).get(("me/private", ""))
except Refused as refusal:
    print(refusal)
print(Models(Settings(model="me/private", allow_folders=False)).default)
"""
    with HubServer({"hf_me": "me"}) as server:
        environment = {**server.environment("hf_me", tmp_path / "home"), "PATH": os.environ["PATH"]}
        command = [sys.executable, "-c", script, str(SPACE)]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stderr
    refused, opened = ran.stdout.splitlines()
    assert "The Hub shows no model me/private to this user" in refused
    assert opened == "('me/private', '')"


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, None, float("nan")])
def test_a_seed_that_is_none_is_refused(tmp_path, seed):
    editor = Editor(Settings(), tmp_path)
    with pytest.raises(Refused, match="`seed` has to be an integer in"):
        editor.looks(editor.models.default, torch.zeros(1, 3, 8, 8), {}, [seed])


def test_a_photo_that_was_deleted_meanwhile_is_asked_for_again(tmp_path):
    editor = Editor(Settings(), tmp_path)
    shutil.copy(EXAMPLES / "cinema.jpg", tmp_path / "mine.jpg")
    opened = editor.open(tmp_path / "mine.jpg", editor.models.default)
    (tmp_path / "mine.jpg").unlink()
    with pytest.raises(Refused, match="upload it again"):
        editor.keep(opened)


def test_a_style_says_what_became_of_every_file(tmp_path, edited_pairs):
    editor = Editor(Settings(max_megapixels=3), tmp_path)
    style = find_style(editor, *([str(path) for path in side] for side in edited_pairs))
    became = dict(style.rows)
    assert became["horses.jpg → horses-edit.png"] == became["photo.jpg → photo-edit.png"] == "used"
    assert became["bee.jpg → bee-edit.png"].startswith("left out: do not show the same")
    assert became["memorial.jpg"] == "left out: it has no partner of its name"
    assert "found from 2 of your pairs" in style.told and "treats photos alike" in style.told
    assert [Path(path).suffix for path in style.files] == [".safetensors", ".cube"]
    _, edit, look = (np.asarray(Image.open(path), float) for path, _ in style.pictures[:3])
    assert np.abs(edit - look).mean() < 4
    assert "/" not in "".join(map(str, style.rows))


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ([], ["bee"], "There are no pairs yet"),
        (["bee"] * 3, ["bee"] * 3, "A style is found from up to 2 pairs here, got 3 files"),
        (["bee", "horses"], ["cinema", "photo"], "No photo has an edited version of its name"),
        (["bee"], ["bee"], "^bee.jpg and bee.jpg are the same picture"),
        (["bee"], ["horses"], "^bee.jpg and horses.jpg do not show the same"),
        (["photo"], ["bee"], "^cannot open photo.jpg: it has 1920 x 1080 pixels, more than"),
    ],
)
def test_pairs_that_tell_of_no_style_are_refused_in_a_sentence(tmp_path, before, after, sentence):
    editor = Editor(Settings(max_batch_files=2, max_megapixels=1), tmp_path)
    sides = ([str(EXAMPLES / f"{name}.jpg") for name in side] for side in (before, after))
    with pytest.raises(Refused, match=sentence):
        find_style(editor, *sides)


def test_a_reference_that_is_none_is_refused_in_a_sentence(tmp_path):
    editor = Editor(Settings(), tmp_path)
    opened = editor.open(EXAMPLES / "cinema.jpg", editor.models.default)
    Image.new("RGB", (64, 64), "white").save(tmp_path / "white.png")
    with pytest.raises(Refused, match="`reference` has to be a photo, got a picture of which 100% is one colour"):
        editor.match(editor.models.default, opened, tmp_path / "white.png")


def test_a_retouch_says_so_and_a_batch_leaves_it_alone(tmp_path):
    editor = Editor(Settings(), tmp_path)
    rows = []
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        for again in (False, False, True):
            ask = {"model": editor.models.default, "sliders": {"brightness": 0.25}, "seed": 0, "again": again}
            path = tmp_path / "cinema.jpg" if not rows else tmp_path / "once.jpg"
            if not rows:
                shutil.copy(EXAMPLES / "cinema.jpg", path)
            rows.append(tabs._batch_row(editor, bundle, str(path), 1.0, False, None, ask))
            if len(rows) == 1:
                (tmp_path / "once.jpg").write_bytes(bundle.read("cinema-retouched.jpg"))
    assert b"brightness 0.25" in open_photo(tmp_path / "once.jpg").xmp
    left_out = "once.jpg is left out: DiffRetouch has retouched it already."
    assert [row["error"] for row in rows] == [None, left_out, None]


def test_a_pushed_space_is_complete_and_starts_from_what_the_hub_has(tmp_path):
    with HubServer({"hf_me": "me"}) as server:
        environment = {**server.environment("hf_me", tmp_path / "home"), "PATH": os.environ["PATH"]}
        script = """
import os, subprocess, sys
from diffretouch.hub.upload import push
from huggingface_hub import snapshot_download
push(sys.argv[1], "me/retouch")
folder = snapshot_download("me/retouch", repo_type="space")
code = "import app, diffretouch; print(diffretouch.__file__); print(len(app.EXAMPLES)); app.build(app.read_settings())"
print(subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True))
print(folder)
"""
        ran = subprocess.run(
            [sys.executable, "-c", script, str(SPACE)], env=environment, capture_output=True, text=True, timeout=500
        )
        assert ran.returncode == 0, ran.stderr
        folder = ran.stdout.strip().splitlines()[-1]
        assert f"stdout='{folder}/diffretouch/__init__.py" in ran.stdout and "returncode=0" in ran.stdout, ran.stdout


def test_settings_come_from_the_environment_and_a_bad_one_is_named():
    read = read_settings({"DIFFRETOUCH_MAX_BATCH_FILES": "7", "DIFFRETOUCH_KEEP_MINUTES": "0.5"})
    assert (read.max_batch_files, read.keep_minutes) == (7, 0.5)
    for text in ("0", "-1", "many", "nan", "inf"):
        with pytest.raises(ValueError, match="`DIFFRETOUCH_KEEP_MINUTES` has to be a positive number, got"):
            read_settings({"DIFFRETOUCH_KEEP_MINUTES": text})


def test_the_readme_is_a_space_card_and_names_existing_files():
    card = metadata_load(SPACE / "README.md")
    assert card["sdk"] == "gradio" and (SPACE / card["app_file"]).is_file()
    pinned = (SPACE.parent / "requirements.txt").read_text()
    assert f"gradio=={card['sdk_version']}\n" in pinned
    for line in (SPACE / "requirements.txt").read_text().splitlines():
        if not line.startswith(("#", "-")):
            assert re.split(r"[=<>]", line)[0].lower() in pinned.lower()


def test_presets_name_every_slider_within_its_range():
    presets = json.loads((SPACE / "presets.json").read_text())
    assert len({preset["name"] for preset in presets}) == len(presets)
    for preset in presets:
        assert sorted(preset["sliders"]) == sorted(ATTRIBUTES)
        assert all(-1 <= value <= 1 for value in preset["sliders"].values())
