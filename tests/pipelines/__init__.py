"""Tiny pipelines built from diffusers' own classes with seeded random weights: no download.

`BUILDERS` and `CALLS` hold the five families of `core` by short name; `FAMILIES` every pipeline of the table
in `docs/pipelines.md`, with the name users give it. Each builder returns a fresh pipeline.
"""

from tests.pipelines import (
    allegro,
    chronoedit,
    cogview,
    core,
    cosmos,
    easyanimate,
    helios,
    hunyuan,
    images,
    kandinsky,
    latte,
    ltx2,
    lumina,
    mochi,
    motif,
    sana,
    sdxl_edits,
    skyreels,
    svd,
    zeroscope,
)
from tests.pipelines import animatediff as animatediff_
from tests.pipelines import cogvideox as cogvideox_
from tests.pipelines import ltx as ltx_
from tests.pipelines import wan as wan_
from tests.pipelines.core import BUILDERS, CALLS
from tests.pipelines.family import Family
from tests.pipelines.parts import PROMPT, WORDS, tokenizer

__all__ = [
    "BUILDERS",
    "CALLS",
    "DEFAULT",
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

# One list of families a file; a new file is one more import above and one more line here. A file that has the
# name of a builder below is imported with an underscore, as `animatediff_`.
FAMILIES: list[Family] = [
    Family("CogVideoX", core.cogvideox, CALLS["cogvideox"]),
    *cogvideox_.FAMILIES,
    Family("Wan 2.1", core.wan, CALLS["wan"]),
    Family("Wan 2.2 (two denoisers)", lambda: core.wan(two_denoisers=True), CALLS["wan"]),
    *wan_.FAMILIES,
    *chronoedit.FAMILIES,
    *hunyuan.FAMILIES,
    *skyreels.FAMILIES,
    Family("LTX-Video", core.ltx, CALLS["ltx"]),
    Family("AnimateDiff (SD 1.5)", lambda: core.animatediff((8, 16)), CALLS["animatediff"]),
    *animatediff_.FAMILIES,
    *mochi.FAMILIES,
    *motif.FAMILIES,
    *helios.FAMILIES,
    *allegro.FAMILIES,
    *latte.FAMILIES,
    *svd.FAMILIES,
    Family("SDXL", core.sdxl, CALLS["sdxl"], kind="image"),
    *sdxl_edits.FAMILIES,
    *images.FAMILIES,
    *lumina.FAMILIES,
    *cogview.FAMILIES,
    *ltx2.FAMILIES,
    *ltx_.FAMILIES,
    *easyanimate.FAMILIES,
    *kandinsky.FAMILIES,
    *sana.FAMILIES,
    *cosmos.FAMILIES,
    *zeroscope.FAMILIES,
]

# One pipeline for each kind of denoiser, what the default tests run: joint, self and cross, packed latents
# with sound, linear attention, frames with their own timesteps, U-Nets over frames and over images.
_FILES = (hunyuan, skyreels, mochi, helios, svd, images, ltx2, sana, zeroscope)
DEFAULT = {
    *(file.FAMILIES[0].name for file in _FILES),
    "CogVideoX",
    "Wan 2.1",
    "LTX-Video",
    "AnimateDiff (SD 1.5)",
}

# Last: importing a file sets the attribute of its name.
animatediff, cogvideox, ltx = core.animatediff, core.cogvideox, core.ltx
sdxl, wan = core.sdxl, core.wan
