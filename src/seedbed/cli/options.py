"""The options that several commands share: what each says in --help, once."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Dtype(str, Enum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


CHOICE, PREVIEW, CALL = "Which noise", "Choosing by previews", "The pipeline's call"
MACHINE, OUTPUT = "Model and machine", "Output"

Prompt = Annotated[str, typer.Argument(help="What to generate.", show_default=False)]
Candidates = Annotated[
    int, typer.Option(min=1, help="How many noises to choose from.", rich_help_panel=CHOICE)
]
Seed = Annotated[
    int, typer.Option(help="Of the candidates: noise i of a seed never changes.", rich_help_panel=CHOICE)
]
Acquisition = Annotated[
    str,
    typer.Option(
        help="Score by random, entropy, bansa, bansa-dropout, reversed, or auto: the winner of the model's "
        "calibration where one lies beside it, else bansa. Options follow a colon: bansa:place=logits.",
        rich_help_panel=CHOICE,
    ),
]
Profile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Choose as this profile of `seedbed calibrate` says (else as the one beside the model).",
        show_default=False,
        rich_help_panel=CHOICE,
    ),
]
Keep = Annotated[
    float | None,
    typer.Option(help="Keep probability of bansa's masks, in (0, 1] (else 0.2).", rich_help_panel=CHOICE),
]
Masks = Annotated[
    int | None,
    typer.Option(min=2, help="Number of bansa's masks, at least 2 (else 10).", rich_help_panel=CHOICE),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        help="Attention layers to score: self, cross, joint, temporal or a glob on the name; repeatable "
        "(else all).",
        show_default=False,
        rich_help_panel=CHOICE,
    ),
]
Depth = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Stop scoring after this many attention layers (else after the last scored one).",
        rich_help_panel=CHOICE,
    ),
]
Race = Annotated[
    str,
    typer.Option(
        metavar="L:N,...",
        help="Drop the worst while the layers run: 3:5,6:1 keeps 5 after 3 layers and 1 after 6; off; or "
        "auto, the calibrated race, else a default for models of 12 or more layers.",
        rich_help_panel=CHOICE,
    ),
]
Verifier = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What judges previews: shapes, clip:FOLDER or aesthetic:FOLDER.",
        show_default=False,
        rich_help_panel=PREVIEW,
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Denoising steps.", rich_help_panel=CALL)]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance scale.", rich_help_panel=CALL)]
Frames = Annotated[int | None, typer.Option(min=1, help="Number of frames.", rich_help_panel=CALL)]
Height = Annotated[int | None, typer.Option(min=1, help="Pixels.", rich_help_panel=CALL)]
Width = Annotated[int | None, typer.Option(min=1, help="Pixels.", rich_help_panel=CALL)]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Folder of a diffusers pipeline, its name on the Hugging Face Hub, or an embedded model's (else "
        "shapes-cogvideox).",
        rich_help_panel=MACHINE,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(min=1, help="Candidates per forward (else as many as fit).", rich_help_panel=MACHINE),
]
Precision = Annotated[
    Dtype | None,
    typer.Option(help="Of the weights (else float32 on a CPU, bfloat16 on a GPU).", rich_help_panel=MACHINE),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda or cuda:1 (else cuda where there is one).", rich_help_panel=MACHINE),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout, nothing else.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.", rich_help_panel=OUTPUT)]
