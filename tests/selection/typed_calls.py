"""For mypy alone, which reads this file and never runs it: what the types of `select` and `generate` say.

A wrong keyword must be an error, so an `ignore` that is not needed fails.
"""

from __future__ import annotations

from typing import Any, assert_type

import seedbed
from seedbed.selection.generation import Generation


def calls(pipe: Any) -> None:
    assert_type(seedbed.select(pipe, "a prompt", candidates=3, height=32), seedbed.Selection)
    assert_type(seedbed.select(pipe, prompt_embeds=pipe), seedbed.Selection)
    assert_type(seedbed.select(pipe, ["a prompt", "another"], candidates=3), list[seedbed.Selection])
    assert_type(seedbed.generate(pipe, "a prompt", fps=8), Generation)
    assert_type(seedbed.generate(pipe, ("a prompt", "another")), list[Generation])
    seedbed.select(pipe, "a prompt", candidates="3")  # type: ignore[call-overload]
    seedbed.generate(pipe, ["a prompt"], batch_size="large")  # type: ignore[call-overload]
