"""What the tests of breadth and the table of `docs/pipelines.md` look at: each family's runs, made once."""

import inspect
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor, nn

import seedbed
from seedbed.acquisition import Bansa, Previews
from seedbed.adaptation import Enhance, adapt
from seedbed.adaptation.layout import layers_named
from seedbed.errors import SeedbedError
from seedbed.pipelines.session import Session
from seedbed.selection.generation import Generation
from seedbed.selection.pools import draw_pool
from tests.pipelines import Family

QUIET: dict[str, Any] = dict(progress=False)
EVERY_LAYER = Bansa(depth=None)

# By refiner: as it comes, or as briefly as its cost allows, and at strength zero where it has one.
REFINED = {
    "erasure": ("erasure", "erasure:1"),
    "injection": ("injection", "injection:0"),
    "guidance_gap": ("guidance_gap:1", "guidance_gap:rate=0"),
    "denoise_invert": ("denoise_invert", None),
    "freeinit": ("freeinit", "freeinit:0"),
    "variation": ("variation", "variation:0"),
    "walk": ("walk:0.5,candidate=9", "walk:0,candidate=9"),
    "cross-entropy": ("cross-entropy:index=0,batch=10,axes=[0]", None),
}

# By adaptation: strong enough for the pixels of a tiny model, and at strength zero.
ACTING = {
    "enhance": ("enhance:layers=all,strength=0.9", "enhance:layers=all,strength=0"),
    "guide": ("guide:layers=all,scale=3", "guide:layers=all,scale=0"),
}


@cache
def _built(family: Family) -> tuple[Any, dict[str, Tensor]]:
    pipe = family.built()
    return pipe, weights(pipe)


def pipeline(family: Family) -> Any:
    """Raises `tests.pipelines.family.Missing` where the installed diffusers is too old for it."""
    return _built(family)[0]


def weights_as_built(family: Family) -> dict[str, Tensor]:
    return _built(family)[1]


@cache
def session(family: Family) -> Session:
    return Session(pipeline(family), family.prompt, **family.call)


@cache
def generation(family: Family) -> Generation:
    return seedbed.generate(
        pipeline(family), family.prompt, candidates=3, acquisition=EVERY_LAYER, **QUIET, **family.call
    )


@cache
def replayed(family: Family) -> Generation:
    made = generation(family)
    missing = {name: family.call[name] for name in made.selection.missing}
    with TemporaryDirectory() as folder:
        record = made.save(Path(folder) / "record.json")
        return seedbed.replay(record, pipeline(family), **QUIET, **missing)


def refined(family: Family, name: str) -> str | None:
    """What is wrong with the frames of what a refiner makes of the noise of `generation`; else None."""
    return _differs(family, _made_of(family, REFINED[name][0]))


@cache
def adapted(family: Family, name: str) -> str | None:
    """What is wrong with the frames that an adaptation makes of the noise of `generation`; else None."""
    acting, still = ACTING[name]
    if not np.array_equal(_made_of(family, adaptation=still).frames, generation(family).frames):
        return "other frames at strength 0"
    wrong = _differs(family, _made_of(family, adaptation=acting))
    return wrong or (_touched(family) if name == Enhance.name else None)


def studied(family: Family) -> str | None:
    """What is wrong with a study of one step, every layer replaced by uniform attention; else None."""
    table = seedbed.study(
        pipeline(family),
        family.prompt or "",
        steps=[0],
        perturb=("uniform",),
        rows=8,
        batch_size=1,
        **QUIET,
        **family.call,
    ).columns
    found = [value for name, value in zip(table["measure"], table["value"], strict=True) if name == "ssim"]
    return None if found and min(found) < 1 and "entropy" in table["measure"] else "nothing changes"


def mapped(family: Family) -> str:
    """Whether it is told where a word looks, and where a place does; the line for the place if neither."""
    word = (family.prompt or "").partition(" ")[0]
    asked = {"words": {"word": word}, "places": {"place": (0.0, 0.0, 0.0)}}
    found, refused = [], ""
    for name, of in asked.items():
        try:
            seedbed.maps(pipeline(family), family.prompt or "", steps=[0], **of, **QUIET, **family.call)
        except SeedbedError as error:
            refused = str(error)
        else:
            found.append(name)
    return ", ".join(found) or refused


def edited(family: Family) -> str | None:
    """What is wrong with an edit of the noise of `generation`, every layer injected; else None."""
    source = family.prompt or ""
    target = source.replace(source.split()[-1], "right") if source else "left"
    asked = {"source": source, "target": target, "layers": "all", **QUIET, **family.call}
    made = seedbed.edit(pipeline(family), generation(family).selection.recipe, **asked)
    plain = seedbed.generate(
        pipeline(family),
        target,
        noises=[generation(family).selection.recipe],
        **QUIET,
        **family.call,
    )
    if np.array_equal(plain.frames, generation(family).frames):
        return "the prompt changes nothing"
    return "the frames of the target alone" if np.array_equal(made.frames, plain.frames) else None


def _touched(family: Family) -> str | None:
    """Of the last layer enhanced alone: None where all layers are given what they always are."""
    given: list[list[Tensor]] = [[], []]
    outputs = []
    for strength, seen in enumerate(given):
        asked = Session(pipeline(family), family.prompt, **family.call)
        last = layers_named(asked, "all")[-1]
        adapt(asked, [Enhance(layers=[last], strength=strength)])
        noise = generation(family).selection.pool[:1]  # type: ignore[index]
        found = asked.evaluate(noise, lambda call, seen=seen: seen.append(call.query.clone()))  # type: ignore[misc]
        outputs.append(found.prediction)
        until = max(i for i, layer in enumerate(asked.layers) if layer.name == last)
    same = [torch.equal(one, other) for one, other in zip(*given, strict=True)]
    return None if all(same[: until + 1]) and not torch.equal(*outputs) else "other layers"  # type: ignore[arg-type]


def _differs(family: Family, made: Generation) -> str | None:
    if np.array_equal(made.frames, generation(family).frames):
        return "the same frames"
    missing = {name: family.call[name] for name in made.selection.missing}
    again = seedbed.replay(made.record(), pipeline(family), **QUIET, **missing)
    return None if again.identical and not again.changes else "other frames in replay"


def the_same_at_strength_0(family: Family, names: Sequence[str]) -> bool:
    """Whether these refiners, one after the other at strength 0, leave the frames of `generation`."""
    made = _made_of(family, [still for name in names if (still := REFINED[name][1]) is not None])
    return np.array_equal(made.frames, generation(family).frames)


def _made_of(
    family: Family, refine: str | list[str] | None = None, adaptation: str | None = None
) -> Generation:
    with warnings.catch_warnings():  # that tiny models lead off the shell
        warnings.simplefilter("ignore", UserWarning)
        return seedbed.generate(
            pipeline(family),
            family.prompt,
            noises=[generation(family).selection.recipe],
            refine=refine,
            adaptation=adaptation,
            **QUIET,
            **family.call,
        )


@cache
def previewed(family: Family) -> Generation:
    return seedbed.generate(
        pipeline(family),
        family.prompt,
        candidates=2,
        acquisition=Previews(verifier=first, schedule=((1, 1),)),
        **QUIET,
        **family.call,
    )


def first(videos: np.ndarray, prompts: list[str]) -> np.ndarray:
    """A verifier that likes what comes first, so that a test knows who wins."""
    return -np.arange(len(videos), dtype=float)


@cache
def scores_one_by_one(family: Family) -> Tensor:
    """(candidates, layers), as of `generation`, where all candidates are one batch."""
    return seedbed.select(
        pipeline(family),
        family.prompt,
        candidates=3,
        acquisition=EVERY_LAYER,
        batch_size=1,
        **QUIET,
        **family.call,
    ).scores


def takes_the_noise(family: Family) -> bool:
    """Whether the pipeline's own call makes the frames of `generation` from `latents=selection.noise`."""
    pipe, made = pipeline(family), generation(family)
    known = inspect.signature(type(pipe).__call__).parameters
    if "latents" not in known:
        return False
    arguments = {**family.call, "latents": made.selection.noise, "output_type": "np"}
    if family.prompt is not None:
        arguments["prompt"] = family.prompt
    if "generator" in known:
        arguments["generator"] = torch.Generator().manual_seed(0)
    try:
        output = pipe(**arguments)
    except (ValueError, RuntimeError, UnboundLocalError):
        # Some take a video or latents, not both, or more than noise, or fail with latents.
        return False
    pixels = np.asarray(output[0], dtype=np.float32)  # frames, images or image: first of every output
    frames = (pixels.clip(0, 1) * 255).round().astype(np.uint8).reshape(-1, *pixels.shape[-3:])
    return np.array_equal(frames, made.frames)


@cache
def seeded(family: Family) -> str | None:
    """Where the pipeline makes of the noise of a seed, bit by bit, what it makes of a generator of that seed.

    None where its own call does so with `latents=` alone. Raises NotSupported where it draws other noises.
    """
    pipe, asked = pipeline(family), session(family)
    noise = draw_pool(asked, 1, 7, "torch").noises[0]
    call: dict[str, Any] = {**family.call, **({} if family.prompt is None else {"prompt": family.prompt})}
    generator = torch.Generator("cpu").manual_seed(7)
    own = pipe(**call, generator=generator, output_type="latent")[0]
    try:
        if torch.equal(own, pipe(**call, latents=noise[None].clone(), output_type="latent")[0]):
            return None
    except (TypeError, ValueError, RuntimeError, UnboundLocalError):
        pass  # as in `takes_the_noise`
    else:
        if asked.facts.entry.startswith("latents"):
            return "the same noise, but more is drawn after it"
    generator.manual_seed(7)
    pixels = np.asarray(pipe(**call, generator=generator, output_type="np")[0], dtype=np.float32)
    frames = (pixels.clip(0, 1) * 255).round().astype(np.uint8).reshape(-1, *pixels.shape[-3:])
    generator.manual_seed(7)
    made = Session(pipe, family.prompt, **family.call, generator=generator).generate(noise)
    return "through `seedbed.generate`" if np.array_equal(made, frames) else "the same noise, other frames"


def weights(pipe: Any) -> dict[str, Tensor]:
    modules = {n: m for n, m in pipe.components.items() if isinstance(m, nn.Module)}
    return {f"{n}.{key}": value.clone() for n, m in modules.items() for key, value in m.state_dict().items()}


def traces(pipe: Any) -> list[str]:
    """Modules on which a run has left something: hooks, or a forward of their own."""
    return [
        f"{name}.{inner}"
        for name, module in pipe.components.items()
        if isinstance(module, diffusers.ModelMixin)  # transformers hooks its models itself
        for inner, part in module.named_modules()
        if any(map(_left, (*part._forward_hooks.values(), *part._forward_pre_hooks.values())))
        or "forward" in vars(part)
    ]


def _left(hook: Any) -> bool:
    """Text encoders of transformers keep hooks of their own from their first forward on."""
    return not getattr(hook, "__module__", "").startswith("transformers.")
