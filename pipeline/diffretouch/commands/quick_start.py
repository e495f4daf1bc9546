"""A quick start for a program that retouches and does nothing else: the command line.

`import diffusers` also imports what it finds installed beside it. A retouch uses none of peft with transformers
(adapters), scipy (schedules of other models) and the tracer behind `torch.compile`, which take two thirds of the time.
What diffusers does not find while it is imported it takes for missing as long as the process lives: so this is for the
start of a program, and never for a library call.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

_UNUSED = ("peft", "scipy", "transformers")
_DYNAMO = "torch._dynamo"


def import_quickly(module: str) -> None:
    """Import `module` of this package with torch and diffusers; the process can load no adapters afterwards.

    Where diffusers is imported already, this is a plain import.
    """
    if "diffusers" in sys.modules:
        importlib.import_module(f"..{module}", __package__)
        return
    torch: Any = importlib.import_module("torch")
    hidden: dict[str, Any] = {name: None for name in _UNUSED}  # Python's own word for what cannot be imported
    hidden |= {_DYNAMO: _Untraced(_DYNAMO)}
    hidden = {name: stand_in for name, stand_in in hidden.items() if name not in sys.modules}
    if _DYNAMO in hidden:
        torch._dynamo = hidden[_DYNAMO]
    sys.modules.update(hidden)
    try:
        importlib.import_module(f"..{module}", __package__)
    finally:
        for name, stand_in in hidden.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


class _Untraced(ModuleType):
    """`torch._dynamo` as long as nothing is compiled: there is nothing to mark, and nothing to find.

    Whoever imports the real one gets it, and it then takes this one's place.
    """

    eval_frame = SimpleNamespace(OptimizedModule=type("OptimizedModule", (), {}))

    @staticmethod
    def allow_in_graph(function: Any) -> Any:
        return function

    @staticmethod
    def disable(function: Callable | None = None, *_: Any, **__: Any) -> Any:
        return function or (lambda decorated: decorated)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `inspect` asks every module for such names
            raise AttributeError(name)
        if sys.modules.get(_DYNAMO) is self:
            del sys.modules[_DYNAMO]
        return getattr(importlib.import_module(_DYNAMO), name)
