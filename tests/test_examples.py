"""The examples run as they stand, on the embedded model."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

import seedbed
from seedbed.acquisition import Bansa
from seedbed.attention import Tap, bansa_masked
from seedbed.attention.disagreement import mask_uniforms
from seedbed.worlds.verifier import attributes

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_select_cogvideox(monkeypatch, tmp_path, capsys):
    out = tmp_path / "video.mp4"
    arguments = ["a red circle moving left", "--candidates", "3", "--out", str(out)]
    choice = run(monkeypatch, "select_cogvideox.py", *arguments)["choice"]
    assert out.stat().st_size > 1000
    assert seedbed.Selection.load(f"{out}.json").best == choice.best
    assert capsys.readouterr().out.startswith(f"candidate {choice.best}: ")


def test_custom_acquisition(monkeypatch, capsys):
    choice = run(monkeypatch, "custom_acquisition.py", "a blue square moving up")["choice"]
    assert choice.best == int(choice.totals.argmax())
    assert choice.acquisition == "output-energy"
    assert len(capsys.readouterr().out.splitlines()) == 8


@pytest.mark.parametrize("steps", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_the_notebook(monkeypatch, tmp_path, capsys, steps):
    """In its own 20 steps, and quickly in fewer; without Jupyter, which shows the last value of a cell."""
    notebook = json.loads((EXAMPLES / "first-steps.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    sources = ["".join(cell["source"]) for cell in cells]
    assert sum('"num_inference_steps": 20,' in source for source in sources) == 1
    monkeypatch.chdir(tmp_path)
    names = {}
    for source in sources:
        source = source.replace('steps": 20,', f'steps": {steps},')
        exec(compile(source, "first-steps.ipynb", "exec"), names)
    assert names["again"].identical is True and names["kept"].selection.best == 2
    assert capsys.readouterr().out.startswith("seed 10")
    assert names["edit"].frames.shape == names["video"].frames.shape
    assert (names["edit"].frames != names["edit"].original).any()
    assert {path.name for path in tmp_path.iterdir()} == {"good.mp4", "circle.png"}
    if steps == 20:
        assert attributes(names["video"].frames[None], [names["prompt"]])["score"] == 1


PROMPT = "a red circle moving left"


def test_anse(monkeypatch, capsys):
    made = run(monkeypatch, "anse.py", PROMPT)
    assert made["scores"].shape == (10, 3) and made["scores"].min() > 0
    best = int(made["scores"].mean(1).argmin())
    assert torch.equal(made["noise"], made["noises"][best])
    assert len(capsys.readouterr().out.splitlines()) == 10
    assert len((EXAMPLES / "anse.py").read_text().splitlines()) <= 80


def masks_of_the_package(shape, layer, count=10, keep=0.2):
    """The masks that `bansa_masked(seed=layer)` draws: (masks, heads, rows, keys)."""
    heads, rows, keys = shape
    generator = torch.Generator()
    uniforms = [mask_uniforms(layer, row, (count, heads, keys), generator) for row in range(rows)]
    masks = torch.stack(uniforms, 2) < keep
    assert masks.any(-1).all()  # no row is emptied, so that none is drawn again
    return masks


@pytest.fixture(scope="module")
def anse():
    return runpy.run_path(str(EXAMPLES / "anse.py"))


def test_anse_scores_a_row_as_the_package_does(anse):
    draw = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 3, 90, 8, generator=draw, dtype=torch.float64).mul(2)
    attention = (query @ key.mT * 8**-0.5).softmax(-1)[0]
    found = anse["bansa"](attention, masks_of_the_package(attention.shape, layer=7))
    torch.testing.assert_close(found, bansa_masked(query, key, seed=7)[0], rtol=1e-12, atol=1e-12)


def test_a_mask_of_anse_keeps_a_share_and_empties_no_row(anse):
    masks = anse["bernoulli"](torch.Size([2, 500, 40]), 0)
    assert masks.shape == (10, 2, 500, 40) and masks.double().mean() == pytest.approx(0.2, abs=0.002)
    few = anse["bernoulli"](torch.Size([2, 500, 2]), 0)
    assert few.any(-1).all()
    # Of two keys, given that one is kept: both with probability keep^2 / (1 - (1 - keep)^2).
    assert few.all(-1).double().mean() == pytest.approx(0.04 / 0.36, abs=0.01)


def test_anse_chooses_as_the_package_does(anse):
    pipe = seedbed.zoo.load()
    pipe.set_progress_bar_config(disable=True)
    bansa = Bansa(estimator="masked", depth=3)
    choice = seedbed.select(pipe, PROMPT, candidates=6, acquisition=bansa, progress=False)
    call = {name: value for name, value in choice.call.items() if name != "guidance_scale"}
    noises = torch.stack([recipe.draw()[None] for recipe in choice.recipes])
    noise, scores = anse["anse"](pipe, PROMPT, noises, 3, masks_of_the_package, **call)
    torch.testing.assert_close(scores, choice.scores, rtol=2e-6, atol=0)
    assert torch.equal(noise, choice.noise)

    seen = []

    def score(call):
        rows = bansa_masked(call.query, call.key, scale=call.scale, seed=call.index)
        seen.append(rows.double().mean())
        if call.index == 2:
            call.stop()

    with torch.no_grad(), Tap(pipe.transformer, score):
        pipe(PROMPT, latents=noise, guidance_scale=1.0, **call)
    torch.testing.assert_close(scores[choice.best], torch.stack(seen), rtol=2e-6, atol=0)
