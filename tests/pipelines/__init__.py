"""Tiny pipelines built from diffusers' own classes with seeded random weights: no download.

`BUILDERS` and `CALLS` hold the five families of `core` by short name; `FAMILIES` every pipeline of the table
in `docs/pipelines.md`, with the name users give it. Each builder returns a fresh pipeline.
"""

from tests.pipelines.core import BUILDERS, CALLS, animatediff, cogvideox, ltx, sdxl, wan
from tests.pipelines.family import Family
from tests.pipelines.parts import PROMPT, WORDS, tokenizer

__all__ = [
    "BUILDERS",
    "CALLS",
    "FAMILIES",
    "PROMPT",
    "WORDS",
    "Family",
    "animatediff",
    "cogvideox",
    "ltx",
    "sdxl",
    "tokenizer",
    "wan",
]

# One list of families a file; a new file is one more line here.
FAMILIES: list[Family] = [
    Family("CogVideoX", cogvideox, CALLS["cogvideox"]),
    Family("Wan 2.1", wan, CALLS["wan"]),
    Family("Wan 2.2 (two denoisers)", lambda: wan(two_denoisers=True), CALLS["wan"]),
    Family("LTX-Video", ltx, CALLS["ltx"]),
    Family("AnimateDiff (SD 1.5)", animatediff, CALLS["animatediff"]),
    Family("SDXL", sdxl, CALLS["sdxl"], kind="image"),
]
