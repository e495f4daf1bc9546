"""Model folders, their cards, and the way to the Hub and back, against a Hub on this machine (tests/hub_server.py).

What `diffusers` and `datasets` load by id runs in fresh processes, because they read HF_ENDPOINT when imported.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.utils._http
import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DDPMScheduler
from hub_server import HubServer
from huggingface_hub import DatasetCard, HfApi, ModelCard, constants
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file
from scenes import published_style_unet

import diffretouch
from diffretouch import BUNDLED_MODEL, AffineGridHead, DiffRetouchPipeline
from diffretouch.commands import cli
from diffretouch.data.card import dataset_card, write_dataset_card
from diffretouch.data.dataset import decode, read_split, write_parquet
from diffretouch.data.light import to_linear
from diffretouch.data.scenes import scene_of, synthetic_rows
from diffretouch.evaluation.measure import evaluate
from diffretouch.hub.convert import revert_to_original
from diffretouch.hub.curve import training_curve
from diffretouch.hub.upload import HubError, export, push, write_model_card
from diffretouch.training.config import TrainingConfig, save_config

MODEL_CODE = Path(diffretouch.__file__).parent / "model"
CODE_FILES = [
    "adapter_file_diffretouch.py",
    "adapter_layers_diffretouch.py",
    "adapter_look_diffretouch.py",
    "checks_diffretouch.py",
    "folder_diffretouch.py",
    "grid_head/modeling_affine_grid.py",
    "lora_diffretouch.py",
    "pictures_diffretouch.py",
    "pipeline_diffretouch.py",
    "vae/modeling_latent_codec.py",
]
WEIGHTS = [f"{name}/diffusion_pytorch_model.safetensors" for name in ("grid_head", "unet", "vae")]
PHOTO = np.random.default_rng(0).random((40, 56, 3), dtype=np.float32)
NON_COMMERCIAL = {
    "source": "somebody's checkpoint",
    "license": "other",
    "license_name": "research-only",
    "notice": "For non-commercial use only.",
}


def retouch(pipe: Any) -> np.ndarray:
    return pipe(PHOTO, temperature=0.7, generator=torch.Generator().manual_seed(3), output_type="np").images[0]


def assert_same(picture: np.ndarray, other: np.ndarray) -> None:
    """Equal but for the rounding that depends on where in memory weights lie."""
    np.testing.assert_allclose(picture, other, rtol=0, atol=1e-6)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """An empty Hub that this process talks to as the user "me"."""
    with HubServer({"hf_me": "me", "hf_me-read": "me", "hf_other": "other"}, part_size=20_000) as hub_server:
        template = f"{hub_server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        values = {
            "ENDPOINT": hub_server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", "hf_me")
        yield hub_server


@pytest.fixture
def folder(tiny_pipeline: Callable[..., DiffRetouchPipeline], tmp_path: Path) -> Path:
    return export(tiny_pipeline(), tmp_path / "model")


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos in the project's schema, with their build record and table."""
    root = tmp_path_factory.mktemp("data") / "set"
    (root / "data").mkdir(parents=True)
    rng = np.random.default_rng(5)
    hashes, table = {}, ["file\tsource\tversion\tlicence\tauthor\tredistributable\tsplit"]
    for split, licence, allowed in (("train", "CC0-1.0", "yes"), ("test", "stock photo", "no")):
        path = root / "data" / f"{split}-00000-of-00001.parquet"
        photo = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        write_parquet([synthetic_rows(scene_of(to_linear(photo), None), f"photo-{split}", 1, seed=0)], path)
        hashes[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        table.append(f"photo-{split}.jpg\tdeb:some-photos\t1.2\t{licence}\tSomebody\t{allowed}\t{split}")
    report = {"num_inputs": 1, "long_side": 32, "seed": 0, "resize": "as it comes", "sha256": hashes}
    (root / "build.json").write_text(json.dumps(report))
    (root.parent / "photos.tsv").write_text("# a comment\n" + "\n".join(table) + "\n")
    return root


# ---- folders --------------------------------------------------------------------------------------------------------


def test_export_writes_weights_code_and_card_that_load_again(tiny_pipeline, tmp_path):
    pipe = tiny_pipeline()
    export(pipe, tmp_path / "first")
    folder = export(DiffRetouchPipeline.from_pretrained(tmp_path / "first"), tmp_path / "model")
    files = contents(folder)
    for name in CODE_FILES:
        assert files[name] == (MODEL_CODE / Path(name).name).read_bytes()
    assert {"README.md", "model_index.json", *WEIGHTS} <= set(files)
    assert not [name for name in files if "/tmp" in files[name].decode("latin-1")], "a path of this machine travels"
    assert_same(retouch(DiffRetouchPipeline.from_pretrained(folder)), retouch(pipe))


def test_export_of_a_folder_copies_all_but_state_and_renews_the_code(folder, tiny_pipeline, tmp_path):
    tiny_pipeline().save_pretrained(folder, variant="fp16")
    (folder / "training_state.pt").write_bytes(b"optimiser")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "secret").write_text("x")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nmine")
    index = json.loads((folder / "model_index.json").read_text())
    old_index = {**index, "attributes": index["attributes"].split(",")}
    (folder / "model_index.json").write_text(json.dumps(old_index))
    (folder / "pipeline_diffretouch.py").write_text("old = True\n")
    (folder / "lora_diffretouch.py").unlink()  # as in the first models
    before = contents(folder)
    after = contents(export(folder, tmp_path / "copy"))
    assert contents(folder) == before
    assert set(before) - set(after) == {"training_state.pt", ".cache/secret"}
    assert json.loads(after["model_index.json"]) == index
    assert after["pipeline_diffretouch.py"] == (MODEL_CODE / "pipeline_diffretouch.py").read_bytes()
    assert after["lora_diffretouch.py"] == (MODEL_CODE / "lora_diffretouch.py").read_bytes()
    unchanged = set(after) - {"model_index.json", "pipeline_diffretouch.py", "lora_diffretouch.py"}
    assert all(after[name] == before[name] for name in unchanged)
    assert any("fp16" in name for name in unchanged)


def test_export_refuses_full_targets_and_what_is_no_model(folder, server, tmp_path):
    with pytest.raises(FileExistsError, match="`folder` has to be new or empty"):
        export(folder, folder)
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"`folder` has to hold model_index.json, got .*other"):
        export(tmp_path / "other", tmp_path / "out")
    (tmp_path / "other" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ValueError, match="has to be a DiffRetouch model"):
        export(tmp_path / "other", tmp_path / "out")
    with pytest.raises(HubError, match=r"^The Hub shows no me/nothing to this user"):
        export("me/nothing", tmp_path / "out")
    with pytest.raises(ValueError, match="`model` has to be a folder or a Hub id, got 'no such/folder/here'"):
        export("no such/folder/here", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def adapter(tiny_pipeline: Callable[..., DiffRetouchPipeline], folder: Path, tmp_path: Path) -> Path:
    """An adapter of the model in `folder`, with the grid head trained whole beside it."""
    return make_adapter(DiffRetouchPipeline.from_pretrained(folder), tmp_path / "style")


def make_adapter(pipe: DiffRetouchPipeline, target: Path) -> Path:
    base = pipe.lora_base_metadata()
    with torch.random.fork_rng():
        torch.manual_seed(4)
        settings = LoraConfig(r=2, lora_alpha=5, target_modules=["to_q", "to_v", "conv1"], init_lora_weights=False)
        pipe.unet.add_adapter(settings, "trained")
        whole = {
            f"grid_head.{name}": t + 0.05 * torch.randn_like(t) for name, t in pipe.grid_head.state_dict().items()
        }
    layers = get_peft_model_state_dict(pipe.unet, adapter_name="trained")
    settings = pipe.unet.peft_config["trained"].to_dict()
    pipe.save_lora_weights(
        target, layers, unet_lora_adapter_metadata=settings, whole_modules=whole, base_metadata=base
    )
    return target


def test_export_of_an_adapter_adds_its_card_and_leaves_the_training_state(adapter, tmp_path):
    (adapter / "training_state.pt").write_bytes(b"optimiser")
    exported = contents(export(adapter, tmp_path / "exported"))
    weights = "pytorch_lora_weights.safetensors"
    assert set(exported) == {"README.md", weights}
    assert exported[weights] == (adapter / weights).read_bytes()
    (adapter / weights).write_bytes(exported[weights][:-9])
    with pytest.raises(ValueError, match="The adapter has to be a whole safetensors file"):
        export(adapter, tmp_path / "again")
    assert not (tmp_path / "again").exists()


# ---- cards ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tiny_pipeline: Callable[..., DiffRetouchPipeline], data_set: Path) -> dict[str, Any]:
    """A real evaluation."""
    rows = [{**row, **{n: decode(row[n]) for n in ("input", "target")}} for row in read_split(data_set, "test")]
    result = evaluate(tiny_pipeline(), rows, seed=0)
    result["settings"] |= {"dataset": "my-set", "split": "test"}
    return result


@pytest.fixture
def records(measured: dict[str, Any], tmp_path: Path) -> dict[str, Path]:
    """An evaluation, configuration, log and picture as files."""
    (tmp_path / "quality.json").write_text(json.dumps(measured))
    save_config(dataclasses.replace(TrainingConfig(), dataset="/home/somebody/data"), tmp_path / "config.yaml")
    lines = [{"step": step, "loss": 9 / step, "noise": 5 / step, "pixel": 1 / step} for step in range(10, 110, 10)]
    lines += [{"step": step, "delta_e_c0": 12 - step / 20, "delta_e_oracle": 11 - step / 15} for step in (50, 100)]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    PIL.Image.new("RGB", (3000, 1000), "orange").save(tmp_path / "big.png")
    return {name: tmp_path / name for name in ("quality.json", "config.yaml", "log.jsonl", "big.png")}


def test_card_states_what_was_measured_and_recorded(folder, records, server):
    write_model_card(
        folder,
        evaluation=records["quality.json"],
        config=records["config.yaml"],
        log=records["log.jsonl"],
        pictures={"Before and after": records["big.png"]},
        limits=["Skin can turn grey."],
        datasets=["me/my-set"],
    )
    card = ModelCard.load(folder / "README.md")
    result = json.loads(records["quality.json"].read_text())
    assert card.data["library_name"] == "diffusers"
    assert card.data.pipeline_tag == "image-to-image"
    assert card.data.license == "apache-2.0"
    assert card.data.datasets == ["me/my-set"]
    assert card.data.get("base_model") is None
    measured = {(r.metric_type, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert measured["psnr", "PSNR (dB), c = 0, mean over experts"] == round(result["quality"]["c = 0"]["psnr"], 4)
    oracle = measured["delta_e_2000", "Delta E 2000, oracle c, mean over experts"]
    assert oracle == round(result["quality"]["oracle c"]["delta_e"], 4)
    assert {r.dataset_type for r in card.data.eval_results} == {"me/my-set"}
    assert f"| no change | {result['quality']['no change']['psnr']:.2f} |" in card.text
    unreliable = [name for name, c in result["control"].items() if min(c["right_way"], c["spearman"]) < 0.9]
    assert [name for name in result["control"] if f"`{name}` is unreliable" in card.text] == unreliable
    assert "Skin can turn grey." in card.text
    assert "Its quality was not measured" not in card.text
    assert "6000 steps of 16 pairs" in card.text
    assert "/home" not in card.text
    parameters = sum(p.numel() for p in DiffRetouchPipeline.from_pretrained(folder).grid_head.parameters())
    assert f"| Grid head | {parameters:,} parameters, grid of 12 x 4 x 4 x 4 |" in card.text
    shown = re.findall(r"!\[.*?\]\((.*?)\)", card.text)
    assert shown == ["pictures/1.jpg", "pictures/training.png"]
    with PIL.Image.open(folder / "pictures/1.jpg") as picture:
        assert picture.size == (1280, 427)
    for block in re.findall(r"```python\n(.*?)```", card.text, re.DOTALL):
        compile(block, "card", "exec")
    card.validate()  # by the server's rules for metadata


def test_card_without_records_says_so(folder):
    card = ModelCard.load(folder / "README.md")
    assert "was not measured" in card.text
    assert card.data.eval_results is None
    assert "## Quality" not in card.text and "## Training" not in card.text


def test_card_of_weights_made_from_others_keeps_their_licence_through_saving(tiny_pipeline, tmp_path):
    tiny_pipeline(provenance=NON_COMMERCIAL).save_pretrained(tmp_path / "first")
    again = DiffRetouchPipeline.from_pretrained(tmp_path / "first")
    card = ModelCard.load(export(again, tmp_path / "second") / "README.md")
    assert (card.data.license, card.data.license_name) == ("other", "research-only")
    assert "Made from somebody's checkpoint." in card.text
    assert "**For non-commercial use only.**" in card.text
    assert "apache-2.0" not in card.text


def test_card_of_a_reloaded_folder_keeps_the_licence_of_its_card(folder, tmp_path):
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nbase_model: some/base\n---\n")
    card = ModelCard.load(export(DiffRetouchPipeline.from_pretrained(folder), tmp_path / "next") / "README.md")
    assert card.data.license == "cc-by-nc-4.0"
    assert (card.data.base_model, card.data.base_model_relation) == ("some/base", "finetune")


def test_card_takes_the_base_model_from_the_training_configuration(folder, tmp_path):
    other, own = "other", "apache-2.0"
    for pretrained, base, licence in (("me/base", "me/base", other), (str(tmp_path), None, own), (None, None, own)):
        save_config(dataclasses.replace(TrainingConfig(), pretrained_model=pretrained), tmp_path / "config.yaml")
        write_model_card(folder, config=tmp_path / "config.yaml")
        data = ModelCard.load(folder / "README.md").data
        assert (data.get("base_model"), data.license) == (base, licence)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (None, ""),
        ("me/base", ", going on from [me/base](https://huggingface.co/me/base)"),
        ("bundled", ", going on from the model that comes with the `diffretouch` package"),
        (BUNDLED_MODEL, ", going on from the model that comes with the `diffretouch` package"),
        ("start", ", going on from an earlier model"),
        ("/home/somebody/start", ", going on from an earlier model"),
    ],
)
def test_card_says_what_a_run_went_on_from_but_not_a_folders_name(folder, tmp_path, model, said):
    save_config(dataclasses.replace(TrainingConfig(), pretrained_model=model), tmp_path / "config.yaml")
    text = write_model_card(folder, config=tmp_path / "config.yaml").read_text()
    assert f"6000 steps of 16 pairs{said}, learning rate" in text
    assert ("pretrained_model" in text) == (model in (None, "me/base"))


def test_card_of_an_adapter_states_what_it_is_of(adapter, records, server):
    write_model_card(
        adapter, config=records["config.yaml"], log=records["log.jsonl"], pictures={"A": records["big.png"]}
    )
    card = ModelCard.load(adapter / "README.md")
    assert (card.data["library_name"], card.data.pipeline_tag) == ("diffusers", "image-to-image")
    assert "lora" in card.data.tags and "diffusers:DiffRetouchPipeline" not in card.data.tags
    assert card.data.get("base_model") is None and card.data.license == "apache-2.0"
    layers = sum("lora_A" in name for name in load_file(adapter / "pytorch_lora_weights.safetensors"))
    assert f"| LoRA | rank 2, alpha 5, on {layers} layers of the UNet |" in card.text
    assert "| Base | model |" in card.text
    assert "| Trained whole | grid_head |" in card.text
    assert 'from_pretrained("model")' in card.text and 'load_lora_weights("your-name/your-model"' in card.text
    assert "6000 steps of 16 pairs" in card.text and "pictures/1.jpg" in card.text
    write_model_card(adapter, repo_id="me/style", base_model="me/model")
    card = ModelCard.load(adapter / "README.md")
    assert (card.data.base_model, card.data.base_model_relation) == ("me/model", "adapter")
    assert (card.data.license, card.data.license_name) == ("other", "see-base-model")
    assert 'from_pretrained("me/model")' in card.text and 'load_lora_weights("me/style"' in card.text
    for block in re.findall(r"```python\n(.*?)```", card.text, re.DOTALL):
        compile(block, "card", "exec")
    card.validate()


def test_card_of_an_adapter_of_the_bundled_model_needs_no_hub_for_the_base(tmp_path):
    make_adapter(DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL), tmp_path)
    text = write_model_card(tmp_path).read_text()
    assert "DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)" in text
    assert "| Base | the model that comes with the `diffretouch` package |" in text


def test_card_of_an_adapter_keeps_the_licence_of_its_base(tiny_pipeline, tmp_path):
    make_adapter(tiny_pipeline(provenance=NON_COMMERCIAL), tmp_path)
    card = ModelCard.load(write_model_card(tmp_path))
    assert (card.data.license, card.data.license_name) == ("other", "research-only")
    assert "**For non-commercial use only.**" in card.text and "apache" not in card.text.lower()


def test_card_refuses_files_that_are_not_what_they_should_be(folder, records, tmp_path):
    before = contents(folder)
    with pytest.raises(ValueError, match=r"`evaluation` has to be a result of diffretouch.evaluation"):
        records["quality.json"].write_text('{"settings": {}}')
        write_model_card(folder, evaluation=records["quality.json"])
    with pytest.raises(ValueError, match=r"`config` has to be the config.yaml of a training run"):
        records["config.yaml"].write_text("- a\n- list\n")
        write_model_card(folder, config=records["config.yaml"])
    with pytest.raises(ValueError, match="`log` has to hold one JSON object a line"):
        records["log.jsonl"].write_text("step 1\n")
        write_model_card(folder, log=records["log.jsonl"])
    with pytest.raises(ValueError, match="`folder` has to hold model_index.json"):
        write_model_card(tmp_path)
    assert contents(folder) == before


def test_training_curve_draws_every_series_and_follows_the_numbers():
    def lines(scale: float) -> list[dict[str, float]]:
        return [{"step": s, "noise": 1.0, "pixel": scale * s, "loss": 7.0} for s in range(0, 100, 5)]

    rising, flat = training_curve(lines(0.01)), training_curve(lines(0.001))
    pixels = np.asarray(rising).reshape(-1, 3).astype(int)
    blue, red = pixels[:, 2] - pixels[:, 0] > 50, pixels[:, 0] - pixels[:, 2] > 50
    assert min(blue.sum(), red.sum()) > 400, "a line is missing"
    assert rising.tobytes() != flat.tobytes()
    both = training_curve([*lines(0.01), {"step": 50, "delta_e_c0": 9.0}, {"step": 100, "delta_e_c0": 8.0}])
    assert both.width == 2 * rising.width


def test_data_set_card_says_that_whole_packages_were_held_back(data_set, tmp_path):
    """Only where the table bears it out."""
    table = (data_set.parent / "photos.tsv").read_text()
    apart = table.replace("photo-test.jpg\tdeb:some-photos", "photo-test.jpg\tdeb:other-photos")
    for text, division in ((table, "By photo, never by row; "), (apart, "By source and photo, never by row: ")):
        (tmp_path / "photos.tsv").write_text(text)
        assert division in str(dataset_card(data_set, tmp_path / "photos.tsv"))


def test_data_set_card_counts_hashes_and_licences(data_set):
    path = write_dataset_card(data_set, data_set.parent / "photos.tsv")
    text = path.read_text()
    report = json.loads((data_set / "build.json").read_text())
    assert all(digest in text for digest in report["sha256"].values())
    assert re.search(r"\| train \| 1 \| 5 \|", text) and re.search(r"\| test \| 1 \| 5 \|", text)
    assert "| deb:some-photos | 1.2 | stock photo | no | 1 |" in text
    assert "**1 of the 2 photos may not be redistributed" in text
    assert (data_set / "photos.tsv").read_text() == (data_set.parent / "photos.tsv").read_text()
    link = DatasetCard.load(path).data.license_link
    assert link == "LICENSE.md" and "| deb:some-photos | 1.2 | stock photo | no | 1 |" in (data_set / link).read_text()
    (data_set / "build.json").write_text(json.dumps({**report, "kind": "fivek", "conditions": "c"}))
    assert dataset_card(data_set).data.license_link == "https://data.csail.mit.edu/graphics/fivek/"
    (data_set / "build.json").write_text(json.dumps({**report, "sha256": {}}))
    try:
        with pytest.raises(ValueError, match="has to hold the files that build.json records"):
            write_dataset_card(data_set)
    finally:
        (data_set / "build.json").write_text(json.dumps(report))
    assert path.read_text() == text


# ---- pushing --------------------------------------------------------------------------------------------------------


def test_push_sends_the_whole_folder_and_names_the_model_in_its_card(folder, server):
    (folder / "training_state.pt").write_bytes(b"optimiser")
    commit = push(folder, "me/model", private=True)
    sent = server.files("model", "me/model")
    kept = contents(folder)
    assert str(commit).startswith(f"{server.url}/me/model/commit/")
    assert set(sent) == set(kept) - {"training_state.pt"} | {".gitattributes"}
    assert all(sent[name] == kept[name] for name in set(sent) - {".gitattributes", "README.md"})
    assert sent["README.md"] == kept["README.md"].replace(b"your-name/your-model", b"me/model")
    assert b'from_pretrained("me/model")' in sent["README.md"]
    assert server.repos["model", "me/model"].private
    assert any(path.endswith("/complete") for _, path, _ in server.log), "the large file did not go in parts"


def test_push_to_hub_sends_the_complete_folder_and_keeps_a_card_that_is_there(tiny_pipeline, server, tmp_path):
    pipe = tiny_pipeline()
    pipe.push_to_hub("model", commit_message="First")
    sent = server.files("model", "me/model")
    complete = contents(export(pipe, tmp_path / "model", repo_id="me/model"))
    assert {name: data for name, data in sent.items() if name != ".gitattributes"} == complete
    HfApi(token="hf_me").upload_file(path_or_fileobj=b"---\n---\nmine", path_in_repo="README.md", repo_id="me/model")
    pipe.push_to_hub("me/model")
    assert server.files("model", "me/model")["README.md"] == b"---\n---\nmine"


def test_save_pretrained_pushes_with_our_card_as_push_to_hub_does(tiny_pipeline, server, tmp_path):
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "model", push_to_hub=True, private=True, variant="fp16", commit_message="First")
    sent = server.files("model", "me/model")
    complete = contents(export(pipe, tmp_path / "complete", repo_id="me/model", variant="fp16"))
    assert {name: data for name, data in sent.items() if name != ".gitattributes"} == complete
    assert server.repos["model", "me/model"].private
    saved = contents(tmp_path / "model")
    assert {name: complete[name] for name in saved} == saved
    assert set(complete) - set(saved) == {"README.md"}


def test_pushing_with_adapters_loaded_makes_no_repository(folder, adapter, server, tmp_path):
    pipe = DiffRetouchPipeline.from_pretrained(folder)
    pipe.load_lora_weights(adapter)
    for push_it in (
        lambda: pipe.push_to_hub("me/model"),
        lambda: pipe.save_pretrained(tmp_path / "new", push_to_hub=True, repo_id="me/model"),
        lambda: export(pipe, tmp_path / "new"),
    ):
        with pytest.raises(ValueError, match="^Adapters have to be unloaded before a model is saved"):
            push_it()
    assert not server.repos and not (tmp_path / "new").exists()


def test_push_of_an_adapter_sends_weights_and_card(adapter, server, capsys):
    (adapter / "training_state.pt").write_bytes(b"optimiser")
    assert cli.main(["push", str(adapter), "me/style"]) == 0
    assert capsys.readouterr().out == f"{server.url}/me/style\n"
    sent = server.files("model", "me/style")
    assert set(sent) == {".gitattributes", "README.md", "pytorch_lora_weights.safetensors"}
    assert b'load_lora_weights("me/style"' in sent["README.md"]
    (adapter / "pytorch_lora_weights.safetensors").write_bytes(b"\0" * 100)
    assert cli.main(["push", str(adapter), "me/broken"]) == 2
    assert "whole safetensors file" in capsys.readouterr().err
    assert ("model", "me/broken") not in server.repos


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ("me/nothing", {}, OSError, "There is no me/nothing here, and the Hub shows none to this user"),
        ("me/hidden", {"token": False}, OSError, "There is no me/hidden here, and the Hub shows none to this user"),
        ("me/model", {}, OSError, "The adapter has to hold pytorch_lora_weights.safetensors, got me/model on the Hub"),
        ("me/hidden", {"revision": "old"}, OSError, "The Hub refused me/hidden: Invalid rev id: old."),
        ("me/hidden", {"local_files_only": True}, OSError, "There is no me/hidden here or in the cache"),
        ("no such/folder/x", {}, ValueError, "The adapter has to be a folder, file, Hub id or dict, got 'no such"),
    ],
)
def test_adapters_that_the_hub_does_not_give_are_one_sentence(
    folder, adapter, server, source, options, error, message
):
    push(folder, "me/model")
    push(adapter, "me/hidden", private=True)
    pipe = DiffRetouchPipeline.from_pretrained(folder)
    with pytest.raises(error, match=re.escape(message)) as caught:
        pipe.load_lora_weights(source, **options)
    assert "\n" not in str(caught.value) and "http" not in str(caught.value)
    assert pipe.get_list_adapters() == {}
    pipe.load_lora_weights("me/hidden")
    assert pipe.get_active_adapters() == ["default_0"]


def test_push_follows_links_to_folders_but_not_back_to_one_on_the_way(server, tmp_path):
    space, shared = tmp_path / "space", tmp_path / "shared"
    for path in (space / "part", shared):
        path.mkdir(parents=True)
    (space / "README.md").write_text("---\nsdk: static\n---\n")
    (space / "part" / "page.html").write_text("page")
    (shared / "photo.txt").write_text("photo")
    (space / "part" / "again").symlink_to(space / "part")
    (space / "up").symlink_to(tmp_path)
    (space / "shared").symlink_to(shared)
    (shared / "back").symlink_to(space / "part")
    (space / "part" / "there").symlink_to(shared)
    (space / "diffretouch").mkdir()
    push(space, "me/space")
    sent = set(server.files("space", "me/space")) - {".gitattributes"}
    assert sent == {"README.md", *(f"{way}/page.html" for way in ("part", "shared/back"))} | {
        f"{way}/photo.txt" for way in ("shared", "part/there")
    }


def test_push_into_a_pull_request_and_a_subfolder(tiny_pipeline, folder, server):
    pipe = tiny_pipeline()
    push(pipe, "me/model", token="hf_me")
    main = server.files("model", "me/model")
    (folder / "note.txt").write_text("new")
    commit = push(folder, "me/model", token="hf_other", create_pr=True)
    assert commit.pr_url == f"{server.url}/me/model/discussions/1"
    assert server.files("model", "me/model") == main
    assert server.files("model", "me/model", "refs/pr/1")["note.txt"] == b"new"
    push(pipe, "me/model", subfolder="v2")
    assert {f"v2/{name}" for name in main} - {"v2/.gitattributes", "v2/README.md"} <= set(
        server.files("model", "me/model")
    )
    assert "v2/README.md" not in server.files("model", "me/model")


@pytest.mark.parametrize(
    ("token", "repo_id", "error", "message"),
    [
        (None, "me/new", HubError, "Pushing needs a token with write access: run `hf auth login`"),
        ("hf_wrong", "me/new", HubError, "the token is not valid"),
        ("hf_me-read", "me/new", HubError, "the token may not write there"),
        ("hf_me", "other/new", HubError, "the token may not write there"),
        ("hf_me", "other/theirs", HubError, "the token may not write there"),
        ("hf_me", "a/b/c", ValueError, "`repo_id` has to be NAME or OWNER/NAME"),
        ("hf_me", "me/with space", ValueError, "`repo_id` has to be NAME or OWNER/NAME"),
        ("hf_me", "me/two--dashes", ValueError, "`repo_id` has to be NAME or OWNER/NAME"),
        ("hf_me", "", ValueError, "`repo_id` has to be NAME or OWNER/NAME"),
    ],
)
def test_push_that_is_not_allowed_is_one_sentence(folder, server, monkeypatch, token, repo_id, error, message):
    push(folder, "other/theirs", token="hf_other")
    theirs = dict(server.repos["model", "other/theirs"].refs)
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(error, match=re.escape(message)) as caught:
        push(folder, repo_id, token=token)
    assert "\n" not in str(caught.value) and "http" not in str(caught.value)
    assert list(server.repos) == [("model", "other/theirs")]
    assert server.repos["model", "other/theirs"].refs == theirs


def test_push_of_a_folder_that_is_nothing_names_what_it_could_be(server, tmp_path):
    with pytest.raises(ValueError, match=r"`folder` has to hold model_index.json \(a model\), pytorch_lora"):
        push(tmp_path, "me/model")
    assert not server.repos


def test_push_of_metadata_that_the_hub_refuses_sends_nothing(folder, server):
    (folder / "README.md").write_text("---\nlicense: Not A Licence\n---\n")
    with pytest.raises(ValueError, match='^Invalid metadata in README.md. - "license" must match'):
        push(folder, "me/model")
    assert set(server.files("model", "me/model")) == {".gitattributes"}
    assert not server.received


def test_a_connection_that_breaks_once_is_taken_up_by_the_client(folder, server, without_waiting):
    server.cut_uploads(after=10_000)
    push(folder, "me/model")
    assert ("PUT", 0) in {(method, status) for method, _, status in server.log}
    sent = server.files("model", "me/model")
    assert all(sent[name] == data for name, data in contents(folder).items() if name != "README.md")


def test_a_push_that_broke_off_shows_nothing_and_goes_on_when_called_again(folder, server, without_waiting):
    server.cut_uploads(after=10_000, times=1000)
    with pytest.raises(
        HubError, match=r"^The connection to the Hub broke during the upload of me/model: run it again"
    ):
        push(folder, "me/model")
    assert set(server.files("model", "me/model")) == {".gitattributes"}
    server.cut_uploads(after=0, times=0)
    push(folder, "me/model")
    sent = server.files("model", "me/model")
    assert all(sent[name] == data for name, data in contents(folder).items() if name != "README.md")
    arrived = [oid for oid, _ in server.received]
    assert len(arrived) == len(set(arrived)) == len(WEIGHTS), "a file that had arrived was sent again"


@pytest.fixture
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own retries, without the seconds between them."""
    patched = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    monkeypatch.setattr(huggingface_hub.utils._http, "time", patched)


def test_push_of_a_data_set_with_photos_that_may_not_be_passed_on_has_to_be_private(data_set, server):
    write_dataset_card(data_set, data_set.parent / "photos.tsv")
    with pytest.raises(ValueError, match=r"`private` has to be True for this data set, got None"):
        push(data_set, "me/set")
    assert not server.repos
    push(data_set, "me/set", private=True)
    assert server.repos["dataset", "me/set"].private
    assert set(contents(data_set)) <= set(server.files("dataset", "me/set"))


def test_command_line_exports_and_pushes(folder, server, tmp_path, capsys, monkeypatch):
    copy = tmp_path / "copy"
    assert cli.main(["export", "--model", str(folder), "-o", str(copy)]) == 0
    assert cli.main(["push", str(copy), "me/model", "--private"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(copy), f"{server.url}/me/model"]
    assert server.repos["model", "me/model"].private
    for arguments, code, message in (
        (["export", "--model", str(folder), "-o", str(copy)], 2, "`folder` has to be new or empty"),
        (["push", str(tmp_path / "none"), "me/model"], 2, "`folder` has to hold"),
        (["push", str(copy), "a/b/c"], 2, "`repo_id` has to be"),
        (["push", str(copy), "other/model"], 1, "the token may not write there"),
    ):
        assert cli.main(arguments) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("diffretouch: ") and message in line


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A file in the published layout that this library did not write."""
    unet = published_style_unet()
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    revert_to_original(DiffRetouchPipeline(unet, scheduler, AffineGridHead()), tmp_path / "ours.ckpt", with_vae=False)
    state = torch.load(tmp_path / "ours.ckpt", weights_only=True)["state_dict"]
    torch.save({"state_dict": state}, tmp_path / "theirs.ckpt")
    return tmp_path / "theirs.ckpt"


def test_command_line_converts_there_and_back_and_tells_the_licence(checkpoint, tmp_path, capsys):
    model, back = tmp_path / "converted", tmp_path / "back.safetensors"
    arguments = ["convert", str(checkpoint), "-o", str(model), "--without-vae", "--variance", "fixed_large"]
    assert cli.main([*arguments, "--variants", "fp16"]) == 0
    written, notice = capsys.readouterr().out.splitlines()
    assert written == str(model) and "non-commercial" in notice
    assert (model / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    assert json.loads((model / "scheduler" / "scheduler_config.json").read_text())["variance_type"] == "fixed_large"
    card = ModelCard.load(model / "README.md")
    assert (card.data.license, notice in card.text) == ("other", True)
    assert cli.main(["convert", "--reverse", str(model), "-o", str(back), "--without-vae"]) == 0
    first, second = torch.load(checkpoint, weights_only=True)["state_dict"], load_file(back)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    capsys.readouterr()
    for wrong, message in (
        (arguments, "`folder` has to be new or empty"),
        (["convert", str(tmp_path / "none.ckpt"), "-o", str(tmp_path / "x")], "none.ckpt"),
        (["convert", str(model / "README.md"), "-o", str(tmp_path / "x")], "`path` has to"),
        (["init", str(model), "-o", str(tmp_path / "x")], "`source` has to be"),
    ):
        assert cli.main(wrong) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("diffretouch: ") and message in line
    assert not (tmp_path / "x").exists()


# ---- loading in fresh processes -------------------------------------------------------------------------------------

INSTALLED = """
import json, logging, sys
import numpy as np, torch
from datasets import load_dataset
from diffretouch import AffineGridHead, DiffRetouchPipeline
from diffretouch.hub.upload import export
from huggingface_hub import snapshot_download

job = json.load(open(sys.argv[1]))
heard = []
handler = logging.Handler()
handler.emit = lambda record: heard.append(record.getMessage())
logging.getLogger("diffretouch").addHandler(handler)

def retouch(pipe):
    pipe.set_progress_bar_config(disable=True)
    photo = np.load(job["photo"])
    return pipe(photo, temperature=0.7, generator=torch.Generator().manual_seed(3), output_type="np").images[0]

pipe = DiffRetouchPipeline.from_pretrained("me/model")
np.save(job["out"], retouch(pipe))
facts = {"remote": [name for name in sys.modules if name.startswith("diffusers_modules.")], "warned": list(heard)}
head = AffineGridHead.from_pretrained("me/model", subfolder="grid_head")
facts["head"] = all(torch.equal(a, b) for a, b in zip(head.parameters(), pipe.grid_head.parameters(), strict=True))
np.save(job["private"], retouch(DiffRetouchPipeline.from_pretrained("me/hidden", token="hf_me")))
try:
    DiffRetouchPipeline.from_pretrained("me/hidden", cache_dir=job["empty"])
except OSError as error:
    facts["refused"] = str(error)
pipe.load_lora_weights("me/style")
np.save(job["styled"], retouch(pipe))
pipe.unload_lora_weights()
np.save(job["unstyled"], retouch(pipe))
heard.clear()
DiffRetouchPipeline.from_pretrained("me/edited")
facts["edited"] = list(heard)
again = export(DiffRetouchPipeline.from_pretrained("me/edited"), job["again"])
facts["again"] = (again / "README.md").read_text()
rows = load_dataset("me/set", split="train", token="hf_me")
facts["rows"] = [[row["expert"], row["input"].size, row["condition"]] for row in rows]
streamed = load_dataset("me/set", split="train", streaming=True, token="hf_me")
facts["streamed"] = [[row["expert"], row["input"].size, row["condition"]] for row in streamed]
facts["space"] = open(snapshot_download("me/space", repo_type="space") + "/app.py").read()
json.dump(facts, open(job["facts"], "w"))
"""

OFFLINE = """
import sys
import numpy as np, torch
from diffretouch import DiffRetouchPipeline

pipe = DiffRetouchPipeline.from_pretrained("me/model")
photo = np.load(sys.argv[1])
pipe.load_lora_weights("me/style")
result = pipe(photo, temperature=0.7, generator=torch.Generator().manual_seed(3), output_type="np").images[0]
np.save(sys.argv[2], result)
"""

DIFFUSERS_ALONE = """
import sys
sys.modules["diffretouch"] = None
import numpy as np, torch
from diffusers import DiffusionPipeline

try:
    import diffretouch
    raise SystemExit("diffretouch can be imported")
except ImportError:
    pass
pipe = DiffusionPipeline.from_pretrained("me/model", trust_remote_code=True)
photo = np.load(sys.argv[1])
result = pipe(photo, temperature=0.7, generator=torch.Generator().manual_seed(3), output_type="np").images[0]
np.save(sys.argv[2], result)
pipe.save_pretrained(sys.argv[3])
pipe.load_lora_weights("me/style")
result = pipe(photo, temperature=0.7, generator=torch.Generator().manual_seed(3), output_type="np").images[0]
np.save(sys.argv[4], result)
ours = [base for base in type(pipe).__mro__ if "DiffRetouch" in base.__name__]
assert len(ours) == 2 and all(base.__module__.startswith("diffusers_modules.") for base in ours)
"""


def fresh_process(script: str, arguments: list[str], environment: dict[str, str]) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    kept |= {"NO_PROXY": "127.0.0.1,localhost", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]


def styled(folder: Path, adapter: Path) -> np.ndarray:
    pipe = DiffRetouchPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(adapter)
    return retouch(pipe)


def test_everything_pushed_loads_by_id_in_fresh_processes(tiny_pipeline, folder, adapter, data_set, server, tmp_path):
    """With the package and no remote code, offline from the cache, and with diffusers alone."""
    pipe = tiny_pipeline()
    pipe.push_to_hub("me/model")
    pipe.push_to_hub("me/hidden", private=True)
    with open(folder / "pipeline_diffretouch.py", "a") as file:
        file.write("# edited by somebody\n")
    push(folder, "me/edited")
    push(adapter, "me/style")
    api = HfApi(token="hf_me")
    api.create_repo("me/set", repo_type="dataset", private=True)
    write_dataset_card(data_set, data_set.parent / "photos.tsv")
    api.upload_folder(repo_id="me/set", repo_type="dataset", folder_path=data_set)
    space = tmp_path / "space"
    space.mkdir()
    (space / "README.md").write_text("---\ntitle: Demo\nsdk: gradio\napp_file: app.py\n---\n")
    (space / "app.py").write_text("print('hello')\n")
    push(space, "me/space")
    expected = retouch(pipe)
    server.page_size = 3  # so that listings come in pages

    np.save(tmp_path / "photo.npy", PHOTO)
    names = ("out", "private", "offline", "alone", "empty", "styled", "unstyled")
    outputs = {name: str(tmp_path / f"{name}.npy") for name in names}
    job = {
        **outputs,
        "again": str(tmp_path / "again"),
        "photo": str(tmp_path / "photo.npy"),
        "facts": str(tmp_path / "facts.json"),
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    anonymous = server.environment(None, tmp_path / "home")
    fresh_process(INSTALLED, [str(tmp_path / "job.json")], anonymous)
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert_same(np.load(outputs["out"]), expected)
    assert_same(np.load(outputs["private"]), expected)
    expected_style = styled(folder, adapter)
    assert np.abs(expected_style - expected).max() > 1e-3
    assert_same(np.load(outputs["styled"]), expected_style)
    np.testing.assert_array_equal(np.load(outputs["unstyled"]), np.load(outputs["out"]))
    assert facts["remote"] == [], "remote code ran although the package is installed"
    assert facts["warned"] == []
    assert facts["head"]
    assert facts["refused"].startswith("The Hub shows no model me/hidden to this user: if it is private, log in")
    (warning,) = facts["edited"]
    assert warning.startswith("pipeline_diffretouch.py of the model in") and "differ" in warning
    assert "base_model: me/edited" in facts["again"] and "license: other" in facts["again"]
    assert [expert for expert, _, _ in facts["rows"]] == ["A", "B", "C", "D", "E"]
    assert facts["streamed"] == facts["rows"]
    assert facts["space"] == "print('hello')\n"

    server.__exit__()
    fresh_process(OFFLINE, [job["photo"], outputs["offline"]], {**anonymous, "HF_HUB_OFFLINE": "1"})
    assert_same(np.load(outputs["offline"]), expected_style)


def test_diffusers_alone_loads_by_id_and_saves_again(tiny_pipeline, folder, adapter, server, tmp_path):
    pipe = tiny_pipeline()
    pipe.push_to_hub("me/model")
    push(adapter, "me/style")
    np.save(tmp_path / "photo.npy", PHOTO)
    arguments = [str(tmp_path / name) for name in ("photo.npy", "out.npy", "saved", "styled.npy")]
    fresh_process(DIFFUSERS_ALONE, arguments, server.environment(None, tmp_path / "home"))
    assert_same(np.load(tmp_path / "out.npy"), retouch(pipe))
    assert_same(np.load(tmp_path / "styled.npy"), styled(folder, adapter))
    sent = server.files("model", "me/model")
    again = contents(export(tmp_path / "saved", tmp_path / "again", repo_id="me/model"))
    assert {name: data for name, data in sent.items() if name != ".gitattributes"} == again
