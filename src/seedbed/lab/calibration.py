"""Which choice of the noise helps on this model, measured on prompts and by a verifier of your own.

`calibrate` measures every noise of many prompts, as `seedbed.lab.measurement` does, and concludes what to
choose by.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seedbed import __version__
from seedbed.acquisition import Acquisition, AttentionScore, Bansa, RolloutScore
from seedbed.acquisition import resolve as function_named
from seedbed.acquisition.base import BatchSize
from seedbed.errors import BadInput, whole
from seedbed.lab.choice import Calibration, conclude
from seedbed.lab.evidence import Evidence
from seedbed.lab.experiment import Row
from seedbed.lab.measurement import VERSION, by_noise, check_prompts, is_read, measured
from seedbed.lab.replays import fitted_previews, fitted_race
from seedbed.lab.work import kept
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.session import Session
from seedbed.progress import Progress, reporting
from seedbed.refinement.refiner import model_sha256
from seedbed.selection.pools import draw_pool
from seedbed.selection.profile import VERIFIERS
from seedbed.selection.provenance import Model, package_versions
from seedbed.selection.values import jsonable, recordable
from seedbed.verifiers import Verifier, judged_text, name_of, resolve
from seedbed.verifiers.ratings import Ratings

SCHEMA = "seedbed.calibration/1"
FUNCTIONS = ("entropy", "bansa", "bansa:place=logits", "bansa:estimator=masked")
LEAST_PROMPTS, LEAST_NOISES = 8, 4


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
    The scores of BANSA's layers give a race: the cheapest that loses at most 5 % against the full score. The
    profile keeps it for you to use; nothing follows it by itself.

    Args:
        pipe: any diffusers pipeline that `select` takes.
        prompts: at least 8, all different; the more, the narrower the intervals.
        noises: for each prompt, at least 4. Noise i of prompt p is `NoiseRecipe(seed + p, candidate=i)`: no
            prompt shares its noises with another, so that prompts are independent.
        verifier: what judges the videos, higher is better: see `seedbed.verifiers.resolve`; or
            `Ratings` by people, or the path of a .csv file of them.
        seed: of the noises, and of the split of the prompts.
        steps: after how many denoising steps signals are read, ascending from 0, which is t = T.
        acquisitions: functions of the noise or of attention to try at t = T, each at both ends, over all
            layers and down to ANSE's depth d*.
        batch_size: noises denoised together; "auto": all that fit in 2.5 million latent values.
        save: where to write the profile; see `Profile.save`.
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
    noises, seed = whole("noises", noises, LEAST_NOISES), whole("seed", seed, least=0)
    steps = [whole("each of steps", step, least=0) for step in steps]
    check_prompts(prompts, LEAST_PROMPTS, "to calibrate on", "better 50")
    if not steps or steps[0] != 0:
        raise BadInput(f"steps must begin with 0, where acquisition functions look, not {list(steps)}")
    if isinstance(verifier, (str, os.PathLike)) and os.fspath(verifier).lower().endswith(".csv"):
        verifier = Ratings.load(verifier)
    judge = verifier if isinstance(verifier, Ratings) else resolve(verifier)
    session = Session(pipe, prompts[0], **call)
    for number, prompt in enumerate(prompts):
        if isinstance(judge, Ratings):
            judge.of(prompt, [NoiseRecipe(seed + number, candidate, (1,)) for candidate in range(noises)])
        else:
            judged_text(judge, session, prompt)
    functions = {label(given): _over_all_layers(function_named(given)) for given in acquisitions}
    model = Model.of(pipe)
    about = {
        "schema": SCHEMA,
        "version": VERSION,
        "model": model.model,
        "weights": model_sha256(pipe, autoencoder=True),
        "scheduler": model.scheduler,
        "call": jsonable(recordable(session.call)[0]),
        "steps": list(steps),
        "functions": {name: {"name": f.name, **jsonable(f.options())} for name, f in functions.items()},
        "verifier": described(verifier),
    }
    if save is not None:
        save = Path(save)
        cache = cache or save.with_name(save.name + ".rows")
    # The second set of masks says how much of a masked score is its own noise.
    again = {
        f"{name}.again": twin
        for name, function in functions.items()
        if is_read(function) and (twin := redrawn(function))
    }
    rows: list[Row] = []
    with reporting(progress) as show, kept(cache, about, "calibration") as (store, known):
        for number, prompt in enumerate(prompts):
            show("prompts", number, len(prompts))
            keys = [
                hashlib.sha256(json.dumps([prompt, seed + number, candidate]).encode()).hexdigest()
                for candidate in range(noises)
            ]
            if not known.keys() >= set(keys):
                session = Session(pipe, prompt, **call)
                pool = draw_pool(session, noises, seed + number)
                table = measured(session, pool, judge, steps, {0: functions | again}, True, batch_size)
                new = [
                    {"key": key, "prompt": prompt, "seed": seed + number, "candidate": i, **values}
                    for i, (key, values) in enumerate(zip(keys, by_noise(table, noises), strict=True))
                ]
                store.append(new)
                known |= {row["key"]: row for row in new}
            rows += [known[key] for key in keys]
        show("prompts", len(prompts), len(prompts))
    evidence = Evidence.of(rows)
    found = conclude(evidence, functions, seed)
    calibrated = {key: about[key] for key in ("model", "weights", "call", "verifier", "steps")} | {
        "prompts": len(prompts),
        "noises": noises,
        "seed": seed,
        "seedbed": __version__,
        "versions": package_versions(),
    }
    preview = fitted_previews(evidence, about["verifier"]) if about["verifier"] in VERIFIERS else None
    # Of the published score.
    bansa = next((name for name, function in functions.items() if function == Bansa(depth=None)), None)
    race = (bansa and fitted_race(np.stack([*evidence.by_layer(f"0/{bansa}")], axis=2))) or None
    profile = dataclasses.replace(found.profile, preview=preview, calibrated=calibrated, race=race)
    if save is not None:
        profile.save(save)
    return dataclasses.replace(found, profile=profile)


def described(verifier: str | os.PathLike[str] | Verifier | Ratings) -> str:
    """What a cache and a profile call a verifier: by its name, if it has one; ratings by what they say."""
    if isinstance(verifier, Ratings):
        digest = hashlib.sha256(repr(sorted(verifier.ratings.items())).encode()).hexdigest()
        return f"ratings {digest[:12]} of {len(verifier.ratings)} videos"
    return name_of(verifier) if callable(verifier) else str(verifier)


def label(acquisition: str | Acquisition) -> str:
    """How an acquisition function is called in tables: as it was given, or its name and changed options."""
    if isinstance(acquisition, str):
        return acquisition
    defaults = {field.name: field.default for field in dataclasses.fields(acquisition)}
    changed = [f"{name}={value}" for name, value in acquisition.options().items() if value != defaults[name]]
    return acquisition.name + (":" + ",".join(changed) if changed else "")


def _over_all_layers(function: Acquisition) -> Acquisition:
    """The function without the depth at which its score would stop."""
    if isinstance(function, RolloutScore):
        raise BadInput(f"a calibration looks at further steps by itself: leave out {function.name}")
    kind = type(function)
    for option in ("prefer", "layers", "depth", "race"):
        if getattr(function, option, None) != getattr(kind, option, None):
            raise BadInput(f"a calibration measures both ends and all layers: leave out {option}")
    return dataclasses.replace(function, depth=None) if isinstance(function, AttentionScore) else function


def redrawn(function: AttentionScore) -> AttentionScore | None:
    """The same function with other masks and rows; None if its scores do not hang on what it draws."""
    options = function.options()
    if "seed" not in options or (options.get("estimator") != "masked" and options.get("rows") is None):
        return None
    return dataclasses.replace(function, **{"seed": options["seed"] + 1})
