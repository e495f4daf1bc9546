"""`diffretouch evaluate`: a model measured on a data set, as JSON, tables and one HTML file with curves and pictures.

evaluate_to_folder("bundled", "data-synthetic", Path("evaluation"))     # quality.json, quality.md, report.html
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Image

from .. import report
from ..attributes import ATTRIBUTES
from ..data.dataset import read_split
from ..files import save_json, write_atomically
from ..model import BUNDLED_MODEL
from ..model.pipeline_diffretouch import DiffRetouchPipeline
from ..tables import describe, format_table, notes, tables
from .baselines import Baseline, global_lut
from .measure import TEXT, evaluate, evenly_spaced
from .methods import TEACHER, Model, methods_of, open_split
from .section_report import section_parts
from .sections import NOTHING_GIVEN, Inputs, measure_sections

logger = logging.getLogger(__name__)

LUT_ROWS = 400  # of the training split, for the global LUT; more bring nothing to one table


def evaluate_to_folder(
    model: str,
    dataset: str,
    folder: Path,
    *,
    split: str = "test",
    seed: int = 0,
    num_inference_steps: int | None = None,
    num_photos: int | None = None,
    batch_size: int = 16,
    beside: Mapping[str, str] | None = None,
    device: str = "cpu",
    given: Inputs = NOTHING_GIVEN,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a model on one split of a data set; writes quality.json, quality.md and report.html into `folder`.

    An evaluation that was interrupted goes on where it was when it is called again. See `evaluate`.

    Args:
        model: "bundled", a folder or a Hub id.
        dataset: folder or Hub id of a data set in the schema; the training split, where there is one, is what the
            global LUT among the baselines is fitted to.
        folder: made if missing.
        beside: other models that are measured at c = 0, by the names to show them under; each as `model` is given.
        device: where the models run.
        given: further pictures and a teacher to measure with (`read_inputs`).
        progress: called as progress(done, total) after every photo; `evaluate` and each section count anew.

    Returns:
        What `evaluate` does, and the sections of `measure_sections`, which every call measures anew.

    Raises:
        FileNotFoundError: if there is no such data set or split.
        TypeError, ValueError: as `evaluate` does.
        OSError: if a model cannot be loaded or the folder not be written.
    """
    beside = dict(beside or {})
    rows = _decoded(read_split(dataset, split))
    fitted = _fitted_baselines(dataset)
    pipe, others = _load(model, device), {name: _load(other, device) for name, other in beside.items()}
    result = evaluate(
        pipe,
        rows,
        seed=seed,
        num_inference_steps=num_inference_steps,
        num_photos=num_photos,
        batch_size=batch_size,
        progress=progress,
        baselines=fitted | ({TEACHER: given.teacher} if given.teacher else {}),
        beside=others,
        folder=folder,
    )
    methods = methods_of(fitted, given.teacher, Model(pipe, num_inference_steps), others)
    result |= measure_sections(methods, open_split(rows, num_photos), given, result["photos"], seed, progress)
    result["settings"] |= {"model": model, "dataset": Path(dataset).name, "split": split, **given.names}
    result["settings"] |= {"models_beside": list(beside.values())} if beside else {}
    save_json(result, folder / "quality.json")
    write_atomically(folder / "quality.md", (format_table(result) + "\n").encode())
    write_evaluation_report(result, folder)
    return result


def _load(model: str, device: str) -> DiffRetouchPipeline:
    pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL if model == "bundled" else model).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _decoded(rows: Any) -> Any:
    return rows.cast_column("input", Image()).cast_column("target", Image())


def _fitted_baselines(dataset: str) -> dict[str, Baseline]:
    try:
        rows: Dataset = read_split(dataset, "train")
    except FileNotFoundError:
        logger.warning("No training split: no global LUT among the baselines")
        return {}
    chosen = _decoded(rows.select(evenly_spaced(list(range(len(rows))), LUT_ROWS)))
    return {"global LUT": global_lut(chosen, len(chosen))}


def write_evaluation_report(result: dict[str, Any], folder: Path) -> Path:
    """Write `folder/report.html` from a result of `evaluate` and the pictures it kept in `folder`.

    Raises:
        OSError: if it cannot be written.
    """
    settings = result["settings"]
    sheet = _kept_pictures(result["pictures"], folder)
    parts = [
        _key_figures(result),
        _quality(result),
        _control(result),
        _texture(result, folder),
        *section_parts(result),
        *([report.before_and_after("Before, after and target", sheet)] if sheet else []),
        *([_comparison(sheet), report.sliders(sheet), report.seeds(sheet)] if sheet else []),
        _not_measured(result),
        report.section("Settings", report.table("", ["setting", "value"], _settings(settings))),
    ]
    path = folder / "report.html"
    title = f"Evaluation: {Path(settings.get('model', 'model')).name}"
    where = f"The {settings['split']} split of {settings['dataset']}: " if "split" in settings else ""
    report.write_report(path, title, where + describe(result), parts)
    return path


def _texture(result: dict[str, Any], folder: Path) -> str:
    note = (
        "1 = all detail is the photo's own. Decoded: the same retouch painted by the VAE instead of applied as a "
        "grid, the paper's ablation."
    )
    strips = [
        report.strip(report.photo_figure(name, pictures, method) for method in pictures)
        for name, pictures in _kept_pictures([TEXT], folder).items()
    ]
    return report.section("Texture", report.table(note, *tables(result)["texture"]), *strips)


def _kept_pictures(names: Iterable[str], folder: Path) -> dict[str, dict[str, np.ndarray]]:
    sheet: dict[str, dict[str, np.ndarray]] = {}
    for name in names:
        try:
            sheet |= report.load_sheet(folder / "pictures" / name)
        except (OSError, ValueError) as error:
            logger.warning("No pictures: %s", error)
    return sheet


def _key_figures(result: Mapping[str, Any]) -> str:
    quality, coverage, diversity = result["quality"], result["coverage"], result["diversity"]
    text = np.mean([values["c = 0"] for values in result["texture"]["text"].values()])
    remark = "Delta E 2000 to the experts, of no change's"
    return report.key_figures(
        [
            ("c = 0", f"{quality['c = 0']['delta_e_ratio']:.0%}", remark),
            ("Oracle c", f"{quality['oracle c']['delta_e_ratio']:.0%}", "told what the expert's picture measures"),
            (f"Best of {coverage['variants']}", f"{coverage['ratio']:.0%}", f"{coverage['worse']:.1%} do harm"),
            ("Diversity", f"{diversity['delta_e']:.2f}", f"Delta E between {diversity['seeds']} seeds"),
            ("Texture", f"{text:.3f}", "kept on pictures of text"),
            ("One grid", f"{result['speed']['grid_seconds']:.2f} s", "on the evaluating machine"),
        ]
    )


def _quality(result: dict[str, Any]) -> str:
    found = tables(result)
    return report.section(
        "Quality",
        _stressed("Means over experts, then over photos. Bold: the model.", *found["quality"]),
        _stressed("Expert by expert.", *found["experts"]),
        _stressed("Variety at c = 0: what other seeds reach, and how far they are apart.", *found["coverage"]),
        *(report.paragraph(note) for note in notes(result)),
        note=(
            "c = 0: one retouch with all sliders at 0, held against every expert. Oracle c: the sliders are told what "
            "the expert's own picture measures; it bounds what sliders can do and is not comparable with the rest."
        ),
    )


def _stressed(caption: str, header: list[str], rows: list[list[str]]) -> str:
    ours = [number for number, (method, *_) in enumerate(rows) if method in ("c = 0", "oracle c")]
    return report.table(caption, header, rows, strong=ours)


def _control(result: dict[str, Any]) -> str:
    positions = result["settings"]["positions"]
    curves = _mean_curves(result)  # (sliders, positions, attributes)
    charts = [
        report.line_chart(
            f"The {slider} slider",
            {
                name: list(zip(positions, curves[number, :, other], strict=True))
                for other, name in enumerate(ATTRIBUTES)
                if result["spread"][name] is not None
            },
            "slider position",
            "std of the data",
        )
        for number, slider in enumerate(ATTRIBUTES)
    ]
    matrix = {slider: [row[name] for name in ATTRIBUTES] for slider, row in result["crosstalk"].items()}
    return report.section(
        "Control",
        report.charts(charts),
        report.table("How faithfully each slider moves its own attribute.", *tables(result)["control"]),
        report.heat_table(
            "Cross-talk: what each slider moves from -1 to +1, in standard deviations of the data.",
            ["slider", *ATTRIBUTES],
            matrix,
        ),
        note="Mean change of every attribute against slider at 0, one slider moved at a time, the seed held fixed.",
    )


def _mean_curves(result: Mapping[str, Any]) -> np.ndarray:
    """(sliders, positions, attributes): mean change from the slider at 0, in units of `spread`; NaN without a unit."""
    scores = np.asarray([[record["control"][slider] for slider in ATTRIBUTES] for record in result["photos"]])
    zero = result["settings"]["positions"].index(0.0)
    spread = np.asarray([result["spread"][name] for name in ATTRIBUTES], dtype=float)
    return (scores - scores[:, :, zero : zero + 1]).mean(0) / spread


def _comparison(sheet: report.Sheet) -> str:
    parts = []
    for photo, pictures in sheet.items():
        hidden = ("no change", "target ", "oracle ", "seed ", *ATTRIBUTES)
        others = [name for name in pictures if not name.startswith(hidden)]
        parts += [report.heading(photo), report.tiles(report.photo_figure(photo, pictures, name) for name in others)]
    note = "Baselines and models beside, at c = 0. Decoded: painted by the VAE instead of applied as a grid."
    return report.section("Side by side", *parts, note=note)


def _not_measured(result: Mapping[str, Any]) -> str:
    if not result["missing"]:
        return ""
    rows = [[name, reason] for name, reason in result["missing"].items()]
    return report.section("Not measured", report.table("Parts of these are not here.", ["what", "why"], rows))


def _settings(settings: Mapping[str, Any]) -> list[list[str]]:
    return [
        [name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)]
        for name, value in settings.items()
    ]
