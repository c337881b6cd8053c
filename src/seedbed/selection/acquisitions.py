"""What an acquisition function is, and how one is named."""

from __future__ import annotations

import dataclasses
import json
from importlib import import_module
from typing import Any, Literal

from torch import Tensor

from seedbed.attention.tap import AttentionCall
from seedbed.errors import BadInput
from seedbed.probe import Probe

Prefer = Literal["low", "high"]

# Modules are named, not imported, so that this file stays below the functions it lists.
_NAMED = {
    "random": ("random", "Random"),
    "entropy": ("entropy", "Entropy"),
    "bansa": ("bansa", "Bansa"),
    "bansa-dropout": ("dropout", "BansaDropout"),
    "reversed": ("bansa", "Reversed"),
    "learned": ("predictor", "Learned"),
}
# What can be asked for by name alone: the learned one is nothing without what a calibration found.
NAMES = tuple(name for name in _NAMED if name != "learned")


class Acquisition:
    """One idea of how promising an initial noise is: a number per candidate and attention layer.

    A subclass names itself, says which end of its scale is better, and implements `observe`, `judge` or
    `foresee`. It must not keep state between calls: the pool decides how many candidates share a forward.

    Attributes:
        name: how reports and records call it.
        prefer: "low" or "high", the better end, which `select(prefer=...)` overrides.
        unit: of its scores, for axes; "" for a bare number.
        copies: forwards per candidate; the copies of a candidate are neighbours in one batch.
        steps: the score is the mean over this many denoiser evaluations, the first one included.
        uses_attention: False for a function of the noise alone, which implements `judge` and costs nothing.
        foresees: True for one that denoises the candidates itself, which implements `foresee`.
    """

    name: str = "unnamed"
    prefer: Prefer = "low"
    unit: str = ""
    copies: int = 1
    steps: int = 1
    uses_attention: bool = True
    foresees: bool = False

    def observe(self, call: AttentionCall) -> Tensor:
        """The score of each candidate at this call: (call.candidates,), usually `call.by_candidate(...)`."""
        return self.by_row(call).mean(1)

    def by_row(self, call: AttentionCall) -> Tensor:
        """Instead of `observe`, the query rows' parts in a score that is their mean: (candidates, rows).

        Where they are a sample, drawn without replacement and the same for every candidate, `select` knows
        from their spread how sure its choice is. A field `rows` says how many there are.
        """
        raise NotImplementedError(f"{type(self).__name__} implements neither observe nor attend")

    @property
    def scores_rows(self) -> bool:
        """Whether its score is the mean of `by_row`."""
        ours, theirs = Acquisition, type(self)
        plain = theirs.observe is ours.observe and theirs.attend is ours.attend
        return plain and theirs.by_row is not ours.by_row

    def attend(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        """Scores, (call.candidates // copies,), and what the model continues with; None is its own output.

        Only a function that also changes the attention overrides this instead of `observe`.
        """
        return self.observe(call), None

    def judge(self, noises: Tensor) -> Tensor:
        """The score of each noise, (candidates, *shape) -> (candidates,), if `uses_attention` is False."""
        raise NotImplementedError(f"{type(self).__name__} uses no attention and does not implement judge")

    def foresee(self, probe: Probe, noises: Tensor, batch_size: int) -> Tensor:
        """The score of each noise, (candidates, *shape) -> (candidates,), if `foresees` is True.

        It may run the pipeline as it likes, `batch_size` candidates at a time: `probe.ledger` counts it.
        """
        raise NotImplementedError(f"{type(self).__name__} foresees, but does not implement foresee")

    def options(self) -> dict[str, Any]:
        """The settings that go into a record: the fields, if the function is a dataclass."""
        if not dataclasses.is_dataclass(self):
            return {}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def create(name: str, **options: Any) -> Acquisition:
    """The acquisition function of that name with these options, e.g. `create("bansa", keep=0.5)`.

    Raises:
        BadInput: no such name, or an option that it does not have.
    """
    if name not in _NAMED:
        raise BadInput(f"no acquisition function {name!r}: choose one of {', '.join(NAMES)} or auto")
    module, attribute = _NAMED[name]
    kind = getattr(import_module(f"seedbed.selection.{module}"), attribute)
    known = [field.name for field in dataclasses.fields(kind)]
    for option in options:
        if option not in known:
            raise BadInput(f"{name} has no option {option!r}: it has {', '.join(known)}")
    acquisition: Acquisition = kind(**options)
    return acquisition


def resolve(acquisition: str | Acquisition) -> Acquisition:
    """An instance as it is; a string as `name` or `name:option=value,option=value`, e.g. `bansa:steps=3`.

    Raises:
        BadInput: unknown name or option, or a value that the function refuses.
    """
    if isinstance(acquisition, Acquisition):
        return acquisition
    if not isinstance(acquisition, str):
        raise BadInput(
            f"acquisition must be a name or an Acquisition instance, not {type(acquisition).__name__}"
        )
    name, _, settings = acquisition.partition(":")
    options: dict[str, Any] = {}
    for setting in filter(None, settings.split(",")):
        key, equals, value = setting.partition("=")
        if not equals:
            raise BadInput(f"cannot read {setting!r} in acquisition {acquisition!r}: write option=value")
        try:
            options[key.strip()] = json.loads(value)
        except ValueError:
            options[key.strip()] = value.strip()
    return create(name.strip(), **options)


def positive(name: str, value: object, least: int = 1) -> None:
    """Refuse anything but a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BadInput(f"{name} must be a whole number of at least {least}, not {value!r}")


def fraction(name: str, value: object) -> None:
    """Refuse anything but a number in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise BadInput(f"{name} must be a number in (0, 1], not {value!r}")
