"""What the two kinds of embedded model differ in: their diffusers classes, and how latents are noised.

- `cogvideox`: v-prediction on a schedule that ends without signal, joint attention over text and video.
- `wan`: flow matching, self-attention over the video and cross-attention to the text.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSpatialNorm3D
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from seedbed.worlds import shapes

TOKENS = 12  # two objects, "and", end of sentence


class CogVideoX:
    """Text and video share every attention; the padding of a caption takes part in it."""

    pipeline = CogVideoXPipeline

    @staticmethod
    def autoencoder(config: dict[str, Any]) -> AutoencoderKLCogVideoX:
        blocks = len(config["block_out_channels"])
        return AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * blocks,
            up_block_types=("CogVideoXUpBlock3D",) * blocks,
            scaling_factor=1.0,
            **config,
        )

    @staticmethod
    def decode(vae: AutoencoderKLCogVideoX, latents: Tensor) -> Tensor:
        return vae.decode(latents).sample

    @staticmethod
    def whiten(vae: AutoencoderKLCogVideoX, mean: Tensor, std: Tensor) -> None:
        """In the convolutions that write and read latents: the pipeline applies one factor to all channels.

        Exact but for the decoder's outermost latents: its first convolution pads with zeros, which now stand
        for the mean. `settle` mends that.
        """
        channels = std.numel()
        out = vae.encoder.conv_out.conv
        out.weight[:channels] /= std.view(-1, 1, 1, 1, 1)
        out.bias[:channels] = (out.bias[:channels] - mean) / std
        out.bias[channels:] -= 2 * std.log()
        norms = [m for m in vae.decoder.modules() if isinstance(m, CogVideoXSpatialNorm3D)]
        for read in [vae.decoder.conv_in, *(conv for norm in norms for conv in (norm.conv_y, norm.conv_b))]:
            read.conv.bias += (read.conv.weight * mean.view(1, -1, 1, 1, 1)).sum(dim=(1, 2, 3, 4))
            read.conv.weight *= std.view(1, -1, 1, 1, 1)

    @staticmethod
    def encoded(vae: AutoencoderKLCogVideoX, videos: Tensor) -> Tensor:
        return vae.encode(videos).latent_dist.mean.permute(0, 2, 1, 3, 4)

    @staticmethod
    def text_encoder(config: dict[str, Any]) -> T5EncoderModel:
        return T5EncoderModel(T5Config(**config, tie_word_embeddings=False))

    @staticmethod
    def embedded(text: T5EncoderModel, ids: Tensor) -> Tensor:
        return text(ids)[0]

    @staticmethod
    def transformer(config: dict[str, Any], text: dict[str, Any]) -> CogVideoXTransformer3DModel:
        return CogVideoXTransformer3DModel(
            text_embed_dim=text["d_model"],
            max_text_seq_length=TOKENS,
            sample_frames=shapes.FRAMES,
            **config,
        )

    @staticmethod
    def predict(transformer: CogVideoXTransformer3DModel, noisy: Tensor, said: Tensor, t: Tensor) -> Tensor:
        return transformer(noisy, said, t, return_dict=False)[0]

    @staticmethod
    def finer(state: dict[str, Tensor], patch: int) -> dict[str, Tensor]:
        """The weights for patches of one latent pixel, from those for `patch` x `patch`.

        Where the pixels of a patch are equal, each of the new tokens says the mean of what the old one did;
        only the text weighs less in attention, among so many more.
        """
        key = "patch_embed.proj.weight"
        new = {key: state[key].sum((2, 3), keepdim=True)}
        for name in ("proj_out.weight", "proj_out.bias"):
            new[name] = state[name].unflatten(0, (-1, patch * patch)).mean(1)
        return state | new

    @staticmethod
    def scheduler(config: dict[str, Any]) -> CogVideoXDDIMScheduler:
        return CogVideoXDDIMScheduler(
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            rescale_betas_zero_snr=True,
            clip_sample=False,
            snr_shift_scale=1.0,
        )

    @staticmethod
    def noised(
        schedule: CogVideoXDDIMScheduler, x0: Tensor, noise: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents, what is to be predicted of them, and their timesteps; `share` from 0 to 1."""
        t = (share * 1000).long()
        return schedule.add_noise(x0, noise, t), schedule.get_velocity(x0, noise, t), t


class Wan:
    """The video attends to itself, then to the caption, whose padding is zeros."""

    pipeline = WanPipeline

    @staticmethod
    def autoencoder(config: dict[str, Any]) -> AutoencoderKLWan:
        z = config["z_dim"]
        vae = AutoencoderKLWan(latents_mean=[0.0] * z, latents_std=[1.0] * z, **config)
        # Drawn at unit variance, the first latents drown in their noise, and nothing is learned for long.
        nn.init.constant_(vae.quant_conv.bias[z:], -4.0)
        return vae

    @staticmethod
    def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
        """`vae.decode` without its clamp to [-1, 1], through which no gradient passes."""
        vae.clear_cache()
        x = vae.post_quant_conv(latents)
        frames = []
        for n in range(x.shape[2]):
            vae._conv_idx = [0]
            frames.append(vae.decoder(x[:, :, n : n + 1], vae._feat_map, vae._conv_idx, first_chunk=n == 0))
        vae.clear_cache()
        return torch.cat(frames, 2)

    @staticmethod
    def whiten(vae: AutoencoderKLWan, mean: Tensor, std: Tensor) -> None:
        vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())

    @staticmethod
    def encoded(vae: AutoencoderKLWan, videos: Tensor) -> Tensor:
        mean, std = (torch.tensor(vae.config[k]).view(-1, 1, 1, 1) for k in ("latents_mean", "latents_std"))
        return (vae.encode(videos).latent_dist.mean.float() - mean) / std

    @staticmethod
    def text_encoder(config: dict[str, Any]) -> UMT5EncoderModel:
        return UMT5EncoderModel(UMT5Config(**config, tie_word_embeddings=False))

    @staticmethod
    def embedded(text: UMT5EncoderModel, ids: Tensor) -> Tensor:
        said = (ids != 0).long()
        return text(ids, said)[0] * said[..., None]

    @staticmethod
    def transformer(config: dict[str, Any], text: dict[str, Any]) -> WanTransformer3DModel:
        patch = config["patch_size"]
        return WanTransformer3DModel(text_dim=text["d_model"], **(config | {"patch_size": (1, patch, patch)}))

    @staticmethod
    def predict(transformer: WanTransformer3DModel, noisy: Tensor, said: Tensor, t: Tensor) -> Tensor:
        return transformer(noisy, t, said, return_dict=False)[0]

    @staticmethod
    def finer(state: dict[str, Tensor], patch: int) -> dict[str, Tensor]:
        key = "patch_embedding.weight"
        new = {key: state[key].sum((3, 4), keepdim=True)}
        for name in ("proj_out.weight", "proj_out.bias"):
            new[name] = state[name].unflatten(0, (patch * patch, -1)).mean(0)
        return state | new

    @staticmethod
    def scheduler(config: dict[str, Any]) -> UniPCMultistepScheduler:
        return UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=config["flow_shift"]
        )

    @staticmethod
    def noised(
        schedule: UniPCMultistepScheduler, x0: Tensor, noise: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As densely over the levels of noise as the scheduler's steps are."""
        shift = schedule.config.flow_shift
        level = shift * share / (1 + (shift - 1) * share)
        s = level.view(-1, 1, 1, 1, 1)
        return (1 - s) * x0 + s * noise, noise - x0, level * 1000


FAMILIES = {"cogvideox": CogVideoX, "wan": Wan}


class Conditioned(nn.Module):
    """Text encoder and transformer as one module, so that one average and one checkpoint hold both."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.family = FAMILIES[config["family"]]
        self.text = self.family.text_encoder(config["text"])
        self.transformer = self.family.transformer(config["transformer"], config["text"])

    def forward(self, noisy: Tensor, ids: Tensor, timestep: Tensor) -> Tensor:
        said = self.family.embedded(self.text, ids)
        return self.family.predict(self.transformer, noisy, said, timestep)
