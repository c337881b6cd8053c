"""The commands of the lab: experiments, calibration of a model, audits of verifiers."""

import dataclasses
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from typer import Argument, Option, Typer

from seedbed.cli import options as opt
from seedbed.cli.commands import drawn, grouped, resumable, silence_libraries
from seedbed.cli.outputs import checked, print_json, write_together
from seedbed.errors import BadInput
from seedbed.files import write_bytes_atomically

if TYPE_CHECKING:
    from seedbed.lab.presentation import Table

lab = Typer(
    help="Experiments: which signal chooses well, how surely, at what cost.",
    no_args_is_help=True,
)

_SHARES = {
    "prompt": "the prompt, whatever the noise",
    "noise": "the noise, whatever the prompt",
    "both": "both together",
    "within": "all that noises of one prompt differ in",
}
verifier = Typer(help="Look at what judges videos.", no_args_is_help=True)
FOLDER = Argument(metavar="DIR", help="Folder of a run.")


@lab.command()
@grouped
def run(
    recipe: Path = Argument(metavar="RECIPE", help="JSON file that says what to run."),
    out: Path | None = Option(None, metavar="DIR", help="Folder of the run (else runs/NAME of the recipe)."),
    workers: int | None = Option(None, min=1, help="Processes that share the work (else 1)."),
    cluster: str | None = Option(
        None, metavar="ADDRESS", help="Of a dask scheduler, whose workers do the work."
    ),
    quiet: bool = opt.QUIET,
) -> None:
    """Run a recipe; run it again to go on after an interruption."""
    if workers and cluster:
        raise BadInput("--workers is for work on this machine, a --cluster has its own: leave one out")
    from seedbed.lab.experiment import Recipe
    from seedbed.lab.work import run as work

    content = Recipe.load(recipe)
    folder = out or Path("runs") / content.name
    with resumable(not quiet and sys.stderr.isatty(), folder) as show:
        rows = work(content, folder, workers or 1, lambda done, total: show("rows", done, total), cluster)
    print(f"{len(rows)} rows in {folder / 'rows.jsonl'}")


@lab.command()
@grouped
def table(folder: Path = FOLDER) -> None:
    """Print the tables of a run."""
    for found in _found(folder)[2]:
        print(f"\n{found.title}\n\n{found.to_text()}")
        if found.note:
            print(f"\n{found.note}")


@lab.command()
@grouped
def report(folder: Path = FOLDER) -> None:
    """Write the tables of a run, with their intervals drawn, as one HTML page, report.html in its folder."""
    from seedbed.lab.presentation import page

    recipe, rows, found = _found(folder)
    path = write_bytes_atomically(folder / "report.html", page(recipe, rows, found).encode())
    print(f"report  {path}")


@lab.command()
@grouped
def export(
    videos: list[Path] = Argument(
        None, metavar="[VIDEO]...", help="Videos that carry their record, or folders of them."
    ),
    vbench: Path = Option(..., metavar="DIR", help="Folder that VBench reads."),
) -> None:
    """Copy videos to a folder as VBench names them, PROMPT-INDEX.mp4; show its results once it has run."""
    from seedbed.lab.vbench import command, results
    from seedbed.lab.vbench import export as copy

    if videos:
        print(f"videos  {len(copy(videos, vbench))} in {vbench}")
    found = results(vbench)
    print(f"{found.to_text()}\n\n{found.note}" if found else f"\nTo evaluate them:\n{command(vbench)}")


def _found(folder: Path) -> "tuple[Any, list[dict[str, Any]], list[Table]]":
    """The recipe of a run, the rows of its finished prompts, and their tables."""
    from seedbed.lab.experiment import Recipe
    from seedbed.lab.presentation import tables_of, whole_prompts
    from seedbed.lab.work import Store

    store = Store(folder)
    if not store.recipe.is_file():
        raise BadInput(f"{folder} is not the folder of a run: it has no recipe.json")
    recipe = Recipe.load(store.recipe)
    rows = store.rows()
    whole = whole_prompts(recipe, rows)
    found = tables_of(recipe.task, whole)
    prompts, asked = len({row["prompt"] for row in whole}), len(recipe.captions())
    if prompts < asked:
        print(f"unfinished: {prompts} of {asked} prompts are finished", file=sys.stderr)
    return recipe, whole, found


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


@verifier.command()
@grouped
def audit(
    *,
    name: str = Argument(
        metavar="NAME",
        help="shapes, digits, artifacts, clip:FOLDER, reward:FOLDER, vlm:FOLDER, several by +.",
    ),
    world: Literal["shapes", "digits"] | None = Option(
        None, help="Sound videos are held-out ones of this world."
    ),
    videos: Path | None = Option(
        None, metavar="PATH", help="Sound videos with captions NAME.txt beside them, or a .jsonl list."
    ),
    frames: int | None = Option(None, min=6, help="Of each of --videos (else 9)."),
    fps: float | None = Option(None, min=0.01, max=1000, help="At which --videos are read (else 8)."),
    height: int | None = Option(None, min=8, help="Of --videos, pixels (else 256)."),
    width: int | None = Option(None, min=8, help="Of --videos, pixels (else 256)."),
    count: int = Option(60, min=8, help="At most so many videos."),
    seed: int = opt.seed_of("the videos of a world, and of what is made wrong with them", Option),
    out: Path | None = opt.writing(None, metavar="FILE.html", help="Page to write."),
    as_json: bool = opt.AS_JSON,
) -> None:
    """Tell whether a verifier orders sound videos before wrong ones, before you trust it.

    Another prompt, no motion, shuffled or reversed frames, noise and seven more faults, each against the
    sound video; and whether a sound one still wins at another frame rate or size.
    """
    if (videos is None) == (world is None):
        raise BadInput("say which videos are sound: either --world NAME or --videos PATH")
    if world is not None and any((frames, fps, height, width)):
        raise BadInput(
            "the videos of a world have their length, rate and size: leave --frames, --fps, --height and "
            "--width out"
        )
    path = out and checked(out, ".html")
    silence_libraries()
    from seedbed.lab.audit import audit as hold
    from seedbed.lab.audit import moving
    from seedbed.lab.presentation import document
    from seedbed.verifiers import resolve

    judge = resolve(name)
    if world is not None:
        clips = moving(world, count, seed)
    else:
        from seedbed.training.config import Videos
        from seedbed.training.data import FileClips

        asked = Videos(videos=str(videos), fps=fps or 8, height=height or 256, width=width or 256)
        found, clips = FileClips.of(asked, frames or 9), []
        unused = [found.complaint()]
        for number in found.firsts():
            if len(clips) == count:
                break
            try:
                clips.append((found.read(number, found.frames, 0.0), found.caption(number)))
            except BadInput as problem:
                unused.append(str(problem))
        if complaint := "; ".join(filter(None, unused)):
            print(f"warning: not used: {complaint}", file=sys.stderr)
    table = hold(judge, clips, seed).table
    facts = {"verifier": name, "videos": f"{len(clips)} of {world or videos}", "seed": str(seed)}
    lead = f"{name} on {len(clips)} videos of {world or videos}, seed {seed}."
    if path:
        write_bytes_atomically(path, document("Audit of a verifier", lead, facts, [table]).encode())
    if as_json:
        lines = {
            str(trap): {"right": [*share], "equal": equal}  # type: ignore[misc]
            for trap, share, equal, _ in table.rows
        }
        print_json({"page": path} if path else {}, verifier=name, videos=len(clips), seed=seed, traps=lines)
        return
    print(f"{lead}\n\n{table.to_text()}\n\n{table.note}" + (f"\n\npage    {path}" if path else ""))


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
