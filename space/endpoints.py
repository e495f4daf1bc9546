"""The named endpoints for programs and agents: what they take, with ranges and defaults as the API's schema says them.

Their parts are not on the page. Gradio hands numbers on as they come: what is none is refused by the library, in its
own sentence, instead of being made into one.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
import strings
from editor import MAX_SEED, Editor, Refused
from page import FILES, by_slider, told

from diffretouch.attributes import ATTRIBUTES

# What an argument is, for the schema: what JSON Schema calls it, and the sentence is strings.ARGUMENTS'.
_RANGES: dict[str, dict[str, Any]] = {
    **{name: {"type": "number", "minimum": -1.5, "maximum": 1.5, "default": 0} for name in ATTRIBUTES},
    "strength": {"type": "number", "minimum": 0, "maximum": 2, "default": 1},
    "seed": {"type": "integer", "minimum": 0, "maximum": MAX_SEED, "default": 0},
    "remove_gps": {"type": "boolean", "default": False},
}


def endpoints(editor: Editor) -> None:
    """Named endpoints without a session."""
    default = editor.models.default

    # Gradio names an endpoint's arguments after the function's, and describes it by the docstring.
    @told(editor)
    def retouch(
        photo: str,
        colorfulness: float,
        brightness: float,
        contrast: float,
        temperature: float,
        strength: float,
        seed: int,
        remove_gps: bool,
    ) -> str:
        """Retouch a photo as the sliders ask; returns the file, of the photo's size, depth and kind."""
        _check(photo=photo, remove_gps=remove_gps)
        sliders = by_slider((colorfulness, brightness, contrast, temperature))
        return str(editor.finish(photo, strength, remove_gps, model=default, sliders=sliders, seed=seed).path)

    @told(editor)
    def look(
        photo: str, colorfulness: float, brightness: float, contrast: float, temperature: float, seed: int
    ) -> str:
        """The retouch of a photo as a look file (.safetensors), to apply to other photos."""
        _check(photo=photo)
        sliders = by_slider((colorfulness, brightness, contrast, temperature))
        upload = editor.open(photo, default)
        (found,) = editor.looks(default, upload.view, sliders, [seed])
        return str(editor.save_look(upload, found))

    @told(editor)
    def apply_look(photo: str, look: str, strength: float, remove_gps: bool) -> str:
        """Apply a look file to a photo; returns the retouched file."""
        _check(photo=photo, look=look, remove_gps=remove_gps)
        return str(editor.finish(photo, strength, remove_gps, look=editor.read_look(look)).path)

    @told(editor)
    def measure(photo: str) -> dict[str, float]:
        """Measure colorfulness, brightness, contrast and temperature of a photo."""
        _check(photo=photo)
        return by_slider(editor.open(photo, default).scores)

    with gr.Row(visible=False):
        photo, look_file = (_argument(gr.File(label=name), name) for name in ("photo", "look"))
        values = [_argument(gr.Number(0, label=name), name) for name in ATTRIBUTES]
        strength, seed = (
            _argument(gr.Number(start, label=name), name) for name, start in (("strength", 1), ("seed", 0))
        )
        remove_gps = _argument(gr.Checkbox(False, label="remove_gps"), "remove_gps")
        result, scores = gr.File(label="result"), gr.JSON(label="scores")
        for function, inputs, output in (
            (retouch, [photo, *values, strength, seed, remove_gps], result),
            (look, [photo, *values, seed], result),
            (apply_look, [photo, look_file, strength, remove_gps], result),
            (measure, [photo], scores),
        ):
            options = {**FILES, "concurrency_id": "api", "api_visibility": "public"}
            gr.Button(visible=False).click(function, inputs, output, api_name=function.__name__, **options)


def _argument(part: Any, name: str) -> Any:
    """A hidden part as an argument: described in the schema, its number handed on as it came."""
    info = {**part.api_info(), **_RANGES.get(name, {}), "description": strings.ARGUMENTS[name]}
    part.api_info = lambda: info
    if name in _RANGES:
        part.preprocess = lambda payload: payload
    return part


def _check(**arguments: Any) -> None:
    for name, value in arguments.items():
        if name == "remove_gps":
            if not isinstance(value, bool):
                raise Refused(strings.BAD_SWITCH.format(name=name, value=repr(value)))
        elif value is None:
            raise Refused(strings.NO_FILE.format(name=name))
