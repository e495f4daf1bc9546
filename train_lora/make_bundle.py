# /// script
# requires-python = ">=3.11"
# dependencies = ["diffretouch[train]"]
#
# [tool.uv.sources]  # not on PyPI yet: the checkout that this file lies in; without one, see README.md beside it
# diffretouch = { path = "..", editable = true }
# ///
"""Turn a finished run and its evaluation into the bundled model, card included.

python train_lora/train_full.py --recipe bundled dataset=data-synthetic output_dir=runs/first
python train_lora/train_full.py --recipe bundled dataset=data-synthetic pretrained_model=runs/first/final \\
    output_dir=runs/second learning_rate=6e-4
python train_lora/make_bundle.py runs/second --mean_with runs/first/final=2 --noise_offset 2.0 --fast_timesteps 999
python train_lora/calibrate_sliders.py pipeline/diffretouch/bundled data-synthetic --num_photos 28 \\
    -o runs/bundled-calibrated
python train_lora/make_bundle.py runs/second --pipeline runs/bundled-calibrated
diffretouch evaluate data-synthetic -o evaluation
python docs/make_pictures.py examples/photo.jpg --name rhino
python train_lora/make_bundle.py runs/second evaluation/quality.json --pipeline runs/bundled-calibrated

Bundled three times, because what is calibrated, measured and shown is the bundle. It samples with first-order
DPM-Solver++, which is DDIM that takes any timesteps: all of a seed's noise is in the initial latents, so that
`noise_offset` reaches the picture. The mean of a model's weights before and after it was trained on is nearer to
unseen photos than either (Wortsman et al. 2022, "Model soups"). It may retouch less than all of them, which a gain
makes good, and its seeds lie nearer together, which `noise_offset` mends. Of which models the bundle is the mean, its
card says.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler

from diffretouch import BUNDLED_MODEL, AffineGridHead, DiffRetouchPipeline
from diffretouch.hub.card import write_model_card
from diffretouch.hub.upload import export

DOCS = Path(__file__).parents[1] / "docs"
PICTURES = {
    "Before and after, all sliders at 0. Photo: Charles J. Sharp, CC BY-SA 4.0, retouched": "rhino-before-after.jpg",
    "Four sliders, five positions, one seed. Photo: Charles J. Sharp, CC BY-SA 4.0, retouched": "rhino-sliders.jpg",
    "Inputs and four seeds, all sliders at 0. Photos, retouched: Charles J. Sharp (CC BY-SA 4.0), aussiegall "
    "(CC BY 2.0), MIT Scratch (CC BY-SA 3.0), Seth Zeigler (CC0), Brylie Christopher Oxley (CC0), Steve Evans "
    "(CC BY 2.0)": "gallery.jpg",
}


@torch.no_grad()
def average(pipe: DiffRetouchPipeline, others: Sequence[tuple[Path, float]]) -> None:
    """Give `pipe`, which counts once, the mean of its weights and those of `others`, each as often as it says."""
    counted = 1.0
    for folder, weight in others:
        counted += weight
        other = DiffRetouchPipeline.from_pretrained(folder)
        for name in ("unet", "grid_head"):
            theirs = getattr(other, name).state_dict()
            for key, value in getattr(pipe, name).state_dict().items():
                value.lerp_(theirs[key], weight / counted)


def weighed(text: str) -> tuple[Path, float]:
    """A model's folder and how often it counts, of FOLDER or FOLDER=WEIGHT."""
    folder, _, weight = text.partition("=")
    return Path(folder), float(weight or 1)


@torch.no_grad()
def strengthen(head: AffineGridHead, gain: float) -> None:
    """Let what a head without bias makes of features count `gain` times: exactly a retouch at that strength."""
    if head.config.bias:
        raise ValueError("`--gain` is for heads without bias, whose grid is the identity and what features add to it.")
    head.out.weight.mul_(gain)


@torch.no_grad()
def with_bias(head: AffineGridHead) -> AffineGridHead:
    """The same head with a bias at the identity: a style that is trained on it may have an opinion of its own."""
    full = AffineGridHead.from_config({**head.config, "bias": True})  # its last bias starts there
    full.load_state_dict(head.state_dict(), strict=False)
    for conv in (*full.down, full.mid):
        torch.nn.init.zeros_(conv.bias)
    return full


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of train_full.py")
    parser.add_argument("evaluation", type=Path, nargs="?", help="quality.json of `diffretouch evaluate`")
    parser.add_argument(
        "--mean_with",
        type=weighed,
        nargs="+",
        default=[],
        metavar="FOLDER[=WEIGHT]",
        help="models of the same form: the bundle is the mean of all, the run's own counting once",
    )
    parser.add_argument("--gain", type=float, default=1.0, help="of the retouch, chosen on validation")
    parser.add_argument("--pipeline", type=Path, help="calibrate_sliders.py's output (default: run/final)")
    parser.add_argument("--limits", type=Path, default=DOCS / "bundled-limits.txt", help="one observed limit per line")
    parser.add_argument(
        "--min_timestep", type=int, help="where sampling stops, chosen on the validation split (default: as trained)"
    )
    parser.add_argument("--steps", type=int, help="its default, chosen with benchmarks/steps.py (default: as trained)")
    parser.add_argument("--smoothing", type=float, help="of the grid over places, in cells, chosen on validation")
    parser.add_argument("--noise_offset", type=float, help="spread of the seeds, chosen on the validation split")
    parser.add_argument("--fast_timesteps", help="of `--fast`, joined by commas (default: a fifth of the steps)")
    options = parser.parse_args()
    folder = Path(BUNDLED_MODEL)
    limits = [line for line in options.limits.read_text().splitlines() if line]
    pipe = DiffRetouchPipeline.from_pretrained(options.pipeline or options.run / "final")
    average(pipe, options.mean_with)
    if options.gain != 1:
        strengthen(pipe.grid_head, options.gain)
    chosen = {
        "min_timestep": options.min_timestep,
        "default_num_inference_steps": options.steps,
        "fast_timesteps": options.fast_timesteps,
        "noise_offset": options.noise_offset,
    }
    pipe.register_to_config(**{name: value for name, value in chosen.items() if value is not None})
    if not pipe.grid_head.config.bias:
        pipe.register_modules(grid_head=with_bias(pipe.grid_head))
    if options.smoothing is not None:
        pipe.grid_head.register_to_config(smoothing=options.smoothing)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, algorithm_type="dpmsolver++", solver_order=1
    )
    shutil.rmtree(folder, ignore_errors=True)
    export(pipe, folder)
    write_model_card(
        folder,
        evaluation=options.evaluation,
        config=options.run / "config.yaml",
        log=options.run / "log.jsonl",
        pictures={caption: DOCS / name for caption, name in PICTURES.items() if (DOCS / name).exists()},
        limits=limits,
    )


if __name__ == "__main__":
    main()
