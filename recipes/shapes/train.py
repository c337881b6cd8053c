"""Train an embedded shapes model: `python recipes/shapes/train.py shapes-wan --out runs/shapes-wan`.

Autoencoder, latents, the stages of the denoiser, export. Each resumes from its last checkpoint and is skipped
once its result lies in the folder, so the same command continues an interrupted run. With `--start` the
autoencoder, the text encoder and the first stage are those of another exported model of the same kind.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import denoiser
import vae as autoencoder
from common import settings
from export import export
from families import FAMILIES, Conditioned

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a model of config.json")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("config.json"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path)
    arguments = parser.parse_args()
    whole, out = json.loads(arguments.config.read_text()), arguments.out
    if arguments.model not in whole["models"]:
        parser.error(f"no model {arguments.model}: there is {', '.join(whole['models'])}")
    config = settings(whole, arguments.model)
    family, seed = FAMILIES[config["family"]], config["seed"]
    out.mkdir(parents=True, exist_ok=True)

    start, model = None, None
    if arguments.start is not None:
        start = family.pipeline.from_pretrained(arguments.start)
        first = {"transformer": config["transformer"] | config["stages"][0]["transformer"]}
        model = Conditioned(config | first)
        model.text.load_state_dict(start.text_encoder.state_dict())
        model.transformer.load_state_dict(start.transformer.state_dict())
    if start is not None:
        vae = start.vae
    elif (out / "vae" / "config.json").exists():
        vae = type(family.autoencoder(config["autoencoder"]["model"])).from_pretrained(out / "vae")
    else:
        vae = autoencoder.train(family, config["autoencoder"], seed, out)
        autoencoder.whiten(family, vae, seed + 1)
        autoencoder.settle(family, vae, config["autoencoder"], seed + 3)
        autoencoder.keep(vae, out / "vae")
    data = out / "latents.safetensors"
    if not data.exists():
        autoencoder.encode_set(family, vae, config["latents"], seed + 2, data)
    for stage in range(0 if model is None else 1, len(config["stages"])):
        model = denoiser.train(config, stage, data, out, model)
    export(model, vae, config, out / arguments.model)
