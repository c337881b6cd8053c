"""Fixtures shared by all rooms: the tiny pipelines of `pipelines.py`."""

import signal
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """A command ends with Ctrl-C ignored, as its process is about to end; the tests go on."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="session")
def pipe_of() -> Callable[[str], Any]:
    """`pipe_of(name)`: the session's own tiny pipeline of that family, built once.

    For tests that only use a pipeline. A test that changes one takes its own from `BUILDERS`.
    """
    from tests.pipelines import BUILDERS

    return cache(lambda name: BUILDERS[name]())


def slow(parameter: Any) -> Any:
    """A pipeline or a way that is tried with `-m slow`: others of the list are of its kind."""
    return pytest.param(parameter, marks=pytest.mark.slow)


@pytest.fixture(params=["cogvideox", slow("wan"), "ltx", slow("animatediff"), slow("sdxl")])
def family(request: pytest.FixtureRequest) -> str:
    """The name of each tiny pipeline in turn: a joint transformer, packed latents, a U-Net over frames."""
    return str(request.param)
