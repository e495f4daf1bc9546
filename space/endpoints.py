"""The named endpoints for programs and agents: what they take, with ranges and defaults as the API's schema says them.

Their parts are not on the page. Gradio hands numbers on as they come: what is none is refused by the library, in its
own sentence, instead of being made into one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
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
    def match(photo: str, example: str, remove_gps: bool) -> tuple[str, dict[str, Any]]:
        """Retouch a photo so that its tones and colours come nearest to an example photo's, within what the experts
        would do; returns the file, and the sliders, seed and strength found with how near that is."""
        _check(photo=photo, example=example, remove_gps=remove_gps)
        found = editor.match(default, editor.open(photo, default), example)
        result = editor.finish(photo, 1.0, remove_gps, look=found.grid)  # which has the strength in it
        return str(result.path), {**found.figures, "nearness": found.nearness}

    @told(editor)
    def measure(photo: str) -> dict[str, float]:
        """Measure colorfulness, brightness, contrast and temperature of a photo."""
        _check(photo=photo)
        return by_slider(editor.open(photo, default).scores)

    _publish(retouch, look, apply_look, match, measure)


def _publish(*functions: Callable) -> None:
    """Each as the endpoint of its name, with hidden parts for its arguments and for what it returns."""
    with gr.Row(visible=False):
        fields: dict[str, Any] = {
            **{name: gr.File(label=name) for name in ("photo", "look", "example")},
            **{name: gr.Number(0, label=name) for name in (*ATTRIBUTES, "seed")},
            "strength": gr.Number(1, label="strength"),
            "remove_gps": gr.Checkbox(False, label="remove_gps"),
        }
        arguments = {name: _argument(part, name) for name, part in fields.items()}
        result = gr.File(label="result")
        results: dict[str, list[Any]] = {
            "match": [result, gr.JSON(label="found")],
            "measure": [gr.JSON(label="scores")],
        }
        options = {**FILES, "concurrency_id": "api", "api_visibility": "public"}
        for function in functions:
            name = function.__name__
            inputs = [arguments[taken] for taken in inspect.signature(function).parameters]
            gr.Button(visible=False).click(function, inputs, results.get(name, [result]), api_name=name, **options)


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
