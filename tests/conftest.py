"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Callable

# Workers share the cores: OpenMP threads that wait for each other would triple the time. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
from tiny import build_tiny_pipeline  # noqa: E402

from diffretouch import DiffRetouchPipeline  # noqa: E402


@pytest.fixture(scope="session")
def tiny_pipeline() -> Callable[..., DiffRetouchPipeline]:
    """A factory of pipelines from the real classes at tiny size, see `tiny.py`."""
    return build_tiny_pipeline
