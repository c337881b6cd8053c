"""Every error seedbed raises on purpose; each message is one line: what is wrong, where, what to do.

And the checks of numbers that arguments of every room go through.
"""

import math
import operator
import textwrap
from collections.abc import Callable
from typing import Any


class SeedbedError(Exception):
    """Base of all errors that seedbed raises on purpose."""


class BadInput(SeedbedError, ValueError):
    """An argument, prompt or tensor that cannot be used."""


class NotSupported(SeedbedError):
    """A model or pipeline that cannot do what was asked."""


class BadRecord(SeedbedError):
    """A saved file that is damaged, foreign, or of another schema."""


class BadOutput(SeedbedError):
    """The model returned values that are not finite."""


def shown(value: object) -> str:
    """A value as a message shows it: one line, cut where it is long, and the shape of an array or tensor."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def reason(error: Exception) -> str:
    """The first line of an error of another library."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def shortened(error: Exception) -> str:
    """An error of another library in one line; torch's own can fill a screen, and stay whole in the cause."""
    return textwrap.shorten(str(error), 300, placeholder=" ...") or type(error).__name__


def number(value: Any, convert: Callable[[Any], Any] = float) -> Any:
    """`value` as Python's own number, also one of numpy or a tensor without axes; None if it is no number.

    Args:
        convert: `float`, or `operator.index` for whole numbers alone. Booleans and texts are no numbers.
    """
    truth = "bool" in str(getattr(value, "dtype", type(value)))
    if truth or isinstance(value, (str, bytes)) or getattr(value, "shape", None):
        return None
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def whole(name: str, value: Any, least: int = 1, most: float = math.inf, optional: bool = False) -> Any:
    """An argument as a whole number from `least` to `most`, or None where it is `optional`; else BadInput."""
    found = number(value, operator.index)
    if (optional and value is None) or (found is not None and least <= found <= most):
        return found
    bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
    raise BadInput(f"{name} must be a whole number {bounds}, not {shown(value)}")


def fraction(name: str, value: Any) -> float:
    """An argument as a number in (0, 1]; else BadInput."""
    found = number(value)
    if found is None or not 0 < found <= 1:
        raise BadInput(f"{name} must be a number in (0, 1], not {shown(value)}")
    return float(found)


def finite(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """An argument as a finite number from `least` to `most`; else BadInput."""
    found = number(value)
    if found is None or not math.isfinite(found) or not least <= found <= most:
        bounds = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        bounds = "" if least == -math.inf else f" {bounds}"
        raise BadInput(f"{name} must be a finite number{bounds}, not {shown(value)}")
    return float(found)


def several(name: str, value: Any, count: int | None = None, least: int = 1) -> list[Any]:
    """An argument as a list of `least` or more, or of `count`; else BadInput."""
    try:
        found = None if isinstance(value, (str, bytes, dict)) else list(value)
    except TypeError:
        found = None
    if found is None or len(found) < least or len(found) != (count or len(found)):
        size = f"{count}" if count else "at least one" if least else "any number"
        raise BadInput(f"{name} must be a list of {size}, not {shown(value)}")
    return found


def one_of(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """BadInput where an argument is none of these."""
    if value not in choices:
        raise BadInput(f"{name} must be {', '.join(map(str, choices))}, not {shown(value)}")
