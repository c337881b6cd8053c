"""How measured numbers are written on the pages: intervals, tables, and the part of a page that is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import permutation_test

Measured = Sequence[float | None]


def interval(values: Measured, form: str = ".3f", percent: str = "") -> str:
    """`mean [low, high]`; – for what could not be computed."""
    if None in values:
        return "–"
    mean, low, high = (f"{100 * v if percent else v:{form}}" for v in values)  # type: ignore[operator]
    return f"{mean}{percent} [{low}, {high}]".replace("-", "−")


def signed(values: Measured) -> str:
    return interval(values, "+.3f")


def share(values: Measured) -> str:
    return interval(values, ".0f", " %")


def fine(values: Measured | None) -> str:
    """Signed, with four digits where three would show nothing."""
    if values is None:
        return "–"
    small = all(v is not None and abs(v) < 0.01 for v in values)
    return interval(values, "+.4f" if small else "+.3f")


def signs_p(values: Any) -> float:
    """Two-sided p-value of a mean of paired differences, by permutation of their signs."""
    test = permutation_test((values,), np.mean, permutation_type="samples", n_resamples=9999, rng=0)
    return float(test.pvalue)


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def replaced(page: Path, name: str, text: str) -> str:
    """A page with `text` between its comments `<!-- name: ... -->` and `<!-- /name -->`, which stay."""
    before, start, rest = page.read_text().partition(f"<!-- {name}:")
    opening, end, _ = rest.partition("-->")
    closing = f"<!-- /{name} -->"
    if not (start and end and closing in rest):
        raise SystemExit(f"{page} has no part called {name}")
    return f"{before}{start}{opening}{end}\n\n{text}\n\n{closing}{rest.partition(closing)[2]}"


def rounded(value: Any) -> Any:
    """Plain JSON; five digits are more than any interval here allows."""
    if isinstance(value, dict):
        return {str(key): rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return None if math.isnan(value) else round(float(f"{value:.5g}"), 9) + 0.0  # no −0
    return value.item() if isinstance(value, np.generic) else value
