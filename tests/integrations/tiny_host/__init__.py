"""Nodes of the tests alone: a text without an encoder, and latents as pictures without an autoencoder."""

import torch


class TinyText:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "encode"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": ""})}}

    def encode(self, text):
        generator = torch.Generator().manual_seed(sum(text.encode()))
        return ([[torch.randn(1, 8, 4096, generator=generator), {}]],)


class TinyDecode:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "decode"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",)}}

    def decode(self, samples):
        rgb = samples["samples"][0, :3].movedim(0, -1)
        return ((rgb / 6 + 0.5).clamp(0, 1),)


NODE_CLASS_MAPPINGS = {"TinyText": TinyText, "TinyDecode": TinyDecode}
