"""The look in an adapter: a table after the model's retouch, of which a share is kept; mixed, weighed and undone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_lora_diffretouch import FILE, rewritten, train

from diffretouch import AffineGrid, DiffRetouchPipeline
from diffretouch.model.adapter_look_diffretouch import TABLE_SIZE, AdapterLook, blended

PHOTO = np.random.default_rng(0).random((24, 32, 3), dtype=np.float32) * 0.6 + 0.2


def table_of(edit: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    axis = torch.linspace(0, 1, TABLE_SIZE)
    blue, green, red = torch.meshgrid(axis, axis, axis, indexing="ij")
    return edit(torch.stack([red, green, blue], -1)).clamp(0, 1)


def faded(colours: torch.Tensor) -> torch.Tensor:
    return 0.15 + 0.7 * colours * torch.tensor([1.0, 0.95, 0.8])


def curved(colours: torch.Tensor) -> torch.Tensor:
    return colours**2 * (3 - 2 * colours)


def add_look(folder: Path, target: Path, edit: Callable[[torch.Tensor], torch.Tensor], share: float) -> Path:
    look = {"look.table": table_of(edit).half(), "look.share": torch.tensor(share)}
    return rewritten(folder, target, lambda tensors, _: tensors.update(look))


def contents(path: Path) -> tuple[dict[str, list], dict[str, str]]:
    """Tensors and metadata; safetensors writes the latter in any order."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name).tolist() for name in sorted(file.keys())}, file.metadata()  # noqa: SIM118


def retouch(pipe: Any, photo: np.ndarray = PHOTO, **arguments: Any) -> np.ndarray:
    return pipe(photo, output_type="np", num_inference_steps=2, **arguments).images[0]


@pytest.fixture
def pipe(tiny_pipeline: Callable[..., DiffRetouchPipeline]) -> DiffRetouchPipeline:
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def plain(tiny_pipeline: Callable[..., DiffRetouchPipeline], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny_pipeline(), tmp_path_factory.mktemp("plain"), 1, whole=("grid_head.",))


def test_one_grid_follows_the_grid_and_then_the_table_on_the_photo() -> None:
    grid = AffineGrid.identity(8, 4, 4)
    grid.coefficients += 0.05 * torch.randn(grid.coefficients.shape, generator=torch.Generator().manual_seed(1))
    look = AdapterLook(table_of(lambda colours: curved(faded(colours))), 1.0)
    made = grid.apply(PHOTO)
    chain = curved(faded(torch.from_numpy(made))).numpy()
    view = torch.nn.functional.interpolate(torch.from_numpy(PHOTO).permute(2, 0, 1)[None], (144, 144))[0]
    composed = look.after(grid, view).apply(PHOTO)
    assert np.abs(made - chain).mean() > 0.03
    assert np.abs(composed - chain).mean() < 0.01


def test_looks_blend_from_one_that_changes_nothing() -> None:
    one, other = table_of(faded), table_of(curved)
    looks = [
        {"look.table": one, "look.share": torch.tensor(0.0)},
        {"look.table": other, "look.share": torch.tensor(1.0)},
    ]
    mixed = blended([(0.7, looks[0]), (0.5, looks[1])])
    expected = 0.7 * one + 0.5 * other - 0.2 * table_of(lambda colours: colours)
    torch.testing.assert_close(mixed.table, expected)
    assert mixed.share == pytest.approx(0.3)  # 1 + 0.7 (0 - 1) + 0.5 (1 - 1)
    assert torch.equal(blended([(1.0, looks[0])]).table, one)
    assert blended([]) is None


def test_of_a_share_of_nothing_the_look_alone_is_left_and_sliders_move_as_far(pipe, plain, tmp_path) -> None:
    pipe.load_lora_weights(plain)
    moved = retouch(pipe, brightness=1.0) - retouch(pipe)
    pipe.unload_lora_weights()
    same = add_look(plain, tmp_path / "same.safetensors", lambda colours: colours, 0.0)
    pipe.load_lora_weights(same)
    np.testing.assert_allclose(retouch(pipe), PHOTO, atol=2e-3)
    assert np.abs(moved).max() > 0.02
    # Not everywhere: what the model's own retouch had clipped moves differently without it.
    assert np.abs(retouch(pipe, brightness=1.0) - PHOTO - moved).mean() < 2e-3
    pipe.unload_lora_weights()
    pipe.load_lora_weights(add_look(plain, tmp_path / "faded.safetensors", faded, 0.0))
    np.testing.assert_allclose(retouch(pipe), faded(torch.from_numpy(PHOTO)).numpy(), atol=0.01)


@pytest.mark.parametrize(
    "edit",
    [lambda colours: 0.1 + 0.75 * colours, lambda colours: 1 - colours, lambda colours: colours.flip(-1)],
    ids=["faded", "a negative", "red for blue"],
)
def test_sliders_reach_as_far_after_a_look_as_without(edit) -> None:
    look = AdapterLook(table_of(edit), 0.0)
    at_rest = torch.zeros(1, 12, 2, 1, 1)
    at_rest[:, [0, 5, 10]] = 1
    asked = at_rest.clone()
    asked[:, [3, 7]] += 0.08  # red and green lighter, by that much of [-1, 1]
    grid = AffineGrid(look.kept(asked, at_rest)[0], AffineGrid.identity(2).guide)
    moved = edit(torch.from_numpy(grid.apply(PHOTO))) - edit(torch.from_numpy(PHOTO))
    torch.testing.assert_close(moved.mean((0, 1)), torch.tensor([0.04, 0.04, 0.0]), atol=1e-4, rtol=0)


def test_after_a_look_in_black_and_white_sliders_do_not_run_away() -> None:
    look = AdapterLook(table_of(lambda colours: colours.mean(-1, keepdim=True).expand_as(colours)), 0.0)
    at_rest = torch.zeros(1, 12, 2, 1, 1)
    at_rest[:, [0, 5, 10]] = 1
    asked = at_rest + 0.1 * torch.randn(at_rest.shape, generator=torch.Generator().manual_seed(0))
    moved, wanted = look.kept(asked, at_rest) - at_rest, asked - at_rest
    assert moved.norm() <= 1.5 * wanted.norm() * (1 + 1e-5)


def test_weight_zero_disabled_and_unloaded_are_the_model_itself(pipe, plain, tmp_path) -> None:
    untouched = retouch(pipe)
    pipe.load_lora_weights(add_look(plain, tmp_path / "a.safetensors", faded, 0.5), "a")
    looked = retouch(pipe)
    assert np.abs(looked - untouched).max() > 0.05
    pipe.disable_lora()
    np.testing.assert_array_equal(retouch(pipe), untouched)
    pipe.enable_lora()
    np.testing.assert_array_equal(retouch(pipe), looked)
    pipe.set_adapters("a", 0.0)
    np.testing.assert_allclose(retouch(pipe), untouched, atol=5e-3)
    pipe.delete_adapters("a")
    np.testing.assert_array_equal(retouch(pipe), untouched)


def test_a_swapped_in_adapter_brings_its_own_look_or_none(pipe, plain, tmp_path) -> None:
    pipe.load_lora_weights(plain, "a")
    without = retouch(pipe)
    pipe.load_lora_weights(add_look(plain, tmp_path / "a.safetensors", faded, 1.0), "a", hotswap=True)
    assert np.abs(retouch(pipe) - without).max() > 0.05
    pipe.load_lora_weights(plain, "a", hotswap=True)
    np.testing.assert_array_equal(retouch(pipe), without)


def test_a_look_tones_black_and_white_photos(pipe, plain, tmp_path) -> None:
    grey = np.repeat(PHOTO[..., :1], 3, axis=2)
    pipe.load_lora_weights(plain)
    assert np.ptp(retouch(pipe, grey), axis=2).max() == 0
    pipe.unload_lora_weights()
    pipe.load_lora_weights(add_look(plain, tmp_path / "a.safetensors", faded, 1.0))
    assert np.ptp(retouch(pipe, grey), axis=2).mean() > 0.05


def test_a_look_is_saved_beside_the_layers_and_an_adapter_without_one_is_as_before(pipe, plain, tmp_path) -> None:
    tensors, _, metadata = pipe.lora_state_dict(plain, return_lora_metadata=True)
    layers = {name.removeprefix("unet."): t for name, t in tensors.items() if "lora_" in name}
    whole = {name: t for name, t in tensors.items() if "lora_" not in name}
    look = {"look.table": table_of(faded), "look.share": torch.tensor(0.5)}
    for name, given in (("without", None), ("with", look)):
        settings = {"unet_lora_adapter_metadata": metadata["lora"], "base_metadata": metadata["base"]}
        pipe.save_lora_weights(tmp_path / name, layers, whole_modules=whole, look=given, **settings)
    assert contents(tmp_path / "without" / FILE) == contents(plain / FILE)
    saved = load_file(tmp_path / "with" / FILE)
    assert {name for name in saved if name.startswith("look.")} == {"look.table", "look.share"}
    pipe.load_lora_weights(tmp_path / "with")
    assert pipe.look_in_effect().share == 0.5


def test_an_adapter_with_a_look_is_not_fused(pipe, plain, tmp_path) -> None:
    pipe.load_lora_weights(add_look(plain, tmp_path / "a.safetensors", faded, 0.5), "a")
    looked = retouch(pipe)
    with pytest.raises(ValueError, match=r"`adapter_names` .* without a look to be fused, got \['a'\]"):
        pipe.fuse_lora()
    np.testing.assert_array_equal(retouch(pipe), looked)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop("look.share"), "has to hold a look of"),
        (lambda t, m: t.update({"look.table": t["look.table"][:5]}), "has to hold a look of"),
        (lambda t, m: t.update({"look.share": torch.tensor(1.5)}), "within .0, 1., got look.share"),
        (lambda t, m: t.update({"look.table": t["look.table"] + 1}), "within .0, 1., got look.table"),
        (lambda t, m: t["look.table"].fill_(float("nan")), "finite floating-point tensors, got look.table"),
        (lambda t, m: t.update({"look.more": torch.ones(1)}), "only, got 'look.more'"),
    ],
)
def test_damaged_looks_are_one_sentence_and_change_nothing(pipe, plain, tmp_path, change, message) -> None:
    good = add_look(plain, tmp_path / "good.safetensors", faded, 0.5)
    (tmp_path / "in").mkdir()
    good.rename(tmp_path / "in" / FILE)
    damaged = rewritten(tmp_path / "in", tmp_path / "damaged.safetensors", change)
    untouched = retouch(pipe)
    with pytest.raises(ValueError, match=message):
        pipe.load_lora_weights(damaged)
    np.testing.assert_array_equal(retouch(pipe), untouched)
