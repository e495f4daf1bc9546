"""Quality, control and diversity of a retouching model on one split of a data set, beside simple baselines.

    result = evaluate(pipe, rows, seed=0)       # rows of one split, as in the data set schema
    print(format_table(result))
    save_json(result, "results.json")

Per photo one record of plain measurements is made (`result["photos"]`); everything else in the result is a summary of
these records, so further summaries need no second run. Three settings are told apart everywhere:

- `c = 0`: one retouch with every slider at 0, compared with every expert of the photo;
- `oracle c`: one retouch per expert, conditioned on what that expert's own picture measured. It is told the answer's
  attributes, so it must never be reported as `c = 0`;
- baselines and models beside it (at c = 0, with the same seeds), which know neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..attributes import ATTRIBUTES
from ..report import save_sheet
from .baselines import BASELINES, Baseline, find_learned
from .metrics import METRICS, find_optional
from .one_photo import POSITIONS, Instruments, make_decode, make_retouch, measure_photo, measure_speed, measure_text
from .photos import EvaluatedPhoto, decoded_rows, photo_rows, read_photo
from .records import KeptRecords, fingerprint
from .summarise import DEAD_SLIDER, MONOTONE_TOLERANCE, summarise

NUM_SHOWN = 12  # photos whose pictures are kept for the report, evenly spaced over those that are measured
TEXT = "text.jpg"  # the sheet of the text pictures


def evaluate(
    pipe: Any,
    rows: Any,
    *,
    seed: int,
    num_inference_steps: int | None = None,
    num_photos: int | None = None,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
    baselines: Mapping[str, Baseline] | None = None,
    beside: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Measure a pipeline and the baselines on the rows of one split.

    Pictures are compared at their stored size, unrounded; attribute scores are taken on the 512 x 512 view. Means run
    over the experts of a photo first, then over photos; intervals are 95% percentile bootstraps over photos.

    Args:
        pipe: a `DiffRetouchPipeline`, used on the device it is on.
        rows: list of dicts or `datasets.Dataset` with the columns of `COLUMNS`: `input` and `target` PIL images of
            equal size, `condition` four numbers in the order of `ATTRIBUTES`. A photo's rows have different experts.
        seed: non-negative; with it and the photo's name the variants are fixed. All else has `DEFAULT_SEED`.
        num_inference_steps: None for the checkpoint's default.
        num_photos: at most so many photos, evenly spaced over the split; None for all.
        batch_size: retouches per pipeline call.
        progress: called as `progress(done, total)` after every photo.
        baselines: retouches to measure beside `BASELINES` and `find_learned`, by their names.
        beside: other pipelines to measure at c = 0 with the same seeds, by their names, each on its device and with
            its checkpoint's default number of steps. A name may be none that this module gives to anything else.
        folder: where records and pictures are kept; an evaluation that was interrupted goes on from them. A record is
            used again where model, settings and photo are the same, whatever else changed. None keeps nothing.

    Returns:
        Plain numbers, lists, dicts and strings, ready for JSON:

        - `settings`
        - `quality[method]`: overall `psnr` (dB), `ssim`, `delta_e`, `delta_e_ratio` (to no change) and
          `delta_e_ratio_interval` (None for one photo); the same means per expert under `experts`
        - `control[slider]`: `spearman`; `right_way` and `monotone`, shares of photos (in all three, a slider
          too weak to see by `DEAD_SLIDER` counts as one without effect); `curve`, own attribute per
          position; `range`, own attribute from -1 to +1; `expert_range`, between a photo's experts; `range_ratio`
          (None where every photo has one expert)
        - `spread[attribute]`: its standard deviation over the split's inputs and targets, None where all score alike
        - `crosstalk[slider][attribute]`: mean signed change from -1 to +1 in units of `spread`;
          `crosstalk_absolute`: mean size of that change (both None where there is no unit)
        - `diversity`: mean pairwise `delta_e` of `seeds` seeds at c = 0, its `interval`, the `least` and `most` of a
          photo
        - `coverage`: `delta_e` of the nearest of `variants` variants at c = 0, `ratio` to no change, `ratio_interval`;
          the mean of every expert under `experts`; `worse`: share of the variants that are more than `WORSE` farther
          from their nearest expert than the input is
        - `coverage_beside[name]`: the same for every model of `beside`, with its own `diversity`
        - `texture`: `texture_agreement` with the input at `c = 0` and, with a VAE, `decoded` (z_0 decoded instead of a
          grid applied): mean and `least` over the photos, and for each of `text_pictures`
        - `natural[method]`: mean of each metric without a reference that is at hand
        - `speed`: `grid_seconds`, `apply_seconds_per_megapixel` on this machine
        - `missing`: {metric or baseline: why it was not measured}
        - `pictures`: files in `folder`/pictures with what the report shows, a photo each
        - `photos`: the records behind all this

    Raises:
        TypeError: if `rows` or its pictures are of the wrong kind.
        ValueError: if an argument or row is out of range, or a measurement is not finite; the message names it.
    """
    _check_count("seed", seed, 0)
    _check_count("batch_size", batch_size, 1)
    if num_photos is not None:
        _check_count("num_photos", num_photos, 1)
    numbers = photo_rows(rows)
    chosen = evenly_spaced(list(numbers), num_photos)
    compare, judge, missing = find_optional()
    learned, missing_baselines = find_learned()
    beside = dict(beside or {})
    tools = Instruments(
        retouch=make_retouch(pipe, num_inference_steps, batch_size),
        decode=make_decode(pipe, num_inference_steps),
        beside={name: make_retouch(other, None, batch_size) for name, other in beside.items()},
        baselines={**BASELINES, **learned, **(baselines or {})},
        compare={**METRICS, **compare},
        judge=judge,
        seed=seed,
    )
    _check_names(beside, tools.baselines)
    kept = None if folder is None else KeptRecords(folder, fingerprint(pipe, beside, tools, num_inference_steps))
    shown = set(evenly_spaced(chosen, NUM_SHOWN))
    records, sheets = [], []
    for photo_id in chosen:
        photo = read_photo(photo_id, decoded_rows(rows, numbers[photo_id], photo_id))
        records.append(_record(tools, photo, kept, photo_id in shown))
        if kept is not None and photo_id in shown:
            sheets.append(kept.sheet_name(photo))
        if progress is not None:
            progress(len(records), len(chosen))
    result = {
        "settings": _settings(records, len(numbers), seed, num_inference_steps, beside),
        **summarise(records, seed),
        "speed": measure_speed(pipe, photo, num_inference_steps),
        "missing": missing | missing_baselines,
        "pictures": sheets,
        "photos": records,
    }
    result["texture"]["text"], writing = measure_text(tools)
    if folder is not None:
        save_sheet(folder / "pictures" / TEXT, writing)
    _require_finite(result, "result")
    return result


def _settings(
    records: list[dict[str, Any]], num_in_split: int, seed: int, num_inference_steps: int | None, beside: Iterable[str]
) -> dict[str, Any]:
    return {
        "seed": seed,
        "num_inference_steps": num_inference_steps,
        "num_photos": len(records),
        "num_photos_in_split": num_in_split,
        "experts": sorted({expert for record in records for expert in record["expert_scores"]}),
        "beside": list(beside),
        "positions": list(POSITIONS),
        "monotone_tolerance": MONOTONE_TOLERANCE,
        "dead_slider": DEAD_SLIDER,
    }


def _record(tools: Instruments, photo: EvaluatedPhoto, kept: KeptRecords | None, is_shown: bool) -> dict[str, Any]:
    """A photo's record, measured unless it is kept already; its pictures are kept where they are to be shown."""
    record = kept.find(photo, is_shown) if kept is not None else None
    if record is None:
        record, pictures = measure_photo(tools, photo)
        _require_finite(record, f"photo {photo.photo_id!r}")
        if kept is not None:
            kept.add(photo, record, pictures if is_shown else {})
    return record


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` has to be an integer of at least {least}, got {value!r}.")


def _check_names(beside: Iterable[str], baselines: Iterable[str]) -> None:
    """Names become rows of tables and captions of pictures, where each has to be told from all others."""
    taken = {*baselines, "c = 0", "oracle c", "decoded", "input"}
    starts = tuple(f"{word} " for word in ("target", "oracle", "seed", *ATTRIBUTES))
    for name in beside:
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or "|" in name:
            raise ValueError(f"Every name in `beside` has to be printable text without |, got {name!r}.")
        if name in taken or name.startswith(starts):
            raise ValueError(f"Every name in `beside` has to be one that nothing else has, got {name!r}.")


def evenly_spaced(items: list[Any], count: int | None) -> list[Any]:
    """At most `count` of the items, evenly spread over them; all for None."""
    if count is None or count >= len(items):
        return items
    return [items[number * len(items) // count] for number in range(count)]


def _require_finite(value: Any, name: str) -> None:
    """Walk nested dicts and lists; a NaN or infinity anywhere is an error that names the way to it."""
    if isinstance(value, dict):
        for key, item in value.items():
            _require_finite(item, f"{name}, {key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _require_finite(item, f"{name}[{number}]")
    elif isinstance(value, float) and not np.isfinite(value):
        raise ValueError(f"Every measurement has to be finite, got {value} for {name}.")
