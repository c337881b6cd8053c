"""Training video models under the noise that they will be sampled with: `seedbed train CONFIG`.

A text-to-image pipeline of diffusers becomes a video pipeline (`inflate`), and either of them, a CogVideoX or
a Wan is trained on a world of ours or on a folder of videos, on one device or many, under any prior of
`seedbed.noise` (arXiv 2305.10474). Adapters need the extra `seedbed[train]`.
"""
