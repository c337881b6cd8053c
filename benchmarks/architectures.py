"""The denoisers of the cost model: published configurations, native sizes, and how their pipelines call them.

Configurations are those of the `transformer/config.json` in the named repositories; sizes, steps and guidance
are the defaults of diffusers' pipelines and the model cards. Depths d* are from arXiv 2505.17561.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import diffusers
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """One model at its native size.

    Attributes:
        name: as its authors write it, with the size where it has several.
        source: the repository whose configuration this is.
        denoiser: the class in diffusers.
        config: what differs from the defaults of that class, or says what matters.
        billions: published number of parameters, (lowest, highest) that round to it.
        size: frames, height, width of the video.
        text: tokens of the prompt's embedding, and their width.
        steps: of the schedule.
        calls: denoiser calls of a guided step, and batch rows of each.
        published_depth: after how many blocks the published method stops.
        blocks: prefix of the names of the layers that those blocks hold.
    """

    name: str
    source: str
    denoiser: str
    config: dict[str, Any]
    billions: tuple[float, float]
    size: tuple[int, int, int]
    text: tuple[int, int]
    steps: int
    calls: tuple[int, int]
    published_depth: int
    blocks: str

    def build(self) -> nn.Module:
        """The denoiser in bfloat16, with random weights; under `FakeTensorMode` it takes no memory."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            model: nn.Module = getattr(diffusers, self.denoiser)(**self.config)
        finally:
            torch.set_default_dtype(before)
        return model.eval().requires_grad_(False)

    def narrow(self) -> Architecture:
        """The same layers, but so narrow, and for so small a video, that a forward takes no time."""
        config = self.config | dict.fromkeys(("in_channels", "out_channels"), 4) | _NARROW[self.denoiser]
        return replace(self, config=config, text=(4, 8), size=(5, 16, 16))

    @property
    def latents(self) -> tuple[int, ...]:
        """Shape of one candidate's latents: every family compresses 4 x 8 x 8, the first frame alone."""
        frames, height, width = self.size
        grid = ((frames - 1) // 4 + 1, height // 8, width // 8)
        channels = self.config["in_channels"]
        if self.denoiser == "CogVideoXTransformer3DModel":
            return (grid[0], channels, *grid[1:])
        return (channels, *grid)

    def inputs(self, rows: int) -> dict[str, Tensor]:
        """Arguments of a forward of `rows` batch rows."""
        tokens, width = self.text
        given: dict[str, Tensor] = {
            "hidden_states": torch.zeros(rows, *self.latents, dtype=torch.bfloat16),
            "encoder_hidden_states": torch.zeros(rows, tokens, width, dtype=torch.bfloat16),
            "timestep": torch.full((rows,), 999),
        }
        if self.denoiser == "HunyuanVideoTransformer3DModel":
            given["encoder_attention_mask"] = torch.ones(rows, tokens, dtype=torch.bfloat16)
            pooled = self.config["pooled_projection_dim"]
            given["pooled_projections"] = torch.zeros(rows, pooled, dtype=torch.bfloat16)
            given["guidance"] = torch.full((rows,), 6000.0, dtype=torch.bfloat16)
        return given


def _cogvideox(heads: int, layers: int, rotary: bool) -> dict[str, Any]:
    return {
        "num_attention_heads": heads,
        "attention_head_dim": 64,
        "in_channels": 16,
        "out_channels": 16,
        "time_embed_dim": 512,
        "text_embed_dim": 4096,
        "num_layers": layers,
        "sample_width": 90,
        "sample_height": 60,
        "sample_frames": 49,
        "patch_size": 2,
        "max_text_seq_length": 226,
        "spatial_interpolation_scale": 1.875,
        "use_rotary_positional_embeddings": rotary,
    }


def _wan(heads: int, layers: int, inner: int) -> dict[str, Any]:
    return {
        "num_attention_heads": heads,
        "attention_head_dim": 128,
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": (1, 2, 2),
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": inner,
        "num_layers": layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
    }


_HUNYUAN = {
    "in_channels": 16,
    "out_channels": 16,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "num_layers": 20,
    "num_single_layers": 40,
    "num_refiner_layers": 2,
    "mlp_ratio": 4.0,
    "patch_size": 2,
    "patch_size_t": 1,
    "qk_norm": "rms_norm",
    "guidance_embeds": True,
    "text_embed_dim": 4096,
    "pooled_projection_dim": 768,
    "rope_theta": 256.0,
    "rope_axes_dim": (16, 56, 56),
}


_NARROW: dict[str, dict[str, Any]] = {
    "CogVideoXTransformer3DModel": {
        "num_attention_heads": 1,
        "attention_head_dim": 16,
        "time_embed_dim": 8,
        "text_embed_dim": 8,
        "sample_width": 2,
        "sample_height": 2,
        "sample_frames": 5,
        "max_text_seq_length": 4,
    },
    "WanTransformer3DModel": {
        "num_attention_heads": 1,
        "attention_head_dim": 12,
        "text_dim": 8,
        "freq_dim": 8,
        "ffn_dim": 16,
    },
    "HunyuanVideoTransformer3DModel": {
        "num_attention_heads": 1,
        "attention_head_dim": 12,
        "text_embed_dim": 8,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (4, 4, 4),
    },
}


def _of_wan(name: str, size: tuple[int, int, int]) -> Architecture:
    large = "14B" in name
    return Architecture(
        name=f"{name}, {size[1]}p",
        source=f"Wan-AI/Wan2.1-T2V-{name.split()[-1]}-Diffusers",
        denoiser="WanTransformer3DModel",
        config=_wan(40, 40, 13824) if large else _wan(12, 30, 8960),
        billions=(14.0, 14.5) if large else (1.3, 1.45),
        size=size,
        text=(512, 4096),
        steps=50,
        calls=(2, 1),
        published_depth=20,
        blocks="blocks.",
    )


ARCHITECTURES = (
    Architecture(
        name="CogVideoX-2B",
        source="THUDM/CogVideoX-2b",
        denoiser="CogVideoXTransformer3DModel",
        config=_cogvideox(30, 30, rotary=False),
        billions=(1.65, 1.75),
        size=(49, 480, 720),
        text=(226, 4096),
        steps=50,
        calls=(1, 2),
        published_depth=14,
        blocks="transformer_blocks.",
    ),
    Architecture(
        name="CogVideoX-5B",
        source="THUDM/CogVideoX-5b",
        denoiser="CogVideoXTransformer3DModel",
        config=_cogvideox(48, 42, rotary=True),
        billions=(5.5, 5.65),
        size=(49, 480, 720),
        text=(226, 4096),
        steps=50,
        calls=(1, 2),
        published_depth=19,
        blocks="transformer_blocks.",
    ),
    _of_wan("Wan 2.1 1.3B", (81, 480, 832)),
    _of_wan("Wan 2.1 14B", (81, 480, 832)),
    _of_wan("Wan 2.1 14B", (81, 720, 1280)),
    Architecture(
        name="HunyuanVideo",
        source="hunyuanvideo-community/HunyuanVideo",
        denoiser="HunyuanVideoTransformer3DModel",
        config=_HUNYUAN,
        billions=(12.75, 13.05),
        size=(129, 720, 1280),
        text=(256, 4096),
        steps=50,
        calls=(1, 1),
        published_depth=20,
        blocks="transformer_blocks.",
    ),
)
