"""What a selection costs besides its evaluations: runs of the pipeline, noises drawn, files read."""

import builtins
import functools
import io
from collections import Counter
from pathlib import Path

import pytest
import torch

import seedbed
from seedbed.acquisition import Bansa, Previews, Random
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.session import Session
from tests.pipelines import BUILDERS, CALLS, FAMILIES, PROMPT, helios

QUIET = dict(candidates=3, acquisition=Bansa(depth=None), progress=False)


@pytest.fixture
def runs(monkeypatch):
    """`runs(pipe)`: a list that has an entry for every call of this pipeline's class from then on."""

    def watch(pipe):
        called, plain = [], type(pipe).__call__

        @functools.wraps(plain)
        def call(self, *args, **options):
            called.append(0)
            return plain(self, *args, **options)

        monkeypatch.setattr(type(pipe), "__call__", call)
        return called

    return watch


def test_a_selection_runs_the_pipeline_twice_and_then_once(family, runs):
    pipe = BUILDERS[family]()
    called = runs(pipe)
    for prompt, most in ((PROMPT, 2), (PROMPT, 1), ("a koala", 1)):
        called.clear()
        seedbed.select(pipe, prompt, **QUIET, **CALLS[family])
        assert len(called) <= most
    assert Session(pipe, PROMPT, **CALLS[family]).facts.looks == ()


@pytest.mark.parametrize(
    "name, why",
    [
        ("CogVideoX, image to video", "whether two candidates share pictures and a forward"),
        ("Wan 2.1, image to video", "whether two candidates share pictures and a forward"),
    ],
)
def test_more_runs_are_explained(name, why, runs):
    family = next(family for family in FAMILIES if family.name == name)
    pipe = family.built()
    called = runs(pipe)
    seedbed.select(pipe, family.prompt, **QUIET, **family.call)
    looks = Session(pipe, family.prompt, **family.call).facts.looks
    assert why in looks and len(called) == 2 + len(looks)  # with the first look, and scoring
    called.clear()
    seedbed.select(pipe, "a koala", **QUIET, **family.call)
    assert len(called) == 1


@pytest.mark.parametrize(
    "function",
    [Bansa(depth=None), Previews(verifier=lambda videos, prompts: videos.mean((1, 2, 3, 4)))],
    ids=["attention", "previews"],
)
def test_every_noise_is_drawn_once(pipe_of, function, monkeypatch):
    drawn, draw = Counter(), NoiseRecipe.draw

    def counted(recipe):
        drawn[recipe.candidate] += 1
        return draw(recipe)

    monkeypatch.setattr(NoiseRecipe, "draw", counted)
    made = seedbed.generate(pipe_of("wan"), PROMPT, **QUIET | {"acquisition": function}, **CALLS["wan"])
    assert made.selection.noise is not None
    assert drawn == {0: 1, 1: 1, 2: 1}


@pytest.fixture
def read(monkeypatch):
    """How often each file is opened to be read."""
    opened, plain = Counter(), io.open

    def counted(file, mode="r", *args, **options):
        if not set(mode) & set("wax"):
            opened[Path(str(file)).name] += 1
        return plain(file, mode, *args, **options)

    monkeypatch.setattr(io, "open", counted)
    monkeypatch.setattr(builtins, "open", counted)
    return opened


def test_a_record_is_read_once(pipe_of, tmp_path, read):
    pipe = pipe_of("cogvideox")
    made = seedbed.generate(pipe, PROMPT, **QUIET, **CALLS["cogvideox"])
    made.save(tmp_path / "record.json")
    read.clear()
    assert seedbed.replay(tmp_path / "record.json", pipe, progress=False).identical
    assert read["record.json"] == 1


def test_a_profile_is_read_once(read, tmp_path):
    pipe = BUILDERS["cogvideox"]()
    pipe.register_to_config(_name_or_path=str(tmp_path))
    seedbed.Profile(Random(), "measured").save(tmp_path)
    read.clear()
    choice = seedbed.select(pipe, PROMPT, candidates=2, progress=False, **CALLS["cogvideox"])
    assert choice.acquisition == "random"
    assert [count for name, count in read.items() if "profile" in name] == [1]


def test_noise_is_put_in_place_of_what_a_pipeline_draws_without_looking_at_latents():
    session = Session(helios.helios(), PROMPT, **helios.FAMILIES[0].call)
    noises = torch.randn(2, *session.spec.shape, generator=torch.Generator().manual_seed(0))
    seen = []
    hook = session.denoiser.register_forward_pre_hook(
        lambda module, args, given: seen.append(given["hidden_states"]), with_kwargs=True
    )
    for noise in noises:
        session.evaluate(noise[None])
    hook.remove()
    assert session.facts.entry == "drawn"
    assert not torch.equal(seen[-1], seen[-2])
    for noise, given in zip(noises, seen[-2:], strict=True):
        torch.testing.assert_close(given[0].float(), noise)
