"""docs/architecture.md names the files that a selection, an attention call and a preview run through."""

import re
import sys
from contextlib import contextmanager
from pathlib import Path
from types import CodeType

import pytest

import seedbed
from seedbed.acquisition import Bansa
from seedbed.attention import Tap
from tests.pipelines import CALLS, PROMPT, cogvideox

PACKAGE = Path(seedbed.__file__).parent
PAGE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()
CALL = {"progress": False, **CALLS["cogvideox"]}


class Walk:
    """The files of the package whose functions are called, and how often one follows another."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.switches = 0

    def enter(self, code: CodeType) -> None:
        path = Path(code.co_filename)
        if not path.is_relative_to(PACKAGE) or code.co_name == "<module>":
            return
        file = path.relative_to(PACKAGE).as_posix()
        self.switches += not self.files or file != self._last
        self._last = file
        if file not in self.files:
            self.files.append(file)


@contextmanager
def traced(within: CodeType | None = None):
    """Record the calls in the body; with `within`, those during the first run of that function."""
    walk = Walk()
    inside = None  # the frame of that run

    def profile(frame, event, argument):
        nonlocal inside
        if event == "call":
            if frame.f_code is within and inside is None:
                inside = frame
            if within is None or inside is not None:
                walk.enter(frame.f_code)
        elif event == "return" and frame is inside:
            sys.setprofile(None)

    sys.setprofile(profile)
    try:
        yield walk
    finally:
        sys.setprofile(None)


def select(pipe):
    seedbed.select(pipe, PROMPT, candidates=4, acquisition=Bansa(), **CALL)


def preview(pipe):
    seedbed.contact_sheet(pipe, PROMPT, candidates=4, **CALL)


# What runs, whether it has run before on this pipeline, and within which function the walk is traced.
WALKS = {
    "One selection": (select, False, None),
    "One attention call": (select, True, Tap._answer.__code__),
    "One preview": (preview, False, None),
}


def walk_of(title):
    run, again, within = WALKS[title]
    pipe = cogvideox()
    run(pipe)  # imports are no part of a walk
    if not again:
        pipe = cogvideox()
    with traced(within) as walked:
        run(pipe)
    return walked


@pytest.fixture(scope="module", params=WALKS)
def walk(request):
    return request.param, walk_of(request.param)


def chapter(title):
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return found


def test_the_page_names_every_file_in_the_order_in_which_it_is_entered(walk):
    title, walked = walk
    assert walked.files == re.findall(r"^\d+\. `(\S+\.py)`", chapter(title), re.MULTILINE)


def test_the_page_says_how_often_the_walk_changes_files(walk):
    """Within a fifth: interpreters differ in what counts as a call."""
    title, walked = walk
    (files, switches) = re.search(r"(\d+) files, about (\d+) switches", chapter(title)).groups()
    assert len(walked.files) == int(files)
    assert walked.switches == pytest.approx(int(switches), rel=0.2)
