"""Each stage of a cascade against what costs nothing: `python recipes/pyoco/cascade.py MODEL --out FILE`.

Over held-out clips of the shapes world: interpolation against linear interpolation of neighbouring frames,
super-resolution against bicubic enlargement of each. Both are given what the autoencoder shows of a clip, and
are held against the clip itself. The plan is in README.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from seedbed.files import write_bytes_atomically
from seedbed.pipelines.call import settings_beside
from seedbed.pipelines.cascade import INTERPOLATION, STAGES, SUPER_RESOLUTION, CascadePipeline, bicubic
from seedbed.pipelines.loading import load
from seedbed.statistics import Interval, bootstrap
from seedbed.training.denoisers import latents_of
from seedbed.worlds import shapes
from seedbed.worlds.verifier import attributes

Videos = NDArray[np.uint8]


def linear(frames: Tensor, factor: int) -> Tensor:
    """Frames (batch, c, n, height, width) with factor − 1 mixtures of neighbours between each two."""
    parts = torch.arange(factor, device=frames.device).to(frames) / factor
    before, after = frames[:, :, :-1, None], frames[:, :, 1:, None]
    mixed = before + parts.view(-1, 1, 1) * (after - before)
    return torch.cat([mixed.flatten(2, 3), frames[:, :, -1:]], 2)


@torch.no_grad()
def against_twin(
    pipe: CascadePipeline,
    name: str,
    videos: Videos,
    captions: Sequence[str],
    score: Callable[[Videos, list[str]], Any],
    *,
    steps: int = 20,
    seed: int = 0,
    batch: int = 8,
) -> dict[str, dict[str, Interval]]:
    """A stage and its twin on clips as the stage should make them, without augmentation: nothing has to be
    hidden from either.

    Returns:
        "error", the mean squared error of pixels in [0, 1] over what is made anew, and "score", each with
        the intervals "stage", "twin" and "difference", which is paired: the stage's minus the twin's.
    """
    factor, frames = pipe.config.stages[name]["factor"], np.arange(videos.shape[1])
    new = frames % factor > 0 if name == INTERPOLATION else frames >= 0
    found: dict[str, list[Tensor]] = {"stage": [], "twin": []}
    made: dict[str, list[Videos]] = {"stage": [], "twin": []}
    device = pipe._execution_device
    for start in range(0, len(videos), batch):
        truth = torch.from_numpy(videos[start : start + batch]).to(device)
        true = truth.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        words = pipe.encode_prompt([*captions[start : start + batch]], device, 1, False)[0]
        if name == INTERPOLATION:
            latents = latents_of(pipe.vae, true[:, :, ::factor])
            stage = pipe.decode_latents(pipe.interpolate(latents, words, steps, seed)).clamp(-1, 1)
            twin = linear(pipe.decode_latents(latents).clamp(-1, 1), factor)
        else:
            small = F.avg_pool3d(true, (1, factor, factor))
            if name == SUPER_RESOLUTION[0]:
                small = pipe.decode_latents(latents_of(pipe.vae, small)).clamp(-1, 1)
            stage = pipe.enlarge(name, small, words, steps, seed, augmentation=0.0)
            twin = bicubic(small, factor)
        for which, pixels in (("stage", stage), ("twin", twin)):
            difference = (pixels - true)[:, :, torch.from_numpy(new).to(device)].double() / 2
            found[which].append(difference.square().flatten(1).mean(1).cpu())
            shown = (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1) * 255
            made[which].append(shown.round().to(torch.uint8).cpu().numpy())
    values = {
        "error": {which: torch.cat(parts).numpy() for which, parts in found.items()},
        "score": {
            which: np.asarray(score(np.concatenate(parts), [*captions]), dtype=np.float64)
            for which, parts in made.items()
        },
    }
    return {
        measure: {
            **{which: bootstrap(each) for which, each in both.items()},
            "difference": bootstrap(both["stage"] - both["twin"]),
        }
        for measure, both in values.items()
    }


def wins(found: Mapping[str, Mapping[str, Interval]]) -> bool:
    """Whether a stage is worth it: its error surely lower than its twin's, its score not surely lower."""
    return found["error"]["difference"].high < 0 and not found["score"]["difference"].high < 0


def clips(count: int, seed: int, frames: int, side: int) -> tuple[np.ndarray, list[str]]:
    """Held-out clips and their captions."""
    found = [*itertools.islice(shapes.scenes(seed, held=True), count)]
    return np.stack([shapes.render(scene, side)[:frames] for scene in found]), [*map(shapes.caption, found)]


def compare(model: Path, count: int, seed: int, steps: int) -> dict[str, Any]:
    """What `against_twin` finds for every stage of the model in a folder, and whether it wins."""
    pipe = load(model)
    pipe.set_progress_bar_config(disable=True)
    call = settings_beside(pipe)["call"]
    made = pipe.sizes(call["num_frames"], call["height"], call["width"])
    stages = {}
    for name in (name for name in STAGES if name in made):
        frames, side, _ = made[name]
        videos, captions = clips(count, seed, frames, side)
        found = against_twin(
            pipe, name, videos, captions, lambda v, p: attributes(v, p)["score"], steps=steps, seed=seed
        )
        stages[name] = {
            "size": made[name],
            **{measure: {k: [*each] for k, each in both.items()} for measure, both in found.items()},
            "wins": wins(found),
        }
    return {"clips": count, "seed": seed, "steps": steps, "stages": stages}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args(arguments)
    found = compare(given.model, given.count, given.seed, given.steps)
    write_bytes_atomically(given.out, (json.dumps(found, indent=1) + "\n").encode())
    for name, stage in found["stages"].items():
        error, score = (stage[measure]["difference"] for measure in ("error", "score"))
        what = "wins" if stage["wins"] else "does not win: report it, do not ship it"
        print(f"{name}: error {error[0]:+.2e} [{error[1]:+.2e}, {error[2]:+.2e}], ", end="")
        print(f"score {score[0]:+.3f} [{score[1]:+.3f}, {score[2]:+.3f}] against its twin: {what}")


if __name__ == "__main__":
    main()
