"""The calibration profile that may lie beside a model, and what `acquisition="auto"` makes of it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seedbed.errors import BadInput, BadRecord
from seedbed.files import write_bytes_atomically
from seedbed.selection.acquisitions import Acquisition, Prefer, create
from seedbed.selection.origin import model_name, recordable
from seedbed.selection.racing import Race

if TYPE_CHECKING:
    from seedbed.selection.predictor import Learned

FILENAME = "seedbed-profile.json"
SCHEMA = "seedbed.profile/2"

# A profile comes with a model, from anyone: it may name what seedbed has, never what is to be imported.
VERIFIERS = ("shapes",)

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
class Preview:
    """A schedule for choosing by previews: after `steps` steps the verifier's best `survivors` go on.

    Attributes:
        schedule: (steps, survivors) pairs, as `seedbed.preview` takes them.
        verifier: one of `VERIFIERS`.
        candidates: that it starts from.
        why: one line of evidence.
    """

    schedule: tuple[tuple[int, int], ...]
    verifier: str
    candidates: int
    why: str

    def __post_init__(self) -> None:
        if self.verifier not in VERIFIERS:
            raise BadInput(
                f"a profile's verifier must be one of {', '.join(VERIFIERS)}, not {self.verifier!r}: pass "
                "your own as verifier="
            )


@dataclass(frozen=True)
class Profile:
    """What was found to work best on one model.

    Attributes:
        acquisition: the function, with its options; `Random` where nothing was found to beat chance.
        prefer: the better end of its scale, None for the function's own.
        layers, depth: as in `select`.
        why: one line of evidence.
        learned: a fitted predictor, chosen or not.
        preview: how to choose with a verifier.
        evidence: what was tried, and how it did.
        calibrated: on what: model, call, verifier, numbers of prompts and noises, seed, versions.
        race: how to score with fewer layers, for selections by the race's own function.
    """

    acquisition: Acquisition
    prefer: Prefer | None
    layers: str | list[str] | None
    depth: int | None
    why: str
    learned: Learned | None = None
    preview: Preview | None = None
    evidence: tuple[Finding, ...] = ()
    calibrated: dict[str, Any] = dataclasses.field(default_factory=dict)
    race: Race | None = None


def save_profile(profile: Profile, path: str | os.PathLike[str]) -> Path:
    """Write a profile as JSON, whole or not at all; into a folder as `seedbed-profile.json`.

    Raises:
        BadInput: an acquisition function of one's own, which a file cannot name, another learned function
            than the profile's, or a path that cannot be written.
    """
    function = profile.acquisition
    options = {} if function.foresees else recordable(function.options())[0]
    if function.foresees:
        if function != profile.learned:
            raise BadInput("a profile that chooses by a learned predictor must hold it as `learned`")
    elif create_or_none(function.name, options) != function:
        raise BadInput(f"a profile can only name functions of seedbed, not {function.name!r}")
    content = {
        "schema": SCHEMA,
        "acquisition": function.name,
        "options": options,
        "prefer": profile.prefer,
        "layers": profile.layers,
        "depth": profile.depth,
        "why": profile.why,
        "learned": profile.learned and profile.learned.options(),
        "preview": profile.preview and dataclasses.asdict(profile.preview),
        "race": profile.race and dataclasses.asdict(profile.race),
        "evidence": [dataclasses.asdict(line) for line in profile.evidence],
        "calibrated": profile.calibrated,
    }
    path = Path(path)
    target = path / FILENAME if path.is_dir() else path
    text = json.dumps(_without_nan(content), indent=1, allow_nan=False)
    return write_bytes_atomically(target, (text + "\n").encode())


def create_or_none(name: str, options: dict[str, Any]) -> Acquisition | None:
    """The function of that name with these options; None if seedbed has none."""
    try:
        return create(name, **options)
    except BadInput:
        return None


def find_profile(pipe: Any) -> Profile | None:
    """The `seedbed-profile.json` in the folder that the pipeline was loaded from; None if there is none.

    Raises:
        BadRecord: as `read_profile`.
    """
    name = model_name(pipe)
    path = Path(name) / FILENAME
    return read_profile(path) if name and path.is_file() else None


def read_profile(path: str | os.PathLike[str]) -> Profile:
    """Read a profile: what `save_profile` writes, or a file of the schema before.

    The file is {"schema": "seedbed.profile/2", "acquisition": name, "options": {...}, "prefer": "low", "high"
    or null, "layers": kind, glob, list of them or null, "depth": number or null, "why": text} and, each
    optional, "learned": {"step": number, "coefficients": {signal: weight}}, "preview": {"schedule": [[steps,
    survivors], ...], "verifier": name, "candidates": number, "why": text}, "race": {"schedule": [[layers,
    survivors], ...], "candidates": number, "acquisition": name, "regret": [mean, low, high], "cost": number,
    "prompts": number, "why": text}, "evidence": [...] and "calibrated": {...}. With "acquisition": "learned"
    the options are those under "learned".

    Raises:
        BadInput: there is no such file.
        BadRecord: the file is damaged, of another schema, or names what does not exist.
    """
    from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read the profile {path}: {error.strerror or error}") from error

    class Schedule(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        schedule: tuple[tuple[int, int], ...] = Field(min_length=1)
        verifier: str
        candidates: int = Field(ge=2)
        why: str

    class Rungs(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        schedule: tuple[tuple[int, int], ...] = Field(min_length=1)
        candidates: int = Field(ge=2)
        acquisition: str
        regret: tuple[float, float, float]
        cost: float
        prompts: int
        why: str

    class Weights(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        step: int
        coefficients: dict[str, float]

    class File(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        schema_: Literal["seedbed.profile/1", "seedbed.profile/2"] = Field(alias="schema")
        acquisition: str
        options: dict[str, Any] = {}
        prefer: Literal["low", "high"] | None = None
        layers: str | list[str] | None = None
        depth: int | None = Field(default=None, ge=1)
        why: str
        learned: Weights | None = None
        preview: Schedule | None = None
        race: Rungs | None = None
        evidence: list[dict[str, Any]] = []
        calibrated: dict[str, Any] = {}

    try:
        content = json.loads(data)
        # Pairs are lists in JSON, which a strict model takes for tuples only when it reads the JSON itself.
        file = File.model_validate_json(json.dumps(content))
        lines = TypeAdapter(tuple[Finding, ...]).validate_json(json.dumps(file.evidence))
        learned = None
        if file.learned is not None:
            from seedbed.selection.predictor import Learned

            learned = Learned(**file.learned.model_dump())
        acquisition: Acquisition
        if file.acquisition == "learned" and learned is not None and not file.options:
            acquisition = learned
        else:
            acquisition = create(file.acquisition, **file.options)
        preview = None if file.preview is None else Preview(**file.preview.model_dump())
        race = None if file.race is None else Race(**file.race.model_dump())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole"
        raise BadRecord(
            f"{path} is not a usable profile: {field}: {first['msg']}; calibrate again"
        ) from error
    except BadInput as error:
        raise BadRecord(f"{path} is not a usable profile: {error}") from error
    except ValueError as error:
        raise BadRecord(f"{path} is not a readable JSON file; calibrate again or remove it") from error
    return Profile(
        acquisition=acquisition,
        prefer=file.prefer,
        layers=file.layers,
        depth=file.depth,
        why=file.why,
        learned=learned,
        preview=preview,
        race=race,
        evidence=lines,
        calibrated=file.calibrated,
    )


def _without_nan(value: Any) -> Any:
    """None for every number that JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return [_without_nan(entry) for entry in value] if isinstance(value, (list, tuple)) else value
