"""The card of a model or adapter: made from what was recorded, never typed, so that it claims only what was measured.

write_model_card("my-model", evaluation="quality.json", config="config.yaml", log="log.jsonl",
                 pictures={"Before and after": "compare.jpg"})
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from ..files import write_atomically
from ..model import BUNDLED_MODEL
from ..model.adapter_file_diffretouch import WHOLE_PARTS, parse_adapter
from ..model.lora_diffretouch import DiffRetouchLoraLoaderMixin
from ..tables import format_table
from .curve import training_curve
from .folders import UNNAMED, hub_id, is_adapter, read_evaluation, read_index, read_log, read_tracking, read_training
from .limits import limits_section

PICTURE_WIDTH = 1280  # pixels; enough for a card, small enough to travel with the model
_BUNDLED = Path(BUNDLED_MODEL).name
_PACKAGED = "the model that comes with the `diffretouch` package"
_PAPER = "https://arxiv.org/abs/2407.03757"
_TAGS = ("diffretouch", "photo-retouching", "image-enhancement", "bilateral-grid")


def write_model_card(
    folder: str | Path,
    *,
    evaluation: str | Path | None = None,
    config: str | Path | None = None,
    log: str | Path | None = None,
    pictures: Mapping[str, str | Path] | None = None,
    limits: Sequence[str] = (),
    datasets: Sequence[str] = (),
    repo_id: str = UNNAMED,
    base_model: str | None = None,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
) -> Path:
    """Write `folder/README.md`, the card of the model or adapter in `folder`, and its pictures into `folder/pictures`.

    Args:
        folder: a self-contained model folder, or the folder of an adapter.
        evaluation: quality.json of `diffretouch evaluate`.
        config: the training run's config.yaml.
        log: the training run's log.jsonl; drawn as a curve. If the run was tracked, the card links to the tracker.
        pictures: {caption: picture file}, the first one on top; at most `PICTURE_WIDTH` pixels wide in the card.
        limits: sentences on what someone saw that no number shows.
        datasets: Hub ids of the data it was trained on.
        repo_id: the name that the example loads; filled in by `push` if not known yet.
        base_model: Hub id of what it was fine-tuned from or adapts; None takes it from what is recorded.
        license, license_name, license_link: Hub licence id, and name and link for "other"; None takes the
            provenance's, points to the base model, or is Apache-2.0 where the model was trained from scratch.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if `folder` is no model and no adapter, or a file is not what it should be.
    """
    folder = Path(folder)
    drawn = {caption: _fitted(Path(path)) for caption, path in (pictures or {}).items()}
    names = {caption: f"pictures/{number}.jpg" for number, caption in enumerate(drawn, 1)}
    records = read_log(Path(log)) if log is not None else []
    card = model_card(
        folder,
        evaluation=read_evaluation(Path(evaluation)) if evaluation is not None else None,
        training=read_training(Path(config)) if config is not None else None,
        pictures=names,
        curve="pictures/training.png" if records else None,
        tracker=_tracker(log or config),
        limits=limits,
        datasets=datasets,
        repo_id=repo_id,
        base_model=base_model,
        license=license,
        license_name=license_name,
        license_link=license_link,
    )
    if drawn or records:
        (folder / "pictures").mkdir(exist_ok=True)
    for caption, picture in drawn.items():
        picture.save(folder / names[caption], quality=88)
    if records:
        training_curve(records).save(folder / "pictures" / "training.png", optimize=True)
    write_atomically(folder / "README.md", str(card).encode())
    return folder / "README.md"


def model_card(
    folder: str | Path,
    *,
    evaluation: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    pictures: Mapping[str, str] | None = None,
    curve: str | None = None,
    tracker: str | None = None,
    limits: Sequence[str] = (),
    datasets: Sequence[str] = (),
    repo_id: str = UNNAMED,
    base_model: str | None = None,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
) -> ModelCard:
    """The card of what is in `folder`; see `write_model_card`, which reads the files and keeps the pictures.

    Args:
        evaluation: a result of `diffretouch.evaluation.evaluate`.
        training: the training configuration as a dict.
        pictures: {caption: path or URL as the card shows it}.
        curve: path or URL of the training curve.
        tracker: URL of what tracked the training.
    """
    subject = _adapter(Path(folder)) if is_adapter(Path(folder)) else _model(Path(folder))
    stated = {"license": license, "license_name": license_name, "license_link": license_link}
    base = base_model or subject.base or hub_id((training or {}).get("pretrained_model"))
    licence = {
        key: value for key, value in (stated if license else _licence_of(subject.origin, base)).items() if value
    }
    name = "DiffRetouch" if repo_id == UNNAMED else repo_id.rpartition("/")[2]
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="image-to-image",
        tags=[*_TAGS, *subject.tags],
        base_model=base,
        datasets=list(datasets) or None,
        metrics=["psnr", "ssim", "delta_e_2000"] if evaluation else None,
        model_name=name,
        eval_results=_eval_results(evaluation, datasets) if evaluation else None,
    )
    for key, value in {**licence, **({"base_model_relation": subject.relation} if base else {})}.items():
        data[key] = value
    shown = list((pictures or {}).items())
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        _introduction(subject.introduction, evaluation),
        *(_picture(*picture) for picture in shown[:1]),
        "## Use\n\n" + subject.usage(repo_id, base),
        *(_picture(*picture) for picture in shown[1:]),
        "## Model\n\n| | |\n|---|---|\n" + "\n".join(f"| {fact} | {value} |" for fact, value in subject.facts.items()),
        *([_quality(evaluation)] if evaluation else []),
        *([_training(training or {}, curve, tracker)] if training or curve or tracker else []),
        limits_section(subject.reach, evaluation, limits),
        _licence_text(licence, subject, base),
    ]
    return ModelCard("\n\n".join(parts) + "\n")


@dataclass(frozen=True)
class _Subject:
    """What the card of a model and that of an adapter say differently."""

    relation: str  # to its base, in the Hub's words
    tags: Sequence[str]
    introduction: str
    usage: Callable[[str, str | None], str]  # of its Hub id and its base's
    facts: Mapping[str, str]
    reach: str  # what it can change in a photo
    made: Callable[[str | None], str]  # from what, given the Hub id of its base, and under which licence its code is
    origin: Mapping[str, str]  # the provenance
    base: str | None  # as recorded


def _model(folder: Path) -> _Subject:
    index = read_index(folder)
    shape = _shape(folder)
    origin = dict(index.get("provenance") or {})

    def made(base: str | None) -> str:
        if origin:
            text = f"Made from {origin.get('source') or 'other weights'}"
        else:
            text = "Fine-tuned" if base else "Trained from scratch"
        code = "Code files: Apache-2.0, an independent implementation of the paper, not the authors' code."
        return f"{text}{f', {_link(base)}' if base else ''}. {code}"

    return _Subject(
        relation="finetune",
        tags=("diffusers:DiffRetouchPipeline",),
        introduction=_MODEL,
        usage=_use_model,
        facts=_architecture(folder, index, shape),
        reach="It changes colour and tone, in "
        f"{shape.cells} x {shape.cells} regions by {shape.depth} levels of brightness",
        made=made,
        origin=origin,
        base=origin.get("base_model"),
    )


def _adapter(folder: Path) -> _Subject:
    tensors, _, metadata = DiffRetouchLoraLoaderMixin.lora_state_dict(folder, return_lora_metadata=True)
    adapter, recorded = parse_adapter(tensors, metadata["lora"], "The adapter"), metadata["base"] or {}
    whole = sorted({part.strip(".") for part in WHOLE_PARTS if any(name.startswith(part) for name in tensors)})
    base_name = recorded.get("model", "a DiffRetouch model")
    named = _PACKAGED if base_name == _BUNDLED else base_name
    facts = {
        "Base": named,
        "LoRA": f"rank {adapter.rank}, alpha {adapter.alpha:g}, on {len(adapter.targets)} layers of the UNet",
        "Trained whole": ", ".join(whole) or "nothing",
        **_start(recorded.get("look")),
        "Size": _amount(sum(tensor.numel() for tensor in tensors.values())),
    }
    return _Subject(
        relation="adapter",
        tags=("lora", "peft"),
        introduction=_ADAPTER,
        usage=lambda repo_id, base: _use_adapter(repo_id, base or base_name),
        facts=facts,
        reach="As its base, it changes colour and tone by region and brightness",
        made=lambda base: f"An adapter of {_link(base) if base else named}.",
        origin=dict(recorded.get("provenance") or {}),
        base=hub_id(recorded.get("model")),
    )


def _start(recorded: Any) -> dict[str, str]:
    """What training started from and why, as it was recorded; nothing of an adapter that records something else."""
    errors = recorded.get("held_back_delta_e") if isinstance(recorded, Mapping) else None
    if not isinstance(errors, Mapping) or not all(isinstance(error, (int, float)) for error in errors.values()):
        return {}
    listed = ", ".join(f"{name} {error:.2f}" for name, error in errors.items())
    trained = f". No step was trained: {recorded['untrained']}" if recorded.get("untrained") else ""
    left_out = recorded.get("left_out")
    fewer = f". Left out, as of another style: {left_out} pairs" if isinstance(left_out, int) else ""
    return {"Start": f"{recorded.get('chosen')}; Delta E 2000 on held-back pairs: {listed}{trained}{fewer}"}


def _link(base: str) -> str:
    return f"[{base}](https://huggingface.co/{base})"


def _licence_of(origin: Mapping[str, str], base: str | None) -> dict[str, str | None]:
    if origin.get("license"):
        return {name: origin.get(name) for name in ("license", "license_name", "license_link")}
    if not origin and not base:
        return {"license": "apache-2.0"}
    link = f"https://huggingface.co/{base}" if base else None
    return {"license": "other", "license_name": "see-base-model" if base else "see-origin", "license_link": link}


def _eval_results(evaluation: Mapping[str, Any], datasets: Sequence[str]) -> list[EvalResult]:
    settings = evaluation["settings"]
    name = settings.get("dataset", "own pairs")
    place = {
        "task_type": "image-to-image",
        "task_name": "Photo retouching",
        "dataset_type": datasets[0] if datasets else name,
        "dataset_name": name,
        "dataset_split": settings.get("split"),
    }
    metrics = {"psnr": "PSNR (dB)", "ssim": "SSIM", "delta_e": "Delta E 2000"}
    results = [
        EvalResult(
            **place,
            metric_type="delta_e_2000" if metric == "delta_e" else metric,
            metric_name=f"{title}, {method}, mean over experts",
            metric_value=round(evaluation["quality"][method][metric], 4),
        )
        for method in ("c = 0", "oracle c")
        for metric, title in metrics.items()
    ]
    for slider, control in evaluation["control"].items():
        title, value = f"Spearman of the {slider} slider", round(control["spearman"], 4)
        results.append(EvalResult(**place, metric_type="spearmanr", metric_name=title, metric_value=value))
    return results


_MODEL = (
    f"A diffusion model that retouches photos the way an expert would, after [DiffRetouch]({_PAPER}). It sees a small "
    "view of the photo and predicts an *affine bilateral grid*, which is applied to the photo at its own resolution: "
    "texture stays, the cost of the model is the same for any size. Four sliders ask for a style; another seed is "
    "another expert's taste, seed 0 the middle between them."
)

_ADAPTER = (
    f"A retouching style as an adapter (LoRA) of a [DiffRetouch]({_PAPER}) model, learned from photos before and "
    "after. It changes what the model does with a photo; sliders, seeds and full resolution stay."
)


def _introduction(text: str, evaluation: Mapping[str, Any] | None) -> str:
    if evaluation:
        plain, oracle = (evaluation["quality"][method]["delta_e_ratio"] for method in ("c = 0", "oracle c"))
        text += (
            f"\n\nOn photos it was not trained on, the colour error to the experts is {plain:.0%} of the untouched "
            f"photo's with all sliders at 0, and {oracle:.0%} when it is told what the expert's picture measures."
        )
    return text


def _picture(caption: str, path: str) -> str:
    return f"![{caption}]({path})\n\n*{caption}*"


_SLIDER_TABLE = """| slider, in [-1.5, 1.5] | -1 | +1 |
|---|---|---|
| `colorfulness` | muted | vivid |
| `brightness` | dark | bright |
| `contrast` | soft | crisp |
| `temperature` | cool | warm |"""


def _use_model(repo_id: str, base: str | None) -> str:
    return f"""```python
from diffretouch import DiffRetouchPipeline, open_photo, save_photo

pipe = DiffRetouchPipeline.from_pretrained("{repo_id}")
photo = open_photo("photo.jpg")
grid = pipe(photo.model_view(), brightness=0.3, temperature=-0.5, output_type="grid").grids[0]
save_photo(photo.retouch(grid), "retouched.jpg")
```

With diffusers alone, 0.37 or newer, which then runs the code files in this repository (pin a `revision` that you have
read):

```python
from diffusers import DiffusionPipeline
from diffusers.utils import load_image

pipe = DiffusionPipeline.from_pretrained("{repo_id}", trust_remote_code=True)
pipe(load_image("photo.jpg"), brightness=0.3).images[0].save("retouched.jpg")
```

{_SLIDER_TABLE}"""


def _use_adapter(repo_id: str, base: str) -> str:
    imported, model = ("BUNDLED_MODEL, ", "BUNDLED_MODEL") if base == _BUNDLED else ("", f'"{base}"')
    return f"""```python
from diffretouch import {imported}DiffRetouchPipeline, open_photo, save_photo

pipe = DiffRetouchPipeline.from_pretrained({model})
pipe.load_lora_weights("{repo_id}", adapter_name="style")
photo = open_photo("photo.jpg")
grid = pipe(photo.model_view(), output_type="grid").grids[0]
save_photo(photo.retouch(grid), "retouched.jpg")
```

`pipe.set_adapters("style", 0.7)` weakens it, `pipe.set_adapters(["style", "other"], [0.5, 0.5])` mixes two,
`pipe.unload_lora_weights()` takes it away; `pipe.fuse_lora()` puts one without a look into the weights. Where
diffusers alone is installed, load the base with `DiffusionPipeline.from_pretrained(..., trust_remote_code=True)`.

{_SLIDER_TABLE}"""


def _architecture(folder: Path, index: Mapping[str, Any], shape: _Shape) -> dict[str, str]:
    steps, last = index["default_num_inference_steps"], index["min_timestep"]
    view, resize = index["conditioning_size"], index["conditioning_resize"]
    facts = {
        "UNet": f"{_count(folder / 'unet')}, channels {shape.channels}, on {shape.latent} x {shape.latent} latents",
        "Grid head": f"{_count(folder / 'grid_head')}, grid of 12 x {shape.depth} x {shape.cells} x {shape.cells}",
        "Sampler": f"{index['scheduler'][1]}, {steps} steps from noise down to t = {last}",
        "View of the photo": f"{view} x {view}, then {resize} to latent size",
    }
    if isinstance(index.get("vae"), list) and (folder / "vae").is_dir():
        facts["Latent codec"] = f"{index['vae'][1]}, {_count(folder / 'vae')}; for training only"
    return facts


@dataclass(frozen=True)
class _Shape:
    """What the card says of a model's size: UNet channels, latent side, grid cells per side and grid depth."""

    channels: str
    latent: int
    cells: int
    depth: int


def _shape(folder: Path) -> _Shape:
    unet = json.loads((folder / "unet" / "config.json").read_text())
    head = json.loads((folder / "grid_head" / "config.json").read_text())
    size = unet["sample_size"]
    latent = size if isinstance(size, int) else size[0]
    cells = latent // 2 ** len(head["hidden_channels"])
    return _Shape(", ".join(map(str, unet["block_out_channels"])), latent, cells, head["grid_depth"])


def _count(component: Path) -> str:
    """Parameters of a component, counted in its weight files; variants hold the same tensors again."""
    sizes: dict[str, int] = {}
    for path in sorted(component.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                size = 1
                for side in file.get_slice(name).get_shape():
                    size *= side
                sizes[name] = size
    return _amount(sum(sizes.values()))


def _amount(total: int) -> str:
    return f"{total / 1e6:.1f} M parameters" if total >= 1e5 else f"{total:,} parameters"


def _quality(evaluation: Mapping[str, Any]) -> str:
    settings = evaluation["settings"]
    where = f"`{settings['split']}` split of `{settings['dataset']}`" if "split" in settings else "held-out photos"
    return (
        f"## Quality\n\nOn the {where}. *c = 0*: one retouch with all sliders at 0, held against every expert. "
        "*oracle c*: the sliders are told what the expert's own picture measures; it bounds what the sliders can do "
        f"and is not comparable with c = 0.\n\n{format_table(dict(evaluation))}"
    )


def _tracker(beside: str | Path | None) -> str | None:
    """Where what tracked a training run shows it, by what the run left in the folder of this file."""
    return read_tracking(Path(beside).parent).get("url") if beside is not None else None


def _training(training: Mapping[str, Any], curve: str | None, tracker: str | None) -> str:
    parts = ["## Training"]
    if training:
        lines = "\n".join(f"{name}: {json.dumps(value)}" for name, value in _portable(training).items())
        most = "At most " if training.get("patience") else ""
        parts += [
            f"{most}{training['max_train_steps']} steps of {training['train_batch_size']} pairs"
            f"{_going_on(training.get('pretrained_model'))}, learning rate {training['learning_rate']:g}, "
            f"loss = noise + {training['beta']:g} x pixel + {training['contrastive_weight']:g} x contrastive "
            f"({training['contrastive']}). The whole configuration:",
            f"<details><summary>config.yaml</summary>\n\n```yaml\n{lines}\n```\n\n</details>",
        ]
    if curve:
        parts.append(_picture("Training losses, and Delta E 2000 on validation photos", curve))
    if tracker:
        parts.append(f"All curves and pictures of the run: <{tracker}>")
    return "\n\n".join(parts)


def _going_on(model: str | None) -> str:
    """From which model a run went on; what a folder was called on its machine tells nobody anything."""
    if not model:
        return ""
    if hub_id(model):
        return f", going on from {_link(model)}"
    return f", going on from {_PACKAGED if Path(model).name == _BUNDLED else 'an earlier model'}"


def _portable(training: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without the folders of the machine it ran on."""
    left = {
        name: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for name, value in training.items()
    }
    if left.get("pretrained_model") and not hub_id(left["pretrained_model"]):
        del left["pretrained_model"]  # `_going_on` says what can be said
    return left


def _licence_text(licence: Mapping[str, str], subject: _Subject, base: str | None) -> str:
    name = licence.get("license_name") or licence["license"]
    link = licence.get("license_link")
    notice = subject.origin.get("notice")
    return f"## Licence and origin\n\nWeights: {f'[{name}]({link})' if link else name}. {subject.made(base)}" + (
        f"\n\n**{notice}**" if notice else ""
    )


def _fitted(path: Path) -> PIL.Image.Image:
    with PIL.Image.open(path) as file:
        picture = file.convert("RGB")
    picture.thumbnail((PICTURE_WIDTH, 4 * PICTURE_WIDTH), PIL.Image.Resampling.LANCZOS)
    return picture
