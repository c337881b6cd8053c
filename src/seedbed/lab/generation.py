"""The task `generation`: what the finished video of every noise is worth, without choosing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from seedbed.errors import BadInput
from seedbed.lab import statistics
from seedbed.lab.tables import Figure, Table, groups
from seedbed.lab.verifiers import Ratings, resolve
from seedbed.noise import NoiseRecipe
from seedbed.probe import Probe
from seedbed.selection.judging import Verifier, judged

VERSION = 1


def generation(
    pipe: Any, prompt: str, recipes: Sequence[NoiseRecipe], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Generate from each noise and let a verifier judge the videos.

    Options:
        verifier: a name of `seedbed.lab.verifiers`; its numbers become the columns `outcome.score` and so on.
        call: arguments of the pipeline's call, such as {"num_inference_steps": 10}.

    Raises:
        BadInput: an option that is unknown or missing, or that the pipeline refuses.
    """
    if set(options) - {"verifier", "call"} or "verifier" not in options:
        raise BadInput(f"the task generation takes the options verifier and call, not {sorted(options)}")
    verifier = _verifier(options["verifier"])
    probe = Probe(pipe, prompt, **options.get("call", {}))
    rows = []
    for recipe in recipes:
        before = probe.ledger.total
        verdict = judged(verifier, [probe.generate(recipe.draw())], prompt)
        row = {f"outcome.{name}": float(values[0]) for name, values in verdict.items()}
        rows.append({**row, "nfe": float(probe.ledger.total - before)})
    return rows


@lru_cache(maxsize=1)  # some verifiers are models: loaded once, not for every prompt
def _verifier(name: str) -> Verifier:
    verifier = resolve(name)
    if isinstance(verifier, Ratings):
        raise BadInput(f"{name}: ratings judge no new video, name a verifier that does")
    return verifier


def tables(rows: Sequence[Mapping[str, Any]]) -> list[Table | Figure]:
    """What the seed decides on each model: random choice, best of n, and what they cost."""
    lines, cells = {}, []
    for name, columns in groups(dict(row) for row in rows).items():
        outcome, nfe = columns["outcome.score"], float(columns["nfe"].mean())
        random, oracle = statistics.random(outcome), statistics.oracle(outcome)
        means = [statistics.bootstrap(values) for values in (random, oracle, oracle - random)]
        cells.append([name, *outcome.shape, nfe, *means])
        lines[name] = [
            (n * nfe, statistics.bootstrap(statistics.expected_best_of(outcome, n)))
            for n in range(1, outcome.shape[1] + 1)
        ]
    return [
        Table(
            "What the seed decides",
            ["model", "prompts", "noises", "NFE", "random", "best of all", "gap"],
            cells,
            "Verifier's score and what one video costs; 95 % intervals, bootstrap over prompts.",
        ),
        Figure(
            "Best of n by the verifier",
            lines,
            "denoiser evaluations (NFE)",
            "verifier's score",
            "Expected score of the best of n finished videos, n from 1 to the whole pool; 95 % intervals.",
        ),
    ]
