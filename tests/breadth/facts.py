"""What running a family's tiny version shows: one row of the table in `docs/pipelines.md`."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial

import diffusers

from seedbed.errors import SeedbedError
from seedbed.refinement import REFINERS
from tests.breadth import runs
from tests.pipelines import Family

# What a cell of a refiner or an adaptation says of the lines with which it is refused; the page explains.
SHORT = {
    "the scheduler is given samples of shape": "other frames in its steps",
    "with all of": "other frames in its steps",
    "adds its noise to what it is given": "noise added",
    "is called without a prompt": "no prompt",
    "which axes hold height and width": "axes unknown",
    "takes no prompt": "no prompt",
    "must be a prompt that is not blank": "no prompt",
    "does the video attend to itself": "no such layer",
    "no video takes part": "no such layer",
    "the rows of the prompt cannot be told": "rows unknown",
    "so which of them have the prompt": "rows unknown",
    "for the rows of the prompt alone": "rows unknown",
}
ATTENTION = ("study", "maps", "enhance", "guide", "edit")
KINDS = ("joint", "self", "cross", "temporal")


@dataclass(frozen=True)
class Facts:
    """The columns of the table, in its order."""

    pipeline: str
    class_name: str
    attention: str
    latents: str
    frame_axis: str
    noise: str
    seed: str
    guidance: str
    scored: str
    selection: str
    previews: str
    replay: str
    refiners: tuple[str, ...]
    adaptations: tuple[str, ...]
    diffusers: str

    def cells(self) -> list[str]:
        cells = asdict(self)
        last = [cells.pop(name) for name in ("refiners", "adaptations", "diffusers")]
        return [*cells.values(), *last[0], *last[1], last[2]]


@cache
def facts(family: Family) -> Facts:
    """Raises `tests.pipelines.family.Missing` where the installed diffusers is too old for the family."""
    name = type(runs.pipeline(family)).__name__
    selection = answer(lambda: runs.generation(family) and None)
    known = dict.fromkeys(("attention", "latents", "frame_axis", "noise", "seed", "guidance", "scored"), "–")
    if selection == "yes":
        known = seen(family)
    return Facts(
        pipeline=family.name,
        class_name=f"`{name}`",
        **known,
        selection=selection,
        previews=answer(lambda: runs.previewed(family) and None),
        replay=answer(lambda: None if runs.replayed(family).identical else "other frames"),
        refiners=refiners(family) if selection == "yes" else ("–",) * len(REFINERS),
        adaptations=adaptations(family) if selection == "yes" else ("–",) * len(ATTENTION),
        diffusers=diffusers.__version__,
    )


def seen(family: Family) -> dict[str, str]:
    """The columns of a pipeline whose noise can be selected."""
    session = runs.session(family)
    spec = session.spec
    counts = Counter(layer.kind for layer in session.layers)
    if family.kind == "image":
        axis = "none"
    elif spec.frame_axis is None:
        found = session.drawn.frame_axis
        axis = "within the tokens" if found is None else f"{found + 1} before packing"
    else:
        axis = str(spec.frame_axis + 1)
    return dict(
        attention=", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind]),
        latents=f"`{spec.layout}`",
        frame_axis=axis,
        noise="`latents=`" if runs.takes_the_noise(family) else "through `seedbed.generate`",
        seed=answer(lambda: runs.seeded(family)),
        guidance=session.guidance,
        scored=scored(family),
    )


def refiners(family: Family) -> tuple[str, ...]:
    """For each of `REFINERS`: "yes", or why not, in short."""
    found = {name: answer(lambda name=name: runs.refined(family, name)) for name in REFINERS}
    working = [name for name, cell in found.items() if cell == "yes"]
    if not runs.the_same_at_strength_0(family, working):
        found |= dict.fromkeys(working, "other frames at strength 0")
    return tuple(map(short, found.values()))


def adaptations(family: Family) -> tuple[str, ...]:
    """For each of `ATTENTION`: "yes", or why not, in short."""
    looks = {"study": runs.studied, "maps": runs.mapped, "edit": runs.edited}
    asked = {**{name: partial(runs.adapted, name=name) for name in runs.ACTING}, **looks}
    return tuple(short(answer(lambda run=asked[name]: run(family))) for name in ATTENTION)


def short(cell: str) -> str:
    return next((told for part, told in SHORT.items() if part in cell), cell)


def scored(family: Family) -> str:
    """The kinds of attention whose score differs between noises, and those whose does not."""
    kinds = {layer.name: layer.kind for layer in runs.session(family).layers}
    varies: dict[str, bool] = {}
    columns = runs.scores_one_by_one(family).std(0)
    for name, deviation in zip(runs.generation(family).selection.layers, columns.tolist(), strict=True):
        kind = kinds[name]
        varies[kind] = varies.get(kind, False) or deviation > 0
    told = ", ".join(kind for kind in KINDS if varies.get(kind))
    same = ", ".join(kind for kind in KINDS if varies.get(kind) is False)
    return f"{told}; {same} scores all noises the same" if same else told


def answer(run: Callable[[], str | None]) -> str:
    """ "yes", what the run returns instead, or the line with which it is refused."""
    try:
        return run() or "yes"
    except SeedbedError as error:
        return str(error)
