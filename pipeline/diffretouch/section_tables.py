"""What `evaluation.sections` measures as tables, for the terminal, the model card and the report.

Reads a result of plain numbers and nothing else; a section that a result lacks has no table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Table = tuple[list[str], list[list[str]]]  # as in `tables`: the first column names the row
Figure = Mapping[str, Any]

MODEL = "c = 0"  # the row of the model that is measured; models beside it go by their own names

# {section: (title, how to read it)} of a report.
SECTION_NOTES = {
    "causality": (
        "Causality",
        "One thing that the model is given at a time is exchanged. Left: the share of its gain over no change that "
        "remains; a model whose denoiser makes the picture has little left with another photo's affine features.",
    ),
    "distribution": (
        "Distribution",
        "All seeds of a photo against all its experts, in root mean square Delta E 1976 of an area-averaged view of "
        "32 x 32. Energy distance: Székely & Rizzo 2013, 0 for equal sets; a single answer counts as the set that it "
        "is. CRPS: Gneiting & Raftery 2007, per number of CIELAB. Unbiased: of what the few seeds are drawn from.",
    ),
    "harm": (
        "Harm",
        "Finished photos as they are, sliders at 0. Clipped: any channel at 254 or more, or 1 or less, of 255; white: "
        "all channels at 254 or more. Second and third pass: the retouched photo retouched again.",
    ),
    "farther": ("Farther from every expert", ""),
    "real_pairs": (
        "Real pairs",
        "Photos with a real expert's retouch. Of several seeds, the one nearest to the expert.",
    ),
}


def section_tables(result: Mapping[str, Any]) -> dict[str, Table]:
    """{section: table} of those that `result` has."""
    tables = {name: make(result[name]) for name, make in _MAKERS.items() if name in result}
    if "harm" in result:
        tables["farther"] = _farther_table(result["harm"])
    return tables


def _figure(figure: Figure | None, digits: int = 2, unit: str = "", scale: float = 1.0, sign: str = "") -> str:
    """A figure with its interval; - where it is not known."""
    if figure is None:
        return "-"

    def shown(value: float) -> str:
        return f"{scale * value:{sign}.{digits}f}{unit}"

    interval = figure["interval"]
    return shown(figure["mean"]) + (f" [{shown(interval[0])}, {shown(interval[1])}]" if interval else "")


def _percent(figure: Figure | None) -> str:
    return _figure(figure, 0, "%", 100)


def _causality_table(causality: Mapping[str, Any]) -> Table:
    lines = []
    for name, model in causality["models"].items():
        lines.append([f"{name}: no change", _figure(model["no_change"]), "-", "-"])
        lines.append([f"{name}: unaltered", _figure(model["unaltered"]), "100%", "0.00"])
        lines += [
            [f"{name}: {what}", _figure(each["delta_e"]), _percent(each["left"]), _figure(each["moved"])]
            for what, each in model["alterations"].items()
        ]
    first = f"What a model is given, {causality['photos']} photos"
    return [first, "Delta E 2000 to the experts", "left of the gain", "moved from the unaltered answer"], lines


def _distribution_table(distribution: Mapping[str, Any]) -> Table:
    singles = list(next(each["of_single"] for each in distribution["methods"].values() if "of_single" in each))
    lines = [
        [
            name,
            _figure(each["energy"]),
            _figure(each["energy_unbiased"]),
            _figure(each["crps"]),
            _figure(each["crps_unbiased"]),
            *(
                _percent(each["of_single"][single][what]) if "of_single" in each else "-"
                for single in singles
                for what in ("energy", "crps")
            ),
            _figure(each["distance"]),
            _figure(each["nearest"]),
            _figure(each["pairwise"]),
        ]
        for name, each in distribution["methods"].items()
    ]
    lines.append(["experts among themselves", *["-"] * (6 + 2 * len(singles)), _figure(distribution["experts"])])
    ratios = [f"{what}, of a single answer of {single}" for single in singles for what in ("energy", "CRPS")]
    header = [f"Answers against the set of experts, {distribution['photos']} photos"]
    header += ["energy distance", "unbiased", "CRPS", "unbiased", *ratios]
    return [*header, "mean distance", "nearest to each expert", "between answers"], lines


def _harm_table(harm: Mapping[str, Any]) -> Table:
    lines = [
        [
            name,
            _figure(each["moved"]),
            _figure(each["clipped"], 1, "%"),
            _figure(each["clipped_gained"], 2, sign="+"),
            _figure(each["white_gained"], 2, sign="+"),
            _percent(each.get("second")),
            _percent(each.get("third")),
            str(each.get("cast", "-")),
        ]
        for name, each in harm["methods"].items()
    ]
    header = [
        f"Finished photos ({harm['photos']}: {harm['source']})",
        "moved, Delta E 2000",
        "clipped pixels",
        "clipped gained, points",
        "white gained, points",
        "second pass, of the first",
        "third pass, of the second",
        "black-and-white: largest difference of channels, of 255",
    ]
    return header, lines


def _farther_table(harm: Mapping[str, Any]) -> Table:
    lines = [[name, _percent(share)] for name, share in harm["farther"].items()]
    return ["Photos of the split that end farther from every expert than they came", "share"], lines


def _real_pairs_table(pairs: Mapping[str, Any]) -> Table:
    lines = [
        [
            name,
            _figure(each["delta_e"]),
            _figure(each["psnr"]),
            _figure(each["to_no_change"], sign="+"),
            _percent(each["worse"]),
        ]
        for name, each in pairs["methods"].items()
    ]
    header = [
        f"Real pairs ({pairs['photos']}); of seeds, the nearest of {pairs['seeds']}",
        "Delta E 2000",
        "PSNR (dB)",
        "to no change, paired",
        "over 5% farther than the input",
    ]
    return header, lines


_MAKERS: dict[str, Callable[[Mapping[str, Any]], Table]] = {
    "causality": _causality_table,
    "distribution": _distribution_table,
    "harm": _harm_table,
    "real_pairs": _real_pairs_table,
}
