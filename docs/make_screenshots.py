"""Screenshots of the page, light and dark, at desktop and phone width.

    make space                                  # in another terminal
    python docs/make_screenshots.py http://127.0.0.1:7860

Writes docs/space-{desktop,phone}-{light,dark}.jpg and docs/space-variants.jpg. Needs the `dev` extra and Chromium.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent
PHOTO = DOCS.parent / "examples" / "photo.jpg"
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="where the page is served")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        executable = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        for device, (width, height) in WIDTHS.items():
            for theme in ("light", "dark"):
                page = browser.new_page(viewport={"width": width, "height": height})
                _edit(page, f"{options.url}/?__theme={theme}")
                _shoot(page, f"space-{device}-{theme}.jpg", full_page=True)
                if (device, theme) == ("desktop", "light"):
                    _show_variants(page)
                    _shoot(page, "space-variants.jpg")
                page.close()
        browser.close()


def _edit(page: Any, url: str) -> None:
    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_selector("#photo input[type=file]", state="attached")
    page.set_input_files("#photo input[type=file]", PHOTO)
    page.wait_for_function("document.querySelectorAll('#compare img').length == 2")
    old = page.evaluate("document.querySelectorAll('#compare img')[1].src")
    field = page.locator("#temperature input[type=number]")
    field.fill("0.4")
    field.press("Enter")
    field.blur()
    page.wait_for_function("old => document.querySelectorAll('#compare img')[1].src != old", arg=old)
    page.wait_for_timeout(1500)


def _show_variants(page: Any) -> None:
    page.get_by_role("tab", name="Variants").click()
    page.click("#variants-go")
    page.wait_for_function("document.querySelectorAll('#variants img').length == 6")
    page.wait_for_timeout(1500)


def _shoot(page: Any, name: str, **options: Any) -> None:
    page.screenshot(path=DOCS / name, type="jpeg", quality=80, **options)
    print(DOCS / name)


if __name__ == "__main__":
    main()
