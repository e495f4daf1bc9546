"""What training costs: the loop beside bare forward and backward, LoRA beside full, the paper's size in memory.

    python benchmarks/train.py --dataset data-synthetic -o train.json
    python benchmarks/train.py --dataset data-synthetic --steps 40 --parts loop -o train.json

Three parts:

- loop: optimiser steps of the training loop (reading pairs, losses, gradient clipping, AdamW, averaging) alternate
  with bare forward and backward passes of the same model on as many pictures; medians, so that other work on the
  machine weighs on both alike.
- modes: time per step and peak memory of training everything and of a LoRA, on the bundled model, each in a process of
  its own.
- memory: one step of the Stable-Diffusion-2.1-size model at 512 x 512, traced with tensors that have shapes but no
  data. Computed, not measured: it counts parameters, gradients, optimiser state and activations, not what a GPU's
  libraries and the allocator's fragmentation add.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Spinning OpenMP barriers make small machines up to 50 times slower; has to be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from output import require_folder

PARTS = ("loop", "modes", "memory")
MODES = {
    "full": [],
    "full, gradient checkpointing": ["gradient_checkpointing=true"],
    "LoRA, rank 16": ["lora_rank=16"],
    "LoRA, rank 16, gradient checkpointing": ["lora_rank=16", "gradient_checkpointing=true"],
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see the file's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="folder or Hub id, in the project's schema")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="(default: all)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps (default: %(default)s)")
    parser.add_argument("--cache_dir", type=Path, help="of encoded pictures (default: a temporary one)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)  # this is the fresh process
    return parser.parse_args(arguments)


def make_trainer(dataset: str, cache_dir: Path, overrides: list[str]) -> Any:
    """A trainer of the bundled model with the default recipe, all losses from the first step on."""
    from accelerate import Accelerator

    from diffretouch.data.dataset import read_split
    from diffretouch.training.config import load_config
    from diffretouch.training.loop import Trainer

    common = [f"dataset={dataset}", f"cache_dir={cache_dir}", "pretrained_model=bundled", "contrastive_warmup_steps=0"]
    config = load_config(None, [*common, *overrides])
    return Trainer(config, Accelerator(), read_split(dataset, "train"), None)


def measure_loop(dataset: str, cache_dir: Path, steps: int) -> dict[str, float]:
    """Median seconds of the loop's step and of bare forward and backward over the same number of pictures."""
    import torch

    from diffretouch.model.photo_statistics_diffretouch import NUM_STATISTICS
    from diffretouch.training.objective import Retoucher

    trainer = make_trainer(dataset, cache_dir, [])
    config = trainer.config
    with trainer.averaged() as pipe:
        model = Retoucher(pipe.unet, pipe.grid_head)
        side = pipe.unet.config.sample_size
    pictures = config.train_batch_size + 2 * config.contrastive_batch_size
    pixels = (3, config.pixel_size, config.pixel_size)
    shapes = ((4, side, side), (), (3, side, side), (4,), pixels, (NUM_STATISTICS,))
    inputs = [torch.rand(pictures, *shape, device=pipe.unet.device) for shape in shapes]

    def bare() -> None:
        noise_pred, retouched = model(*inputs)
        (noise_pred.square().mean() + retouched.square().mean()).backward()
        model.zero_grad()

    seconds: dict[str, list[float]] = {"loop": [], "bare": []}
    for step in range(steps + 2):
        for name, work in (("loop", trainer.advance), ("bare", bare)):
            taken = timed(work)
            if step >= 2:  # the first ones warm caches
                seconds[name].append(taken)
    loop, alone = (statistics.median(seconds[name]) for name in ("loop", "bare"))
    return {"loop_seconds": loop, "bare_seconds": alone, "throughput": alone / loop}


def timed(work: Any) -> float:
    """Seconds of `work()`, waiting for a GPU to finish."""
    import torch

    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure_mode(dataset: str, cache_dir: Path, steps: int, mode: str) -> dict[str, float]:
    """Median seconds per step, trained parameters and peak memory of this process or its GPU."""
    import torch

    trainer = make_trainer(dataset, cache_dir, MODES[mode])
    before = peak_mib()
    seconds = [timed(trainer.advance) for _ in range(steps + 2)][2:]
    return {
        "seconds": statistics.median(seconds),
        "trained": sum(value.numel() for value in trainer.state()["model"].values()),
        "peak_mib": peak_mib(),
        "peak_mib_before_the_first_step": before,
        "gpu": torch.cuda.is_available(),
    }


def peak_mib() -> float:
    """Largest memory so far: allocated on the GPU if there is one, else resident of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB on Linux


def measure_fresh(mode: str, cache_dir: Path, options: argparse.Namespace) -> dict[str, Any]:
    """`measure_mode` in a process of its own, so that its peak is its own."""
    command = [sys.executable, __file__, "--dataset", options.dataset, "--steps", str(options.steps), "--mode", mode]
    command += ["--cache_dir", str(cache_dir), "-o", str(options.output)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"the measured process of {mode!r} ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def trace_memory(lora: bool, checkpointing: bool) -> dict[str, float]:
    """Peak GiB of one step of the Stable-Diffusion-2.1-size model at 512 x 512, and the weights' part of it.

    One pair with its positive and negative branch: the part of a batch that one accumulation pass works through.
    """
    import torch
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from torch._subclasses.fake_tensor import FakeTensorMode

    from diffretouch import AffineGridHead, DiffRetouchPipeline
    from diffretouch.attributes import attribute_scores
    from diffretouch.model.photo_statistics_diffretouch import NUM_STATISTICS
    from diffretouch.training.config import load_config
    from diffretouch.training.models import Adapter
    from diffretouch.training.objective import Retoucher

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            in_channels=7,
            out_channels=8,
            cross_attention_dim=4,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        )
        pipe = DiffRetouchPipeline(unet, DDPMScheduler(), AffineGridHead())
        if lora:
            # The adapter notes which base it is for from the base's numbers, which do not exist here.
            pipe.lora_base_metadata = dict  # type: ignore[method-assign]
            Adapter(pipe, 16, load_config(None, []))
    if checkpointing:
        unet.enable_gradient_checkpointing()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = Retoucher(unet, pipe.grid_head).to_empty(device="cpu")
        optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad])
        live = live_bytes(model.parameters())
        with live:
            # The second step finds the optimiser's state in place, the first only makes it.
            for _ in range(2):
                inputs = torch.randn(3, 4, 64, 64), torch.zeros(3, dtype=torch.long), torch.randn(3, 3, 64, 64)
                photo, numbers = torch.rand(3, 3, 512, 512), torch.zeros(3, NUM_STATISTICS)
                noise_pred, pictures = model(*inputs, torch.zeros(3, 4), photo, numbers)
                scores = attribute_scores(((pictures + 1) / 2).clamp(0, 1))
                (noise_pred.square().mean() + pictures.square().mean() + scores.square().mean()).backward()
                optimizer.step()
                optimizer.zero_grad()
    weights = sum(value.numel() * value.element_size() for value in model.parameters())
    return {"total": live.peak / 2**30, "weights": weights / 2**30}


def live_bytes(known: Iterable[Any]) -> Any:
    """A context in which `peak` follows the bytes of all tensors alive: `known` ones and what operators return."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class LiveBytes(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.alive: dict[int, int] = {}
            self.now = self.peak = 0
            for tensor in known:
                self.add(tensor)

        def add(self, tensor: torch.Tensor) -> None:
            storage = tensor.untyped_storage()
            if storage._cdata not in self.alive:
                self.alive[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.remove, storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)

        def remove(self, address: int) -> None:
            self.now -= self.alive.pop(address)

        def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            results = operator(*args, **(kwargs or {}))
            for result in tree_leaves(results):
                if isinstance(result, torch.Tensor):
                    self.add(result)
            return results

    return LiveBytes()


def measure(options: argparse.Namespace, cache_dir: Path) -> dict[str, Any]:
    """All parts that were asked for."""
    result: dict[str, Any] = {}
    if "loop" in options.parts:
        result["loop"] = measure_loop(options.dataset, cache_dir, options.steps)
    if "modes" in options.parts:
        result["modes"] = {mode: measure_fresh(mode, cache_dir, options) for mode in MODES}
    if "memory" in options.parts:
        result["memory"] = {
            f"{'LoRA, rank 16' if lora else 'full'}{', gradient checkpointing' if on else ''}": trace_memory(lora, on)
            for lora in (False, True)
            for on in (False, True)
        }
    return result


def format_tables(result: dict[str, Any]) -> str:
    """The figures as Markdown tables."""
    lines = []
    if "loop" in result:
        loop = result["loop"]
        lines += [
            f"Loop {loop['loop_seconds']:.3f} s per step, bare forward and backward {loop['bare_seconds']:.3f} s: "
            f"{100 * loop['throughput']:.0f}% of its throughput.",
            "",
        ]
    if "modes" in result:
        lines += [
            "| bundled model | trained parameters | s per step | peak memory (MiB) |",
            "| --- | ---: | ---: | ---: |",
        ]
        for mode, figures in result["modes"].items():
            cells = f"{figures['trained']:,} | {figures['seconds']:.3f} | {figures['peak_mib']:.0f}"
            lines.append(f"| {mode} | {cells} |")
        lines.append("")
    if "memory" in result:
        lines += ["| SD-2.1 size, 512 x 512, computed from a traced step | peak memory (GiB) |", "| --- | ---: |"]
        lines += [f"| {mode} | {figures['total']:.1f} |" for mode, figures in result["memory"].items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, 2 with one line on what was wrong, or 1 when a measured process failed."""
    options = parse_arguments(arguments)
    try:
        if options.mode is not None:
            print(json.dumps(measure_mode(options.dataset, options.cache_dir, options.steps, options.mode)))
            return 0
        require_folder(options.output)
        with tempfile.TemporaryDirectory() as scratch:
            result = measure(options, options.cache_dir or Path(scratch))
        from diffretouch.files import save_json

        save_json(result, options.output)
    except (OSError, TypeError, ValueError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    print(format_tables(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
