"""The same arguments in Python and on the command line: the same choice, for the same reason and cost."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from seedbed import Profile, generate, select, zoo
from seedbed.acquisition import Entropy, Previews
from seedbed.pipelines.loading import load

PROMPT = "a red circle moving left and a blue square staying still"
UNJUDGED = "a koala plays the piano"  # the verifier of the model's profile cannot tell


@pytest.fixture(scope="module")
def default() -> Any:
    return load(device="cpu")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model in a folder without its profile."""
    folder = tmp_path_factory.mktemp("bare") / "model"
    shutil.copytree(zoo.path(), folder, ignore=shutil.ignore_patterns("seedbed-profile.json"))
    return folder


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
            ["--candidates", 4, "--seed", 7, "--steps", 6],
            {"candidates": 4, "seed": 7, "num_inference_steps": 6},
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
            ["--verifier", "shapes", "--steps", 6],
            {"acquisition": Previews(verifier="shapes"), "num_inference_steps": 6},
            "previews",
            marks=pytest.mark.slow,
        ),
        (
            PROMPT,
            ["--verifier", "shapes", "--steps", 6],
            {"acquisition": "previews:verifier=shapes", "num_inference_steps": 6},
            "previews",
        ),
        (PROMPT, ["--acquisition", "mine.json"], {"acquisition": "mine.json"}, "entropy"),
    ],
)
def test_with_the_model_and_its_profile(
    seedbed, default, prompt: str, options: list[object], arguments: dict[str, Any], acquisition: str
) -> None:
    Profile(Entropy(depth=2), "measured").save("mine.json")
    typed = chosen(seedbed, "select", prompt, *options)
    assert typed == of_the_choice(select(default, prompt, progress=False, **arguments).to_dict())
    assert typed["acquisition"] == acquisition


@pytest.mark.parametrize(
    ("options", "arguments", "acquisition", "candidates"),
    [
        ([], {}, "bansa", 10),
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
    typed = chosen(seedbed, "select", PROMPT, "--model", bare, "--steps", 6, *options)
    pipe = load(bare, device="cpu")
    made = select(pipe, PROMPT, progress=False, num_inference_steps=6, **arguments)
    assert typed == of_the_choice(made.to_dict())
    assert typed["acquisition"] == acquisition and len(typed["recipes"]) == candidates


@pytest.mark.parametrize(
    ("prompt", "options"),
    [pytest.param(PROMPT, [], marks=pytest.mark.slow), (UNJUDGED, ["--acquisition", "bansa"])],
)
def test_generated(seedbed, default, prompt: str, options: list[object]) -> None:
    typed = chosen(seedbed, "generate", prompt, "--fps", 4, "--steps", 6, *options)
    acquisition = str(options[-1]) if options else "auto"
    made = generate(default, prompt, acquisition=acquisition, progress=False, num_inference_steps=6)
    assert typed == of_the_choice(made.record(fps=4))
