"""Arguments of diffusers' pipelines that have one of our names are listed in docs/compatibility.md."""

import inspect
import re
from pathlib import Path

import diffusers

import seedbed

PAGE = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()


def keywords(function):
    parameters = inspect.signature(function).parameters.values()
    return {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}


def test_every_collision_is_listed():
    names = [seedbed.select, seedbed.score, seedbed.generate, seedbed.contact_sheet]
    ours = set().union(*map(keywords, names))
    found = {}
    pipelines = [name for name in dir(diffusers) if name.endswith("Pipeline")]
    for name in pipelines:
        call = getattr(diffusers, name).__call__
        for argument in ours & set(inspect.signature(call).parameters):
            found.setdefault(argument, set()).add(name)
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE)
    listed = {argument: set(re.findall(r"`(\w+)`", classes)) for argument, classes in rows}
    assert len(pipelines) > 250 and found and found.keys() <= listed.keys()
    for argument, classes in found.items():
        assert classes <= listed[argument]
