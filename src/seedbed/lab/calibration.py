"""Which choice of the noise helps on this model, measured on prompts and by a verifier of your own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from seedbed import __version__
from seedbed.errors import BadInput
from seedbed.files import write_bytes_atomically
from seedbed.lab import statistics
from seedbed.lab.choice import Findings, findings, previewing
from seedbed.lab.evidence import Evidence
from seedbed.lab.experiment import Row
from seedbed.lab.measurement import measured
from seedbed.lab.presentation import Figure, Table, cell_text, document
from seedbed.lab.replays import fitted_race, scores_of
from seedbed.lab.store import Store
from seedbed.probe import Probe
from seedbed.selection.acquisitions import Acquisition, create
from seedbed.selection.acquisitions import resolve as acquisition_named
from seedbed.selection.batches import BatchSize
from seedbed.selection.origin import Model, package_versions, recordable
from seedbed.selection.pool import recipes_for
from seedbed.selection.profile import VERIFIERS, Profile, save_profile
from seedbed.selection.progress import Progress, reporting
from seedbed.selection.rows import ROWS
from seedbed.verifiers import Verifier, named, resolve
from seedbed.verifiers.ratings import Ratings

# Raised whenever the rows would come out differently.
VERSION = 1
SCHEMA = "seedbed.calibration/1"
FUNCTIONS = ("entropy", "bansa", "bansa:place=logits", "bansa:estimator=masked")
LEAST_PROMPTS, LEAST_NOISES = 8, 4
_COLUMNS = (
    *("steps done", "signal", "prefer", "gain", "share of the gap", "within-prompt Spearman", "p"),
    *("reliability", "NFE", "prompts"),
)


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
        tested, prompts = len(self.findings.tested), len(self.evidence.prompts)
        return Table(
            "What each signal is worth",
            _COLUMNS,
            [
                (
                    *verdict.signal.split("/", 1),
                    verdict.prefer,
                    verdict.gain,
                    verdict.share,
                    verdict.within,
                    verdict.adjusted,
                    verdict.reliability and verdict.reliability.mean,
                    verdict.evaluations,
                    tested if verdict.learned else prompts,
                )
                for verdict in sorted(self.findings.verdicts, key=lambda verdict: -verdict.gain.mean)
            ],
            "Gain: outcome of the chosen noise minus that of a random one. Intervals are 95 %, by a "
            "bootstrap over prompts. p: two-sided, by permutation within prompts, corrected for all signals "
            "(Holm). NFE: for each candidate. A signal named learned was fitted on the other prompts.",
        )

    @property
    def figures(self) -> list[Figure]:
        """The gains at both ends of every signal, and ANSE's correlations by depth for every function."""
        verdicts = self.findings.verdicts
        gains = {
            "highest chosen": [(verdict.signal, verdict.high) for verdict in verdicts],
            "lowest chosen": [(verdict.signal, verdict.low) for verdict in verdicts if not verdict.learned],
        }
        figures = [Figure("Gain over a random noise", gains, "steps done / signal", "gain")]
        for name, rules in self.findings.depths.items():
            for rule, what in (("full_score", "that of all layers"), ("quality", "the outcome")):
                found = rules[rule]
                reached = (
                    f"reaches 0.7 in size at layer {found['depth']}"
                    if found["depth"]
                    else "never reaches 0.7"
                )
                lines = {
                    kind: [
                        (i, statistics.Interval(r, math.nan, math.nan)) for i, r in enumerate(found[kind], 1)
                    ]
                    for kind in ("pooled", "within")
                }
                figures.append(
                    Figure(
                        f"{name}: correlation of the score down to a layer with {what}",
                        lines,
                        "attention layer",
                        "Pearson correlation",
                        f"Pooled over prompts, as published, it {reached}.",
                    )
                )
        return figures

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
        verifier: what judges the videos, higher is better: see `seedbed.verifiers.resolve`; or
            `Ratings` by people, or the path of a .csv file of them.
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
    judge: Verifier | Ratings
    if isinstance(verifier, Ratings):
        judge = verifier
    elif isinstance(verifier, (str, os.PathLike)) and os.fspath(verifier).lower().endswith(".csv"):
        judge = Ratings.load(verifier)
    else:
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
    # What reads an attention call without changing it rides along; the others need forwards of their own.
    riding = {name: function for name, function in functions.items() if _rides_along(function)}
    passes = {name: function for name, function in functions.items() if name not in riding}
    # The second set of masks says how much of a masked score is its own noise.
    again = {f"{name}.again": twin for name, function in riding.items() if (twin := redrawn(function))}
    rows: list[Row] = []
    with reporting(progress) as show, ExitStack() as stack:
        store = Store(cache or stack.enter_context(TemporaryDirectory()))
        stack.enter_context(store.writing())
        text = json.dumps(about, sort_keys=True, indent=1, default=str) + "\n"
        if not store.recipe.exists():
            write_bytes_atomically(store.recipe, text.encode())
        elif store.recipe.read_text() != text:
            raise BadInput(
                f"{cache} holds rows of another calibration (model, call, steps, functions or verifier "
                "differ): remove it, or give another cache"
            )
        known = {row["key"]: row for row in store.rows()}
        for number, prompt in enumerate(prompts):
            show("prompts", number, len(prompts))
            keys = [_key(prompt, seed + number, candidate) for candidate in range(noises)]
            if not known.keys() >= set(keys):
                probe = Probe(pipe, prompt, **call)
                recipes = recipes_for(probe, noises, seed + number)
                previews = not isinstance(judge, Ratings)
                table = measured(
                    probe, recipes, judge, steps, {0: {**riding, **again}}, passes, previews, batch_size
                )
                new = [
                    {"key": key, "prompt": prompt, "seed": recipe.seed, "candidate": recipe.candidate}
                    | {name: float(values[i]) for name, values in table.items()}
                    for i, (key, recipe) in enumerate(zip(keys, recipes, strict=True))
                ]
                store.append(new)
                known |= {row["key"]: row for row in new}
            rows += [known[key] for key in keys]
        show("prompts", len(prompts), len(prompts))
    evidence = Evidence.of(rows)
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
    race = None if bansa is None else fitted_race(scores_of(evidence.columns, f"0/{bansa}"))
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


def _key(prompt: str, seed: int, candidate: int) -> str:
    return hashlib.sha256(json.dumps([prompt, seed, candidate]).encode()).hexdigest()


def label(acquisition: str | Acquisition) -> str:
    """How an acquisition function is called in tables: as it was given, or its name and changed options."""
    if isinstance(acquisition, str):
        return acquisition
    values = acquisition.options()
    defaults = {f.name: f.default for f in dataclasses.fields(acquisition)} if values else {}  # type: ignore[arg-type]
    changed = [f"{name}={value}" for name, value in values.items() if value != defaults.get(name)]
    return acquisition.name + (":" + ",".join(changed) if changed else "")


def redrawn(function: Acquisition) -> Acquisition | None:
    """The same function with other masks and rows; None if its scores do not hang on what it draws."""
    options = function.options()
    # The default number of rows is large enough not to count.
    drawing = options.get("estimator") == "masked" or options.get("rows") not in (None, ROWS)
    if not drawing or "seed" not in options:
        return None
    settings: Any = function
    again: Acquisition = dataclasses.replace(settings, seed=settings.seed + 1)
    return again


def _rides_along(function: Acquisition) -> bool:
    reads = type(function).attend is Acquisition.attend and function.copies == function.steps == 1
    return function.uses_attention and reads


def weights_sha256(pipe: Any) -> str:
    """A digest of every weight's name, shape and two moments of its bits: cheap, and other weights change it.

    Sums of whole numbers: those of floats depend on the number of threads and on the device.
    """
    digest = hashlib.sha256()
    for part, component in sorted(pipe.components.items()):
        if not isinstance(component, torch.nn.Module):
            continue
        for name, weight in sorted(component.state_dict().items()):
            moments = [0, 0]
            for bits in weight.detach().float().flatten().view(torch.int32).split(2**24):
                moments[0] += int(bits.sum())
                moments[1] += int((bits >> 16).long().square().sum())
            digest.update(f"{part}.{name} {tuple(weight.shape)} {weight.dtype} {moments}".encode())
    return digest.hexdigest()
