"""Nodes of seedbed for ComfyUI: link or copy this folder into `ComfyUI/custom_nodes` (docs/comfyui.md).

They need `seedbed` and what ComfyUI itself runs on; diffusers is imported only by what says so, when it runs.
"""

from comfy_api.latest import ComfyExtension

from .enhancing import SeedbedEnhance
from .judging import SeedbedVerify
from .noises import SeedbedFreeInit, SeedbedNoise, SeedbedRefine
from .takes import SeedbedPick, SeedbedPreview, SeedbedSelect

WEB_DIRECTORY = "web"


class Seedbed(ComfyExtension):
    async def get_node_list(self):
        return [
            SeedbedNoise,
            SeedbedSelect,
            SeedbedPreview,
            SeedbedPick,
            SeedbedVerify,
            SeedbedRefine,
            SeedbedFreeInit,
            SeedbedEnhance,
        ]


async def comfy_entrypoint():
    return Seedbed()
