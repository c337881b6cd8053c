"""The same arguments in Python and on the command line: the same choice, for the same reason and cost."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from seedbed import Profile, generate, select, zoo
from seedbed.acquisition import Entropy, Previews, Random
from seedbed.pipelines.loading import load
from seedbed.selection.profile import FILENAME, PreviewPlan

PROMPT = "a red circle moving left and a blue square staying still"
UNJUDGED = "a koala plays the piano"  # the verifier of the model's profile cannot tell
STEPS = ("--steps", 2)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model in a folder without a profile."""
    folder = tmp_path_factory.mktemp("bare") / "model"
    shutil.copytree(zoo.path(), folder, ignore=shutil.ignore_patterns(FILENAME))
    return folder


@pytest.fixture(scope="module")
def profiled(bare: Path) -> Path:
    """The same with a profile: by previews where its verifier can judge, else at random."""
    folder = bare.parent / "profiled"
    shutil.copytree(bare, folder)
    Profile(Random(), "measured", preview=PreviewPlan(((1, 1),), "shapes", 3, "measured too")).save(folder)
    return folder


@pytest.fixture(scope="module")
def default(profiled: Path) -> Any:
    return load(profiled, device="cpu")


def of_the_choice(record: dict[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(record))
    return {name: value for name, value in plain.items() if name not in ("seconds", "digest")}


def chosen(seedbed, *arguments: object) -> dict[str, Any]:
    code, out, err = seedbed(*arguments, "--device", "cpu", "--json")
    assert (code, err) == (0, "")
    return of_the_choice(json.loads(out)["record"])


@pytest.mark.parametrize(
    ("prompt", "options", "arguments", "acquisition"),
    [
        (PROMPT, [], {}, "previews"),
        pytest.param(
            PROMPT,
            ["--candidates", 4, "--seed", 7],
            {"candidates": 4, "seed": 7},
            "previews",
            marks=pytest.mark.slow,
        ),
        (UNJUDGED, [], {}, "random"),
        (PROMPT, ["--acquisition", "bansa"], {"acquisition": "bansa"}, "bansa"),
        (
            PROMPT,
            ["--acquisition", "bansa:keep=0.5,layers=joint,prefer=high", "--candidates", 3],
            {"acquisition": "bansa:keep=0.5,layers=joint,prefer=high", "candidates": 3},
            "bansa",
        ),
        pytest.param(
            PROMPT,
            ["--verifier", "shapes"],
            {"acquisition": Previews(verifier="shapes")},
            "previews",
            marks=pytest.mark.slow,
        ),
        (
            PROMPT,
            ["--verifier", "shapes", "--candidates", 3],
            {"acquisition": "previews:verifier=shapes", "candidates": 3},
            "previews",
        ),
        (PROMPT, ["--acquisition", "mine.json"], {"acquisition": "mine.json"}, "entropy"),
    ],
)
def test_with_the_model_and_its_profile(
    seedbed,
    default,
    profiled: Path,
    prompt: str,
    options: list[object],
    arguments: dict[str, Any],
    acquisition: str,
) -> None:
    Profile(Entropy(depth=2), "measured").save("mine.json")
    typed = chosen(seedbed, "select", prompt, "--model", profiled, *STEPS, *options)
    made = select(default, prompt, progress=False, num_inference_steps=STEPS[1], **arguments)
    assert typed == of_the_choice(made.to_dict())
    assert typed["acquisition"] == acquisition


@pytest.mark.parametrize(
    ("options", "arguments", "acquisition", "candidates"),
    [
        ([], {}, "random", 1),
        (["--candidates", 3], {"candidates": 3}, "bansa", 3),
        pytest.param(
            ["--verifier", "shapes"],
            {"acquisition": Previews(verifier="shapes")},
            "previews",
            6,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_without_a_profile(
    seedbed, bare: Path, options: list[object], arguments: dict[str, Any], acquisition: str, candidates: int
) -> None:
    typed = chosen(seedbed, "select", PROMPT, "--model", bare, *STEPS, *options)
    pipe = load(bare, device="cpu")
    made = select(pipe, PROMPT, progress=False, num_inference_steps=STEPS[1], **arguments)
    assert typed == of_the_choice(made.to_dict())
    assert typed["acquisition"] == acquisition and len(typed["recipes"]) == candidates


@pytest.mark.parametrize(
    ("prompt", "options"),
    [pytest.param(PROMPT, [], marks=pytest.mark.slow), (UNJUDGED, ["--acquisition", "bansa"])],
)
def test_generated(seedbed, default, profiled: Path, prompt: str, options: list[object]) -> None:
    typed = chosen(seedbed, "generate", prompt, "--model", profiled, "--fps", 4, *STEPS, *options)
    acquisition = str(options[-1]) if options else "auto"
    made = generate(default, prompt, acquisition=acquisition, progress=False, num_inference_steps=STEPS[1])
    assert typed == of_the_choice(made.record(fps=4))
