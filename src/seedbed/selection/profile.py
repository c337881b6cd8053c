"""What chooses a noise: what was asked for, or what the calibration profile beside a model says."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from seedbed.acquisition import Acquisition, AttentionScore, Bansa, Learned, Previews, Random, create, resolve
from seedbed.acquisition.previews import CANDIDATES as PREVIEW_CANDIDATES
from seedbed.errors import BadInput, BadRecord, shown, whole
from seedbed.files import read_bytes, write_bytes_atomically
from seedbed.halving import Prefer, Rungs, planned
from seedbed.pipelines.session import Session
from seedbed.selection.provenance import model_name
from seedbed.selection.values import jsonable
from seedbed.verifiers import Verifier, judged_text
from seedbed.verifiers import resolve as verifier_named

CANDIDATES = 10  # where neither the caller nor a profile says how many
FILENAME = "seedbed-profile.json"
SCHEMA = "seedbed.profile/3"

# A profile comes with a model, from anyone: it may name what seedbed has, never what is to be imported.
VERIFIERS = ("shapes", "artifacts")

Interval = tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class Finding:
    """One line of a calibration: what following a signal is worth on the prompts that tested it.

    An interval is (mean, low, high), 95 % by a bootstrap over prompts; its numbers are None where nothing
    could be computed.

    Attributes:
        signal: an acquisition function with its options and depth, or a signal's name.
        step: denoising steps done before it is seen; 0 is t = T.
        prefer: the end of the scale that the gain is for.
        gain: outcome of the chosen noise less that of a random one, in units of the verifier.
        share: of the gap between a random and the best noise of the pool.
        within: Spearman correlation with the outcome among the noises of a prompt.
        reliability: within-prompt Spearman correlation of two independent estimates of the signal; None for
            one without estimation.
        p: two-sided, by permutation within prompts, corrected for every line of the table (Holm).
        nfe: cost for each candidate, in full conditional forwards of the denoiser.
        prompts: how many it was tested on.
    """

    signal: str
    step: int
    prefer: Prefer
    gain: Interval
    share: Interval
    within: Interval
    reliability: float | None
    p: float | None
    nfe: float
    prompts: int


@dataclass(frozen=True)
class PreviewPlan:
    """How to choose by previews on this model: after `steps` steps the verifier's best `survivors` go on.

    Attributes:
        schedule: (steps, survivors) pairs, as `Previews` takes them.
        verifier: one of `VERIFIERS`.
        candidates: that it starts from.
        why: one line of evidence.

    Raises:
        BadInput: another verifier, or a schedule that does not fit the candidates.
    """

    schedule: Rungs
    verifier: str
    candidates: int
    why: str

    def __post_init__(self) -> None:
        if self.verifier not in VERIFIERS:
            raise BadInput(
                f"a profile's verifier must be one of {', '.join(VERIFIERS)}, not {shown(self.verifier)}: "
                "pass your own as Previews(verifier)"
            )
        planned(self.schedule, 10**6, self.candidates, "steps")


@dataclass(frozen=True)
class Race:
    """The cheapest race over layers that a calibration found to be good enough.

    Nothing follows it by itself: `Bansa(depth=None, race=profile.race.schedule)` does, with `candidates`
    noises.

    Attributes:
        schedule: (scored layers, survivors) pairs.
        candidates: that it was measured with.
        acquisition: the function whose scores it was fitted on, by name, over all layers.
        regret: of its choice in the full score, 0 for the best candidate and 1 for the median one: mean and
            95 % interval over prompts.
        cost: evaluations for each pool, in full conditional forwards.
        prompts: how many.
        why: one line of evidence.

    Raises:
        BadInput: an unknown function, or a schedule that does not fit the candidates.
    """

    schedule: Rungs
    candidates: int
    acquisition: str
    regret: tuple[float, float, float]
    cost: float
    prompts: int
    why: str

    def __post_init__(self) -> None:
        create(self.acquisition)
        planned(self.schedule, 10**6, self.candidates)


@dataclass(frozen=True)
class Profile:
    """What was found to work best on one model; `acquisition=Profile.load(path)` chooses by it.

    Attributes:
        acquisition: the function that beat chance without a verifier, `Random` where none did.
        why: one line of evidence.
        learned: a fitted predictor, chosen or not.
        preview: how to choose with a verifier.
        evidence: what was tried, and how it did.
        calibrated: on what: model, call, verifier, numbers of prompts and noises, seed, versions.
        race: how to score with fewer layers.
    """

    acquisition: Acquisition
    why: str
    learned: Learned | None = None
    preview: PreviewPlan | None = None
    evidence: tuple[Finding, ...] = ()
    calibrated: dict[str, Any] = dataclasses.field(default_factory=dict)
    race: Race | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.acquisition, Acquisition):
            raise BadInput(f"a profile chooses by an acquisition function, not {shown(self.acquisition)}")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the profile as JSON, whole or not at all; into a folder as `seedbed-profile.json`.

        Raises:
            BadInput: an acquisition function of one's own, which a file cannot name, another learned function
                than the profile's, or a path that cannot be written.
        """
        function = self.acquisition
        options: dict[str, Any] = {}
        if isinstance(function, Learned):
            if function != self.learned:
                raise BadInput("a profile that chooses by a learned predictor must hold it as `learned`")
        else:
            options = jsonable(function.options())
            try:
                same = create(function.name, **options) == function
            except BadInput:
                same = False
            if not same:
                raise BadInput(f"a profile can only name functions of seedbed, not {shown(function.name)}")
        learned = self.learned
        weights = learned and {"step": learned.step, "coefficients": learned.coefficients}
        content = {
            "schema": SCHEMA,
            "acquisition": function.name,
            "options": options,
            "why": self.why,
            "learned": weights,
            "preview": self.preview,
            "race": self.race,
            "evidence": self.evidence,
            "calibrated": self.calibrated,
        }
        path = Path(path)
        target = path / FILENAME if path.is_dir() else path
        return write_bytes_atomically(target, to_json(content, indent=1, inf_nan_mode="null") + b"\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read what `save` writes, or a file of the schemas before (`seedbed.profile/1` and `/2`).

        Raises:
            BadInput: there is no such file.
            BadRecord: the file is damaged, of another schema, or names what does not exist.
        """
        data = read_bytes(path, "the profile")
        try:
            file = _File.model_validate_json(data)
            if file.acquisition == "learned" and file.learned is not None and not file.options:
                acquisition: Acquisition = file.learned
            else:
                acquisition = create(file.acquisition, **file.options)
            if file.schema_ != SCHEMA:  # the options that stood beside the function
                acquisition = dataclasses.replace(acquisition, prefer=file.prefer)
                if isinstance(acquisition, AttentionScore):
                    acquisition = dataclasses.replace(acquisition, layers=file.layers, depth=file.depth)
            elif file.model_fields_set & {"prefer", "layers", "depth"}:
                raise BadInput("prefer, layers and depth are options of the function")
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            message = first["msg"].removeprefix("Value error, ")
            raise BadRecord(f"{path} is not a usable profile: {where}: {message}; calibrate again") from error
        except BadInput as error:
            raise BadRecord(f"{path} is not a usable profile: {error}") from error
        return cls(
            acquisition, file.why, file.learned, file.preview, file.evidence, file.calibrated, file.race
        )

    @classmethod
    def beside(cls, pipe: Any) -> Profile | None:
        """The `seedbed-profile.json` in the folder that the pipeline was loaded from; None if there is none.

        Raises:
            BadRecord: as `load`.
        """
        name = model_name(pipe)
        path = Path(name) / FILENAME
        return cls.load(path) if name and path.is_file() else None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)  # of the dataclasses in it too
    schema_: Literal["seedbed.profile/1", "seedbed.profile/2", "seedbed.profile/3"] = Field(alias="schema")
    acquisition: str
    options: dict[str, Any] = {}
    why: str
    learned: Learned | None = None
    preview: PreviewPlan | None = None
    race: Race | None = None
    evidence: tuple[Finding, ...] = ()
    calibrated: dict[str, Any] = {}
    # Of the schemas before, where the whole score was the default.
    prefer: Prefer | None = None
    layers: str | list[str] | None = None
    depth: int | None = Field(default=None, ge=1)


def acquisition_named(
    acquisition: str | Acquisition | Profile,
    verifier: Verifier | str | None = None,
    verifier_prompt: str | None = None,
) -> str | Acquisition | Profile:
    """What `select` is to choose by, checked as far as it hangs on no model: a text for auto and for a file.

    Arguments and errors as `select`.
    """
    automatic = isinstance(acquisition, str) and acquisition == "auto"
    if verifier is not None:
        if not automatic:
            name = getattr(acquisition, "name", acquisition)
            raise BadInput(f"{name} takes no verifier, only previews does: leave one out")
        return Previews(verifier=verifier, verifier_prompt=verifier_prompt)
    if verifier_prompt is not None:
        raise BadInput("verifier_prompt is the text that a verifier judges by: give verifier= too")
    if isinstance(acquisition, str) and acquisition.endswith(".json"):
        Profile.load(acquisition)
        return acquisition
    return acquisition if automatic or isinstance(acquisition, Profile) else resolve(acquisition)


def chosen_function(
    session: Session,
    acquisition: str | Acquisition | Profile,
    candidates: int | None,
    call: Mapping[str, Any],
    shaped: bool = False,
) -> tuple[Acquisition, int, str]:
    """What chooses, from how many candidates, and why; arguments and errors as `select`.

    Args:
        acquisition: as `acquisition_named` returns it.
        call: the arguments of the pipeline's call that were given.
        shaped: the noises or the model are changed, with which no profile was measured.
    """
    other = " (with plain Gaussian noises and the model as it is)" * shaped
    count = whole("candidates", candidates, optional=True)
    found: Acquisition | Profile | None
    if not isinstance(acquisition, str):
        whose, found = "the profile", acquisition
    elif acquisition == "auto":
        whose, found = "the model's profile", Profile.beside(session.pipe)
    else:
        whose, found = acquisition, Profile.load(acquisition)
    plan = None
    if isinstance(found, Profile):
        function, reason = found.acquisition, f"auto: {whose} names it: {found.why}{other}"
        with suppress(BadInput):  # another world's prompt, or frames that the verifier does not read
            if found.preview is not None:
                judged_text(verifier_named(found.preview.verifier), session)
                plan = found.preview
        if plan is None and isinstance(function, Random):
            count = count or 1  # chance has nothing to choose
    elif found is not None:
        function, reason = found, "asked for"
    else:
        lacks = f"auto: no {FILENAME} lies beside the model"
        function, reason = Bansa(), f"{lacks}, so the published function"
        if count is None:
            function, count = Random(), 1
            reason = f"{lacks}, so the first noise: give a verifier, candidates, or calibrate"
    if plan is not None:
        # The schedule is followed with its own number of candidates and steps, with which it was measured.
        own = count is None and "num_inference_steps" not in call
        function = Previews(verifier=plan.verifier, schedule=plan.schedule if own else None)
        measured = f"by {whose}, which measured it with {plan.candidates} noises on the model's own steps"
        reason = f"auto: as {whose} says: {plan.why}{other}" if own else f"auto: {measured}"
        count = count or plan.candidates
    usual = PREVIEW_CANDIDATES if isinstance(function, Previews) else CANDIDATES
    return function, count or usual, reason
