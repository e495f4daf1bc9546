"""Adapters: what trains and what stays, that every output loads, resumes exactly and can be pushed later."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from scenes import overrides, write_data_set

from diffretouch import DiffRetouchPipeline
from diffretouch.training.config import load_config
from diffretouch.training.loop import train

SCRIPT = Path(__file__).parents[1] / "train_lora" / "train_lora.py"
# Too large for noise, too small to blow up: six steps have to move the weights visibly.
RATE = 5e-3


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_lora", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data"), {"train": 2, "validation": 1})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny-base"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def make(data: Path, base: Path) -> Callable[..., list[str]]:
    def build(**changes: object) -> list[str]:
        settings = {
            "dataset": data,
            "cache_dir": data / "cache",
            "pretrained_model": base,
            "lora_rank": 4,
            "learning_rate": RATE,
            **changes,
        }
        return overrides(**settings)

    return build


@pytest.fixture(scope="module")
def finished(make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(load_config(None, make(output_dir=folder)))
    return folder


def tensors(pipe: DiffRetouchPipeline) -> dict[str, torch.Tensor]:
    parts = {"unet": pipe.unet, "grid_head": pipe.grid_head}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}


def fused(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The weights that base and adapter make together."""
    pipe = DiffRetouchPipeline.from_pretrained(base)
    pipe.load_lora_weights(adapter)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return {name: value.clone() for name, value in tensors(pipe).items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_checkpoints_best_and_final_are_adapters_that_load(finished: Path, base: Path) -> None:
    for name in ("checkpoint-000004", "checkpoint-000006", "best", "final"):
        files = {path.name for path in (finished / name).iterdir()} - {"training_state.pt"}
        assert "pytorch_lora_weights.safetensors" in files
        assert "model_index.json" not in files
        DiffRetouchPipeline.from_pretrained(base).load_lora_weights(finished / name)
    assert (finished / "checkpoint-000006" / "training_state.pt").is_file()


def test_attention_and_whole_modules_change_and_nothing_else(finished: Path, base: Path) -> None:
    before, after = tensors(DiffRetouchPipeline.from_pretrained(base)), fused(base, finished / "final")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    whole = {name for name in before if name.startswith(("grid_head.", "unet.conv_in.", "unet.conv_out."))}
    attention = {name for name in before if name.endswith((".to_q.weight", ".to_k.weight", ".to_v.weight"))}
    attention |= {name for name in before if name.endswith(".to_out.0.weight")}
    # One context token leaves the query and key of cross-attention nothing to choose from.
    idle = {name for name in attention if name.endswith(("attn2.to_q.weight", "attn2.to_k.weight"))}
    assert changed == (whole | attention) - idle


def test_the_adapter_is_what_was_validated(finished: Path, base: Path, make, tmp_path: Path) -> None:
    """The averaged weights, to the last bit: the pipeline in training and the one that loads them agree."""
    from accelerate import Accelerator

    from diffretouch.data.dataset import read_split
    from diffretouch.training.loop import Trainer

    config = load_config(None, make(output_dir=tmp_path / "run"))
    trainer = Trainer(config, Accelerator(cpu=True), read_split(config.dataset, "train"), None)
    for _ in range(3):
        trainer.advance()
    photo = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))

    def retouch(pipe: DiffRetouchPipeline) -> torch.Tensor:
        return pipe(photo, brightness=0.5, generator=torch.Generator().manual_seed(0), output_type="pt").images

    with trainer.averaged() as pipe:
        watched = retouch(pipe)
        trainer.save_model(tmp_path / "adapter")
    loaded = DiffRetouchPipeline.from_pretrained(base)
    loaded.set_progress_bar_config(disable=True)
    untouched = retouch(loaded)
    loaded.load_lora_weights(tmp_path / "adapter")
    assert torch.allclose(retouch(loaded), watched, atol=1e-6)
    assert not torch.allclose(untouched, watched, atol=1e-3)


def test_a_resumed_adapter_is_that_of_an_uninterrupted_run(finished: Path, make, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("checkpoint-000006", "final"))
    train(load_config(None, make(output_dir=folder)), resume="latest")
    for name in ("final", "best"):
        assert_same(fused(base, folder / name), fused(base, finished / name))
    one, other = (
        torch.load(run / "checkpoint-000006" / "training_state.pt", weights_only=True) for run in (folder, finished)
    )
    assert_same(one["model"], other["model"])


def test_the_state_of_an_adapter_holds_no_frozen_weights(finished: Path) -> None:
    state = torch.load(finished / "checkpoint-000006" / "training_state.pt", weights_only=True)
    assert all("lora_" in name or name.startswith(("grid_head.", "unet.conv_")) for name in state["model"])
    assert len(state["ema"]["shadow_params"]) == len(state["model"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lora_train_whole": "[]"}, set()),
        ({"lora_train_whole": "[conv_out]"}, {"unet.conv_out."}),
        ({"lora_train_whole": "[]", "lora_target_modules": "[conv1, conv2]"}, set()),
    ],
)
def test_whole_modules_and_targets_are_a_choice(make, base: Path, tmp_path: Path, changes, expected) -> None:
    train(load_config(None, make(output_dir=tmp_path / "run", max_train_steps=2, lora_alpha=2, **changes)))
    loaded, metadata = DiffRetouchPipeline.lora_state_dict(tmp_path / "run" / "final")
    assert {name.rpartition(".")[0] + "." for name in loaded if "lora_" not in name} == expected
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in loaded if "lora_" in name}
    assert layers == ({"conv1", "conv2"} if "lora_target_modules" in changes else {"to_q", "to_k", "to_v", "0"})
    assert (metadata["lora"]["r"], metadata["lora"]["lora_alpha"]) == (4, 2)
    DiffRetouchPipeline.from_pretrained(base).load_lora_weights(tmp_path / "run" / "final")


def test_modules_that_the_unet_lacks_are_named(make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`lora_target_modules` has to name modules of the UNet, got .'to_z'.") as e:
        train(load_config(None, make(output_dir=tmp_path / "run", lora_target_modules="[to_z]")))
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()


def test_an_adapter_run_is_not_continued_with_another_rank(finished: Path, make, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(ValueError, match="`lora_rank` has to be 4 to continue the checkpoint of step 6, got 8"):
        train(load_config(None, make(output_dir=tmp_path / "run", lora_rank=8)), resume="latest")


def test_an_adapter_run_is_not_continued_on_another_base(finished: Path, make, tmp_path: Path, data: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(ValueError, match="`pretrained_model` has to be .*tiny-base to continue"):
        train(load_config(None, make(output_dir=tmp_path / "run", pretrained_model="bundled")), resume="latest")


def test_an_adapter_run_is_not_continued_where_the_base_was_replaced(base: Path, make, tmp_path: Path) -> None:
    """Under the same name, as an update of the package does to the bundled model."""
    mine = shutil.copytree(base, tmp_path / "mine")
    settings = {"output_dir": tmp_path / "run", "pretrained_model": mine}
    train(load_config(None, make(**settings, max_train_steps=1)))
    pipe = DiffRetouchPipeline.from_pretrained(mine)
    with torch.no_grad():
        pipe.unet.mid_block.resnets[0].conv1.weight.mul_(1.5)
    pipe.save_pretrained(mine)
    with pytest.raises(
        ValueError, match="`pretrained_model` has to be the model of the checkpoint of step 1, got one"
    ):
        train(load_config(None, make(**settings, max_train_steps=2)), resume="latest")


# The command line


def arguments(make, folder: Path, **changes: object) -> list[str]:
    return ["--recipe", "smoke", *make(output_dir=folder, **changes)]


def test_the_script_trains_an_adapter_and_says_where(script, make, tmp_path: Path, capsys) -> None:
    assert script.main([*arguments(make, tmp_path / "run", max_train_steps=1), "--seed=3"]) == 0
    assert f"The trained adapter is in {tmp_path / 'run' / 'final'}" in capsys.readouterr().out
    assert load_config(tmp_path / "run" / "config.yaml", []).seed == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrained_model": "null"}, "`pretrained_model` has to be the model that the adapter is for, got none"),
        ({"lora_train_whole": "[vae]"}, "`lora_train_whole` has to be a list from"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(script, make, tmp_path: Path, capsys, changes, message) -> None:
    assert script.main(arguments(make, tmp_path / "run", **changes)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train_lora: ")
    assert message in line


def test_a_hub_that_cannot_be_reached_costs_nothing_but_the_push(
    script, make, base: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    run = tmp_path / "run"
    command = arguments(make, run, max_train_steps=1, push_to_hub="true", hub_model_id="me/my-style")
    assert script.main(command) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("train_lora: ")
    assert f"Push it later with: diffretouch push {run / 'final'} me/my-style" in last
    DiffRetouchPipeline.from_pretrained(base).load_lora_weights(run / "final")
