"""The sections of an evaluation's report about causality, distribution, harm and real pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import report
from ..section_tables import MODEL, SECTION_NOTES, section_tables


def section_parts(result: Mapping[str, Any]) -> list[str]:
    """HTML of each section that `result` has; rows of the model are stressed."""
    parts = []
    for name, (header, rows) in section_tables(result).items():
        title, note = SECTION_NOTES[name]
        ours = [number for number, (row, *_) in enumerate(rows) if row.startswith(MODEL) or row[0].isdigit()]
        parts.append(report.section(title, report.table(header[0], header, rows, strong=ours), note=note))
    return parts
