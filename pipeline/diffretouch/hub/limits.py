"""What a model's card says against it: limits of the method, those its evaluation shows, those somebody has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def limits_section(reach: str, evaluation: Mapping[str, Any] | None, limits: Sequence[str]) -> str:
    """The card's section.

    Args:
        reach: what the model changes, and in what regions.
        evaluation: of `diffretouch evaluate`; None = not measured, which is said.
        limits: further ones that somebody has seen.
    """
    lines = [
        f"{reach}: it removes no blemishes, adds no detail and cannot treat something small unlike its surroundings "
        "of equal brightness.",
        "Blown highlights and crushed shadows stay lost.",
        "The sliders were trained on [-1, 1]; up to 1.5 they extrapolate.",
        *(_measured_limits(evaluation) if evaluation else ["Its quality was not measured, or not recorded here."]),
        *limits,
    ]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _measured_limits(evaluation: Mapping[str, Any]) -> list[str]:
    lines = []
    for slider, control in evaluation["control"].items():
        if control["right_way"] < 0.9 or control["spearman"] < 0.9:
            lines.append(
                f"`{slider}` is unreliable: from -1 to +1 it moved the right way in {control['right_way']:.0%} of the "
                f"photos (rank correlation {control['spearman']:.2f})."
            )
    for slider, row in evaluation["crosstalk"].items():
        for other, change in row.items():
            if other != slider and change is not None and abs(change) > max(0.25, 0.5 * abs(row[slider] or 0)):
                lines.append(f"`{slider}` also moves {other}: {change:+.2f} standard deviations from -1 to +1.")
    if evaluation["diversity"]["delta_e"] < 1.5:
        lines.append(f"Seeds differ little (mean pairwise Delta E 2000 {evaluation['diversity']['delta_e']:.2f}).")
    baselines = {name: q["delta_e"] for name, q in evaluation["quality"].items() if name not in ("c = 0", "oracle c")}
    best = min(baselines, key=lambda name: baselines[name])
    if baselines[best] < evaluation["quality"]["c = 0"]["delta_e"]:
        lines.append(f"With all sliders at 0, {best} comes closer to the experts on average.")
    return lines
