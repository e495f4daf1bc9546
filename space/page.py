"""What all tabs of the page share: a visitor's session, errors as toasts, and the retouch that every edit asks for."""

from __future__ import annotations

import functools
import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import strings
from editor import AnyLook, Editor, Refused, Upload
from visitors import TooMany, visitor

from diffretouch import Look
from diffretouch.attributes import ATTRIBUTES

HERE = Path(__file__).parent
PRESETS = {preset["name"]: preset["sliders"] for preset in json.loads((HERE / "presets.json").read_text())}
EXAMPLES = sorted((HERE / "examples").glob("*.jpg")) or sorted((HERE.parent / "examples").glob("*.jpg"))

# (lowest, highest) score that the bars show.
_SCALES = {"colorfulness": (0, 0.45), "brightness": (0, 1), "contrast": (0, 0.03), "temperature": (-150, 150)}


@dataclass(frozen=True)
class Session:
    """What one visitor is working on.

    Attributes:
        model: Hub id or folder of the model and of its LoRA adapter, empty for the bundled one and for none.
        upload: the photo, None before the first one.
        look: its retouch, the model's own or one read from a file.
        asked: model, sliders and seed that the look answers; while they stay, the look does.
        look_name: the file that the look was read from, if it was.
        style: the look found in the tab "My style", None before that.
    """

    model: tuple[str, str]
    upload: Upload | None = None
    look: AnyLook | None = None
    asked: tuple | None = None
    look_name: str | None = None
    style: Look | None = None


def work_of(session: Session) -> tuple[Upload, AnyLook]:
    """The photo and its look.

    Raises:
        Refused: if there is no photo yet.
    """
    if session.upload is None or session.look is None:
        raise Refused(strings.NO_PHOTO)
    return session.upload, session.look


def told(editor: Editor) -> Callable[[Callable], Callable]:
    """Every request of a visitor counts, and what is refused is shown to them in the library's own sentence."""

    def decorated(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            try:
                editor.visitors.admit(visitor())
                return function(*args, **kwargs)
            except (Refused, TooMany) as error:
                raise gr.Error(html.escape(str(error)), print_exception=False) from error

        return wrapped

    return decorated


def quiet(part: Any) -> Any:
    """A slider or number field whose value out of range is the visitor's mistake, and no traceback in the log."""
    taken = part.preprocess

    def preprocess(value: Any) -> Any:
        try:
            return taken(value)
        except (gr.Error, TypeError) as error:
            text = strings.BAD_NUMBER.format(name=part.label, low=part.minimum, high=part.maximum, value=value)
            raise gr.Error(html.escape(text), print_exception=False) from error

    part.preprocess = preprocess
    return part


# Handlers that do no work on a photo answer at once, whatever is waiting.
INSTANT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
FILES: dict[str, Any] = {"concurrency_id": "files", "concurrency_limit": 2, "api_visibility": "private"}

# One run of the model at a time per process, in the order of asking.
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}


@dataclass(frozen=True)
class Controls:
    """The parts of the Retouch tab that the other tabs use."""

    sliders: list[gr.Slider]
    strength: gr.Slider
    seed: gr.Number
    remove_gps: gr.Checkbox
    shown: list[Any]  # session, pictures, note, bars, file to download: what a new retouch changes

    @property
    def asked(self) -> list[Any]:
        return [*self.sliders, self.strength, self.seed]


def on_edit(editor: Editor, controls: Controls, event: Callable, **options: Any) -> Any:
    """After `event`, retouch anew as sliders, strength and seed say."""
    return event(
        fn=told(editor)(functools.partial(retouched, editor)),
        inputs=[controls.shown[0], *controls.asked],
        outputs=controls.shown,
        show_progress="minimal",
        show_progress_on=controls.shown[1],
        **MODEL,
        **options,
    )


def retouched(editor: Editor, now: Session, *numbers: float) -> tuple[Any, ...]:
    """Session, pictures, note and bars, with sliders, strength and seed as in `numbers`; no file to download yet.

    An emptied seed field is seed 0.
    """
    *values, strength, seed = numbers
    nothing = gr.update(visible=False)
    upload, look = now.upload, now.look
    if upload is None:
        return now, None, strings.COMPARE_EMPTY, bars(), nothing
    editor.keep(upload)
    asked = (now.model, *values, seed)
    if look is None or asked != now.asked:
        (look,) = editor.looks(now.model, upload.view, by_slider(values), [int(seed or 0)])
        now = replace(now, look=look, asked=asked, look_name=None)
    after, scores = editor.preview(upload, look, strength)
    note = strings.LOOK_ACTIVE.format(name=now.look_name) if now.look_name else ""
    return now, (str(upload.before), str(after)), note, bars(upload.scores, scores), nothing


def by_slider(values: Sequence[float]) -> dict[str, float]:
    """Four numbers in the sliders' order, by name."""
    return dict(zip(ATTRIBUTES, values, strict=True))


def bars(before: tuple[float, ...] | None = None, after: tuple[float, ...] | None = None) -> str:
    """The measured attributes as a small table of bars."""
    if before is None or after is None:
        return f'<p class="empty">{strings.MEASURED_EMPTY}</p>'
    rows = []
    for name, old, new in zip(ATTRIBUTES, before, after, strict=True):
        low, high = _SCALES[name]
        places = [100 * min(1, max(0, (score - low) / (high - low))) for score in (old, new)]
        rows.append(
            f'<div class="bar" role="img" aria-label="{strings.SLIDERS[name][0]}: {strings.BEFORE} {places[0]:.0f}%, '
            f'{strings.AFTER} {places[1]:.0f}%"><span>{strings.SLIDERS[name][0]}</span><div class="track">'
            f'<i class="change" style="left:{min(places):.1f}%;width:{abs(places[1] - places[0]):.1f}%"></i>'
            f'<i class="old" style="left:{places[0]:.1f}%"></i><i class="new" style="left:{places[1]:.1f}%"></i>'
            "</div></div>"
        )
    legend = f'<small><i class="old"></i> {strings.BEFORE} <i class="new"></i> {strings.AFTER}</small>'
    return f'<div class="bars"><b>{strings.MEASURED}</b> {legend}{"".join(rows)}</div>'
