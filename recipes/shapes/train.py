"""Train an embedded shapes model from nothing: `python recipes/shapes/train.py --out runs/shapes`.

Stages: autoencoder, latents, denoiser, export. Every stage resumes from its last checkpoint and is skipped
once its result lies in the folder, so the same command continues an interrupted run. `--variant` names
another denoiser of config.json, such as `shapes-cogvideox-snr`; all share the autoencoder and the latents.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import denoiser
import vae as autoencoder
from common import settings
from diffusers import AutoencoderKLCogVideoX
from export import export

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("config.json"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variant", default="shapes-cogvideox")
    arguments = parser.parse_args()
    config, out = json.loads(arguments.config.read_text()), arguments.out
    if arguments.variant not in config["variants"]:
        parser.error(f"no variant {arguments.variant}: there is {', '.join(config['variants'])}")
    out.mkdir(parents=True, exist_ok=True)

    if not (out / "vae" / "config.json").exists():
        vae = autoencoder.train(config["vae"], config["seed"], out)
        autoencoder.whiten(vae, config["seed"] + 1)
        autoencoder.settle(vae, config["vae"], config["seed"] + 3)
        autoencoder.keep(vae, out / "vae")
    else:
        vae = AutoencoderKLCogVideoX.from_pretrained(out / "vae")
    data = out / "latents.safetensors"
    if not data.exists():
        autoencoder.encode_set(vae, config["latents"], config["seed"] + 2, data)

    def trained(variant: str) -> denoiser.Conditioned:
        own = settings(config, variant)
        start = trained(own["start"]) if "start" in own else None
        model = denoiser.train(own, data, out, variant, start)
        export(model, vae, own, config["call"], out / variant)
        return model

    trained(arguments.variant)
