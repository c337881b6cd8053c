"""Edits of one attribute of one of two objects, by every method of the plan in README.md; resumable.

`python recipes/editing/editing.py MODEL --out FILE.jsonl` appends a line for each edit and skips those
that are there; editing_page.py makes the results and the page of them.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedbed.adaptation.editing import flow_edited, injecting
from seedbed.adaptation.layout import layers_named
from seedbed.adaptation.trajectory import Trajectory, generated, inverted
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.encoding import Rehearsal
from seedbed.pipelines.loading import load
from seedbed.pipelines.session import Session
from seedbed.pipelines.timesteps import levels_of
from seedbed.worlds import shapes, verifier
from seedbed.worlds.shapes import Thing

CHANGES = ("colour", "shape", "motion")
INJECTED = {"low": ("entropy:low", 0.8), "low-40": ("entropy:low", 0.4), "high": ("entropy:high", 0.8)}
INJECTED |= {"all": ("all", 0.8)}
TRIES = 8  # noises for a source of the model's own
OFF = 1.0  # the guidance scale without guidance

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """A caption, and what its first object shall be."""

    number: int
    change: str
    before: Thing
    after: Thing
    other: Thing

    @property
    def source(self) -> str:
        """The caption."""
        return shapes.caption([self.before, self.other])

    @property
    def target(self) -> str:
        """The caption that the edit shall fit."""
        return shapes.caption([self.after, self.other])


def cases(count: int) -> list[Case]:
    """The first cases of the plan."""
    found = []
    for number, text in enumerate(shapes.captions(count, objects=2, seed=16, held=True)):
        thing, other = shapes.parse(text)
        change = CHANGES[number % 3]
        values = {
            "colour": [each for each in shapes.COLOURS if each not in (thing.colour, other.colour)],
            "shape": [each for each in shapes.SHAPES if each != thing.shape],
            "motion": [each for each in shapes.MOTIONS if each not in (thing.motion, "staying still")],
        }[change]
        value = str(np.random.default_rng(number).choice(values))
        found.append(Case(number, change, thing, replace(thing, **{change: value}), other))
    return found


def outcome(case: Case, edit: Frames, source: Frames) -> dict[str, float]:
    """What the plan asks of an edit."""
    (reading,) = verifier.read(edit[None])
    seen = {thing.colour: thing for thing in reading.objects}
    other = seen.get(case.other.colour)
    # An object that kept its old colour has kept the rest all the same.
    changed = seen.get(case.after.colour) or seen.get(case.before.colour)
    followed = getattr(changed, case.change, None) == getattr(case.after, case.change)
    if case.change == "colour":
        followed = followed and case.before.colour not in seen
    rest = [
        getattr(changed, each, None) == getattr(case.after, each) for each in CHANGES if each != case.change
    ]
    rest += [getattr(other, each, None) == getattr(case.other, each) for each in CHANGES]
    rest.append(reading.pieces == len(reading.objects) == 2)
    # Where neither video shows the changed object.
    shown = [of_colour(edit, case.after.colour) | of_colour(edit, case.before.colour)]
    shown += [of_colour(source, case.before.colour)]
    apart = np.abs(edit.astype(float) - source).mean(-1)[~np.logical_or(*shown)]
    return {
        "followed": float(followed),
        "kept": float(np.mean(rest)),
        "all_kept": float(all(rest)),
        "both": float(followed and all(rest)),
        "outside": float(apart.mean()),
    }


def of_colour(frames: Frames, colour: str) -> NDArray[np.bool_]:
    """Pixels (frames, height, width) that are nearest in direction to a colour, and not background."""
    palette = np.array(list(shapes.COLOURS.values()), dtype=np.float64)
    unit = palette / np.linalg.norm(palette, axis=1, keepdims=True)
    bright = np.linalg.norm(frames.astype(float), axis=-1) > verifier.FAINT * np.linalg.norm(
        palette[[*shapes.COLOURS].index(colour)]
    )
    nearest: NDArray[np.bool_] = (frames @ unit.T).argmax(-1) == [*shapes.COLOURS].index(colour)
    return bright & nearest


def right(frames: Frames, caption: str) -> bool:
    """Whether the verifier finds a video all right."""
    return bool(verifier.attributes(frames[None], [caption])["all_right"])


def own(session: Session, case: Case) -> tuple[Trajectory | None, dict[str, float]]:
    """The model's own source: of the first noise whose video is right, None where none is."""
    for candidate in range(TRIES):
        noise = NoiseRecipe(case.number, candidate, tuple(session.spec.shape)).draw()
        found = generated(session, noise)
        if right(found.frames, case.source):
            return found, {"noise": candidate}
    return None, {}


def rendered(session: Session, case: Case) -> tuple[Trajectory | None, dict[str, float]]:
    """The rendered source, inverted, and the error of its inversion; None where the scene has no place."""
    things = [case.before, case.other]
    rng = np.random.default_rng(case.number)
    scene = next(filter(None, (shapes.place(things, rng) for _ in range(100))), None)
    if scene is None:
        return None, {}
    found = inverted(session, shapes.render(scene))
    plain = Session(session.pipe, case.source, **{**session.call, "guidance_scale": OFF})
    again, kept = plain.generate(found.noise), Rehearsal(plain).frames(found.latents)  # type: ignore[arg-type]
    error = float(np.abs(again.astype(float) - kept).mean())
    about = {"error": error, "right": float(right(again, case.source)), "deviation": float(found.noise.std())}
    return found, about


SOURCES: dict[str, Callable[[Session, Case], tuple[Trajectory | None, dict[str, float]]]] = {
    "own": own,
    "rendered": rendered,
}


def edits(pipe: Any, case: Case, kind: str, skip: set[str], call: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A line for each method that is not to be skipped."""
    source, target = Session(pipe, case.source, **call), Session(pipe, case.target, **call)
    flow = levels_of(source)[0].flow
    methods = [*INJECTED, "none", "source", *["flowedit"] * flow]
    if skip >= {*methods} or "dropped" in skip:
        return
    line = {"case": case.number, "kind": kind, "change": case.change, "target": case.target}
    trajectory, about = SOURCES[kind](source, case)
    if trajectory is None:
        yield {**line, "method": "dropped"}
        return
    for method in methods:
        if method in skip:
            continue
        before = sum(target.ledger.entries.values())
        if method == "source":
            frames = trajectory.frames
        elif method == "flowedit":
            assert trajectory.latents is not None
            made = flow_edited(source, target, trajectory.latents, seed=case.number)
            frames = Rehearsal(target).frames(made)
        else:
            layers, stop = INJECTED.get(method, ("", 0.0))
            names = layers_named(target, layers) if layers else []
            target.acts = [injecting(target, source, trajectory, names, stop)] if names else []
            frames = target.generate(trajectory.noise)
            target.acts = []
        spent = sum(target.ledger.entries.values()) - before
        yield {**line, "method": method, **about, "nfe": spent, **outcome(case, frames, trajectory.frames)}


def run(model: str, out: Path, count: int, steps: int | None) -> None:
    """Makes the edits that are not yet in the file."""
    pipe = load(model, dtype="float32", device="cpu")
    call = {} if steps is None else {"num_inference_steps": steps}
    if out.exists() and not out.read_text().endswith("\n"):
        out.write_text(out.read_text() + "\n")  # after a line that was cut off
    done = defaultdict[tuple[int, str], set[str]](set)
    for line in lines(out):
        done[line["case"], line["kind"]].add(line["method"])
    for case in cases(count):
        for kind in SOURCES:
            for line in edits(pipe, case, kind, done[case.number, kind], call):
                with out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
        print(f"{case.number + 1} of {count}", flush=True)


def lines(path: Path) -> list[dict[str, Any]]:
    """The edits that are there; a last line that was cut off is left out."""
    found = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="name of an embedded model, or a folder")
    parser.add_argument("--out", type=Path, required=True, help="file of lines, appended to")
    parser.add_argument("--captions", type=int, default=24)
    parser.add_argument("--steps", type=int, help="denoising steps (else the model's)")
    given = parser.parse_args()
    run(given.model, given.out, given.captions, given.steps)
