"""A stand-in for the interfaces of ComfyUI that the nodes use, as its documentation and source describe them.

`install()` puts it in place of ComfyUI's modules; `model()` is a small denoiser in its terms. Nothing here
imitates what the nodes do not ask for.
"""

import copy
import itertools
import sys
from types import ModuleType, SimpleNamespace

import torch
from torch import nn

WIDTH, HEADS = 16, 2
MODULES = (
    "comfy",
    "comfy.sample",
    "comfy.samplers",
    "comfy.utils",
    "comfy_api",
    "comfy_api.latest",
    "comfy_execution",
    "comfy_execution.graph_utils",
)


class Kind:
    """A type of sockets: `io.Int.Input("seed", default=0)` and `io.Int.Output()`."""

    def __init__(self, name):
        self.name = name

    def Input(self, id, **options):
        return SimpleNamespace(id=id, kind=self.name, **options)

    def Output(self, id=None, **options):
        return SimpleNamespace(id=id, kind=self.name, **options)


class ComfyNode:
    hidden = SimpleNamespace(extra_pnginfo=None)


class NodeOutput:
    def __init__(self, *args, ui=None):
        self.args, self.ui = args, ui


class ExecutionBlocker:
    def __init__(self, message):
        self.message = message


class PreviewImage:
    def __init__(self, image, **options):
        self.image = image


class ComfyExtension:
    pass


class ProgressBar:
    def __init__(self, total):
        self.total, self.done = total, 0

    def update(self, value):
        self.done += value


class NestedTensor:
    """Video and sound in one latent, of newer hosts."""

    is_nested = True

    def __init__(self, tensors):
        self.tensors = tensors

    def unbind(self):
        return self.tensors


def prepare_noise(latent_image, seed, noise_inds=None):
    generator = torch.manual_seed(seed)
    if getattr(latent_image, "is_nested", False):
        return NestedTensor([torch.randn(each.shape, generator=generator) for each in latent_image.unbind()])
    if noise_inds is None:
        return torch.randn(latent_image.size(), dtype=latent_image.dtype, generator=generator)
    drawn = [
        torch.randn([1, *latent_image.shape[1:]], generator=generator) for _ in range(max(noise_inds) + 1)
    ]
    return torch.cat([drawn[index] for index in noise_inds])


def fix_empty_latent_channels(model, latent_image):
    wanted = model.get_model_object("latent_format")
    if latent_image.shape[1] != wanted.latent_channels:
        latent_image = latent_image[:, :1].repeat(1, wanted.latent_channels, *[1] * (latent_image.ndim - 2))
    if wanted.latent_dimensions == 3 and latent_image.ndim == 4:
        latent_image = latent_image.unsqueeze(2)
    return latent_image


class KSAMPLER:
    def __init__(self, sampler_function):
        self.sampler_function = sampler_function

    def sample(self, denoiser, sigmas, extra_args, callback, noise, latent_image):
        denoiser.noise = noise
        noisy = denoiser.sampling.noise_scaling(sigmas[0], noise, latent_image)

        def report(at):
            callback(at["i"], at["denoised"], at["x"], len(sigmas) - 1)

        call = dict(extra_args=extra_args, callback=callback and report, disable=True)
        return self.sampler_function(denoiser, noisy, sigmas, **call) / (1 - sigmas[-1])


def euler(denoiser, noisy, sigmas, extra_args, callback=None, disable=None):
    for index, (now, then) in enumerate(itertools.pairwise(sigmas)):
        clean = denoiser(noisy, now.expand(len(noisy)), **extra_args)
        if callback:
            callback({"i": index, "denoised": clean, "x": noisy})
        noisy = noisy + (noisy - clean) / now * (then - now)
    return noisy


class CFGGuider:
    def __init__(self, model):
        self.model_patcher, self.model_options, self.conditions = model, model.model_options, {}

    def inner_set_conds(self, conditions):
        self.conditions = conditions

    def sample(
        self,
        noise,
        latent_image,
        sampler,
        sigmas,
        denoise_mask=None,
        callback=None,
        disable_pbar=False,
        seed=None,
    ):
        text = self.conditions["positive"][0][0]

        def denoiser(noisy, sigma, model_options):
            options = {**model_options["transformer_options"], "sigmas": sigma}
            given = {"input": noisy, "timestep": sigma, "c": {"transformer_options": options}}

            def apply(noisy, sigma, transformer_options):
                return self.model_patcher.model(noisy, sigma, text, transformer_options)

            wrapper = model_options.get("model_function_wrapper")
            velocity = wrapper(apply, given) if wrapper else apply(noisy, sigma, options)
            return noisy - sigma.reshape(-1, *[1] * (noisy.ndim - 1)) * velocity

        denoiser.sampling = self.model_patcher.get_model_object("model_sampling")
        args = {"model_options": copy.deepcopy(self.model_options)}
        return sampler.sample(denoiser, sigmas, args, callback, noise, latent_image)


class Flow:
    sigma_max = 1.0

    def calculate_input(self, sigma, noise):
        return noise

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        return sigma * noise + (1 - sigma) * latent_image

    def percent_to_sigma(self, percent):
        return 1.0 - percent


class Epsilon(Flow):
    """Samples grow with sigma; at the greatest one the noise has the size of all that was added."""

    sigma_max = 14.6

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        return noise * ((1 + sigma**2) ** 0.5 if max_denoise else sigma) + latent_image


def attention(q, k, v, heads, mask=None, transformer_options=None, skip_reshape=False, **kwargs):
    """As `comfy.ldm.modules.attention.wrap_attn` hands a call to the override."""
    options = transformer_options or {}
    if "optimized_attention_override" in options and "_inside_attn_wrapper" not in kwargs:
        kwargs |= dict(mask=mask, transformer_options=options, skip_reshape=skip_reshape)
        override = options["optimized_attention_override"]
        return override(attention, q, k, v, heads, _inside_attn_wrapper=True, **kwargs)
    if not skip_reshape:
        q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
    out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


class Denoiser(nn.Module):
    """Four attention layers over the positions of (batch, 16, [frames,] height, width)."""

    def __init__(self, passes_options=True):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(4))
        self.passes_options, self.calls = passes_options, 0

    def process_latent_in(self, latents):
        return latents

    def forward(self, noisy, sigma, text, options):
        hidden = noisy.flatten(2).mT + sigma[:, None, None]
        for number, layer in enumerate(self.layers):
            self.calls += 1
            q, k, v = layer(hidden).chunk(3, -1)
            reshaped = number == 1  # some models hand over heads that stand apart
            if reshaped:
                q, k, v = (each.unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in (q, k, v))
            given = {"transformer_options": options} if self.passes_options else {}
            hidden = hidden + attention(q, k, v, HEADS, skip_reshape=reshaped, **given)
        return hidden.mT.reshape(noisy.shape).tanh() + 0.1 * text.mean()


class Model:
    """A ModelPatcher: what the nodes ask of one."""

    def __init__(self, denoiser, dimensions=3):
        self.model, self.model_options = denoiser, {"transformer_options": {}}
        generator = torch.Generator().manual_seed(1)
        factors = torch.randn(16, 3, generator=generator).mul(0.2).tolist()
        self.objects = {
            "model_sampling": Flow(),
            "latent_format": SimpleNamespace(
                latent_channels=16,
                latent_dimensions=dimensions,
                latent_rgb_factors=factors,
                latent_rgb_factors_bias=[0.1, 0, 0],
            ),
        }

    def clone(self):
        other = copy.copy(self)
        other.model_options = copy.deepcopy(self.model_options)
        return other

    def get_model_object(self, name):
        return self.objects[name]


def model(dimensions=3, passes_options=True):
    """The model, its conditioning and Euler's sampler."""
    return Model(Denoiser(passes_options), dimensions), [[torch.randn(1, 5, 8), {}]], KSAMPLER(euler)


def install(monkeypatch):
    """Put the stand-in's modules in place of ComfyUI's, for one test."""
    modules = {name: ModuleType(name) for name in MODULES}
    kinds = [
        "Int",
        "Float",
        "String",
        "Boolean",
        "Combo",
        "Noise",
        "Model",
        "Conditioning",
        "Sigmas",
        "Latent",
        "Image",
        "Guider",
        "Sampler",
        "Vae",
    ]
    vars(modules["comfy_api.latest"]).update(
        ComfyExtension=ComfyExtension,
        io=SimpleNamespace(
            ComfyNode=ComfyNode,
            NodeOutput=NodeOutput,
            Schema=SimpleNamespace,
            Custom=Kind,
            Hidden=SimpleNamespace(extra_pnginfo="EXTRA_PNGINFO"),
            **{kind: Kind(kind) for kind in kinds},
        ),
        ui=SimpleNamespace(PreviewImage=PreviewImage),
    )
    vars(modules["comfy.sample"]).update(
        prepare_noise=prepare_noise, fix_empty_latent_channels=fix_empty_latent_channels
    )
    vars(modules["comfy.samplers"]).update(CFGGuider=CFGGuider, KSAMPLER=KSAMPLER)
    modules["comfy.utils"].ProgressBar = ProgressBar
    modules["comfy_execution.graph_utils"].ExecutionBlocker = ExecutionBlocker
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
        monkeypatch.setitem(sys.modules, name, module)
