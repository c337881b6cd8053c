"""The contact sheet's page: one file, every candidate, nothing from elsewhere."""

import re

import pytest

from seedbed.report.page import selection_page, sheet_page
from tests.report.test_page import Page, clip, selection


def sheet(candidates: int = 4, **changes):
    plain = selection(candidates, layers=0)
    return {
        **plain,
        "order": list(range(candidates)),
        "best": 0,
        "totals": [None] * candidates,
        "options": {"steps": 3, "verifier": None},
        "sheet": {"steps": 3, "of": 20, "memory_sha256": "0"},
        "fps": 8,
        "previews": [clip(3, i) for i in range(candidates)],
        "command": "seedbed replay a.json --candidate",
        **changes,
    }


SCORED = {
    "totals": [0.1, 0.4, 0.2, 0.3],
    "order": [1, 3, 2, 0],
    "best": 1,
    "options": {"verifier": "my.judge"},
}


@pytest.mark.parametrize(
    "data",
    [sheet(), sheet(**SCORED), sheet(previews=[clip(1, i) for i in range(4)]), sheet(1), sheet(command="")],
    ids=["plain", "scored", "image", "one", "without command"],
)
def test_the_page_is_whole_and_loads_nothing(data) -> None:
    html = sheet_page(data)
    page = Page(html)
    assert page.open == []
    assert not re.search(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:|//)""", html)
    media = [*page.of("video"), *page.of("img")]
    assert len(media) == len(data["previews"])
    assert all(item["src"].startswith("data:") for item in media)
    radios = [tag for tag in page.of("input") if tag["type"] == "radio"]
    assert [int(tag["value"]) for tag in radios] == data["order"]


def test_scores_and_the_best_are_shown() -> None:
    page = Page(sheet_page(sheet(**SCORED)))
    assert [tag["value"] for tag in page.of("input") if "checked" in tag] == ["1"]
    text = " ".join(page.text)
    assert "0.400" in text and "my.judge" in text and "3 of 20 steps" in text
    plain = Page(sheet_page(sheet()))
    assert not [tag for tag in plain.of("input") if "checked" in tag]
    assert "No verifier looked at them" in " ".join(plain.text)


def test_the_command_is_there_to_be_copied() -> None:
    html = sheet_page(sheet())
    assert "seedbed replay a.json --candidate N" in html
    without = sheet_page(sheet(command=""))
    assert "seedbed replay" not in without and "sheet.finish(N)" in without


def test_what_a_user_wrote_is_escaped() -> None:
    html = sheet_page(sheet(prompt="<b>x</b>", command="seedbed replay '<i>.json' --candidate"))
    assert "<b>x</b>" not in html and "<i>" not in html


RUNGS = [
    {
        "steps": 3,
        "candidates": [0, 1, 2, 3],
        "scores": [0.1, 0.4, 0.2, 0.3],
        "kept": [1, 3],
        "columns": {},
    },
    {"steps": 6, "candidates": [1, 3], "scores": [0.5, 0.6], "kept": [3], "columns": {}},
]


def test_a_report_shows_every_rung_of_a_selection_by_previews() -> None:
    data = selection(
        layers=0,
        acquisition="preview",
        prefer="high",
        options={},
        order=[3, 1, 2, 0],
        best=3,
        totals=[0.1, 0.5, 0.2, 0.6],
        rungs=RUNGS,
    )
    text = " ".join(Page(selection_page(data)).text)
    assert "Score after 3 steps" in text and "Score after 6 steps" in text and "where in the pool" not in text
    rows = re.findall(r"<tr[^>]*>\s*<td class=\"rank\">.*?</tr>", selection_page(data), re.DOTALL)
    cells = [re.findall(r'<td class="number">([^<]*)</td>', row) for row in rows]
    assert cells == [["0.300", "0.600"], ["0.400", "0.500"], ["0.200", "–"], ["0.100", "–"]]
    assert "What it overlooks" in text


@pytest.mark.parametrize("acquisition", ["preview", "contact-sheet"])
def test_a_report_says_that_a_person_picked(acquisition) -> None:
    data = selection(
        layers=0,
        acquisition=acquisition,
        options={"picked": 2},
        order=[2, 0, 1, 3],
        best=2,
        totals=[None] * 4,
    )
    html = selection_page(data)
    text = " ".join(Page(html).text)
    assert "picked" in text and "a person" in text and "What it overlooks" not in text
    assert "A person chose, from what the model predicted" in text and "What the choice says" in text
    assert (
        "score" not in text.lower()
        and "best first" not in text
        and '<td class="number">–</td></tr>' not in html
    )


def test_scores_of_a_picked_noise_are_shown() -> None:
    data = selection(
        layers=0, acquisition="contact-sheet", options={"picked": 2}, totals=[0.1, 0.4, 0.2, 0.3]
    )
    text = " ".join(Page(selection_page(data)).text)
    assert "0.400" in text and "Candidates, best first" in text


def test_a_thousand_candidates_make_no_heavy_sheet() -> None:
    """Pictures of the best alone; every candidate can be picked."""
    html = sheet_page(sheet(1000, previews=[clip(3, i % 7) for i in range(1000)]))
    assert len(html) < 3_000_000 and "Pictures of the first 60 alone" in html
    page = Page(html)
    assert page.open == [] and len(page.of("video")) == 60
    assert len([tag for tag in page.of("input") if tag["type"] == "radio"]) == 1000
