"""The contact sheet: one HTML file with every candidate's preview, for a person to pick from."""

import math
from typing import Any

from seedbed.report.page import amount, figure, media, shrunk, templates


def sheet_page(data: dict[str, Any]) -> str:
    """A self-contained HTML page of previews, from plain data.

    Args:
        data: a sheet's record; plus `previews`, uint8 (frames, height, width, 3) for each candidate in the
            order of the pool, and `pick`, the shell command to which a candidate's number is appended, or "".

    Raises:
        KeyError: the record lacks one of its keys.
    """
    totals = [math.nan if total is None else float(total) for total in data["totals"]]
    finite = [total for total in totals if math.isfinite(total)]
    spread = max(finite) - min(finite) if finite else 0.0
    cards = [
        {
            "number": candidate,
            "name": f"noise {data['recipes'][candidate]['candidate']}",
            "preview": media(shrunk(data["previews"][candidate], 320), data["fps"]),
            "score": figure(totals[candidate], spread) if finite else None,
            "first": bool(spread) and totals[candidate] == max(finite),
            "checked": bool(finite) and candidate == data["order"][0],
        }
        for candidate in data["order"]
    ]
    rest = data["sheet"]["of"] - data["sheet"]["steps"]
    return templates.get_template("sheet.html").render(
        data=data,
        cards=cards,
        command=data["pick"],
        judge=data["options"].get("verifier"),
        version=data.get("seedbed"),
        spent=amount(sum(data["ledger"].values())),
        elapsed=f"{sum(data['seconds'].values()):,.1f}",
        rest=f"the remaining {rest}" if rest else "none",
    )
