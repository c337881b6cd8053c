"""Noises for ComfyUI's samplers: of a recipe, of a seed of torch, or with a prediction written in."""

import dataclasses
import json

import comfy.sample
import comfy.samplers
import torch
from comfy_api.latest import io

from seedbed.errors import BadInput, BadRecord, finite
from seedbed.noise import NoiseRecipe, Torch, prior_named, sha256_of

CATEGORY = "sampling/seedbed"
KEYWORD = "seedbed"  # of the entry in a file's metadata, which `seedbed noise inspect` reads


class DrawnNoise:
    """A NOISE of ComfyUI that a recipe draws, or the recipes of a batch: candidate, candidate + 1, ...

    Under the prior "torch" the tensor is the one of ComfyUI's RandomNoise, whose batch is one stream of
    numbers: then only a batch of one has a recipe.

    Args:
        seed, candidate, prior: as in `NoiseRecipe`.
        refine: texts of refiners that need no model, in their order.
        metadata: the workflow's dictionary of what goes into saved files, or None.
        given: a recipe to use instead; its shape must be that of the latents.
    """

    def __init__(self, seed, prior, candidate=0, refine=(), metadata=None, given=None):
        self.number, self.prior, self.candidate, self.refine = seed, prior, candidate, refine
        self.metadata, self.given = metadata, given

    @property
    def seed(self):
        """What samplers that draw noise of their own are seeded with."""
        of_torch = isinstance(prior_named(self.prior), Torch)
        return (self.number + self.candidate * of_torch) % 2**64

    def recipe(self, samples, place=0):
        """Of one entry of a batch of latents, (batch, channels[, frames], height, width); not sealed."""
        shape = tuple(samples.shape[1:])
        if self.given is not None:
            found = _unpacked(self.given)
            if found.shape != shape or place:
                raise BadInput(f"the recipe is of one noise of shape {found.shape}, the latents have {shape}")
            return found
        prior = self.prior
        if prior == "torch" and samples.dtype != torch.float32:
            prior = f"torch:{str(samples.dtype).removeprefix('torch.')}"
        axis = 1 if len(shape) == 4 else None
        entries = tuple({"refiner": text} for text in self.refine)
        return NoiseRecipe(self.number, self.candidate + place, shape, prior, axis, entries)

    def generate_noise(self, latent):
        """What a sampler asks for: a CPU tensor like `latent["samples"]`; nested where that is nested."""
        samples, places = latent["samples"], latent.get("batch_index")
        if getattr(samples, "is_nested", False):
            return self._nested(samples, places)
        torch_draws = self.given is None and isinstance(prior_named(self.prior), Torch)
        places = [*range(len(samples))] if places is None else [int(place) for place in places]
        if torch_draws and places != [0]:
            if self.refine:
                raise BadInput("a seed of torch is refined for one latent only: set the batch to 1")
            return comfy.sample.prepare_noise(samples, self.seed, latent.get("batch_index"))
        recipes = [self.recipe(samples, place) for place in places]
        noises = [_made(recipe) for recipe in recipes]
        if self.metadata is not None:
            self.metadata.setdefault(KEYWORD, sealed(recipes[0], noises[0]).to_dict())
        return torch.stack(noises).to(samples.dtype)

    def _nested(self, samples, places):
        """Parts after the first (sound beside video) are companions: independent of the first."""
        first, *others = samples.unbind()
        if self.given is None and isinstance(prior_named(self.prior), Torch):
            return comfy.sample.prepare_noise(samples, self.seed, places)
        noises = [self.generate_noise({"samples": first, "batch_index": places})]
        places = range(len(first)) if places is None else places
        for number, part in enumerate(others, 1):
            entries = [
                dataclasses.replace(
                    self.recipe(first),
                    candidate=self.candidate + int(place),
                    sha256=None,
                    shape=tuple(part.shape[1:]),
                    prior="gaussian",
                    frame_axis=None,
                )
                for place in places
            ]
            noises.append(torch.stack([each.beside(number) for each in entries]).to(part.dtype))
        return type(samples)(noises)


def _unpacked(recipe):
    """The recipe of the noise before a pipeline of diffusers packs it: so do ComfyUI's latents stand."""
    if recipe.packing is None:
        return recipe
    return dataclasses.replace(recipe, shape=recipe.packing.shape, packing=None, sha256=None)


def _made(recipe):
    """The noise of a recipe, float32 (*shape), its refinements done."""
    if not recipe.refinements:
        return recipe.draw()
    from seedbed.refinement import rebuilt  # which imports diffusers

    return rebuilt(recipe)[0]


def sealed(recipe, noise):
    """The recipe with the sha256 of its noise, float32 (*shape)."""
    return dataclasses.replace(recipe, sha256=sha256_of(noise))


def refiners_of(text):
    """The texts of the refiners in a line, written in full; BadInput for one that asks a model."""
    if not text.strip():
        return ()
    from seedbed.refinement import refiners_named
    from seedbed.texts import text_of

    found = refiners_named([each.strip() for each in text.split(";")])
    for refiner in found:
        if refiner.needs_model:
            raise BadInput(f"{refiner.name} asks the model, which this node has none of: use Seedbed Refine")
    return tuple(map(text_of, found))


def read_recipe(text):
    """The recipe that a text in JSON holds, None for no text; BadInput or BadRecord if it is none."""
    if not text.strip():
        return None
    try:
        content = json.loads(text)
    except ValueError as error:
        raise BadInput(f"the recipe is no JSON: {error}") from error
    return NoiseRecipe.from_dict(content)


class Checked(io.ComfyNode):
    """A node whose texts are checked before anything of the workflow runs."""

    @classmethod
    def validate_inputs(cls, prior="torch", refine="", recipe=""):
        # A text that another node makes is not there yet, and is checked when it is used.
        try:
            prior_named("torch" if prior is None else prior)
            refiners_of(refine or "")
            read_recipe(recipe or "")
        except (BadInput, BadRecord, ImportError) as error:
            return str(error)
        return True


PRIOR = io.String.Input(
    "prior",
    default="torch",
    tooltip="torch: as RandomNoise. gaussian: the same on every machine. Over frames: mixed:1, ...",
)


class SeedbedNoise(Checked):
    """The noise of `seedbed.NoiseRecipe`, or of ComfyUI's RandomNoise, with its recipe in saved files."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SeedbedNoise",
            display_name="Seedbed Noise",
            category=CATEGORY,
            description="A noise that can be made again outside ComfyUI: its recipe goes into saved files.",
            inputs=[
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True),
                PRIOR,
                io.Int.Input("candidate", default=0, min=0, max=9999, tooltip="Which noise of the seed."),
                io.String.Input(
                    "refine",
                    default="",
                    tooltip="variation:0.3,index=1: a noise nearby; several with ; between (diffusers)",
                ),
                io.String.Input(
                    "recipe", default="", optional=True, multiline=True, tooltip="JSON, instead of all above."
                ),
            ],
            outputs=[io.Noise.Output()],
            hidden=[io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, seed, prior, candidate, refine, recipe=""):
        given = read_recipe(recipe or "")
        if given is not None:
            seed, prior, candidate = given.seed, given.prior, given.candidate
        metadata = cls.hidden.extra_pnginfo
        return io.NodeOutput(DrawnNoise(seed, prior, candidate, refiners_of(refine), metadata, given))


class InjectedNoise:
    """Another NOISE with what the model predicts of it written in: semantic injection (arXiv 2511.07756)."""

    def __init__(self, noise, guider, sigmas, delta, sign):
        self.noise, self.guider, self.sigmas, self.delta, self.sign = noise, guider, sigmas, delta, sign
        self.seed = noise.seed

    def generate_noise(self, latent):
        """See `DrawnNoise.generate_noise`; an evaluation of the guider for each sigma."""
        from seedbed.refinement.formulas import inject

        plain = self.noise.generate_noise(latent)
        if getattr(plain, "is_nested", False) or len(plain) != 1:
            raise BadInput("a prediction is written into one noise: set the batch to 1, without sound")
        written = []

        def write(denoiser, noisy, sigmas, extra_args, callback=None, disable=None, **options):
            sampling = self.guider.model_patcher.get_model_object("model_sampling")
            noise = denoiser.noise.double()

            def predict(values, sigma):
                # What the model is given is the noise itself, at whatever scale its samplers work.
                sigma = sigma.to(noisy)
                scaled = (values / sampling.calculate_input(sigma, torch.ones_like(noisy)).double()).to(noisy)
                clean = denoiser(scaled, sigma.expand(len(noisy)), **extra_args)
                return ((scaled - clean) / sigma).double()

            chosen = [self.sigmas[round(share * (len(self.sigmas) - 2))] for share in (0, 0.5, 1)]
            found = inject(noise, predict, chosen, delta=self.delta, sign=self.sign)
            written.append(found.to(plain.dtype).cpu())
            return noisy

        samples = torch.zeros_like(latent["samples"])
        sampler = comfy.samplers.KSAMPLER(write)
        self.guider.sample(plain, samples, sampler, self.sigmas[:2], disable_pbar=True, seed=self.seed)
        return written[0]


class SeedbedRefine(io.ComfyNode):
    """Semantic injection; the sampler that asks for the noise pays three evaluations. Needs diffusers."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SeedbedRefine",
            display_name="Seedbed Refine",
            category=CATEGORY,
            description="Writes what the model predicts at the first, middle and last step into the noise.",
            inputs=[
                io.Noise.Input("noise"),
                io.Guider.Input("guider"),
                io.Sigmas.Input("sigmas"),
                io.Float.Input("delta", default=0.1, min=0.0, max=10.0, step=0.01),
                io.Combo.Input("sign", options=["add", "subtract"]),
            ],
            outputs=[io.Noise.Output()],
        )

    @classmethod
    def execute(cls, noise, guider, sigmas, delta, sign):
        if len(sigmas) < 2:
            raise BadInput("the sigmas hold no step")
        delta = finite("delta", delta, 0)
        return io.NodeOutput(InjectedNoise(noise, guider, sigmas, delta, 1 if sign == "add" else -1))


class FreeInitNoise:
    """A drawn NOISE with the low frequencies of the video that grew from it (arXiv 2312.07537)."""

    def __init__(self, noise, guider, sampler, sigmas, rounds, stop, frame_stop):
        self.noise, self.guider, self.sampler, self.sigmas = noise, guider, sampler, sigmas
        self.rounds, self.stops, self.seed = rounds, (stop, frame_stop), noise.seed

    def generate_noise(self, latent):
        """See `DrawnNoise.generate_noise`; a whole generation for each round."""
        from seedbed.noise.filters import low_pass, mix_frequencies

        given = noise = self.noise.generate_noise(latent)
        # AnimateDiff's latents are images, whose batch is the frames of one video.
        nested = getattr(given, "is_nested", False)
        frames = not nested and given.ndim == 4
        if nested or (not frames and len(given) != 1):
            raise BadInput("FreeInit mixes the noise of one video: set the batch to 1, without sound")
        recipes = [self.noise.recipe(latent["samples"], place) for place in range(len(given))]
        recipes = [dataclasses.replace(each, prior="gaussian", sha256=None) for each in recipes]
        sampling = self.guider.model_patcher.get_model_object("model_sampling")
        one, none = torch.ones(1), torch.zeros(1)
        first = self.sigmas[:1].cpu()
        alpha, sigma = (float(sampling.noise_scaling(first, *pair)) for pair in ((none, one), (one, none)))
        if alpha <= 1e-3 * sigma:
            raise BadInput(
                "nothing of a video is left at the first sigma (flow matching, or a schedule without "
                "signal), so FreeInit would write nothing: use Seedbed Refine"
            )
        # What samplers multiply a noise by, as `KSAMPLER.max_denoise` decides.
        greatest = float(first) >= float(sampling.sigma_max) * (1 - 1e-5)
        size = float(sampling.noise_scaling(first, one, none, greatest))
        stop, frame_stop = self.stops
        spread = given.movedim(0, 1)[None] if frames else given
        passing = low_pass(tuple(spread.shape[2:]), stop=stop, frame_stop=frame_stop)
        for number in range(1, self.rounds + 1):
            video = self.guider.sample(
                noise,
                latent["samples"],
                self.sampler,
                self.sigmas,
                denoise_mask=latent.get("noise_mask"),
                disable_pbar=True,
                seed=self.seed,
            )
            clean = self.guider.model_patcher.model.process_latent_in(video.cpu())
            low = (alpha * clean + sigma * given) / size
            fresh = torch.stack([recipe.beside(number) for recipe in recipes])
            if frames:
                low, fresh = (each.movedim(0, 1)[None] for each in (low, fresh))
            noise = mix_frequencies(low, fresh, passing).to(given.dtype)
            noise = noise[0].movedim(1, 0) if frames else noise
        return noise


class SeedbedFreeInit(io.ComfyNode):
    """FreeInit, for models whose first sigma leaves some signal, such as those of AnimateDiff."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SeedbedFreeInit",
            display_name="Seedbed FreeInit",
            category=CATEGORY,
            description="The low frequencies of a finished video, noised again, with the high ones of "
            "fresh noise; a generation for each round.",
            inputs=[
                io.Noise.Input("noise"),
                io.Guider.Input("guider"),
                io.Sampler.Input("sampler"),
                io.Sigmas.Input("sigmas"),
                io.Int.Input("rounds", default=1, min=1, max=100),
                io.Float.Input("stop", default=0.25, min=0.01, max=1.0, step=0.01),
                io.Float.Input("frame_stop", default=0.25, min=0.01, max=1.0, step=0.01),
            ],
            outputs=[io.Noise.Output()],
        )

    @classmethod
    def execute(cls, noise, guider, sampler, sigmas, rounds, stop, frame_stop):
        if len(sigmas) < 2:
            raise BadInput("the sigmas hold no step")
        if not isinstance(noise, DrawnNoise):
            raise BadInput("FreeInit draws fresh noise of a recipe: connect Seedbed Noise, Select or Pick")
        return io.NodeOutput(FreeInitNoise(noise, guider, sampler, sigmas, rounds, stop, frame_stop))
