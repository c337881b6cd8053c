"""What choosing and refining gained on `shapes-animatediff`: `python recipes/pyoco/final.py --runs runs`.

Reads what `seedbed lab run` made of signals.json and choice.json,
and leaves results/final.json, of which page.py makes a table.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from recipes.front.summarise import changing, choosing, signals
from recipes.tables import rounded
from seedbed import statistics
from seedbed.files import write_bytes_atomically
from seedbed.lab.evidence import Evidence
from seedbed.lab.work import Store

SIGNALS = ["0/bansa-k10", "0/bansa", "0/entropy"]


def summary(runs: Path) -> dict[str, Any]:
    pool = Evidence.of(Store(runs / "pyoco-signals").rows())
    truth, store = pool.outcome(), Store(runs / "pyoco-choice")
    made = changing(store.rows(), json.loads(store.recipe.read_text()), truth)
    return {
        "kind": "final",
        "captions": len(truth),
        "noises": truth.shape[1],
        "random": statistics.bootstrap(statistics.random(truth)),
        "gap": statistics.bootstrap(statistics.oracle(truth) - statistics.random(truth)),
        "signals": signals(pool, SIGNALS),
        "front": choosing(pool, None) | made,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "final.json")
    given = parser.parse_args(argv)
    write_bytes_atomically(given.out, (json.dumps(rounded(summary(given.runs)), indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
