"""Writes the recipes of this folder, one difference a method: `python recipes/adaptation/make.py`."""

import json
from pathlib import Path

HALVES = ("entropy:high", "entropy:low", "all")
LAYERS = range(6)  # of the embedded models


def recipe(name, methods, count=16):
    return {
        "schema": "seedbed.recipe/1",
        "name": name,
        "task": "generation",
        "models": ["shapes-cogvideox", "shapes-wan"],
        "prompts": {"world": "shapes", "objects": 2, "count": count, "seed": 3, "held_out": True},
        "noises": {"seed": 0, "count": 2},
        "options": {"verifier": "shapes", "metrics": True},
        "methods": methods,
    }


def acting(text):
    return {"adaptation": text}


def enhancement():
    methods = {"plain": {}}
    for half in HALVES:
        for strength in (0.1, 0.3):
            methods[f"mix {strength}, {half}"] = acting(f"enhance:layers={half},strength={strength}")
    for half in HALVES[:2]:
        for strength in (-0.2, 0.2):
            text = f"enhance:rule=temperature,layers={half},strength={strength}"
            methods[f"temperature {1 + strength:g}, {half}"] = acting(text)
    for start, stop in ((0, 0.5), (0.5, 1)):
        text = f"enhance:strength=0.3,start={start},stop={stop}"
        methods[f"mix 0.3, entropy:high, {start:g} to {stop:g}"] = acting(text)
    methods["frames, all"] = acting("enhance:rule=frames,layers=all,strength=1,weight=3.4")
    return methods


def guidance():
    # Twenty guided steps with one more evaluation each cost what thirty plain ones do.
    methods = {"plain, 30 steps": {"call": {"num_inference_steps": 30}}, "plain, 20 steps": {}}
    for half in HALVES:
        for scale in (1, 3):
            methods[f"identity {scale}, {half}"] = acting(f"guide:layers={half},scale={scale}")
    for perturb in ("uniform", "blur", "skip"):
        for half in HALVES[:2]:
            methods[f"{perturb} 1, {half}"] = acting(f"guide:perturb={perturb},layers={half}")
    methods["identity 3, entropy:low, rescaled"] = acting("guide:scale=3,rescale=0.7")
    return methods


def layers():
    methods = {"plain, 30 steps": {"call": {"num_inference_steps": 30}}}
    for layer in LAYERS:
        methods[f"identity, layer {layer}"] = acting(f"guide:layers=*blocks.{layer}.attn1")
    return methods


if __name__ == "__main__":
    for name, methods in (("enhancement", enhancement()), ("guidance", guidance()), ("layers", layers())):
        path = Path(__file__).with_name(f"{name}.json")
        path.write_text(json.dumps(recipe(name, methods), indent=1) + "\n")
