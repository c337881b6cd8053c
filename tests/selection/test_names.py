"""Which pipelines have arguments that are called as ours are: they go through `call={...}`."""

import ast
import inspect
import re
from pathlib import Path

import diffusers
import pytest

import seedbed

PAGE = Path(__file__).parents[2] / "docs" / "selection.md"
OURS = {
    "candidates",
    "seed",
    "acquisition",
    "batch_size",
    "progress",
    "call",
    "prior",
    "refine",
    "adaptation",
}
OURS |= {"verifier", "verifier_prompt", "noises"}


def classes():
    """The name and the arguments of `__call__` of every pipeline that takes `latents`; none is imported."""
    for path in sorted(Path(diffusers.__file__).parent.rglob("pipelines/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Pipeline"):
                for part in node.body:
                    if isinstance(part, ast.FunctionDef) and part.name == "__call__":
                        names = {each.arg for each in (*part.args.args, *part.args.kwonlyargs)}
                        if "latents" in names:
                            yield node.name, names


@pytest.mark.slow
def test_the_page_lists_the_pipelines_that_share_a_name_with_us():
    pipelines = dict(classes())
    assert len(pipelines) > 150 and "CogVideoXPipeline" in pipelines
    found = {name: sorted(names & OURS) for name, names in pipelines.items() if names & OURS}
    between = PAGE.read_text().partition("<!-- names -->")[2].partition("<!-- end of names -->")[0]
    listed = {
        kind: re.findall(r"`(\w+)`", names)
        for kind, names in re.findall(r"^- `(\w+)`: (.*)$", between, re.MULTILINE)
    }
    assert listed and {kind: names for kind, names in listed.items() if kind in pipelines} == found


def test_our_names_are_few_and_the_same_everywhere():
    for function in (seedbed.select, seedbed.score, seedbed.generate, seedbed.contact_sheet):
        own = {
            name
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        assert own - {"after", "decode", "live"} <= OURS, function.__name__  # of the contact sheet alone
