"""The options that several commands share, each once, and what becomes of them."""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from seedbed.cli.commands import drawn, load_pipeline
from seedbed.errors import BadInput
from seedbed.files import read_text
from seedbed.pipelines.offloading import Offload

choosing = functools.partial(typer.Option, rich_help_panel="Which noise")
calling = functools.partial(typer.Option, rich_help_panel="The pipeline's call")
running = functools.partial(typer.Option, rich_help_panel="Model and machine")
writing = functools.partial(typer.Option, rich_help_panel="Output")

Dtype = Literal["float32", "float16", "bfloat16"]
# What judges videos, as `seedbed.verifiers.resolve` reads it.
VERIFIERS = (
    "shapes, digits, artifacts, clip:FOLDER, aesthetic:FOLDER, reward:FOLDER, vlm:FOLDER or several "
    "(artifacts+clip:FOLDER*0.5)"
)


def _check_prompt(context: typer.Context, prompt: str | None) -> str | None:
    if prompt is None:  # where it may be left out
        return None
    if not prompt.strip() and not context.params.get("unconditional"):
        raise BadInput('the prompt is empty: say what to generate, or add --unconditional to mean ""')
    return prompt.strip() and prompt


def _check_scale(scale: float | None) -> float | None:
    if scale is not None and not math.isfinite(scale):
        raise BadInput(f"--guidance-scale must be a finite number, not {scale}")
    return scale


_ASKED: dict[str, Any] = dict(help="What to generate.", show_default=False, callback=_check_prompt)
PROMPT, ONE_PROMPT = typer.Argument(**_ASKED), typer.Argument(None, **_ASKED)


def seed_of(what: str, option: Callable[..., Any] = choosing) -> Any:
    """The option --seed. `grouped` draws a random one, but for a field of a group, which draws its own."""
    return option(0, min=-1, help=f"Of {what}; -1 for a random one, shown.")


SEED = seed_of("the noises, which never change for one")
ACQUISITION = choosing(
    "auto",
    metavar="TEXT",
    help="What chooses: random, entropy, bansa, bansa-dropout or previews, options after a colon "
    "(bansa:keep=0.5,layers=joint); random-search, neighbours or low-frequencies, which make their own "
    "noises (neighbours:verifier=shapes,budget=400); a profile's file (profile.json); or auto: the profile "
    "beside the model, else the first noise.",
)
DECODE = choosing(
    None,
    metavar="TEXT",
    help="What decodes previews: exact, the model's own decoder (else); linear, a map fitted to it on the "
    "first of them; or the folder of a small autoencoder.",
)
PRIOR = choosing(
    None,
    metavar="TEXT",
    help="Distribution of the noises: gaussian (else), mixed:1, progressive:2, repeated, shuffled:16; or "
    "torch: candidate i is what the pipeline itself draws for the seed SEED + i.",
)
REFINE = choosing(
    None, metavar="TEXT", help="What is done to every noise before it is scored (erasure:n=8); repeatable."
)
ENHANCE = running(
    None,
    metavar="OPTIONS",
    help="Make the attention of half of the layers broader while denoising (strength=0.1; rule=temperature).",
)
GUIDE = running(
    None,
    metavar="OPTIONS",
    help="Guide away from the model with some layers perturbed (perturb=identity,scale=1), for one more "
    "evaluation a step.",
)
OUT = writing(None, metavar="FILE.json", help="Record to write (else named after the prompt).")
METADATA = writing(True, help="The video carries its record.")
FPS = writing(8, min=0.01, max=1000, help="Frames per second of the video.")
DTYPE = running(None, help="Of the weights (else float32 on a CPU, bfloat16 on a GPU).")
DEVICE = running(None, help="cpu, cuda or cuda:1 (else cuda where there is one).")
VAE_TILING = running(False, "--vae-tiling", help="Decode in tiles, in less memory.")
OFFLOAD = running(
    None,
    help="Keep the weights off the GPU until they are needed: by model, by layer, or by layer while the next "
    "one loads.",
)
REPORT = writing(True, help="Write an HTML report beside it.")
AS_JSON = writing(False, "--json", help="One JSON object on stdout, nothing else.")
QUIET = writing(False, "--quiet", "-q", help="No progress bars.")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How to choose one of how many noises."""

    candidates: int | None = choosing(
        None,
        min=1,
        max=10_000,
        help="How many noises to choose from (else what the profile says, 6 for previews, 10).",
    )
    seed: int = SEED
    acquisition: str = ACQUISITION
    verifier: str | None = choosing(
        None,
        metavar="NAME",
        help=f"Choose by previews that this judges, {VERIFIERS}: short for --acquisition "
        "previews:verifier=NAME.",
    )
    decode: str | None = DECODE
    prior: str | None = PRIOR
    refine: list[str] | None = REFINE
    enhance: str | None = ENHANCE
    guide: str | None = GUIDE

    def arguments(self) -> dict[str, Any]:
        """Of `seedbed.select` and `seedbed.generate`; errors as `acquisition_named`."""
        from seedbed.acquisition import Previews
        from seedbed.selection.profile import acquisition_named

        function = acquisition_named(self.acquisition, self.verifier)
        if self.decode is not None:
            if not isinstance(function, Previews):
                raise BadInput("--decode is of previews that are judged: add --verifier NAME")
            function = dataclasses.replace(function, decode=self.decode)
        chosen = {"candidates": self.candidates, "acquisition": function, "seed": drawn(self.seed)}
        return {**chosen, **shaping(self.prior, self.refine, self.enhance, self.guide)}


def shaping(
    prior: str | None, refine: list[str] | None, enhance: str | None, guide: str | None
) -> dict[str, Any]:
    """The prior, the refiners and the adaptations, checked before a model is loaded."""
    from seedbed.adaptation import adaptations_named
    from seedbed.noise import prior_named
    from seedbed.refinement import refiners_named

    asked = [f"{name}:{text}" for name, text in (("enhance", enhance), ("guide", guide)) if text is not None]
    return {
        "prior": None if prior is None else prior_named(prior),
        "refine": refiners_named(refine),
        "adaptation": adaptations_named(asked),
    }


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """What a command shows."""

    as_json: bool = AS_JSON
    quiet: bool = QUIET

    @property
    def progress(self) -> bool:
        """Whether progress goes to the terminal."""
        return not self.quiet and sys.stderr.isatty()


@dataclass(frozen=True, kw_only=True)
class Pictures(Terminal):
    """Arguments of the pipeline's call that come from files of pictures, or that no other option names."""

    image: Path | None = calling(None, metavar="FILE", help="Picture that the video starts from.")
    last_image: Path | None = calling(None, metavar="FILE", help="Picture that it ends at.")
    settings: list[str] | None = calling(
        None,
        "--set",
        metavar="NAME=VALUE",
        help="Any argument of the pipeline's call: a number, words, JSON, or the file of a picture or of a "
        "video; repeatable.",
    )

    def __post_init__(self) -> None:
        """Raises BadInput where a file is not what it is to be, or a setting has no name or two values."""
        for setting in self.settings or ():
            name, equals, _ = setting.partition("=")
            if not equals or not name.isidentifier():
                raise BadInput(f"cannot read --set {setting}: write NAME=VALUE")
        texts = self.texts
        for file in (self.image, self.last_image):
            if file:
                from seedbed.report.footage import read_picture

                read_picture(file)
        if "prompt" in texts:
            raise BadInput("prompt is given twice: leave one out")

    @property
    def files(self) -> dict[str, Path | None]:
        """By the names of the arguments."""
        return {"image": self.image, "last_image": self.last_image}

    @property
    def texts(self) -> dict[str, str]:
        """By the names of the arguments. Raises BadInput where one is given twice."""
        texts = {name: str(file) for name, file in self.files.items() if file is not None}
        for name, _, value in (setting.partition("=") for setting in self.settings or ()):
            if name in texts:
                raise BadInput(f"{name} is given twice: leave one out")
            texts[name] = value
        return texts


@dataclass(frozen=True, kw_only=True)
class Inputs(Pictures):
    """The same, and a video that the pipeline makes another of."""

    from_video: Path | None = calling(
        None,
        "--video",
        metavar="FILE",
        help="Video that it is made from: its frames as they are, the first --frames of them.",
    )

    def __post_init__(self) -> None:
        """Raises BadInput as `Pictures`, and where the file is no video."""
        super().__post_init__()
        if self.from_video:
            from seedbed.report.footage import read_pictures

            read_pictures(self.from_video, 1)

    @property
    def files(self) -> dict[str, Path | None]:
        """As of `Pictures`."""
        return {**super().files, "video": self.from_video}


@dataclass(frozen=True, kw_only=True)
class Machine(Terminal):
    """The pipeline, the size of its videos, and the machine that it runs on."""

    steps: int | None = calling(None, min=1, help="Denoising steps.")
    guidance_scale: float | None = calling(
        None, help="Classifier-free guidance scale.", callback=_check_scale
    )
    frames: int | None = calling(None, min=1, help="Number of frames.")
    height: int | None = calling(None, min=1, help="Pixels.")
    width: int | None = calling(None, min=1, help="Pixels.")
    model: str | None = running(
        None,
        metavar="PATH",
        help="Folder of a diffusers pipeline, its name on the Hugging Face Hub, an embedded model's (else "
        "shapes-cogvideox), or a checkpoint in one file, with --config.",
    )
    config: str | None = running(
        None,
        metavar="PATH",
        help="Of a checkpoint in one file: a pipeline of its kind, for all that it lacks.",
    )
    lora: list[str] | None = running(
        None, metavar="FILE[:SCALE]", help="LoRA to add (.safetensors), at its scale (else 1); repeatable."
    )
    scheduler: str | None = running(
        None, metavar="NAME", help="Class of diffusers to step with, configured as the model's own."
    )
    dtype: Dtype | None = DTYPE
    device: str | None = DEVICE
    offload: Offload | None = OFFLOAD
    vae_tiling: bool = VAE_TILING

    @property
    def loras(self) -> list[tuple[str, float]]:
        """Files and scales."""
        loras = []
        for text in self.lora or ():
            file, _, scale = text.rpartition(":")
            try:
                loras.append((file or text, float(scale) if file else 1.0))
            except ValueError:  # the colon is of the file's name
                loras.append((text, 1.0))
        return loras

    def load(self) -> Any:
        """The pipeline."""
        return load_pipeline(
            self.model,
            self.progress,
            config=self.config,
            dtype=self.dtype,
            device=self.device,
            scheduler=self.scheduler,
            loras=self.loras,
            offload=self.offload,
            vae_tiling=self.vae_tiling,
        )


@dataclass(frozen=True, kw_only=True)
class Calling(Machine, Pictures):
    """What a call of the pipeline takes besides."""

    negative_prompt: str | None = calling(None, metavar="TEXT", help="What not to generate.")

    def call(self, pipe: Any) -> dict[str, Any]:
        """The arguments of the pipeline's call that were given; it has its own defaults for the others.

        Raises BadInput where the pipeline does not take one, or not such a value.
        """
        from seedbed.pipelines.arguments import typed

        call = {
            "negative_prompt": self.negative_prompt,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "num_frames": self.frames,
            "height": self.height,
            "width": self.width,
        }
        given = {name: value for name, value in call.items() if value is not None}
        return typed(pipe, self.texts, given)


@dataclass(frozen=True, kw_only=True)
class Run(Calling, Inputs):
    """What choosing a noise takes besides."""

    unconditional: bool = calling(False, "--unconditional", help="The prompt may be empty.", is_eager=True)
    batch_size: int | None = running(
        None, min=1, help="Candidates per forward (else as many as fit; one for previews)."
    )

    def subject(self, prompt: str | None) -> str:
        """The prompt; without one, for pipelines that take none, "from" and the name of what is given.

        Files are named after it, which then are not that picture or what lies beside it.

        Raises BadInput where there is neither.
        """
        if prompt is not None:
            return prompt
        texts = self.texts
        if not texts:
            raise BadInput("say what to generate: give a PROMPT, or --image FILE to a model that takes none")
        return f"from {Path(texts.get('image') or texts.get('video') or 'arguments').stem}"

    def arguments(self, pipe: Any) -> dict[str, Any]:
        """What all of `seedbed.select`, `generate`, `score` and `contact_sheet` take; errors as `call`."""
        call = self.call(pipe)
        return {"batch_size": self.batch_size or "auto", "progress": self.progress, "call": call}


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file that are not blank; BadInput where there is none."""
    texts = [line.strip() for line in read_text(path, "the prompts").splitlines() if line.strip()]
    if not texts:
        raise BadInput(f"{path} has no prompt: write one on each line")
    return texts


def whole_numbers(option: str, text: str) -> list[int]:
    """Numbers from a text with commas; BadInput names the option."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"cannot read {option} {text}: write whole numbers with commas, as in 0,1,3") from None
