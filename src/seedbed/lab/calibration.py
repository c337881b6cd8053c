"""Which choice of the noise helps on this model, measured on prompts and by a verifier of your own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seedbed import __version__
from seedbed.errors import BadInput
from seedbed.files import write_bytes_atomically
from seedbed.lab import races, statistics
from seedbed.lab.choice import Findings, findings, previewing
from seedbed.lab.evidence import Evidence
from seedbed.lab.measuring import label, measured, weights_sha256
from seedbed.lab.showing import figures_of, table_of
from seedbed.lab.store import Row, Store
from seedbed.lab.tables import Figure, Table, cell_text
from seedbed.lab.verifiers import Ratings, resolve
from seedbed.probe import Probe
from seedbed.selection.acquisitions import Acquisition, create
from seedbed.selection.acquisitions import resolve as acquisition_named
from seedbed.selection.batches import BatchSize
from seedbed.selection.judging import Verifier, named
from seedbed.selection.origin import Model, package_versions, recordable
from seedbed.selection.pool import recipes_for
from seedbed.selection.profile import VERIFIERS, Profile, save_profile
from seedbed.selection.progress import Progress, reporting

# Raised whenever the rows would come out differently.
VERSION = 1
SCHEMA = "seedbed.calibration/1"
FUNCTIONS = ("entropy", "bansa", "bansa:place=logits", "bansa:estimator=masked")
LEAST_PROMPTS, LEAST_NOISES = 8, 4


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """What `calibrate` found.

    Attributes:
        profile: the choice, its evidence and the learned predictor, as `select(profile=...)` takes it.
        findings: what every signal is worth, and how the layers agree.
        evidence: all signals and outcomes, (prompts, noises) each.
    """

    profile: Profile
    findings: Findings
    evidence: Evidence = field(repr=False)

    def __repr__(self) -> str:
        prompts, noises = self.evidence.outcome().shape
        return f"<Calibration: {self.profile.acquisition.name}, on {prompts} prompts x {noises} noises>"

    @property
    def random(self) -> statistics.Interval:
        """Outcome of a random noise."""
        return statistics.bootstrap(statistics.random(self.evidence.outcome()))

    @property
    def oracle(self) -> statistics.Interval:
        """Outcome of the best noise of each prompt's pool: what a perfect choice would bring."""
        return statistics.bootstrap(statistics.oracle(self.evidence.outcome()))

    @property
    def table(self) -> Table:
        """Every signal at its better end, largest gain first."""
        return table_of(self.findings)

    @property
    def figures(self) -> list[Figure]:
        """The gains at both ends of every signal, and ANSE's correlations by depth for every function."""
        return figures_of(self.findings)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the profile as JSON; into a folder as `seedbed-profile.json`, where "auto" finds it.

        Raises:
            BadInput: a path that cannot be written.
        """
        return save_profile(self.profile, path)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained HTML page: the choice, the table and the figures.

        Raises:
            BadInput: a path that cannot be written.
        """
        from seedbed.lab.page import document

        about = self.profile.calibrated
        facts = {
            "choice": self.profile.acquisition.name,
            "a random noise": cell_text(self.random),
            "the best of the pool": cell_text(self.oracle),
            "prompts": str(about["prompts"]),
            "noises of each": str(about["noises"]),
            "seed": str(about["seed"]),
            "verifier": about["verifier"],
            "model": about["model"] or "built in memory",
            "call": ", ".join(f"{name}={value}" for name, value in about["call"].items()),
        }
        lead = f"{self.profile.why[0].upper()}{self.profile.why[1:]}."
        page = document("Calibration", lead, facts, [self.table, *self.figures])
        return write_bytes_atomically(path, page.encode())


def calibrate(
    pipe: Any,
    prompts: Sequence[str],
    noises: int = 16,
    *,
    verifier: str | os.PathLike[str] | Verifier | Ratings,
    seed: int = 0,
    steps: Sequence[int] = (0, 1, 3, 6, 9),
    acquisitions: Sequence[str | Acquisition] = FUNCTIONS,
    batch_size: BatchSize = "auto",
    save: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress = True,
    **call: Any,
) -> Calibration:
    """Measure what every signal of a noise's first steps is worth on this model, and what to choose by.

    Every noise of every prompt is generated and judged, and its signals are read on the way: gains over a
    random noise, correlations within prompts and intervals over prompts follow. Half of the prompts, drawn by
    `seed`, fit a linear predictor, which is tested on the others. The profile's choice is what gained most of
    all that is sure: its correlation is significant within prompts after Holm's correction for everything
    that was tried, and the 95 % interval of its gain lies above 0. What is only seen after further steps
    counts where a pool of ten costs no more than one generation. Where nothing is sure, it is "random".
    The scores of BANSA's layers give a race: the cheapest that loses at most 5 % against the full score.

    Args:
        pipe: any diffusers pipeline that `select` takes.
        prompts: at least 8, all different; the more, the narrower the intervals.
        noises: for each prompt, at least 4. Noise i of prompt p is `NoiseRecipe(seed + p, candidate=i)`: no
            prompt shares its noises with another, so that prompts are independent.
        verifier: what judges the videos, higher is better: see `seedbed.lab.verifiers.resolve`.
        seed: of the noises, and of the split of the prompts.
        steps: after how many denoising steps signals are read, ascending from 0, which is t = T.
        acquisitions: functions to try at t = T, each at both ends, and down to ANSE's depth d*.
        batch_size: noises denoised together; "auto": all that fit in 2.5 million latent values.
        save: where to write the profile; see `Calibration.save`.
        cache: a folder for the rows measured so far, so that a calibration that was ended goes on; None is
            `save` with ".rows" at its end, or nowhere. It knows a callable by its name alone.
        progress: True for a bar on stderr, or a callable (what, done, total).
        call: further arguments of the pipeline's call.

    Raises:
        BadInput: too few prompts or noises, a prompt given twice, an argument that cannot be used, or a cache
            that belongs to another calibration.
        BadOutput: a signal or an outcome that is not finite.
        NotSupported: a pipeline that cannot be paused between steps.
    """
    _check(prompts, noises, steps)
    judge = resolve(verifier)
    whole_call = Probe(pipe, prompts[0], **call).call
    functions = {label(given): acquisition_named(given) for given in acquisitions}
    model = Model.of(pipe)
    about = {
        "schema": SCHEMA,
        "version": VERSION,
        "model": model.model,
        "weights": weights_sha256(pipe),
        "scheduler": model.scheduler,
        "call": recordable(whole_call)[0],
        "steps": list(steps),
        "functions": {name: {"name": f.name, **recordable(f.options())[0]} for name, f in functions.items()},
        "verifier": _described(judge) if callable(verifier) or isinstance(judge, Ratings) else str(verifier),
    }
    if save is not None:
        save = Path(save)
        cache = cache or save.with_name(save.name + ".rows")
    with reporting(progress) as show:
        rows: list[Row] = []
        with _Cache.at(cache, about) as kept:
            for number, prompt in enumerate(prompts):
                show("prompts", number, len(prompts))
                known = kept.rows(prompt, seed + number, noises)
                if known is None:
                    probe = Probe(pipe, prompt, **call)
                    recipes = recipes_for(probe, noises, seed + number)
                    table = measured(probe, recipes, judge, steps, functions, batch_size)
                    known = [
                        {"prompt": prompt, "seed": recipe.seed, "candidate": recipe.candidate}
                        | {name: float(values[i]) for name, values in table.items()}
                        for i, recipe in enumerate(recipes)
                    ]
                    kept.append(known)
                rows += known
            show("prompts", len(prompts), len(prompts))
    evidence = _evidence(rows, noises)
    found = findings(evidence, functions, seed)
    calibrated = {key: about[key] for key in ("model", "weights", "call", "verifier", "steps")} | {
        "prompts": len(prompts),
        "noises": noises,
        "seed": seed,
        "seedbed": __version__,
        "versions": package_versions(),
    }
    preview = previewing(evidence, verifier) if isinstance(verifier, str) and verifier in VERIFIERS else None
    # Of the published score: it is what is raced where nothing else is asked for.
    bansa = next((name for name, function in functions.items() if function == create("bansa")), None)
    race = None if bansa is None else races.fitted(races.scores_of(evidence.columns, f"0/{bansa}"))
    profile = dataclasses.replace(found.profile, preview=preview, calibrated=calibrated, race=race)
    calibration = Calibration(profile, found, evidence)
    if save is not None:
        calibration.save(save)
    return calibration


def _check(prompts: Sequence[str], noises: int, steps: Sequence[int]) -> None:
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise BadInput("prompts must be a list of texts")
    if len(prompts) < LEAST_PROMPTS:
        raise BadInput(
            f"{len(prompts)} prompts are too few to calibrate on: give at least {LEAST_PROMPTS}, better 50"
        )
    twice = [prompt for prompt in set(prompts) if list(prompts).count(prompt) > 1]
    if twice:
        raise BadInput(f"the prompt {twice[0]!r} is given twice: leave one out")
    if isinstance(noises, bool) or not isinstance(noises, int) or noises < LEAST_NOISES:
        raise BadInput(f"noises must be a whole number of at least {LEAST_NOISES}, not {noises!r}")
    if not steps or steps[0] != 0:
        raise BadInput(f"steps must begin with 0, where acquisition functions look, not {list(steps)}")


def _described(judge: Verifier | Ratings) -> str:
    """What a cache and a profile call a verifier; other ratings are another verifier."""
    if not isinstance(judge, Ratings):
        return named(judge)
    digest = hashlib.sha256(repr(sorted(judge.ratings.items())).encode()).hexdigest()
    return f"ratings {digest[:12]} of {len(judge.ratings)} videos"


def _evidence(rows: Sequence[Row], noises: int) -> Evidence:
    prompts = tuple(row["prompt"] for row in rows[::noises])
    names = [name for name, value in rows[0].items() if isinstance(value, float)]
    lacking = [name for name in names if any(name not in row for row in rows)]
    if lacking:
        raise BadInput(f"not every prompt shows the signal {lacking[0]}: calibrate with one kind of call")
    table = np.array([[row[name] for name in names] for row in rows]).reshape(len(prompts), noises, -1)
    return Evidence(prompts, {name: table[..., i] for i, name in enumerate(names)})


class _Cache:
    """Rows of finished prompts in a folder, or nowhere."""

    def __init__(self, store: Store | None, known: Mapping[str, Row]) -> None:
        self.store, self.known = store, known

    @classmethod
    @contextmanager
    def at(cls, folder: str | os.PathLike[str] | None, about: Mapping[str, Any]) -> Iterator[_Cache]:
        """Open the folder for this calibration alone; BadInput if its rows are those of another."""
        if folder is None:
            yield cls(None, {})
            return
        store = Store(folder)
        text = json.dumps(about, sort_keys=True, indent=1, default=str) + "\n"
        with store.writing():
            if not store.recipe.exists():
                write_bytes_atomically(store.recipe, text.encode())
            elif store.recipe.read_text() != text:
                raise BadInput(
                    f"{folder} holds rows of another calibration (model, call, steps, functions or verifier "
                    "differ): remove it, or give another cache"
                )
            yield cls(store, {row["key"]: row for row in store.rows()})

    def rows(self, prompt: str, seed: int, noises: int) -> list[Row] | None:
        """The rows of a prompt, if all of them are there."""
        found = [self.known.get(_key(prompt, seed, candidate)) for candidate in range(noises)]
        return None if None in found else [row for row in found if row is not None]

    def append(self, rows: Sequence[Row]) -> None:
        """Keep the rows of one more prompt."""
        if self.store is not None:
            self.store.append([{"key": _key(r["prompt"], r["seed"], r["candidate"]), **r} for r in rows])


def _key(prompt: str, seed: int, candidate: int) -> str:
    return hashlib.sha256(json.dumps([prompt, seed, candidate]).encode()).hexdigest()
