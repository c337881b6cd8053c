"""Numbers in the README and on the page of claims are those of the results that they name."""

import json
import re
from pathlib import Path

import pytest

from seedbed import zoo

ROOT = Path(__file__).parents[1]
CLAIMS = (ROOT / "docs/claims.md").read_text()
EARLIER = ROOT / "docs/earlier-models.json"
MEASURED = ("reproduced", "refuted", "not reproduced", "in part")
NUMBER = r"[+−]?\d+(?:\.\d+)?"
INTERVAL = re.compile(rf"({NUMBER})( %)? \[({NUMBER}), ({NUMBER})\]")
# Between the others lie what is counted (16 noises), asked for (K = 10) or named (`code`, CogVideoX-2B).
LONE = re.compile(r"(?<![\w.`−+-])(\d+\.\d+|\d+(?= %| of \d+ layers))( %)?")


def numbers(result):
    """All triples (mean, low, high) and all numbers in a result."""
    triples, ones, left = [], [], [result]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left += each.values()
        elif isinstance(each, list):
            left += each
            if len(each) == 3 and all(isinstance(part, (int, float)) for part in each):
                triples.append(each)
        elif isinstance(each, (int, float)):
            ones.append(each)
    return triples, ones


def written(value, like, percent):
    """A number as the text writes one: its digits, its sign."""
    digits = len(like.partition(".")[2])
    return f"{100 * value if percent else value:.{digits}f}".replace("-", "−")


def untraced(text, results):
    """Intervals and lone numbers of a text that none of the results, pages or read JSON, holds."""
    pages = [result for result in results if isinstance(result, str)]
    triples, ones = numbers([result for result in results if not isinstance(result, str)])
    missing = []
    for match in INTERVAL.finditer(text):
        mean, percent, low, high = match.groups()
        ends = [end.lstrip("+") for end in (mean, low, high)]
        if not any(
            all(written(value, end, percent) == end for value, end in zip(triple, ends, strict=True))
            for triple in triples
        ):
            missing.append(match[0])
    for match in LONE.finditer(re.sub(r"`[^`]*`", "", INTERVAL.sub("", text))):
        number, percent = match.groups()
        if not any(match[0] in page for page in pages) and not any(
            written(value, number, percent) == number for value in ones
        ):
            missing.append(match[0])
    return missing


def table(start, text=CLAIMS):
    """The cells of the table under a heading that begins so."""
    lines = text[text.index(start) :].splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("| ---") or line.startswith("|---"))
    rows = []
    for line in lines[first + 1 :]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def code(text):
    return re.findall(r"`([^`]*)`", text)


def result(path, name=None):
    """What a file holds: a page, or JSON; of that of the earlier models, one's part."""
    text = path.read_text()
    if path.suffix == ".md":
        return text
    return json.loads(text)[name] if path == EARLIER and name else json.loads(text)


SOURCES = {row[0]: result(ROOT / code(row[2])[0], row[0]) for row in table("# What four papers")}
ROWS = [row for start in re.findall(r"^## .*", CLAIMS, re.MULTILINE) for row in table(start)]


@pytest.mark.parametrize("row", table("# What four papers"), ids=lambda row: row[0])
def test_what_measured_the_claims_is_there(row):
    assert SOURCES[row[0]]
    if code(row[2]) == ["docs/earlier-models.json"]:
        assert row[3] == f"commit {result(EARLIER)['commit']}"
    else:
        (command,) = code(row[3])
        assert any((ROOT / part).is_file() for part in command.split())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:50])
def test_the_numbers_of_a_claim_are_those_of_the_results_that_it_names(row):
    claim, verdict, found, where = row
    assert verdict.startswith((*MEASURED, "open", "not testable here"))
    named = [part for part in where.split(", ") if part and not code(part)]
    results, parts = [SOURCES[name] for name in named], found.split("; ")
    if len(results) == len(parts):
        missing = [each for one, part in zip(results, parts, strict=True) for each in untraced(part, [one])]
    else:
        missing = untraced(found, results)
    assert not missing, f"{missing} of '{claim}' are not in {', '.join(named)}"
    assert all((ROOT / path).is_file() for path in code(found + where) if "/" in path)
    if verdict.startswith(MEASURED):
        assert found and where


def test_a_number_that_no_result_holds_is_noticed():
    text = "+0.003 [−0.013, +0.018] and 77.7 %; −0.008 [−0.025, +0.009], 0.996, `0.123`, K = 10"
    results = [SOURCES["unread"], SOURCES["cost"], SOURCES["ranking"]]
    assert untraced(text, results) == ["−0.008 [−0.025, +0.009]", "77.7 %"]
    assert untraced("6.8 % 83 % [80, 86]", [SOURCES["cost"], SOURCES["reads"]]) == []
    assert untraced("0.996", []) == ["0.996"]


def test_the_numbers_of_the_readme_are_those_of_the_models_and_of_the_front_table():
    readme = (ROOT / "README.md").read_text()
    results = [result(zoo.path(name) / "evaluation.json") for name in zoo.names()]
    results += [result(path) for path in sorted((ROOT / "recipes/front/results").glob("*.json"))]
    assert len(INTERVAL.findall(readme)) > 2
    assert not [each[0] for each in INTERVAL.finditer(readme) if untraced(each[0], results)]


def test_the_page_of_earlier_models_has_the_numbers_that_are_kept_beside_it():
    page = (ROOT / "docs/earlier-models.md").read_text()
    assert len(INTERVAL.findall(page)) > 60 and not untraced(page, [result(EARLIER)])


def test_the_page_of_previews_has_the_numbers_of_when_it_looks():
    section = (ROOT / "docs/preview.md").read_text().partition("This is successive halving")[2]
    section = section.partition("On the command line")[0]
    found = result(ROOT / "recipes/previews/levels-results.json")
    assert len(INTERVAL.findall(section)) == 4
    assert not [each[0] for each in INTERVAL.finditer(section) if untraced(each[0], [found])]


def test_the_page_of_previews_has_the_numbers_of_its_results():
    section = (ROOT / "docs/preview.md").read_text().partition("### What it saves")[2].partition("\n## ")[0]
    found = [result(ROOT / "benchmarks/results/preview_decoding.json")]
    found.append(result(ROOT / "recipes/previews/agreement.json"))
    section = section.replace("asked for .9", "")  # of the plan
    assert len(INTERVAL.findall(section)) == 6 and not untraced(section, found)
