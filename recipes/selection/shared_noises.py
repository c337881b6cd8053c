"""What happens to intervals over prompts when all prompts share their noises.

`python recipes/selection/shared_noises.py MODEL`: three pools of 16 noises, each shared by 40 held-out
captions with two objects. Within-prompt Spearman correlations of the signals at t = T with the outcome, per
pool, with the usual interval over prompts. A noise that is good or bad for every prompt, and has its own
entropy for every prompt, is then counted forty times: if that matters, the pools' means lie further apart
than their intervals allow. `spread` is their standard deviation over the mean standard error; about 1 if the
intervals are honest. Writes recipes/selection/results/shared-noises.json.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from summarise import RESULTS, SNR_SIGNALS, rounded

from seedbed.lab import statistics
from seedbed.lab.plan import locate
from seedbed.lab.signals import signals
from seedbed.noise import NoiseRecipe
from seedbed.probe import Probe
from seedbed.worlds import shapes

POOLS = (5000, 6000, 7000)  # seeds

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the name of an embedded model, or a folder")
    model = parser.parse_args().model
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(locate(model), torch_dtype=torch.float32)
    captions = shapes.captions(40, objects=2, seed=0, held=True)
    found: dict[str, list[np.ndarray]] = {name: [] for name in SNR_SIGNALS}
    main_effect = []
    for seed in POOLS:
        columns: dict[str, list[list[float]]] = {}
        for caption in captions:
            shape = tuple(Probe(pipe, caption).spec.shape)
            pool = [NoiseRecipe(seed, i, shape, frame_axis=0) for i in range(16)]
            rows = signals(pipe, caption, pool, {"steps": [0], "verifier": "shapes"})
            for name in rows[0]:
                columns.setdefault(name, []).append([row[name] for row in rows])
        truth = np.array(columns["outcome.score"])
        centred = truth - truth.mean(1, keepdims=True)
        # Variance of the noises' means over captions, as a multiple of what independent noises would show.
        main_effect.append(float(centred.mean(0).var() / (centred.var(1).mean() / len(captions))))
        for name in SNR_SIGNALS:
            layers = [v for k, v in columns.items() if k.split("/")[:2] == ["0", name]]
            found[name].append(statistics.within(np.mean(layers, axis=0), truth))
        print(seed, main_effect[-1], flush=True)
    result: dict[str, object] = {"model": model, "captions": len(captions), "main effect": main_effect}
    for name, pools in found.items():
        intervals = [statistics.bootstrap(values) for values in pools]
        error = np.mean([np.nanstd(values) / np.sqrt(len(values)) for values in pools])
        spread = np.std([interval.mean for interval in intervals], ddof=1) / error
        result[name] = {"pools": intervals, "spread": float(spread)}
        print(name, rounded(result[name]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "shared-noises.json").write_text(json.dumps(rounded(result), indent=1) + "\n")
