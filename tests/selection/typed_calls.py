"""For mypy alone, which reads this file and never runs it: what the types of `select` and `generate` say.

A wrong keyword must be an error, so an `ignore` that is not needed fails.
"""

from __future__ import annotations

from typing import Any, assert_type

import seedbed
from seedbed.acquisition import Bansa, Previews


def calls(pipe: Any) -> None:
    assert_type(seedbed.select(pipe, "a prompt", candidates=3, height=32), seedbed.Selection)
    assert_type(seedbed.select(pipe, prompt_embeds=pipe), seedbed.Selection)
    assert_type(seedbed.select(pipe, ["a prompt", "another"], candidates=3), list[seedbed.Selection])
    assert_type(seedbed.generate(pipe, "a prompt", call={"fps": 8}), seedbed.Generation)
    assert_type(seedbed.generate(pipe, ("a prompt", "another")), list[seedbed.Generation])
    assert_type(
        seedbed.select(pipe, "a prompt", acquisition=Bansa(race=((0.1, 0.2), (6, 1)))), seedbed.Selection
    )
    assert_type(
        seedbed.score(pipe, None, [pipe], acquisition=seedbed.Profile.load("p.json")), seedbed.Selection
    )
    sheet = seedbed.contact_sheet(pipe, "a prompt", after=3, guidance_scale=3.0)
    assert_type(sheet, seedbed.ContactSheet)
    assert_type(sheet.finish(2), seedbed.Generation)
    Previews(schedule=((1, 1),))  # type: ignore[call-arg]
    Bansa("masked")  # type: ignore[call-arg, arg-type]
    Bansa(estimator="guess")  # type: ignore[arg-type]
    seedbed.select(pipe, "a prompt", acquisition=3)  # type: ignore[call-overload]
    seedbed.select(pipe, "a prompt", candidates="3")  # type: ignore[call-overload]
    seedbed.generate(pipe, ["a prompt"], batch_size="large")  # type: ignore[call-overload]
