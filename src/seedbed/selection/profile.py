"""The calibration profile that may lie beside a model, and what `acquisition="auto"` makes of it."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from seedbed.acquisition import Acquisition, AttentionScore, Learned, create
from seedbed.errors import BadInput, BadRecord, shown
from seedbed.files import read_bytes, write_bytes_atomically
from seedbed.halving import Prefer, Rungs, planned
from seedbed.selection.record import model_name
from seedbed.selection.values import jsonable

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
