"""What looking by noise level is worth: `python recipes/previews/levels.py runs/levels`, as README.md plans.

Writes `levels-results.json` beside this file: every method of levels.json minus the first noise, and the
default minus every other, over captions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from seedbed.lab.measurement import differences
from seedbed.lab.work import Store

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tables import rounded  # noqa: E402

DEFAULT = "at .77 and .65 noise"

if __name__ == "__main__":
    rows = Store(Path(sys.argv[1])).rows()
    methods = [*dict.fromkeys(row["method"] for row in rows)]
    (plain,) = differences(rows).values()
    minus = {}
    for other in methods:
        pair = [row for name in (other, DEFAULT) for row in rows if row["method"] == name]
        (both,) = differences(pair).values()
        minus[other] = both[DEFAULT]["score"]
    found = {
        "captions": len({row["prompt"] for row in rows}),
        "methods": {name: {n: each[n] for n in ("evaluations", "score")} for name, each in plain.items()},
        "default minus": {name: value for name, value in minus.items() if name != DEFAULT},
    }
    text = json.dumps(rounded(found), indent=1) + "\n"
    (HERE / "levels-results.json").write_text(text)
    print(text)
