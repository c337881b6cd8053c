"""Choosing among noises in ComfyUI: by the model's attention, by what previews show, by a click."""

import json

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from seedbed.attention import bansa_expected, row_statistics, sample_rows
from seedbed.errors import BadInput, BadOutput
from seedbed.halving import ranked

from .judging import judged, verifier_of
from .noises import CATEGORY, KEYWORD, PRIOR, Checked, DrawnNoise, sealed

DEPTH = 0.46  # of the attention layers: the published depth of CogVideoX, as `seedbed.acquisition.Bansa`
FRAMES = 3  # of a video, side by side in its picture
ENLARGED = (
    8  # a latent in a picture, as most autoencoders do: the page shows pictures no larger than they are
)
Takes = io.Custom("SEEDBED_TAKES")
# Another seed after each run would make the takes anew that somebody is about to click.
SEED = io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=False)
CANDIDATES = io.Int.Input("candidates", default=6, min=1, max=10_000)


class _Scored(Exception):
    """Ends the model's forward after the last attention layer that is scored."""


def evaluate(model, conditioning, sigmas, latent, noise, observe):
    """The model's first evaluation, guidance off.

    Args:
        observe: called with the query, key (batch, heads, tokens, width) and mask of each attention call, in
            their order; the model goes on with its own output.

    Returns:
        The clean latents that it predicts, in the model's own space; None if `observe` raised `_Scored`.
    """
    model = model.clone()
    options = model.model_options.setdefault("transformer_options", {})
    before = options.get("optimized_attention_override")

    def override(attention, *args, **kwargs):
        query, key, _, mask = heads_of(*args, **kwargs)
        observe(query, key, mask)
        return before(attention, *args, **kwargs) if before else attention(*args, **kwargs)

    options["optimized_attention_override"] = override
    found = []

    def once(denoiser, noisy, sigmas, extra_args, callback=None, disable=None, **options):
        try:
            found.append(denoiser(noisy, sigmas[0].expand(len(noisy)), **extra_args))
        except _Scored:
            found.append(None)
        return noisy

    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": conditioning})
    sampler = comfy.samplers.KSAMPLER(once)
    guider.sample(
        noise.generate_noise(latent),
        latent["samples"],
        sampler,
        sigmas[:2],
        denoise_mask=latent.get("noise_mask"),
        disable_pbar=True,
        seed=noise.seed,
    )
    return found[0]


def heads_of(q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, **others):
    """Query, key and value as (batch, heads, tokens, width), and a mask to fit, of ComfyUI's attention."""
    if not skip_reshape:
        width = q.shape[-1] // heads
        q, k, v = (each.unflatten(-1, (-1, width)).transpose(1, 2) for each in (q, k, v))
    if mask is not None:
        mask = mask.reshape((1,) * (2 - mask.dim()) + mask.shape)
        mask = mask[:, None] if mask.dim() == 3 else mask
    return q, k, v, mask


def attention_scores(model, conditioning, sigmas, latent, noises, score, depth, rows, show):
    """The mean of a score over the first layers of the first evaluation: (noises,) float64, and the layers.

    What `seedbed.score` gives for `Bansa(depth=depth, rows=rows)` or `Entropy(...)`, a noise at a time. The
    first noise goes through all layers, which counts them.
    """
    totals, wanted = [], None
    for noise in noises:
        found = []

        def observe(query, key, mask, found=found, wanted=wanted):
            some = sample_rows(query.shape[-2], rows, len(found))
            if score == "bansa":
                values = bansa_expected(query, key, mask=mask, rows=some)
            else:
                values = row_statistics(query, key, mask=mask, rows=some, powers=()).entropy
            found.append(values.double().mean().item())
            if len(found) == wanted:
                raise _Scored

        evaluate(model, conditioning, sigmas, latent, noise, observe)
        if not found:
            raise BadInput(
                "this model's attention does not pass transformer_options on, so that it cannot be seen: use "
                "Seedbed Preview"
            )
        wanted = wanted or max(1, round(depth * len(found)))
        totals.append(sum(found[:wanted]) / wanted)
        show.update(1)
    values = torch.tensor(totals, dtype=torch.float64)
    for index in (~values.isfinite()).nonzero().flatten().tolist():
        raise BadOutput(f"{score} of candidate {index} is {totals[index]}")
    return values, wanted


def picture(latents, model):
    """Clean latents in the model's own space as RGB, (frames, height, width, 3) in [0, 1]: a linear map."""
    latent_format = model.get_model_object("latent_format")
    if latent_format.latent_rgb_factors is None:
        raise BadInput(f"{type(latent_format).__name__} has no map from latents to colours: connect a VAE")
    factors, bias = latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
    rgb = latents.float().cpu()[0].movedim(0, -1) @ torch.tensor(factors)
    rgb = rgb + torch.tensor(bias) if bias is not None else rgb
    return ((rgb + 1) / 2).clamp(0, 1).reshape(-1, *rgb.shape[-3:])


def side_by_side(videos, scale):
    """First, middle and last frame of each (frames, height, width, 3) in one picture, enlarged: a batch."""
    count = min(FRAMES, len(videos[0]))
    chosen = torch.linspace(0, len(videos[0]) - 1, count).round().long()
    rows = torch.stack([torch.cat([*video[chosen]], 1) for video in videos])
    return rows.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def pool_of(model, latent, seed, prior, candidates):
    """The latents as the model takes them, and the noises to choose among; BadInput for a batch."""
    latent = dict(latent)
    samples = latent["samples"]
    if getattr(samples, "is_nested", False):
        raise BadInput("among nested latents (sound beside video) nothing can be chosen yet")
    latent["samples"] = samples = comfy.sample.fix_empty_latent_channels(model, samples)
    if len(samples) != 1:
        raise BadInput(f"noises are chosen for one latent at a time, not a batch of {len(samples)}")
    latent.pop("batch_index", None)
    return latent, [DrawnNoise(seed, prior, index) for index in range(candidates)]


def told(totals, order, name, noises):
    """The scores as text, best first."""
    lines = [f"candidate {index}: {totals[index]:.6g} (seed {noises[index].seed})" for index in order]
    return f"{name}, best first\n" + "\n".join(lines)


def recipe_text(noise, latent):
    """The sealed recipe of a candidate, in JSON."""
    recipe = noise.recipe(latent["samples"])
    return json.dumps(sealed(recipe, noise.generate_noise(latent)[0].float()).to_dict())


class SeedbedSelect(Checked):
    """The noise of a pool that the model's attention prefers, by its first evaluation without guidance."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SeedbedSelect",
            display_name="Seedbed Select",
            category=CATEGORY,
            description="Chooses the noise by the model's attention in its first evaluation.",
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("conditioning"),
                io.Sigmas.Input("sigmas"),
                io.Latent.Input("latent_image"),
                SEED,
                PRIOR,
                CANDIDATES,
                io.Combo.Input("score", options=["bansa", "entropy"]),
                io.Combo.Input("prefer", options=["low", "high"]),
                io.Float.Input("depth", default=DEPTH, min=0.01, max=1.0, step=0.01),
                io.Int.Input("rows", default=0, min=0, max=2**31, tooltip="Of queries per layer; 0: all."),
                io.Boolean.Input("pictures", default=False, tooltip="Another evaluation for each candidate."),
            ],
            outputs=[
                io.Noise.Output(),
                io.String.Output("scores", display_name="scores"),
                io.String.Output("recipe", display_name="recipe"),
                io.Image.Output("images", display_name="pictures"),
            ],
            hidden=[io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(
        cls,
        model,
        conditioning,
        sigmas,
        latent_image,
        seed,
        prior,
        candidates,
        score,
        prefer,
        depth,
        rows,
        pictures,
    ):
        if len(sigmas) < 2:
            raise BadInput("the sigmas hold no step")
        latent, noises = pool_of(model, latent_image, seed, prior, candidates)
        show = comfy.utils.ProgressBar(candidates * (1 + pictures))
        asked = (model, conditioning, sigmas, latent)
        totals, layers = attention_scores(*asked, noises, score, depth, rows or None, show)
        order = ranked(totals, prefer)
        images = torch.zeros(1, 8, 8, 3)
        if pictures:
            videos = []
            for noise in noises:
                videos.append(picture(evaluate(*asked, noise, lambda *call: None), model))
                show.update(1)
            images = side_by_side(videos, ENLARGED)
        best = noises[order[0]]
        text = told(totals, order, f"{score} of {layers} layers, {prefer} is better", noises)
        recipe = recipe_text(best, latent)
        best.metadata = cls.hidden.extra_pnginfo
        if best.metadata is not None:
            best.metadata.setdefault(KEYWORD, json.loads(recipe))
        return io.NodeOutput(best, text, recipe, images)


class SeedbedPreview(Checked):
    """Every noise of a pool denoised for some steps, decoded, and judged where a verifier is named."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SeedbedPreview",
            display_name="Seedbed Preview",
            category=CATEGORY,
            description="Denoises every candidate for some steps. Seedbed Pick goes on with one of them.",
            inputs=[
                io.Guider.Input("guider"),
                io.Sampler.Input("sampler"),
                io.Sigmas.Input("sigmas"),
                io.Latent.Input("latent_image"),
                SEED,
                PRIOR,
                CANDIDATES,
                io.Int.Input("steps", default=5, min=1, max=10_000),
                io.String.Input(
                    "verifier", default="", tooltip="artifacts, clip:FOLDER, ...; empty: your click"
                ),
                io.String.Input("prompt", default="", optional=True, tooltip="For verifiers that read it."),
                io.Vae.Input("vae", optional=True, tooltip="Without one, pictures are small and rough."),
            ],
            outputs=[
                Takes.Output("takes", display_name="takes"),
                io.Image.Output("images", display_name="pictures"),
                io.String.Output("scores", display_name="scores"),
            ],
        )

    @classmethod
    def execute(
        cls,
        guider,
        sampler,
        sigmas,
        latent_image,
        seed,
        prior,
        candidates,
        steps,
        verifier,
        prompt="",
        vae=None,
    ):
        if steps > len(sigmas) - 1:
            raise BadInput(f"there are {len(sigmas) - 1} steps, so there is no preview after {steps}")
        judge = verifier_of(verifier) if verifier.strip() else None
        model = guider.model_patcher
        latent, noises = pool_of(model, latent_image, seed, prior, candidates)
        show = comfy.utils.ProgressBar(candidates * steps)
        samples, videos = [], []
        for noise in noises:
            clean = {}

            def keep(step, x0, x, total, clean=clean):
                clean["x0"] = x0
                show.update(1)

            samples.append(
                guider.sample(
                    noise.generate_noise(latent),
                    latent["samples"],
                    sampler,
                    sigmas[: steps + 1],
                    denoise_mask=latent.get("noise_mask"),
                    callback=keep,
                    disable_pbar=True,
                    seed=noise.seed,
                ).cpu()
            )
            if vae is None:
                videos.append(picture(clean["x0"], model))
            else:
                decoded = vae.decode(model.model.process_latent_out(clean["x0"].cpu()))
                videos.append(decoded.reshape(-1, *decoded.shape[-3:]))
        totals = judged(judge, videos, prompt) if judge else None
        order = ranked(totals, "high") if judge else ()
        text = told(totals, order, verifier.strip(), noises) if judge else "not judged"
        images = side_by_side(videos, ENLARGED if vae is None else 1)
        takes = {
            "noises": noises,
            "samples": samples,
            "latent": latent,
            "pictures": images,
            "rest": sigmas[steps:],
            "best": order[0] if order else None,
        }
        return io.NodeOutput(takes, images, text)


class SeedbedPick(io.ComfyNode):
    """Shows the takes of a preview, and goes on from the steps of the one that is picked."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SeedbedPick",
            display_name="Seedbed Pick",
            category=CATEGORY,
            description="Click a picture to go on with it. The rest of the steps: SamplerCustomAdvanced with "
            "DisableNoise and the latent and sigmas of this node. From the start: the noise of this node.",
            inputs=[
                Takes.Input("takes"),
                io.Int.Input(
                    "pick",
                    default=-1,
                    min=-1,
                    max=9999,
                    tooltip="-1: the verifier's best, else a click",
                ),
            ],
            outputs=[io.Noise.Output(), io.Latent.Output(), io.Sigmas.Output(), io.String.Output("recipe")],
            hidden=[io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, takes, pick):
        shown, noises = ui.PreviewImage(takes["pictures"]), takes["noises"]
        if pick >= len(noises):
            raise BadInput(f"there is no take {pick}: pick one from 0 to {len(noises) - 1}")
        if pick < 0:
            pick = takes["best"]
        if pick is None:  # what is after this node waits until somebody clicks
            return io.NodeOutput(*[ExecutionBlocker(None)] * 4, ui=shown)
        latent, noise = takes["latent"], noises[pick]
        recipe, metadata = recipe_text(noise, latent), cls.hidden.extra_pnginfo
        if metadata is not None:
            metadata.setdefault(KEYWORD, json.loads(recipe))
        mine = DrawnNoise(noise.number, noise.prior, noise.candidate, metadata=metadata)
        denoised = {**latent, "samples": takes["samples"][pick]}
        return io.NodeOutput(mine, denoised, takes["rest"], recipe, ui=shown)
