"""The ablations: every arm once for every seed, never trained twice, told side by side."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from scenes import scene, write_data_set

from diffretouch.training import loop

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import ablations  # noqa: E402


def test_an_arm_is_trained_once_for_every_seed_and_not_again(tmp_path):
    data = write_data_set(tmp_path / "data", {"train": 2, "validation": 1})
    out, runs = tmp_path / "ablations.json", tmp_path / "runs"
    arguments = ["--dataset", str(data), "--arms", "epsilon", "--steps", "1", "--num_photos", "1"]
    arguments += ["--runs", str(runs), "-o", str(out)]
    # In a process of its own: accelerate holds one precision for as long as a process lives.
    command = [sys.executable, ablations.__file__, *arguments, "--seeds", "0", "1"]
    row = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    found = json.loads(out.read_text())
    of_seed = found["arms"]["epsilon"]
    assert list(of_seed) == ["0", "1"] and of_seed["0"]["delta_e_c0"] != of_seed["1"]["delta_e_c0"]
    both = ", ".join(f"{of_seed[seed]['delta_e_c0']:.2f}" for seed in ("0", "1"))
    assert row.startswith(f"| epsilon | {both} |")

    written = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    assert ablations.main([*arguments, "--seeds", "1"]) == 0
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()} == written
    assert json.loads(out.read_text())["arms"]["epsilon"] == {"1": of_seed["1"]}


def test_an_attribute_has_a_token_of_its_own_in_training_and_in_use(monkeypatch, tiny_pipeline):
    monkeypatch.setattr(loop, "starting_pipeline", lambda config: tiny_pipeline())
    with ablations._tokens_of(ablations.PER_ATTRIBUTE):
        pipe = loop.starting_pipeline(None)
    seen: list[torch.Tensor] = []
    keys = next(module for name, module in pipe.unet.named_modules() if name.endswith("attn2.to_k"))
    keys.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    pipe(scene(1), brightness=0.5, num_inference_steps=1)  # gives c to the UNet by its place
    pipe.unet(torch.zeros(1, 7, 8, 8), 999, encoder_hidden_states=torch.tensor([[[0.0, 0.5, 0.0, 0.0]]]))
    in_use, in_training = seen
    assert torch.equal(in_use, torch.diag(torch.tensor([0.0, 0.5, 0.0, 0.0]))[None])
    assert torch.equal(in_training, in_use)


def test_a_folder_that_is_not_there_is_said_before_anything_is_trained(tmp_path, capsys):
    missing = tmp_path / "missing" / "ablations.json"
    assert ablations.main(["--dataset", str(tmp_path), "--runs", str(tmp_path / "runs"), "-o", str(missing)]) == 2
    assert f"`--output` has to be in an existing folder, got {missing}" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
