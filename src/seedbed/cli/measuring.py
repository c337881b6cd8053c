"""The commands that measure a model: `seedbed calibrate`, `seedbed noise spread`, `seedbed noise fit`."""

import dataclasses
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from typer import Option

from seedbed.cli import options as opt
from seedbed.cli.commands import drawn, resumable
from seedbed.cli.outputs import checked, print_json, write_together
from seedbed.errors import BadInput

_SHARES = {
    "prompt": "the prompt, whatever the noise",
    "noise": "the noise, whatever the prompt",
    "both": "both together",
    "within": "all that noises of one prompt differ in",
}
# As many lines of the table as fit a terminal; the report has all.
_LINES = 12

World = Literal["shapes"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts:
    """What is generated: the prompts of a file, or captions of a world; and from which noises."""

    prompts: Path | None = Option(None, metavar="FILE", help="Text file with a prompt on each line.")
    world: World | None = Option(None, help="Take captions of this world instead.")
    count: int | None = Option(
        None, min=1, help="How many of the world's captions (else 80 to calibrate, 12 to tell a spread)."
    )

    seed: int = opt.seed_of("the noises; to calibrate, prompt number p has seed + p", Option)

    def drawn(self, first: str, folder: Path | None) -> int:
        """The seed; of -1 the one that the rows of a folder have, if it has any, else a random one; shown.

        Args:
            first: the first prompt, whose rows have the seed itself.
            folder: where an interrupted run has left its rows.
        """
        if self.seed == -1 and folder is not None:
            from seedbed.lab.work import Store

            seeds = [row["seed"] for row in Store(folder).rows() if row["prompt"] == first and "seed" in row]
            if seeds:
                print(f"seed    {seeds[-1]}", file=sys.stderr)
                return int(seeds[-1])
        return drawn(self.seed)

    def read(self, usual: int) -> list[str]:
        """The prompts; of a world `count`, else as many as are usual."""
        if (self.prompts is None) == (self.world is None):
            raise BadInput("say which prompts to take: either --prompts FILE or --world shapes")
        if self.prompts is None:
            from seedbed.worlds.shapes import captions

            # Captions that training knows: the held-out ones stay fresh for whoever tests the choice.
            return captions(self.count or usual, objects=2, seed=0, held=False)
        if self.count is not None:
            raise BadInput("--count is for --world, a file has as many prompts as it has: leave one out")
        return opt.read_prompts(self.prompts)


def calibrate(
    *,
    texts: Prompts,
    verifier: str | None = Option(
        None,
        help="What judges the videos: shapes, artifacts, clip:FOLDER, reward:FOLDER, vlm:FOLDER or several "
        "(else the world's own).",
    ),
    ratings: Path | None = Option(
        None,
        metavar="FILE.csv",
        help="Ratings by people instead: columns prompt, seed, candidate, rating.",
    ),
    acquisition: list[str] | None = Option(
        None,
        metavar="NAME",
        help="Acquisition function to try at t = T, options after a colon; repeatable (else entropy and "
        "bansa in three variants).",
    ),
    noises: int = Option(16, help="Noises of each prompt, at least 4."),
    after: str = Option(
        "0,1,3,6,9",
        metavar="S,S,...",
        help="Denoising steps after which signals are read; 0 is none.",
    ),
    out: Path = opt.writing(Path("seedbed-profile.json"), metavar="FILE.json", help="Profile to write."),
    report: bool = opt.REPORT,
    run: opt.Run,
) -> None:
    """Measure which choice of the noise helps on a model, and write it down as a profile.

    Generates and judges every noise of every prompt. Interrupted, it goes on where it was when run again:
    what is measured so far lies in FILE.json.rows. A profile named seedbed-profile.json in the folder of the
    model is what generate, select and score follow; elsewhere, name it with --acquisition.
    """
    path = checked(out, ".json", beside=(".html",) if report else ())
    captions, judge = texts.read(80), _judge(verifier, ratings, texts.world)
    moments, rows = opt.whole_numbers("--after", after), Path(f"{path}.rows")
    seed = texts.drawn(captions[0], rows)
    pipe = run.load()
    from seedbed.lab.calibration import FUNCTIONS
    from seedbed.lab.calibration import calibrate as measure
    from seedbed.lab.presentation import cell_text

    with resumable(run.progress, rows) as progress:
        found = measure(
            pipe,
            captions,
            noises,
            verifier=judge,
            seed=seed,
            steps=tuple(moments),
            acquisitions=acquisition or FUNCTIONS,
            batch_size=run.batch_size or "auto",
            cache=rows,
            progress=progress,
            **run.call(pipe),
        )
        files = {"report": path.with_suffix(".html"), "profile": path}
        writers = {files["report"]: found.report, path: found.profile.save}
        if not report:
            del writers[files.pop("report")]
        write_together(writers)
    if run.as_json:
        print_json(files, profile=json.loads(path.read_bytes()))
        return
    print(f"random noise {cell_text(found.random)}, best of the pool {cell_text(found.oracle)}\n")
    print(found.table.to_text(_LINES))
    print(f"\nchoice  {found.profile.acquisition.name}: {found.profile.why}")
    for what, file in files.items():
        print(f"{what:<7} {file}")


def spread(
    *,
    texts: Prompts,
    noises: int = Option(8, help="Noises, the same for every prompt, at least 2."),
    cache: Path | None = opt.writing(
        None, metavar="DIR", help="Folder to keep what is made, so that an interrupted run goes on."
    ),
    run: opt.Run,
) -> None:
    """Tell how much of what differs between finished videos the noise decides, and how much the prompt.

    Generates a video from every noise for every prompt. Where the prompt decides nearly all, seeds look
    alike.
    """
    captions = texts.read(12)
    seed = texts.drawn(captions[0], cache)
    pipe = run.load()
    from seedbed.lab.presentation import cell_text
    from seedbed.lab.spread import spread as measure

    with resumable(run.progress, cache) if cache else nullcontext(run.progress) as progress:
        found = measure(pipe, captions, noises, seed=seed, cache=cache, progress=progress, **run.call(pipe))
    if run.as_json:
        print_json({}, **vars(found))
        return
    print(f"{found.prompts} prompts x {found.noises} noises; share of the variance between videos\n")
    for name, what in _SHARES.items():
        print(f"{what:<40} {cell_text(getattr(found, name))}")


def fit(
    *,
    videos: Path | None = Option(
        None, metavar="PATH", help="Folder of videos with captions NAME.txt beside them, or a .jsonl list."
    ),
    captions: bool = Option(True, help="The videos have captions."),
    fps: float = Option(8, min=0.01, max=1000, help="Frames per second at which the videos are read."),
    world: Literal["shapes", "digits"] | None = Option(
        None, help="Take rendered videos of this world instead."
    ),
    count: int = Option(50, min=1, help="At most so many videos."),
    seed: int = opt.seed_of("the world's videos, the controls and the intervals", Option),
    machine: opt.Machine,
) -> None:
    """Tell which prior suits an image model: how alike its noise is in the frames of a video.

    Frames are inverted by DDIM without guidance, --frames (16) of each video, in --steps (50). Train a video
    model of this image model under the prior that is printed.
    """
    if (videos is None) == (world is None):
        raise BadInput("say which videos to take: either --videos PATH or --world NAME")
    if machine.guidance_scale is not None:
        raise BadInput("frames are inverted without guidance: leave --guidance-scale out")
    from seedbed.lab.noise_maps import STEPS, analyse
    from seedbed.training.config import Videos
    from seedbed.training.config import World as WorldData

    data: Any
    if world is not None:
        if machine.height or machine.width:
            raise BadInput("the videos of a world have their size: leave --height and --width out")
        data = WorldData(world=world, count=count, seed=seed)
    else:
        height = machine.height or machine.width or 512
        width = machine.width or height
        data = Videos(videos=str(videos), fps=fps, height=height, width=width, captions=captions)
    found = analyse(
        machine.load(),
        data,
        machine.frames or (16 if world is None else 9),
        count,
        steps=machine.steps or STEPS,
        seed=seed,
        progress=machine.progress,
    )
    if found.complaint:
        print(f"warning: not used: {found.complaint}", file=sys.stderr)
    if machine.as_json:
        print_json({}, prior=found.prior, **dataclasses.asdict(found))
        return
    print(f"{found.table.title}\n\n{found.table.to_text()}\n\n{found.table.note}\n\nprior   {found.prior}")


def _judge(verifier: str | None, ratings: Path | None, world: World | None) -> Any:
    if verifier and ratings:
        raise BadInput("--verifier and --ratings cannot both judge: leave one out")
    if ratings:
        from seedbed.verifiers.ratings import Ratings

        return Ratings.load(ratings)
    name = verifier or world
    if not name:
        raise BadInput("say what judges the videos: --verifier NAME or --ratings FILE.csv")
    from seedbed.verifiers import resolve

    resolve(name)  # a mistake is one before the model is loaded
    return name
