"""What choosing and refining gained on `shapes-animatediff`, at one stage of its training:

    python recipes/pyoco/final.py --runs runs --out recipes/pyoco/results/final-10400.json

Reads what `seedbed lab run` made of signals.json and choice.json; pyoco_page.py makes a table of each stage.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from recipes.front.summarise import CANDIDATES, by_method, changing, choosing, signals
from recipes.tables import rounded, signs_p
from seedbed import statistics
from seedbed.files import write_bytes_atomically
from seedbed.lab.evidence import Evidence
from seedbed.lab.work import Store

SIGNALS = ["0/bansa-k10", "0/bansa"]
# Two questions, each of two answers: p-values are adjusted within them.
QUESTIONS = (("ANSE, as published", "ANSE, without masks"), ("FreeInit", "FreeInit of ten, then ANSE"))


def summary(runs: Path) -> dict[str, Any]:
    pool = Evidence.of(Store(runs / "pyoco-signals").rows())
    truth, store = pool.outcome(), Store(runs / "pyoco-choice")
    chosen = choosing(pool, None)
    changed = changing(store.rows(), json.loads(store.recipe.read_text()), truth)
    front = {name: {**each, "against": "a random noise", "p": "–"} for name, each in chosen.items()}
    front |= {name: {**each, "against": "the first noise", "p": "–"} for name, each in changed.items()}
    gains = {
        name: statistics.best_of(pool.signal(signal), truth, CANDIDATES, "low") - statistics.random(truth)
        for name, signal in zip(QUESTIONS[0], SIGNALS, strict=True)
    }
    scores = {name: each.outcome() for name, each in by_method(store.rows()).items()}
    gains |= {name: (scores[name] - scores["first noise"]).mean(1) for name in QUESTIONS[1]}
    for question in QUESTIONS:
        p = [signs_p(gains[name]) for name in question]
        for name, value in zip(question, statistics.holm(p), strict=True):
            front[name]["p"] = f"{value:.3f}"
    return {
        "kind": "final",
        "captions": len(truth),
        "noises": truth.shape[1],
        "random": statistics.bootstrap(statistics.random(truth)),
        "gap": statistics.bootstrap(statistics.oracle(truth) - statistics.random(truth)),
        "signals": signals(pool, [*SIGNALS, "0/entropy"]),
        "front": front,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(argv)
    write_bytes_atomically(given.out, (json.dumps(rounded(summary(given.runs)), indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
