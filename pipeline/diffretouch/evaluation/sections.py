"""What `diffretouch evaluate` measures beside quality and control: causality, harm, distribution, real pairs.

    given = read_inputs(Path("finished"), Path("pairs"), None)   # before any model is loaded
    result |= measure_sections(methods, open_split(rows), given, result["photos"], seed=0)

`section_tables` has what they look like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .baselines import Baseline
from .causality import measure_causality
from .distribution import measure_distribution
from .folders import Pairs, read_finished, read_pairs
from .harm import farther_from_every_expert, measure_harm
from .methods import Methods, Progress, Split, quantised, teacher_baseline
from .real_pairs import measure_real_pairs


@dataclass(frozen=True)
class Inputs:
    """What a user gave to measure with beside a data set; None for what was not given.

    Args:
        finished: photos that need no retouch, uint8 (H, W, 3) by name.
        pairs: real photos with an expert's retouch of each.
        teacher: a baseline.
        names: the folder of each that was given, for the settings.
    """

    finished: Mapping[str, np.ndarray] | None
    pairs: Pairs | None
    teacher: Baseline | None
    names: Mapping[str, str]


NOTHING_GIVEN = Inputs(None, None, None, {})


def read_inputs(finished: Path | None, pairs: Path | None, teacher: Path | None) -> Inputs:
    """Read and check all that was given.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if a folder has nothing that can be used, a pair has two sizes, a file cannot be read, or the
            teacher's package is missing or damaged.
    """
    given = {"finished": finished, "pairs": pairs, "teacher": teacher}
    return Inputs(
        finished=None if finished is None else read_finished(finished),
        pairs=None if pairs is None else read_pairs(pairs),
        teacher=None if teacher is None else teacher_baseline(teacher),
        names={name: folder.name for name, folder in given.items() if folder is not None},
    )


def measure_sections(
    methods: Methods,
    split: Split,
    given: Inputs,
    records: Sequence[Mapping[str, Any]],
    seed: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """All sections, ready to join a result of `evaluate`.

    Args:
        methods: baselines and models to measure.
        split: the photos that `records` are of.
        given: without finished photos, harm is measured on the pictures of the split's first expert.
        records: of `evaluate` (`result["photos"]`).
        seed: non-negative.
        progress: called as in each section, which starts to count anew.

    Returns:
        `causality`, `distribution`, `harm` and, with pairs, `real_pairs`, as the modules of these names say. `harm`
        also has `source`, what was taken for finished, and `farther`, see `farther_from_every_expert`.
    """
    finished, source = given.finished, given.names.get("finished")
    if finished is None:
        finished, source = _targets(split)
    harm = measure_harm(methods.single(), finished, seed, progress=progress)
    sections = {
        "causality": measure_causality(methods.models, split, seed, progress),
        "distribution": measure_distribution(methods, split, seed, progress),
        "harm": {"source": source, **harm, "farther": farther_from_every_expert(records, seed)},
    }
    if given.pairs is not None:
        sections["real_pairs"] = measure_real_pairs(methods, given.pairs, seed, progress)
    return sections


def _targets(split: Split) -> tuple[dict[str, np.ndarray], str]:
    """The pictures of each photo's first expert: the most finished photos that a data set has."""
    finished, experts = {}, set()
    for photo_id in split.photo_ids:
        targets = split.read(photo_id).targets
        expert = min(targets)
        finished[photo_id] = quantised(targets[expert])
        experts.add(expert)
    return finished, f"the split's own pictures of expert {', '.join(sorted(experts))}"
