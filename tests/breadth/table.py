"""The table of `docs/pipelines.md`, from the facts of every family.

`python -m tests.breadth.table` writes it anew; with names of families, only their rows and new ones. Tests
compare it with the facts of their own run.
"""

import re
import sys
from pathlib import Path

from seedbed.refinement import REFINERS
from tests.breadth.facts import ATTENTION, Facts, facts
from tests.pipelines import FAMILIES, Family

COMMAND = "python -m tests.breadth.table"
PAGE = Path(__file__).parents[2] / "docs" / "pipelines.md"
HEADER = (
    "pipeline",
    "class",
    "attention layers",
    "latents",
    "frame axis",
    "noise goes in",
    "noise of a seed",
    "guidance while scoring",
    "scored",
    "selection",
    "previews",
    "replay",
    *REFINERS,
    *ATTENTION,
    "diffusers",
)
_TABLE = re.compile(rf"(<!-- table: {re.escape(COMMAND)} writes this -->\n).*?(<!-- /table -->)", re.DOTALL)


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def table(rows: list[str]) -> str:
    lines = [line(list(HEADER)), "|" + " --- |" * len(HEADER), *rows]
    return "\n".join(lines) + "\n"


def written(page: str) -> dict[str, str]:
    """The rows of a page, by the name of their pipeline.

    Raises ValueError where the page has no table.
    """
    found = _TABLE.search(page)
    if found is None:
        raise ValueError(f"{PAGE.name} has no table between its two comments")
    body = found[0].splitlines()[3:-1]
    return {row.split(" | ")[0].removeprefix("| "): row for row in body}


def cell(row: str, column: str) -> str:
    return row.removeprefix("| ").split(" | ")[HEADER.index(column)]


def main(names: list[str]) -> None:
    page = PAGE.read_text()
    rows = written(page)
    known = [family.name for family in FAMILIES]
    if unknown := set(names) - set(known):
        sys.exit(f"there is no family {', '.join(sorted(unknown))}: choose of {', '.join(known)}")
    for family in FAMILIES:
        if not names or family.name in names or family.name not in rows:
            rows[family.name] = line(checked(family).cells())
    fresh = table([rows[name] for name in known])
    PAGE.write_text(_TABLE.sub(lambda marks: marks[1] + fresh + marks[2], page))


def checked(family: Family) -> Facts:
    """The facts of a family; exits where they are not what it claims."""
    row = facts(family)
    for what in ("selection", "previews", "replay"):
        found, expected = getattr(row, what), family.unsupported.get(what, "yes")
        if found != expected:
            sys.exit(f"{family.name}: {what} should be {expected!r}, but: {found}")
    return row


if __name__ == "__main__":
    main(sys.argv[1:])
