"""A video model from an image model: temporal attention, which changes nothing before it is trained."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import nn

from seedbed.errors import BadInput, NotSupported, shown, whole

# Of blocks that `UNetMotionModel.from_unet2d` has others for: any other becomes one without attention.
_BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}


def inflate(
    unet: UNet2DConditionModel, *, positions: int = 32, heads: int = 8, layers: int = 1, seed: int = 0
) -> UNetMotionModel:
    """The U-Net over frames, with a motion module after each of the image U-Net's layers (arXiv 2307.04725).

    It computes of every frame what the image U-Net does, since the output projections of the motion modules
    are zero: diffusers leaves them random. Temporal attention joined to an image model, which is then trained
    on videos and images, is what arXiv 2305.10474 does, section 4.

    Args:
        unet: of a text-to-image pipeline; its weights are copied.
        positions: greatest number of frames, in training or after it (`motion_max_seq_length`). The positions
            are sines, so that those beyond the trained ones are defined, though nothing was learned of them.
        heads: of temporal attention; divides every width of the U-Net.
        layers: transformer blocks of each motion module.
        seed: of the other weights of the motion modules.

    Raises:
        BadInput: a number that does not fit.
        NotSupported: the U-Net does something that `UNetMotionModel` does not.
    """
    if not isinstance(unet, UNet2DConditionModel):
        raise BadInput(f"a UNet2DConditionModel can be inflated, not a {type(unet).__name__}")
    config: Any = unet.config
    usual = inspect.signature(UNet2DConditionModel.__init__).parameters
    known = inspect.signature(UNetMotionModel.__init__).parameters
    for name, value in config.items():
        lost = name in usual and name not in known and value != usual[name].default
        if name in ("down_block_types", "up_block_types"):
            lost = not _BLOCKS.issuperset(value)
        if lost and name != "attention_head_dim":  # read as num_attention_heads
            raise NotSupported(f"a U-Net with {name}={shown(value)} has no counterpart over frames")
    widths = tuple(config.block_out_channels)
    for width in widths:
        if width % whole("heads", heads):
            raise BadInput(f"{heads} heads of temporal attention do not divide the U-Net's width {width}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        motion = MotionAdapter(
            block_out_channels=widths,
            motion_layers_per_block=config.layers_per_block,
            motion_transformer_layers_per_block=whole("layers", layers),
            motion_num_attention_heads=heads,
            motion_norm_num_groups=config.norm_num_groups,
            motion_max_seq_length=whole("positions", positions),
        )
        video = UNetMotionModel.from_unet2d(unet, motion)
    for module in motion_modules(video):
        nn.init.zeros_(module.proj_out.weight)
        nn.init.zeros_(module.proj_out.bias)
    return video


def motion_modules(unet: nn.Module) -> list[Any]:
    """The modules of temporal attention in a U-Net over frames."""
    from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D

    return [module for module in unet.modules() if isinstance(module, AnimateDiffTransformer3D)]


def inflated(pipe: Any, **how: Any) -> AnimateDiffPipeline:
    """The video pipeline of a text-to-image pipeline: its parts, with the U-Net inflated.

    Arguments and errors as `inflate`. `AnimateDiffPipeline.from_pretrained` reads it once it is saved.
    """
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    parts = {name: getattr(pipe, name, None) for name in names}
    missing = ", ".join(name for name, part in parts.items() if part is None)
    if missing:
        raise NotSupported(f"{type(pipe).__name__} has no {missing}: a latent text-to-image U-Net is needed")
    if getattr(pipe, "text_encoder_2", None) is not None:
        raise NotSupported(f"{type(pipe).__name__} has two text encoders, which AnimateDiffPipeline has not")
    return AnimateDiffPipeline(**{**parts, "unet": inflate(pipe.unet, **how)}, motion_adapter=None)
