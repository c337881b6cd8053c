"""Active noise selection by attention uncertainty (ANSE, arXiv 2505.17561v3), written from the paper.

    python examples/anse.py "a red circle moving left"

For CogVideoX pipelines, and for reading: it holds attention maps whole. For any other pipeline, and without
a map: `seedbed.select(pipe, prompt, acquisition="bansa")`.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seedbed.attention import AttentionCall, Tap


def entropy(rows: Tensor) -> Tensor:
    """H = -sum p log p of distributions over the last axis, in nats."""
    return torch.special.entr(rows).sum(-1)


def bernoulli(shape: torch.Size, layer: int, K: int = 10, keep: float = 0.2) -> Tensor:
    """K masks of maps (heads, rows, keys), the same for every noise; one that empties a row is redrawn."""
    rounds = torch.empty(K, *shape).geometric_(keep, generator=torch.Generator().manual_seed(layer))
    return rounds == rounds.amin(-1, keepdim=True)


def bansa(attention: Tensor, masks: Tensor) -> Tensor:
    """How much the masked maps of each row disagree: H of their mean, less the mean of their H.

    attention: (heads, rows, keys); masks: (K, heads, rows, keys); returns (heads, rows).
    """
    masked = attention * masks
    masked = masked / masked.sum(-1, keepdim=True)
    return entropy(masked.mean(0)) - entropy(masked).mean(0)


@torch.no_grad()
def anse(
    pipe: Any,
    prompt: str,
    noises: Tensor,
    depth: int,
    masks: Callable[[torch.Size, int], Tensor] = bernoulli,
    **call: Any,
) -> tuple[Tensor, Tensor]:
    """The noise whose first `depth` attention layers disagree least at the first step, and all scores.

    noises: (M, 1, *shape); masks: of a layer's maps (heads, rows, keys), (K, heads, rows, keys);
    call: for the pipeline. Returns (1, *shape) and (M, depth), means over heads and rows.
    """
    scores = torch.zeros(len(noises), depth, dtype=torch.float64)
    for m in range(len(noises)):

        def score(attention: AttentionCall, row: Tensor = scores[m]) -> None:
            logits = attention.query[0].float() @ attention.key[0].float().mT * attention.scale
            kept = masks(logits.shape, attention.index).to(logits.device)
            row[attention.index] = bansa(logits.softmax(-1), kept).double().mean()
            if attention.index == depth - 1:
                attention.stop()

        with Tap(pipe.transformer, score):
            pipe(prompt, latents=noises[m], guidance_scale=1.0, **call)
    return noises[scores.mean(1).argmin()], scores


if __name__ == "__main__":
    import seedbed

    pipe, prompt = seedbed.zoo.load(), sys.argv[1]
    config, scale = pipe.transformer.config, pipe.vae_scale_factor_spatial
    call = {"max_sequence_length": config.max_text_seq_length, "num_inference_steps": 20}
    size = config.sample_frames, config.sample_height * scale, config.sample_width * scale
    pool = (1, config.in_channels, *size, pipe.transformer.dtype, pipe.device, torch.manual_seed(0))
    noises = torch.stack([pipe.prepare_latents(*pool) for _ in range(10)])
    noise, scores = anse(pipe, prompt, noises, round(0.46 * config.num_layers), **call)
    print("\n".join(f"noise {m}: {score:.6f}" for m, score in enumerate(scores.mean(1))))
    video = pipe(prompt, latents=noise, **call).frames[0]
