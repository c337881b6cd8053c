"""Train an embedded shapes model: `python recipes/shapes/train.py shapes-wan --out runs/shapes-wan`.

Autoencoder, latents, the stages of the denoiser, export. Each resumes from its last checkpoint and is skipped
once its result lies in the folder, so the same command continues an interrupted run. Where a model's settings
name a model of an earlier commit as its `start`, that stands for the autoencoder and for the denoiser's first
`stages`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import denoiser
import vae as autoencoder
from common import settings
from export import export
from families import FAMILIES

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a model of config.json")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("config.json"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    whole, out = json.loads(arguments.config.read_text()), arguments.out
    if arguments.model not in whole["models"]:
        parser.error(f"no model {arguments.model}: there is {', '.join(whole['models'])}")
    config = settings(whole, arguments.model)
    family, seed = FAMILIES[config["family"]], config["seed"]
    start = None
    if "start" in config:
        commit, folder = config["start"]["commit"], config["start"]["folder"]
        start = out / commit / folder
        if not start.is_dir():
            parser.error(
                f"{arguments.model} goes on from a model of commit {commit}, which is to be in {start}: "
                f"mkdir -p {out / commit} && git archive {commit} {folder} | tar -x -C {out / commit}"
            )
    out.mkdir(parents=True, exist_ok=True)
    if start is not None and not (out / "vae").exists():
        shutil.copytree(start / "vae", out / "vae")
    if (out / "vae" / "config.json").exists():
        vae = type(family.autoencoder(config["autoencoder"]["model"])).from_pretrained(out / "vae")
    else:
        vae = autoencoder.train(family, config["autoencoder"], seed, out)
        autoencoder.whiten(family, vae, seed + 1)
        autoencoder.settle(family, vae, config["autoencoder"], seed + 3)
        autoencoder.keep(vae, out / "vae")
    data = out / "latents.safetensors"
    if not data.exists():
        autoencoder.encode_set(family, vae, config["latents"], seed + 2, data)
    model = None if start is None else denoiser.exported(config, start)
    for stage in range(config["start"]["stages"] if model else 0, len(config["stages"])):
        model = denoiser.train(config, stage, data, out, model)
    export(model, vae, config, out / arguments.model)
