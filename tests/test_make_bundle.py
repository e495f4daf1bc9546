"""train_lora/make_bundle.py: what it does to the weights of a run before they become the bundled model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from diffretouch import AffineGridHead

SCRIPT = Path(__file__).parents[1] / "train_lora" / "make_bundle.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_bundle", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def head(bias: bool) -> AffineGridHead:
    torch.manual_seed(0)
    made = AffineGridHead(in_channels=4, hidden_channels=[], mid_channels=8, bias=bias)
    torch.nn.init.normal_(made.out.weight, std=0.1)
    return made


@torch.no_grad()
def pictures(made: AffineGridHead, strength: float = 1.0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    features, photo = torch.randn(1, 4, 8, 8, generator=rng), torch.rand(1, 3, 32, 32, generator=rng) * 2 - 1
    return photo + strength * (made.retouch(made(features), photo) - photo)


def test_a_gain_is_a_retouch_at_that_strength(script) -> None:
    made = head(bias=False)
    wanted, plain = pictures(made, 1.3), pictures(made)
    script.strengthen(made, 1.3)
    torch.testing.assert_close(pictures(made), wanted, atol=1e-5, rtol=0)
    assert (plain - wanted).abs().max() > 0.01


def test_a_head_with_a_bias_takes_no_gain(script) -> None:
    with pytest.raises(ValueError, match="`--gain` is for heads without bias"):
        script.strengthen(head(bias=True), 1.3)


def test_a_bias_that_is_added_changes_nothing(script) -> None:
    made = head(bias=False)
    full = script.with_bias(made)
    assert full.config.bias
    torch.testing.assert_close(pictures(full), pictures(made))


def test_the_mean_counts_every_model_as_often_as_it_says(script, tiny_pipeline, tmp_path) -> None:
    names = ("conv_in.weight", "conv_out.bias")
    values = []
    for number in range(3):
        pipe = tiny_pipeline()
        with torch.no_grad():
            for parameter in (*pipe.unet.parameters(), *pipe.grid_head.parameters()):
                parameter.fill_(number + 1.0)
        pipe.save_pretrained(tmp_path / str(number))
        values.append(pipe)
    script.average(values[0], [script.weighed(f"{tmp_path / '1'}=3"), script.weighed(str(tmp_path / "2"))])
    for name in names:
        mean = values[0].unet.state_dict()[name]
        torch.testing.assert_close(mean, torch.full_like(mean, (1 + 3 * 2 + 3) / 5))
    torch.testing.assert_close(values[0].grid_head.out.weight, torch.full_like(values[0].grid_head.out.weight, 2.0))
