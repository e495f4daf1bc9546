"""The Python of the READMEs, the cards and the pages of the site runs as it stands, where a reader of them stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from scenes import write_data_set
from tiny import build_tiny_pipeline

from diffretouch import BUNDLED_MODEL, DiffRetouchPipeline, open_photo
from diffretouch.data.card import _usage
from diffretouch.hub.card import _use_adapter
from diffretouch.hub.upload import export

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("docs/site/**/*.md"), Path(BUNDLED_MODEL, "README.md")]

# Run here, from the top of the page to its end, with what the page says that is there.
HERE = {
    "README.md": {"better.jpg"},
    "docs/index_page.md": {"better.jpg"},
    "docs/site/quickstart.md": {"better.jpg", "IMG_1235-evening.jpg"},
    "docs/site/programmers.md": {"retouched-horses.jpg", "retouched-bee.jpg"},
    "docs/site/photographers.md": {"better.jpg"},
    "train_lora/README.md": set(),
    "dataset_card/README.md": set(),
    "pipeline/diffretouch/bundled/README.md": {"retouched.jpg"},
}
ELSEWHERE = {"space/README.md": "It asks a page that is served: tests/test_space.py serves it and runs these lines."}


def blocks_of(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def save_adapter(pipe: DiffRetouchPipeline, folder: str) -> None:
    pipe.unet.add_adapter(LoraConfig(r=1, target_modules=["to_q"], init_lora_weights=False), "trained")
    pipe.save_lora_weights(folder, get_peft_model_state_dict(pipe.unet, adapter_name="trained"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader stands: among photos, with a model and a data set that were pushed by these names."""
    photo = Image.open(ROOT / "examples" / "cinema.jpg").reduce(4)
    for name in ("photo", "mine", "IMG_1235", "examples/photo", "examples/horses", "examples/bee"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        photo.save(tmp_path / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare(page: str) -> dict[str, Any]:
    """What the reader of a page has beside photos, and the names that the page takes from another one."""
    if page == "docs/site/photographers.md":
        pytest.importorskip("c2pa")
        from certificates import certificate, ec, write_signer

        authority = ec.generate_private_key(ec.SECP256R1())
        write_signer(Path(), authority, certificate("Root", authority, "Root", authority, ca=True))
        photo = open_photo("photo.jpg")
        return {"photo": photo, "grid": build_tiny_pipeline()(photo.model_view(), output_type="grid").grids[0]}
    if page == "README.md":
        export(build_tiny_pipeline(), "me/my-model")
        save_adapter(build_tiny_pipeline(), "me/my-style")
    elif page == "pipeline/diffretouch/bundled/README.md":
        export(build_tiny_pipeline(), "your-name/your-model")
    elif page == "train_lora/README.md":
        for folder in ("runs/my-style/final", "me/another-style"):
            save_adapter(DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL), folder)
    elif page == "dataset_card/README.md":
        write_data_set(Path("path/or/id"), {"train": 1})
    return {}


def test_every_page_with_python_is_run_here_or_says_where() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in PAGES if blocks_of(path.read_text(encoding="utf-8"))}
    assert found == {*HERE, *ELSEWHERE}


@pytest.mark.parametrize("page", HERE)
def test_the_python_of_a_page_runs_from_its_top_to_its_end(place: Path, page: str) -> None:
    names = prepare(page)
    for block in blocks_of((ROOT / page).read_text(encoding="utf-8")):
        exec(block, names)
    assert all(open_photo(place / name).pixels.shape == open_photo("photo.jpg").pixels.shape for name in HERE[page])
    if page == "train_lora/README.md":
        assert names["pipe"].get_active_adapters() == ["mine", "other"]
    if page == "dataset_card/README.md":
        assert len(names["rows"]) == 5 and names["rows"][0]["input"].size == (36, 24)


@pytest.mark.parametrize("base", ["me/model", Path(BUNDLED_MODEL).name])
def test_the_use_of_an_adapter_that_its_card_shows(place: Path, base: str) -> None:
    if base == "me/model":
        export(build_tiny_pipeline(), base)
    save_adapter(DiffRetouchPipeline.from_pretrained(base if base == "me/model" else BUNDLED_MODEL), "me/style")
    (block,) = blocks_of(_use_adapter("me/style", base))
    names: dict[str, Any] = {}
    exec(block, names)
    assert open_photo("retouched.jpg").pixels.shape == open_photo("photo.jpg").pixels.shape
    exec("pipe.set_adapters('style', 0.7); pipe.unload_lora_weights()", names)


def test_the_use_of_a_data_set_stands_in_its_card_as_it_is_written_there() -> None:
    assert blocks_of(_usage("synthetic")) == blocks_of((ROOT / "dataset_card/README.md").read_text(encoding="utf-8"))
