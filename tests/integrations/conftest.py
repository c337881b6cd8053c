"""ComfyUI for the nodes' tests: the stand-in of `host`, or the checkout that the variable COMFYUI names."""

import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.integrations import host

NODES = Path(__file__).parents[2] / "integrations" / "comfyui"
COMFYUI = os.environ.get("COMFYUI")


def load_nodes():
    """The folder as ComfyUI loads it, anew."""
    for name in [name for name in sys.modules if name.startswith("seedbed_nodes")]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location("seedbed_nodes", NODES / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["seedbed_nodes"] = module
    spec.loader.exec_module(module)
    return module


def tiny_wan():
    """Weights in the format of Wan 2.1: two layers of one head of 128, random from a fixed seed."""
    draw = torch.Generator().manual_seed(0)
    width, inner, sizes = 128, 256, {"patch_embedding": (128, 16, 1, 2, 2)}
    sizes |= {"text_embedding.0": (width, 4096), "text_embedding.2": (width, width)}
    sizes |= {"time_embedding.0": (width, 256), "time_embedding.2": (width, width)}
    sizes |= {"time_projection.1": (6 * width, width), "head.head": (64, width)}
    weights = {"head.modulation": (1, 2, width)}
    for block in ("blocks.0.", "blocks.1."):
        for kind in ("self_attn.", "cross_attn."):
            sizes |= {f"{block}{kind}{part}": (width, width) for part in "qkvo"}
            weights |= {f"{block}{kind}norm_{part}.weight": None for part in "qk"}
        sizes |= {f"{block}ffn.0": (inner, width), f"{block}ffn.2": (width, inner)}
        weights |= {f"{block}modulation": (1, 6, width), f"{block}norm3.weight": None}
        sizes[f"{block}norm3"] = None
    found = {}
    for name, shape in weights.items():
        found[name] = torch.ones(width) if shape is None else 0.1 * torch.randn(shape, generator=draw)
    for name, shape in sizes.items():
        found[f"{name}.bias"] = torch.zeros(shape[0] if shape else width)
        if shape:
            fan = shape[1] if len(shape) == 2 else 64
            found[f"{name}.weight"] = torch.randn(shape, generator=draw) / fan**0.5
    return found


@pytest.fixture
def comfy(monkeypatch):
    """The nodes, and a model, conditioning and sampler of the host."""
    if not COMFYUI:
        host.install(monkeypatch)
        model, conditioning, sampler = host.model()
    else:
        monkeypatch.syspath_prepend(COMFYUI)
        from comfy.cli_args import args

        args.cpu = True
        import comfy.samplers
        import comfy.sd

        model = comfy.sd.load_diffusion_model_state_dict(tiny_wan())
        generator = torch.Generator().manual_seed(2)
        conditioning = [[torch.randn(1, 5, 4096, generator=generator), {}]]
        sampler = comfy.samplers.sampler_object("euler")
    module = load_nodes()
    from comfy.samplers import CFGGuider

    guider = CFGGuider(model)
    guider.inner_set_conds({"positive": conditioning})
    sigmas = torch.tensor([1.0, 0.9, 0.7, 0.4, 0.0])
    return SimpleNamespace(
        nodes=module,
        model=model,
        conditioning=conditioning,
        sampler=sampler,
        guider=guider,
        sigmas=sigmas,
        latent={"samples": torch.zeros(1, 16, 3, 4, 4)},
    )


@pytest.fixture
def run(comfy):
    """Runs a node with a workflow's metadata: `run("SeedbedNoise", seed=1, ...)` gives its outputs."""

    def execute(name, metadata=None, **inputs):
        kind = getattr(comfy.nodes, name)
        own = type(name, (kind,), {"hidden": SimpleNamespace(extra_pnginfo=metadata)})
        return own.execute(**inputs)

    return execute
