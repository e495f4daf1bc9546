"""LoRA adapters on the real classes at tiny size: loaded ones work as trained, mix, fuse, and go without a trace.

The adapters here are made with peft as training makes them, with weights large enough to show in the picture.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.lora_pipeline import SanaLoraLoaderMixin
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffretouch import AffineGridHead, DiffRetouchPipeline

FILE = "pytorch_lora_weights.safetensors"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
PHOTO = np.random.default_rng(0).random((24, 32, 3), dtype=np.float32)
WHOLE = ("grid_head.", "unet.conv_in.", "unet.conv_out.")


def retouch(pipe: Any, **arguments: Any) -> np.ndarray:
    arguments = {"generator": torch.Generator().manual_seed(3), "num_inference_steps": 1, **arguments}
    return pipe(PHOTO, temperature=0.7, output_type="np", **arguments).images


def tensors(pipe: Any) -> dict[str, torch.Tensor]:
    """A copy of everything that a pipeline holds, adapters too."""
    parts = {"unet": pipe.unet, "grid_head": pipe.grid_head}
    return {f"{part}.{name}": t.clone() for part, module in parts.items() for name, t in module.state_dict().items()}


def assert_same_tensors(pipe: Any, before: dict[str, torch.Tensor]) -> None:
    after = tensors(pipe)
    assert after.keys() == before.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert {name: tensor.dtype for name, tensor in after.items()} == {name: t.dtype for name, t in before.items()}


def train(
    pipe: DiffRetouchPipeline,
    folder: Path,
    seed: int,
    targets: tuple[str, ...] = ATTENTION,
    rank: int = 2,
    alpha: int = 5,
    whole: tuple[str, ...] = (),
) -> Path:
    """As after training: `pipe` has the adapter and the changed parts in it, `folder` the file of them."""
    base = pipe.lora_base_metadata()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights=False)
        pipe.unet.add_adapter(settings, "trained")
        tuned = {
            name: tensor for name, tensor in tensors(pipe).items() if name.startswith(whole) and "lora_" not in name
        }
        tuned = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in tuned.items()}
    for part in ("unet", "grid_head"):
        of_part = {name.removeprefix(f"{part}."): t for name, t in tuned.items() if name.startswith(f"{part}.")}
        getattr(pipe, part).load_state_dict(of_part, strict=False)
    layers = get_peft_model_state_dict(pipe.unet, adapter_name="trained")
    settings = pipe.unet.peft_config["trained"].to_dict()
    pipe.save_lora_weights(
        folder, layers, unet_lora_adapter_metadata=settings, whole_modules=tuned, base_metadata=base
    )
    return folder


@pytest.fixture
def pipe(tiny_pipeline: Callable[..., DiffRetouchPipeline]) -> DiffRetouchPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def first(tiny_pipeline: Callable[..., DiffRetouchPipeline], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of attention layers with the grid head and `conv_in` beside it."""
    return train(tiny_pipeline(), tmp_path_factory.mktemp("first"), 1, whole=("grid_head.", "unet.conv_in."))


@pytest.fixture(scope="module")
def second(tiny_pipeline: Callable[..., DiffRetouchPipeline], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of attention and convolution layers with the grid head and `conv_out` beside it."""
    targets = ("to_q", "conv1", "conv_in", "proj_in")
    return train(
        tiny_pipeline(), tmp_path_factory.mktemp("second"), 2, targets, 3, 4, ("grid_head.", "unet.conv_out.")
    )


# ---- loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [ATTENTION, ("conv1", "conv2", "conv_shortcut", "time_emb_proj"), ("to_v",)])
@pytest.mark.parametrize("whole", [(), ("grid_head.",), WHOLE])
def test_a_loaded_adapter_makes_the_picture_it_was_trained_to_make(tiny_pipeline, pipe, tmp_path, targets, whole):
    trained = tiny_pipeline()
    untouched = retouch(trained)
    train(trained, tmp_path, 5, targets, rank=3, alpha=7, whole=whole)
    expected = retouch(trained)
    assert np.abs(expected - untouched).max() > 1e-3
    pipe.load_lora_weights(tmp_path)
    np.testing.assert_allclose(retouch(pipe), expected, atol=1e-6)


def test_folder_file_subfolder_and_tensors_in_memory_are_the_same_adapter(tiny_pipeline, tmp_path):
    train(tiny_pipeline(), tmp_path / "a", 1, rank=2, alpha=2, whole=("grid_head.",))
    loaded, alphas, metadata = DiffRetouchPipeline.lora_state_dict(tmp_path / "a", return_lora_metadata=True)
    assert alphas is None
    assert metadata["lora"]["r"] == metadata["lora"]["lora_alpha"] == 2
    assert metadata["base"]["attributes"] == ["colorfulness", "brightness", "contrast", "temperature"]
    (tmp_path / "a" / FILE).rename(tmp_path / "a" / "mine.safetensors")
    pictures = []
    for source, options in (
        (str(tmp_path / "a" / "mine.safetensors"), {}),
        (tmp_path, {"subfolder": "a", "weight_name": "mine.safetensors"}),
        (loaded, {}),
    ):
        pipe = tiny_pipeline()
        pipe.load_lora_weights(source, **options)
        pictures.append(retouch(pipe))
    assert not np.array_equal(pictures[0], retouch(tiny_pipeline()))
    np.testing.assert_array_equal(pictures[0], pictures[1])
    np.testing.assert_array_equal(pictures[0], pictures[2])
    train(tiny_pipeline(), tmp_path / "b", 2, rank=1)
    pipe.load_lora_weights(tmp_path / "b", "default_0", hotswap=True)
    again, _ = DiffRetouchPipeline.lora_state_dict(tmp_path / "a" / "mine.safetensors")
    assert all(torch.equal(loaded[name], again[name]) for name in again), "the caller's tensors were written to"


def test_loading_draws_no_random_numbers(pipe, first):
    before = torch.random.get_rng_state()
    pipe.load_lora_weights(first)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_last_one_loaded_is_active_alone_and_unnamed_ones_get_free_names(pipe, first, second, tiny_pipeline):
    pipe.load_lora_weights(first)
    pipe.load_lora_weights(second)
    assert pipe.get_list_adapters() == {"unet": ["default_0", "default_1"]}
    assert pipe.get_active_adapters() == ["default_1"]
    alone = tiny_pipeline()
    alone.load_lora_weights(second)
    np.testing.assert_allclose(retouch(pipe), retouch(alone), atol=1e-6)
    pipe.delete_adapters("default_0")
    pipe.load_lora_weights(first)
    assert pipe.get_list_adapters() == {"unet": ["default_1", "default_0"]}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_floats_and_variants(pipe, tiny_pipeline, first, dtype):
    plain = tiny_pipeline()
    plain.load_lora_weights(first)
    expected = retouch(plain, num_variants=3)
    pipe.to(dtype)
    before = tensors(pipe)
    pipe.load_lora_weights(first)
    assert {tensor.dtype for tensor in tensors(pipe).values()} == {dtype}
    np.testing.assert_allclose(retouch(pipe, num_variants=3), expected, atol=0.02 if dtype == torch.float16 else 0.1)
    pipe.fuse_lora()
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    assert_same_tensors(pipe, before)


def test_weights_that_are_stored_in_eight_bits(pipe, tiny_pipeline, first):
    plain = tiny_pipeline()
    plain.load_lora_weights(first)
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    before, untouched = tensors(pipe), retouch(pipe)
    pipe.load_lora_weights(first)
    tuned = retouch(pipe)
    assert np.abs(tuned - retouch(plain)).mean() < 0.3 * np.abs(tuned - untouched).mean()
    pipe.unload_lora_weights()
    assert_same_tensors(pipe, before)


def test_converting_a_pipeline_with_adapters_converts_what_unloading_puts_back(pipe, tiny_pipeline, first):
    pipe.load_lora_weights(first)
    pipe.to(torch.float16)
    pipe.unload_lora_weights()
    assert_same_tensors(pipe, tensors(tiny_pipeline().to(torch.float16)))


# ---- mixing ---------------------------------------------------------------------------------------------------------


def updates(folder: Path, alpha_over_rank: float) -> dict[str, torch.Tensor]:
    """{UNet layer: alpha / r B A}, computed with einsum as in the paper."""
    file = load_file(folder / FILE)
    layers = {name.rpartition(".lora_")[0] for name in file if ".lora_" in name}
    return {
        layer.removeprefix("unet."): alpha_over_rank
        * torch.einsum("or...,ri...->oi...", file[f"{layer}.lora_B.weight"], file[f"{layer}.lora_A.weight"])
        for layer in layers
    }


def test_weights_are_those_of_the_formula(pipe, tiny_pipeline, first, second):
    """base + sum of w_i (tuned_i - base) for what is whole, W + sum of w_i alpha_i / r_i B_i A_i for LoRA layers."""
    base = tensors(pipe)
    pipe.load_lora_weights(first, "a")
    pipe.load_lora_weights(second, "b")
    pipe.set_adapters(["b", "a"], [0.3, -0.5])
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    files = {
        -0.5: (load_file(first / FILE), updates(first, 5 / 2)),
        0.3: (load_file(second / FILE), updates(second, 4 / 3)),
    }
    expected = dict(base)
    for weight, (file, layers) in files.items():
        for name, tensor in file.items():
            if ".lora_" not in name:
                expected[name] = expected[name] + weight * (tensor - base[name])
        for layer, update in layers.items():
            expected[f"unet.{layer}.weight"] = expected[f"unet.{layer}.weight"] + weight * update
    after = tensors(pipe)
    assert after.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=2e-6, msg=name)
    assert sum(not torch.equal(after[name], base[name]) for name in base) > 20


def test_mixing_is_the_same_fused_and_not(pipe, first, second):
    pipe.load_lora_weights(first, "a")
    pipe.load_lora_weights(second, "b")
    pipe.set_adapters(["a", "b"], [0.6, 0.7])
    mixed = retouch(pipe)
    pipe.set_adapters(["a", "b"])
    assert np.abs(retouch(pipe) - mixed).max() > 1e-3
    pipe.set_adapters(["a", "b"], [0.6, 0.7])
    pipe.fuse_lora()
    assert pipe.fused_loras == {"a", "b"}
    np.testing.assert_allclose(retouch(pipe), mixed, atol=1e-5)


def test_weight_zero_no_adapter_and_disabled_are_the_model_itself(pipe, first, second):
    untouched, before = retouch(pipe), tensors(pipe)
    pipe.load_lora_weights(first, "a")
    pipe.load_lora_weights(second, "b")
    tuned = retouch(pipe)
    pipe.set_adapters(["a", "b"], 0)
    np.testing.assert_array_equal(retouch(pipe), untouched)
    pipe.set_adapters([])
    np.testing.assert_array_equal(retouch(pipe), untouched)
    pipe.set_adapters("b", None)
    np.testing.assert_array_equal(retouch(pipe), tuned)
    pipe.disable_lora()
    np.testing.assert_array_equal(retouch(pipe), untouched)
    assert all(torch.equal(pipe.grid_head.state_dict()[name[10:]], t) for name, t in before.items() if "grid_" in name)
    pipe.set_adapters("a")
    np.testing.assert_array_equal(retouch(pipe), untouched)
    pipe.set_adapters("b")
    pipe.enable_lora()
    np.testing.assert_array_equal(retouch(pipe), tuned)


def test_one_adapter_at_weight_one_holds_the_trained_parts_bit_for_bit(pipe, first, second):
    pipe.load_lora_weights(first, "a")
    pipe.load_lora_weights(second, "b")
    pipe.set_adapters(["a", "b"], [0.3, 0.9])
    pipe.set_adapters("a")
    tuned = {name[10:]: t for name, t in load_file(first / FILE).items() if name.startswith("grid_head.")}
    assert all(torch.equal(pipe.grid_head.state_dict()[name], tensor) for name, tensor in tuned.items())


def test_deleting_leaves_the_others_as_they_were(pipe, tiny_pipeline, first, second):
    untouched = tensors(pipe)
    pipe.load_lora_weights(first, "a")
    pipe.load_lora_weights(second, "b")
    pipe.set_adapters(["a", "b"], [0.8, 0.4])
    pipe.delete_adapters("a")
    alone = tiny_pipeline()
    alone.load_lora_weights(second, "b")
    alone.set_adapters("b", 0.4)
    np.testing.assert_allclose(retouch(pipe), retouch(alone), atol=1e-6)
    pipe.delete_adapters(["b"])
    assert_same_tensors(pipe, untouched)
    assert pipe.get_list_adapters() == {}


def test_pipelines_that_share_a_unet_share_its_adapters(pipe, first):
    before = tensors(pipe)
    pipe.load_lora_weights(first, "a")
    other = DiffRetouchPipeline.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    other.set_adapters("a", 0.5)
    np.testing.assert_array_equal(retouch(other), retouch(pipe))
    other.unload_lora_weights()
    assert_same_tensors(pipe, before)


# ---- fusing and unloading -------------------------------------------------------------------------------------------


def test_unfusing_and_unloading_restore_every_bit(pipe, first, second):
    before = tensors(pipe)
    pipe.load_lora_weights(first, "a")
    pipe.load_lora_weights(second, "b")
    pipe.set_adapters(["a", "b"], [0.6, 0.7])
    active, picture = tensors(pipe), retouch(pipe)
    for _ in range(3):
        pipe.fuse_lora(lora_scale=0.9)
        pipe.fuse_lora(adapter_names="a")
        pipe.unfuse_lora()
    assert pipe.num_fused_loras == 0
    assert_same_tensors(pipe, active)
    np.testing.assert_array_equal(retouch(pipe), picture)
    pipe.unload_lora_weights()
    assert_same_tensors(pipe, before)
    pipe.unload_lora_weights()  # nothing left to do


def test_adapters_fuse_one_by_one_and_by_name(pipe, tiny_pipeline, first, second):
    together = tiny_pipeline()
    for each in (pipe, together):
        each.load_lora_weights(first, "a")
        each.load_lora_weights(second, "b")
    together.set_adapters(["a", "b"], [0.5, 1.0])
    pipe.set_adapters("b")
    pipe.fuse_lora(adapter_names=["a"], lora_scale=0.5)
    only_a = retouch(pipe)
    pipe.fuse_lora(["unet"])
    np.testing.assert_allclose(retouch(pipe), retouch(together), atol=1e-5)
    pipe.unfuse_lora(["unet"])
    assert pipe.get_active_adapters() == ["b"]
    together.set_adapters("a", 0.5)
    np.testing.assert_allclose(only_a, retouch(together), atol=1e-5)


def test_fused_and_unloaded_saves_as_a_model_of_its_own(pipe, first, tmp_path):
    pipe.load_lora_weights(first)
    tuned = retouch(pipe)
    with pytest.raises(
        ValueError, match=r"^Adapters have to be unloaded before a model is saved, got \['default_0'\]"
    ):
        pipe.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    pipe.fuse_lora()
    with pytest.raises(ValueError, match="unloaded"):
        pipe.save_pretrained(tmp_path / "model")
    pipe.unload_lora_weights()
    np.testing.assert_allclose(retouch(pipe), tuned, atol=1e-5)
    pipe.save_pretrained(tmp_path / "model")
    again = DiffRetouchPipeline.from_pretrained(tmp_path / "model")
    np.testing.assert_allclose(retouch(again), tuned, atol=1e-5)


def test_fusing_that_overflows_is_refused_and_undone(pipe, tiny_pipeline, tmp_path):
    loud = tiny_pipeline()
    train(loud, tmp_path, 1)
    file = {name: tensor * 3e4 for name, tensor in load_file(tmp_path / FILE).items()}
    pipe.to(torch.float16)
    pipe.load_lora_weights({name: tensor.clamp(-6e4, 6e4) for name, tensor in file.items()})
    before = tensors(pipe)
    with pytest.raises(ValueError, match="NaNs detected"):
        pipe.fuse_lora(safe_fusing=True)
    assert_same_tensors(pipe, before)
    assert pipe.num_fused_loras == 0


@pytest.mark.parametrize("action", ["load", "set", "delete", "disable", "enable", "swap"])
def test_what_would_corrupt_fused_weights_is_refused(pipe, first, action):
    pipe.load_lora_weights(first, "a")
    pipe.fuse_lora()
    before = tensors(pipe)
    do = {
        "load": lambda: pipe.load_lora_weights(first, "b"),
        "swap": lambda: pipe.load_lora_weights(first, "a", hotswap=True),
        "set": lambda: pipe.set_adapters("a", 0.5),
        "delete": lambda: pipe.delete_adapters("a"),
        "disable": pipe.disable_lora,
        "enable": pipe.enable_lora,
    }[action]
    with pytest.raises(ValueError, match=r"^Adapters have to be unfused first .*got \['a'\] fused\.$"):
        do()
    assert_same_tensors(pipe, before)


def test_fusing_while_disabled_takes_effect(pipe, first):
    pipe.load_lora_weights(first)
    expected = retouch(pipe)
    pipe.disable_lora()
    pipe.fuse_lora()
    np.testing.assert_allclose(retouch(pipe), expected, atol=1e-5)
    np.testing.assert_allclose(retouch(pipe), expected, atol=1e-5)


# ---- hot swapping ---------------------------------------------------------------------------------------------------


def test_hotswap_replaces_in_place_and_keeps_the_weight_and_the_others(pipe, tiny_pipeline, first, tmp_path):
    train(tiny_pipeline(), tmp_path, 9, ("to_q", "to_v"), rank=1, alpha=3, whole=("grid_head.",))
    pipe.load_lora_weights(first, "style")
    pipe.load_lora_weights(first, "style2")
    pipe.set_adapters(["style", "style2"], [0.5, 0.25])
    places = {name: parameter.data_ptr() for name, parameter in pipe.unet.named_parameters()}
    pipe.load_lora_weights(tmp_path, "style", hotswap=True)
    assert {name: parameter.data_ptr() for name, parameter in pipe.unet.named_parameters()} == places
    fresh = tiny_pipeline()
    fresh.load_lora_weights(tmp_path, "style")
    fresh.load_lora_weights(first, "style2")
    fresh.set_adapters(["style", "style2"], [0.5, 0.25])
    np.testing.assert_allclose(retouch(pipe), retouch(fresh), atol=1e-6)
    for each in (pipe, fresh):
        each.set_adapters("style", 0.8)
    np.testing.assert_allclose(retouch(pipe), retouch(fresh), atol=1e-6)


def test_hotswap_to_a_higher_rank_needs_room(pipe, tiny_pipeline, first, tmp_path):
    train(tiny_pipeline(), tmp_path, 9, ATTENTION, rank=4, alpha=3)
    pipe.load_lora_weights(first, "a")
    before = tensors(pipe)
    with pytest.raises(ValueError, match=r"^The adapter has to be of rank 2 at most to replace 'a', got 4"):
        pipe.load_lora_weights(tmp_path, "a", hotswap=True)
    assert_same_tensors(pipe, before)
    roomy, fresh = tiny_pipeline(), tiny_pipeline()
    roomy.enable_lora_hotswap(target_rank=8)
    roomy.load_lora_weights(first, "a")
    fresh.load_lora_weights(first, "a")
    np.testing.assert_allclose(retouch(roomy), retouch(fresh), atol=1e-6)
    roomy.load_lora_weights(tmp_path, "a", hotswap=True)
    fresh.unload_lora_weights()
    fresh.load_lora_weights(tmp_path, "a")
    np.testing.assert_allclose(retouch(roomy), retouch(fresh), atol=1e-6)
    assert all(torch.is_tensor(m.scaling["a"]) for m in roomy.unet.modules() if hasattr(m, "lora_A"))


def test_hotswap_to_other_layers_or_an_unknown_name_is_refused(pipe, first, second):
    pipe.load_lora_weights(first, "a")
    before = tensors(pipe)
    with pytest.raises(ValueError, match=r"^The adapter has to tune layers that 'a' tunes"):
        pipe.load_lora_weights(second, "a", hotswap=True)
    with pytest.raises(
        ValueError, match=r"^`adapter_name` has to be one of those loaded to be replaced, \['a'\], got 'b'"
    ):
        pipe.load_lora_weights(first, "b", hotswap=True)
    assert_same_tensors(pipe, before)


# ---- what is refused ------------------------------------------------------------------------------------------------


def rewritten(folder: Path, target: Path, change: Callable[[dict, dict], Any]) -> Path:
    """A copy of an adapter after `change(tensors, metadata)`."""
    with safe_open(folder / FILE, "pt") as file:
        metadata = {name: json.loads(text) for name, text in file.metadata().items() if name != "format"}
    contents = load_file(folder / FILE)
    change(contents, metadata)
    save_file(contents, target, {name: json.dumps(value) for name, value in metadata.items()})
    return target


A_LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"
DAMAGE = {
    "nan": (lambda t, m: t[A_LAYER].fill_(float("nan")), "finite floating-point tensors, got unet.mid_block"),
    "infinite_whole": (lambda t, m: t["grid_head.out.bias"].fill_(float("inf")), "finite .* got grid_head.out.bias"),
    "integers": (lambda t, m: t.update({A_LAYER: t[A_LAYER].int()}), "finite floating-point tensors"),
    "missing_half": (lambda t, m: t.pop(A_LAYER), "to_q.lora_A.weight is missing instead of (2, 16)"),
    "missing_whole": (lambda t, m: t.pop("grid_head.out.bias"), "grid_head.out.bias is missing instead of (48,)"),
    "misshapen": (lambda t, m: t.update({A_LAYER: torch.ones(2, 7)}), "is (2, 7) instead of (2, 16)"),
    "misshapen_whole": (lambda t, m: t.update({"grid_head.out.bias": torch.ones(3)}), "is (3,) instead of (48,)"),
    "scalar": (lambda t, m: t.update({A_LAYER: torch.ones(())}), "is () instead of (2, 16)"),
    "two_ranks": (lambda t, m: t.update({A_LAYER: torch.ones(3, 16)}), "of one rank, got [2, 3]"),
    "foreign_key": (lambda t, m: t.update({"text_encoder.x": torch.ones(1)}), "only, got 'text_encoder.x'"),
    "foreign_whole": (
        lambda t, m: t.update({"unet.conv_norm_out.bias": torch.ones(8)}),
        "only, got 'unet.conv_norm_out",
    ),
    "surplus_whole": (lambda t, m: t.update({"grid_head.more": torch.ones(1)}), "is (1,) instead of absent"),
    "foreign_layer": (
        lambda t, m: t.update({"unet.x.lora_A.weight": torch.ones(2, 2)}),
        "LoRA for x, which it does not",
    ),
    "norm_layer": (
        lambda t, m: t.update({"unet.conv_norm_out.lora_B.weight": torch.ones(8, 2)}),
        "LoRA for conv_norm_out",
    ),
    "no_lora": (lambda t, m: [t.pop(name) for name in list(t) if "lora_" in name], "of one rank, got none"),
    "empty": (lambda t, m: t.clear(), "of one rank, got none"),
    "no_alpha": (lambda t, m: m.pop("lora_adapter_metadata"), "has to state rank and alpha"),
    "wrong_alpha": (
        lambda t, m: m["lora_adapter_metadata"].update({"unet.lora_alpha": "x"}),
        "a finite alpha, got 2 and 'x'",
    ),
    "infinite_alpha": (
        lambda t, m: m["lora_adapter_metadata"].update({"unet.lora_alpha": 1e999}),
        "alpha, got 2 and inf",
    ),
    "wrong_rank": (
        lambda t, m: m["lora_adapter_metadata"].update({"unet.r": 3}),
        "its rank, 2, and a finite alpha, got 3",
    ),
    "dora": (lambda t, m: m["lora_adapter_metadata"].update({"unet.use_dora": True}), "plain LoRA .* got use_dora"),
    "patterns": (
        lambda t, m: m["lora_adapter_metadata"].update({"unet.alpha_pattern": {"x": 1}}),
        "got alpha_pattern",
    ),
    "list_metadata": (lambda t, m: m.update({"lora_adapter_metadata": [1]}), "has to state rank and alpha"),
    "base_metadata": (lambda t, m: m["diffretouch_base"].pop("weights"), "whose metadata is damaged"),
    "base_weights": (lambda t, m: m["diffretouch_base"].update({"weights": ["x"]}), "whose metadata is damaged"),
    "base_nan": (
        lambda t, m: m["diffretouch_base"]["weights"].__setitem__(0, float("nan")),
        "with other weights",
    ),
    "base_name": (lambda t, m: m["diffretouch_base"].update({"model": 3}), "whose metadata is damaged"),
    "base_list": (lambda t, m: m.update({"diffretouch_base": [1]}), "whose metadata is damaged"),
    "sliders": (lambda t, m: m["diffretouch_base"]["attributes"].reverse(), "has to have its sliders in the order"),
}


@pytest.fixture(scope="module")
def busy(tiny_pipeline: Callable[..., DiffRetouchPipeline], first: Path) -> DiffRetouchPipeline:
    """With the adapter "a" at work; shared by calls that are refused, because they change nothing."""
    pipe = tiny_pipeline()
    pipe.load_lora_weights(first, "a")
    pipe.set_adapters("a", 0.5)
    return pipe


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_and_foreign_files_are_one_sentence_and_change_nothing(busy, first, tmp_path, damage):
    change, message = DAMAGE[damage]
    path = rewritten(first, tmp_path / "changed.safetensors", change)
    before = tensors(busy)
    for name, hotswap in (("b", False), ("a", True)):
        with pytest.raises(ValueError, match="^The adapter has to ") as caught:
            busy.load_lora_weights(path, name, hotswap=hotswap)
        text = str(caught.value)
        assert "\n" not in text and text.endswith(".") and all(part in text for part in message.split(" .* "))
        assert_same_tensors(busy, before)
        assert busy.get_list_adapters() == {"unet": ["a"]}


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_truncated_files_are_refused(busy, first, tmp_path, kept):
    (tmp_path / FILE).write_bytes((first / FILE).read_bytes()[:kept])
    with pytest.raises(
        ValueError, match=r"^The adapter has to be a whole safetensors file, got .* damaged or of another"
    ):
        busy.load_lora_weights(tmp_path)
    assert busy.get_list_adapters() == {"unet": ["a"]}


def test_a_pickle_is_never_opened(busy, tmp_path):
    torch.save({"x": 1}, tmp_path / "pytorch_lora_weights.bin")
    with pytest.raises(ValueError, match="whole safetensors file"):
        busy.load_lora_weights(tmp_path / "pytorch_lora_weights.bin")
    with pytest.raises(FileNotFoundError, match=rf"^The adapter has to hold {FILE}, got .* without it\.$"):
        busy.load_lora_weights(tmp_path)


def test_adapters_of_another_base_are_refused(pipe, tiny_pipeline, tmp_path):
    other = tiny_pipeline()
    with torch.random.fork_rng():
        torch.manual_seed(77)
        for parameter in other.unet.parameters():
            torch.nn.init.normal_(parameter)
    train(other, tmp_path / "weights", 1)
    sizes = dict(tiny_pipeline().unet.config, block_out_channels=(8, 24), attention_head_dim=4)
    train(tiny_pipeline(unet=UNet2DConditionModel.from_config(sizes)), tmp_path / "sizes", 1)
    head = AffineGridHead(hidden_channels=(8,), mid_channels=8, grid_depth=8, guide_knots=4)
    train(tiny_pipeline(grid_head=head), tmp_path / "head", 1, whole=("grid_head.",))
    before = tensors(pipe)
    for name, reason in (
        (
            "weights",
            "has to be an adapter of this base, a model without a name, got one of a model without a name with ",
        ),
        ("sizes", "with other weights."),
        ("head", "has to fit this base in every tensor, got "),
    ):
        with pytest.raises(ValueError) as caught:
            pipe.load_lora_weights(tmp_path / name)
        assert reason in str(caught.value)
    assert_same_tensors(pipe, before)


def test_adapters_load_into_their_base_in_half_floats_and_into_its_gentle_fine_tunings(pipe, tiny_pipeline, first):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for parameter in pipe.unet.parameters():
            parameter.data += 0.03 * parameter.std().nan_to_num() * torch.randn_like(parameter)
    pipe.load_lora_weights(first)
    half = tiny_pipeline().to(torch.bfloat16)
    half.load_lora_weights(first)
    assert half.get_active_adapters() == pipe.get_active_adapters() == ["default_0"]


def test_the_base_is_described_without_the_adapters_that_are_on_it(pipe, tiny_pipeline, second):
    plain = pipe.lora_base_metadata()
    pipe.load_lora_weights(second)
    assert pipe.lora_base_metadata() == plain
    pipe.fuse_lora()
    assert pipe.lora_base_metadata() == plain
    pipe.unload_lora_weights()
    assert pipe.lora_base_metadata() != plain


def test_the_base_is_told_by_one_weight_of_every_matrix_that_is_not_tuned_whole(pipe):
    matrices = [
        tensor
        for name, tensor in sorted(pipe.unet.state_dict().items())
        if tensor.ndim > 1 and not name.startswith(("conv_in", "conv_out"))
    ]
    told = pipe.lora_base_metadata()["weights"]
    assert told == pytest.approx([float(tensor.flatten()[tensor.numel() // 2]) for tensor in matrices], rel=1e-4)


def test_the_base_is_named_without_paths(tiny_pipeline, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "my-base")
    assert DiffRetouchPipeline.from_pretrained(tmp_path / "my-base").lora_base_metadata()["model"] == "my-base"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda p, a: p.load_lora_weights(7),
            TypeError,
            "`pretrained_model_name_or_path_or_dict` has to be a folder, file, Hub id or dict of tensors, got int",
        ),
        (
            lambda p, a: p.load_lora_weights("/no/such/file"),
            ValueError,
            "The adapter has to be a folder, file, Hub id",
        ),
        (
            lambda p, a: p.load_lora_weights({"grid_head.out.bias": torch.ones(48)}),
            ValueError,
            "The adapter has to hold LoRA layers of one rank, got none",
        ),
        (
            lambda p, a: p.load_lora_weights({"conv_in.weight": torch.ones(1)}),
            ValueError,
            "only, got 'conv_in.weight'",
        ),
        (
            lambda p, a: p.load_lora_weights(a, use_safetensors=False),
            ValueError,
            "pickles are never opened, got False",
        ),
        (lambda p, a: p.load_lora_weights({"unet.x.lora_A.weight": 1}), ValueError, "finite floating-point tensors"),
        (
            lambda p, a: p.load_lora_weights(a, "a"),
            ValueError,
            "`adapter_name` has to be new, or `hotswap` True, got 'a'",
        ),
        (
            lambda p, a: p.load_lora_weights(a, "x.y"),
            ValueError,
            "`adapter_name` has to be None or a name without dots",
        ),
        (lambda p, a: p.load_lora_weights(a, ""), ValueError, "`adapter_name` has to be None or a name without dots"),
        (lambda p, a: p.load_lora_weights(a, 3), ValueError, "`adapter_name` has to be None or a name without dots"),
        (lambda p, a: p.load_lora_weights(a, alpha=3), TypeError, "unexpected keyword argument 'alpha'"),
        (
            lambda p, a: p.set_adapters("b"),
            ValueError,
            "`adapter_names` has to be one or several of those loaded, ['a']",
        ),
        (lambda p, a: p.set_adapters(["a", "a"]), ValueError, "`adapter_names` has to be one or several"),
        (lambda p, a: p.set_adapters([["a"]]), ValueError, "`adapter_names` has to be one or several"),
        (lambda p, a: p.set_adapters(None), ValueError, "`adapter_names` has to be one or several"),
        (lambda p, a: p.set_adapters("a", [1, 2]), ValueError, "one or one per adapter (1), got 2 of them"),
        (lambda p, a: p.set_adapters("a", "x"), TypeError, "`adapter_weights` has to be made of numbers, got"),
        (lambda p, a: p.set_adapters("a", True), TypeError, "`adapter_weights` has to be made of numbers, got"),
        (lambda p, a: p.set_adapters("a", float("nan")), ValueError, "`adapter_weights` has to be finite, got nan"),
        (lambda p, a: p.delete_adapters("b"), ValueError, "`adapter_names` has to be one or several"),
        (lambda p, a: p.fuse_lora(lora_scale=float("inf")), ValueError, "`lora_scale` has to be finite, got inf"),
        (lambda p, a: p.fuse_lora(lora_scale="1"), TypeError, "`lora_scale` has to be made of numbers, got str"),
        (lambda p, a: p.fuse_lora(adapter_names=[]), ValueError, "`adapter_names` has to be at least one loaded"),
        (lambda p, a: p.fuse_lora(["vae"]), ValueError, "`components` has to be None or ['unet'], got ['vae']"),
        (lambda p, a: p.unfuse_lora(["vae"]), ValueError, "`components` has to be None or ['unet'], got ['vae']"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_change_nothing(busy, first, call, error, message):
    before, picture = tensors(busy), retouch(busy)
    with pytest.raises(error) as caught:
        call(busy, first)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert_same_tensors(busy, before)
    assert busy.get_active_adapters() == ["a"]
    np.testing.assert_array_equal(retouch(busy), picture)


# ---- saving ---------------------------------------------------------------------------------------------------------


def trained_parts(pipe: DiffRetouchPipeline) -> tuple[dict, dict, dict]:
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=["to_q"], init_lora_weights=False), "x")
    layers = get_peft_model_state_dict(pipe.unet, adapter_name="x")
    return layers, pipe.unet.peft_config["x"].to_dict(), pipe.lora_base_metadata()


def test_saving_refuses_what_would_not_load_and_leaves_the_file(pipe, tmp_path):
    layers, settings, base = trained_parts(pipe)
    right = {"unet_lora_layers": layers, "unet_lora_adapter_metadata": settings, "base_metadata": base}
    pipe.save_lora_weights(tmp_path, **right)
    before = (tmp_path / FILE).read_bytes()
    name = next(iter(layers))
    for changed, error, message in (
        (
            {"unet_lora_adapter_metadata": 7},
            TypeError,
            "`unet_lora_adapter_metadata` has to be None or a dict, got int",
        ),
        (
            {"base_metadata": {"model": "x"}},
            ValueError,
            "`base_metadata` has to be made by `lora_base_metadata()`, got",
        ),
        ({"unet_lora_layers": {}}, ValueError, "`unet_lora_layers` has to hold LoRA layers of one rank, got none"),
        ({"unet_lora_layers": {**layers, "x.bias": layers[name]}}, ValueError, "only, got 'unet.x.bias'"),
        ({"whole_modules": {"vae.x": layers[name]}}, ValueError, "only, got 'vae.x'"),
        ({"unet_lora_layers": {**layers, name: layers[name] * float("nan")}}, ValueError, "finite floating-point"),
        ({"unet_lora_adapter_metadata": {**settings, "use_rslora": True}}, ValueError, "plain LoRA of one rank"),
        ({"unet_lora_adapter_metadata": {**settings, "r": 9}}, ValueError, "its rank, 2"),
        ({"safe_serialization": False}, ValueError, "`safe_serialization` has to be True, because pickles are never"),
    ):
        with pytest.raises(error) as caught:
            pipe.save_lora_weights(tmp_path, **{**right, **changed})
        assert message in str(caught.value)
    assert (tmp_path / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_what_training_wants_kept_is_kept(pipe, tmp_path):
    layers, settings, base = trained_parts(pipe)
    pipe.save_lora_weights(
        tmp_path / "deep" / "er",
        layers,
        unet_lora_adapter_metadata=settings,
        base_metadata=base | {"data": "me/pairs", "steps": 7},
    )
    *_, metadata = DiffRetouchPipeline.lora_state_dict(tmp_path / "deep" / "er", return_lora_metadata=True)
    assert metadata["base"] == base | {"data": "me/pairs", "steps": 7}
    assert metadata["lora"]["target_modules"] == sorted({name.rpartition(".lora_")[0] for name in layers})
    assert (metadata["lora"]["r"], metadata["lora"]["lora_alpha"]) == (2, 4)


def test_a_file_of_plain_diffusers_loads(pipe, tiny_pipeline, tmp_path):
    """Other software writes no description of the base; rank, alpha and layers are checked all the same."""
    other = tiny_pipeline()
    layers, settings, _ = trained_parts(other)
    plain = {"unet.r": 2, "unet.lora_alpha": 4, "unet.target_modules": ["to_q"], "unet.use_dora": False}
    save_file(
        {f"unet.{name}": tensor.contiguous() for name, tensor in layers.items()},
        tmp_path / FILE,
        {"format": "pt", "lora_adapter_metadata": json.dumps(plain)},
    )
    pipe.load_lora_weights(tmp_path)
    np.testing.assert_allclose(retouch(pipe), retouch(other), atol=1e-6)


# ---- as in diffusers -----------------------------------------------------------------------------------------------


# Of its pipelines with one network: the same arguments, with "transformer" where a UNet is meant here.
METHODS = ("load_lora_weights", "save_lora_weights", "set_adapters", "delete_adapters", "fuse_lora", "unfuse_lora")


@pytest.mark.parametrize("method", METHODS)
def test_lora_methods_take_what_those_of_diffusers_take_in_the_same_order(method):
    theirs = [
        name.replace("transformer", "unet")
        for name, parameter in inspect.signature(getattr(SanaLoraLoaderMixin, method)).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    ours = list(inspect.signature(getattr(DiffRetouchPipeline, method)).parameters)
    assert ours[: len(theirs)] == theirs


def test_reading_an_adapter_takes_and_gives_what_diffusers_does(first):
    source = inspect.getsource(SanaLoraLoaderMixin.lora_state_dict)
    # Newer versions of `huggingface_hub`, which fetches the file, know no `proxies`.
    theirs = set(re.findall(r'kwargs\.pop\("(\w+)"', source)) - {"proxies"}
    assert {"weight_name", "use_safetensors", "return_lora_metadata"} <= theirs
    assert theirs <= inspect.signature(DiffRetouchPipeline.lora_state_dict).parameters.keys()
    state, alphas = DiffRetouchPipeline.lora_state_dict(first, use_safetensors=None, local_files_only=None)
    assert alphas is None and A_LAYER in state


def test_an_adapter_saved_with_the_arguments_of_diffusers_alone_loads_with_its_rank_as_alpha(
    pipe, tiny_pipeline, tmp_path
):
    other = tiny_pipeline()
    layers, _, _ = trained_parts(other)  # alpha is twice the rank
    other.unet.set_adapters("x", 0.5)
    expected = retouch(other)
    other.save_lora_weights(tmp_path, layers, True, None, None, True)
    pipe.load_lora_weights(tmp_path, low_cpu_mem_usage=False)
    np.testing.assert_allclose(retouch(pipe), expected, atol=1e-6)
    metadata = DiffRetouchPipeline.lora_state_dict(tmp_path, return_lora_metadata=True)[2]
    assert metadata["base"] is None and metadata["lora"]["lora_alpha"] == metadata["lora"]["r"] == 2
    with torch.no_grad():
        save_file({f"unet.{name}": tensor.contiguous() for name, tensor in layers.items()}, tmp_path / "bare")
    bare = tiny_pipeline()
    bare.load_lora_weights(tmp_path / "bare")
    np.testing.assert_allclose(retouch(bare), expected, atol=1e-6)


def test_other_processes_write_nothing_and_a_function_to_save_with_is_used(pipe, tmp_path):
    layers, settings, _ = trained_parts(pipe)
    pipe.save_lora_weights(tmp_path / "none", layers, is_main_process=False)
    assert not (tmp_path / "none").exists()
    pipe.save_lora_weights(tmp_path, layers, save_function=save_file, weight_name="x.safetensors")
    assert load_file(tmp_path / "x.safetensors").keys() == {f"unet.{name}" for name in layers}
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("names", [(), ("lora_foo",), ("text_encoder.layers.0.q_proj.lora_A.weight",)])
def test_lora_layers_of_other_networks_are_a_warning_of_diffusers_and_change_nothing(busy, caplog, monkeypatch, names):
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    before = tensors(busy)
    with caplog.at_level("WARNING", logger="diffusers"):  # a command run before may have quietened it
        busy.load_lora_weights({name: torch.ones(2, 2) for name in names})
    told = {record.message.partition(" found")[0] for record in caplog.records}
    assert told == {"No LoRA keys associated to UNet2DConditionModel"}
    assert_same_tensors(busy, before)
    assert busy.get_active_adapters() == ["a"]


BLOCKS = [0.25, {"down": 0.5}, {"down": {"block_1": [0.5]}, "mid": -1, "up": {"block_0": [0.1, 0.2]}}, {"mid": 0}]


@pytest.mark.parametrize("blocks", BLOCKS)
def test_block_weights_scale_the_layers_that_they_scale_in_diffusers(pipe, tiny_pipeline, tmp_path, blocks):
    train(tiny_pipeline(), tmp_path, 4, ("to_q", "conv1", "proj_in"))
    pipe.load_lora_weights(tmp_path, "a")
    pipe.set_adapters("a", {"unet": blocks})
    ours = {name: layer.scaling["a"] for name, layer in pipe._lora_layers().items()}
    pipe.unet.set_adapters("a", blocks)
    assert ours == {name: layer.scaling["a"] for name, layer in pipe._lora_layers().items()}
    assert len(set(ours.values())) == (1 if blocks == 0.25 else len({1.0, *_numbers(blocks)}))


def _numbers(value: Any) -> list[float]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if inner is None else [number for each in inner for number in _numbers(each)]


def test_block_weights_reach_layers_outside_of_blocks_and_leave_what_is_held_whole(pipe, first, second):
    pipe.load_lora_weights(second, "b")  # with LoRA on `conv_in`, on which diffusers' own block weights fail
    pipe.load_lora_weights(first, "a")
    pipe.set_adapters("a")
    whole = pipe.grid_head.out.bias.clone()
    pipe.set_adapters(["a", "b"], [{"unet": {"mid": 0.5}}, 0.0])
    assert torch.equal(pipe.grid_head.out.bias, whole)
    mixed = retouch(pipe)
    pipe.fuse_lora(lora_scale=1.0)
    np.testing.assert_allclose(retouch(pipe), mixed, atol=1e-5)
    pipe.unfuse_lora()
    np.testing.assert_allclose(retouch(pipe), mixed, atol=1e-6)
    pipe.load_lora_weights(first, "a", hotswap=True)
    np.testing.assert_allclose(retouch(pipe), mixed, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({"unet": {"top": 1}}, ValueError, "`adapter_weights` has to name the blocks down, mid and up"),
        ({"unet": {"down": "x"}}, TypeError, "`adapter_weights` has to be made of numbers, got str"),
        ({"unet": {"up": {"block_0": [1, float("nan")]}}}, ValueError, "`adapter_weights` has to be finite, got nan"),
        ({"unet": {"up": {"block_0": [1, 1, 1]}}}, ValueError, "`adapter_weights` has to fit the blocks of this UNet"),
        (
            {"unet": {"up": {"block_7": 1}}},
            ValueError,
            "`adapter_weights` has to name up blocks from ['block_0'], got",
        ),
    ],
)
def test_wrong_block_weights_are_one_sentence(busy, weights, error, message):
    picture = retouch(busy)
    with pytest.raises(error, match=re.escape(message)) as caught:
        busy.set_adapters("a", weights)
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(retouch(busy), picture)


def test_weights_for_other_components_are_a_warning(busy, caplog):
    picture = retouch(busy)
    busy.set_adapters("a", {"unet": 0.5, "text_encoder": 0.1})
    assert caplog.messages == ["Weights of an adapter are of the UNet here, so those of ['text_encoder'] are ignored."]
    np.testing.assert_array_equal(retouch(busy), picture)


def test_the_scale_of_a_call_is_a_factor_on_the_weights_and_leaves_nothing_behind(pipe, tiny_pipeline, first, second):
    pipe.load_lora_weights(first, "a")
    pipe.load_lora_weights(second, "b")
    pipe.set_adapters(["a", "b"], [0.8, -0.4])
    before, plain = tensors(pipe), retouch(pipe)
    scaled = retouch(pipe, cross_attention_kwargs={"scale": 0.5})
    none = retouch(pipe, cross_attention_kwargs={"scale": 0.0})
    with pytest.raises(RuntimeError, match="stop"):
        retouch(pipe, cross_attention_kwargs={"scale": 3}, callback_on_step_end=_stop)
    assert_same_tensors(pipe, before)
    np.testing.assert_array_equal(retouch(pipe), plain)
    np.testing.assert_array_equal(none, retouch(tiny_pipeline()))
    pipe.set_adapters(["a", "b"], [0.4, -0.2])
    np.testing.assert_allclose(scaled, retouch(pipe), atol=1e-6)
    assert np.abs(scaled - plain).max() > 1e-3
    pipe.fuse_lora()
    np.testing.assert_array_equal(retouch(pipe, cross_attention_kwargs={"scale": 0.5}), retouch(pipe))


def _stop(*_: Any) -> dict:
    raise RuntimeError("stop")


@pytest.mark.parametrize(
    ("given", "error"), [(0.5, TypeError), ({"scale": "x"}, ValueError), ({"scale": 1e999}, ValueError)]
)
def test_a_wrong_scale_of_a_call_names_the_parameter(pipe, given, error):
    with pytest.raises(error, match="^`cross_attention_kwargs` has to "):
        retouch(pipe, cross_attention_kwargs=given)


# ---- offloading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["model", "leaf_level", "block_level"])
def test_adapters_work_where_weights_are_offloaded(pipe, tiny_pipeline, first, second, kind):
    plain = tiny_pipeline()
    options = {"onload_device": torch.device("cpu"), "offload_device": torch.device("cpu"), "num_blocks_per_group": 1}
    untouched = retouch(plain)
    if kind == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    else:
        pipe.enable_group_offload(**options, offload_type=kind)
    retouch(pipe)
    for each in (plain, pipe):
        each.load_lora_weights(first, "a")
        each.load_lora_weights(second, "b")
        each.set_adapters(["a", "b"], [0.5, 0.6])
    assert hasattr(pipe.unet, "_hf_hook") == (kind == "model"), "offloading is on again"
    np.testing.assert_allclose(retouch(pipe), retouch(plain), atol=1e-5)
    pipe.fuse_lora()
    np.testing.assert_allclose(retouch(pipe), retouch(plain), atol=1e-5)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    np.testing.assert_allclose(retouch(pipe), untouched, atol=1e-5)


def test_an_adapter_whose_writing_fails_leaves_nothing_behind(pipe, tmp_path):
    def full(tensors: Any, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("the disk is full")

    layers = {"down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.zeros(1, 16)}
    layers["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight"] = torch.zeros(16, 1)
    with pytest.raises(OSError, match="the disk is full"):
        pipe.save_lora_weights(tmp_path / "style", layers, save_function=full)
    assert list((tmp_path / "style").iterdir()) == []
