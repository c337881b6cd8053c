"""A study on real pipelines: what it records, what it leaves alone, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import seedbed
from seedbed import zoo
from seedbed.adaptation.findings import COLUMNS, Study
from seedbed.attention.interventions import uniform
from seedbed.errors import BadInput, BadRecord, NotSupported
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.loading import load
from seedbed.pipelines.session import Session
from seedbed.refinement import correlate_steps
from seedbed.verifiers.appearance import look, structural_similarity
from tests.breadth.runs import weights
from tests.pipelines import BUILDERS, CALLS

PROMPTS = ["a red circle moving left", "a blue square moving right"]
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def embedded():
    """The default model, its weights before, and a study of it."""
    pipe = zoo.load()
    before = weights(pipe)
    return pipe, before, seedbed.study(pipe, PROMPTS, num_inference_steps=2, verifier="shapes", **QUIET)


def rows_of(study, **keys):
    table = study.table()
    return [
        dict(zip(table, row, strict=True))
        for row in zip(*table.values(), strict=True)
        if all(row[list(table).index(name)] == value for name, value in keys.items())
    ]


def test_the_default_model_is_studied_and_left_as_it_was(embedded):
    pipe, before, study = embedded
    layers = [layer.name for layer in study.layers]
    assert layers == [f"transformer_blocks.{i}.attn1" for i in range(6)] and study.steps == (0, 1)
    assert sorted(study.high_entropy + study.low_entropy) == layers and len(study.high_entropy) == 3
    entropy = study.by_layer("normalised_entropy")
    assert min(entropy[name] for name in study.high_entropy) >= max(entropy[n] for n in study.low_entropy)
    for measure in ("entropy_proportion", "energy_proportion"):
        for prompt in PROMPTS:
            for step in study.steps:
                shares = rows_of(study, measure=measure, prompt=prompt, step=step)
                assert sum(row["value"] for row in shares) == pytest.approx(1)
    ssim = rows_of(study, measure="ssim")
    assert len(ssim) == 2 * 6 * 2 and all(-1 <= row["value"] < 1 for row in ssim)
    assert {"verifier.score", "movement", "sharpness", "flicker"} <= {effect for _, effect in study.effects}
    after = weights(pipe)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module._forward_hooks for module in pipe.transformer.modules())


def test_the_plain_video_is_that_of_the_pipeline_and_effects_are_against_it(embedded):
    """One layer's video made by hand: a session whose only act is a tap on that layer."""
    pipe, _, study = embedded
    session = Session(pipe, PROMPTS[0], num_inference_steps=2)
    noise = NoiseRecipe(0, 0, tuple(session.spec.shape), frame_axis=session.spec.frame_axis).draw()
    assert np.array_equal(session.generate(noise), study.plain)
    name = study.layers[2].name

    def act(run, count, guided):
        def answer(call):
            return uniform(call, slice(12, None)) if call.layer == name else None

        for module in run.denoisers.values():
            run.undo.enter_context(seedbed.attention.Tap(module, answer))

    session.acts = [act]
    video = session.generate(noise)
    (found,) = rows_of(study, measure="ssim", layer=name, perturb="uniform", prompt=PROMPTS[0])
    # Perturbed videos are made side by side, which agrees up to rounding.
    assert found["value"] == pytest.approx(structural_similarity(study.plain, video), abs=0.01)
    change = look([video])["movement"] - look([study.plain])["movement"]
    (found,) = rows_of(study, measure="movement", layer=name, perturb="uniform", prompt=PROMPTS[0])
    assert found["value"] == pytest.approx(float(change[0]), abs=0.002)


def test_correlations_are_spearmans_over_layers(embedded):
    _, _, study = embedded
    (found,) = [
        each
        for each in study.correlations()
        if (each.effect, each.perturb, each.part) == ("ssim", "identity", "all")
    ]
    expected = []
    for prompt in PROMPTS:
        entropy, effect = (
            [study.means[key][prompt, layer.name] for layer in study.layers]
            for key in (("normalised_entropy", "all", ""), ("ssim", "all", "identity"))
        )
        expected.append(spearmanr(entropy, effect).statistic)
    assert found.mean == pytest.approx(np.mean(expected)) and found.low <= found.mean <= found.high
    assert (found.kind, found.layers) == ("joint", 6)


def test_its_table_is_written_and_read_again(embedded, tmp_path):
    _, _, study = embedded
    path = study.save(tmp_path / "study.json")
    again = Study.load(path)
    assert again.means == study.means and again.layers == study.layers and again.halves == study.halves
    assert list(json.loads(path.read_text())["columns"]) == [*COLUMNS, "half"]
    with pytest.raises(BadInput, match=r"\.parquet or \.json"):
        study.save(tmp_path / "study.csv")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(BadRecord, match="no study"):
        Study.load(tmp_path / "bad.json")


def test_parquet_holds_the_same_table(embedded, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    _, _, study = embedded
    table = parquet.read_table(study.save(tmp_path / "study.parquet"))
    assert table.to_pydict() == study.table()
    assert json.loads(table.schema.metadata[b"seedbed"])["prompts"] == PROMPTS


def test_parquet_without_pyarrow_is_one_line(embedded, tmp_path, monkeypatch):
    monkeypatch.setattr("seedbed.adaptation.findings.find_spec", lambda name: None)
    with pytest.raises(NotSupported, match=r"needs pyarrow: pip install"):
        embedded[2].save(tmp_path / "study.parquet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["wan", pytest.param("animatediff", marks=pytest.mark.slow)])
def test_only_the_named_layers_are_looked_at_and_cross_attention_has_no_identity(pipe_of, name):
    study = seedbed.study(pipe_of(name), PROMPTS[0], call=CALLS[name], steps=[1], layers="cross", **QUIET)
    assert {layer.kind for layer in study.layers} == {"cross"}
    assert {row["perturb"] for row in rows_of(study, measure="ssim")} == {"uniform"}
    assert {row["step"] for row in rows_of(study, measure="energy")} == {1}
    assert sorted(study.high_entropy + study.low_entropy) == sorted(each.name for each in study.layers)


def test_a_shorter_window_changes_less(pipe_of):
    """Replaced in the last of two steps alone, a layer moves the video less than in both."""
    similar = [
        seedbed.study(
            pipe_of("wan"), PROMPTS[0], call=CALLS["wan"], window=(start, 1), perturb=["uniform"], **QUIET
        ).by_layer("ssim", perturb="uniform")
        for start in (0.0, 0.5)
    ]
    assert all(both <= last < 1 for both, last in zip(*(each.values() for each in similar), strict=True))
    assert len(similar[0]) == 4


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"prompts": []}, "prompts must be a list of at least one"),
        ({"prompts": 5}, "prompts must be a list of at least one, not 5"),
        ({"steps": 5}, "steps must be a list of at least one, not 5"),
        ({"steps": []}, "steps must be a list of at least one"),
        ({"perturb": 0}, "perturb must be a list of any number, not 0"),
        ({"perturb": np.array(["blur", "identity"])}, "must be identity, uniform"),
        ({"window": 5}, "window must be a list of 2, not 5"),
        ({"window": (0,)}, "window must be a list of 2"),
        ({"prompts": ["a", "a"]}, "given twice"),
        ({"steps": [7]}, "from 0 to 1"),
        ({"layers": "nonsense"}, "no layer matches"),
        ({"perturb": ["blur"]}, "must be identity, uniform"),
        ({"window": (0.5, 0.5)}, "window is empty"),
        ({"rows": 0}, "rows must be"),
        ({"verifier": "nonsense"}, "no verifier"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input_is_one_line(pipe_of, arguments, line):
    asked = {"prompts": PROMPTS, "call": CALLS["cogvideox"], **QUIET, **arguments}
    with pytest.raises(BadInput, match=line) as error:
        seedbed.study(pipe_of("cogvideox"), **asked)
    assert "\n" not in str(error.value)


def test_a_study_may_perturb_nothing(pipe_of):
    call = {**CALLS["cogvideox"], "num_inference_steps": 1}
    study = seedbed.study(pipe_of("cogvideox"), PROMPTS[0], perturb=None, call=call, **QUIET)
    assert set(study.table()["perturb"]) == {None}


def test_half_precision_shows_the_same():
    asked = dict(prompts=PROMPTS[0], num_inference_steps=2, perturb=(), **QUIET)
    exact, half = (
        seedbed.study(zoo.load(torch_dtype=dtype), **asked).by_layer("normalised_entropy")
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half == pytest.approx(exact, abs=0.005) and half != exact


def test_a_prior_is_in_the_noise_of_stochastic_steps_too(tmp_path):
    """As `generate` draws for a model that was trained under it; an edit's target has its source's noise."""
    BUILDERS["animatediff"]().save_pretrained(tmp_path / "model")
    about = {"schema": "seedbed.model/1", "call": {}, "prior": "mixed:2"}
    (tmp_path / "model/seedbed.json").write_text(json.dumps(about))
    pipe = load(str(tmp_path / "model"), device="cpu")
    call = {**CALLS["animatediff"], "num_inference_steps": 2, "eta": 1.0}
    made = seedbed.generate(pipe, PROMPTS[0], seed=0, candidates=1, call=call, **QUIET)
    found = seedbed.study(pipe, PROMPTS[0], perturb=None, call=call, **QUIET)
    assert np.array_equal(found.plain, made.frames)
    session = Session(pipe, PROMPTS[0], **call)
    correlate_steps(session, made.selection.recipe, made.selection.recipe.draw())
    assert session.another(PROMPTS[1], call).correlate is session.correlate and session.correlate
