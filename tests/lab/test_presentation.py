"""Tables and figures of an experiment, as text and as a page that needs nothing else."""

import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from seedbed.errors import BadInput
from seedbed.lab.evidence import groups
from seedbed.lab.experiment import Recipe
from seedbed.lab.presentation import (
    Figure,
    Table,
    cell_text,
    document,
    page,
    svg,
    tables_of,
    whole_prompts,
)
from seedbed.lab.statistics import Interval
from seedbed.lab.work import run

NAN = math.nan
LINES = Figure(
    "Score against NFE",
    {
        "best of <n>": [(2, Interval(0.8, 0.75, 0.85)), (1, Interval(0.7, 0.65, 0.75))],
        "random": [(1, Interval(0.7, NAN, NAN))],
    },
    "NFE",
    "score & more",
)
POINTS = Figure(
    "Gains",
    {
        "one": [
            ("0/entropy", Interval(-0.01, -0.03, 0.01)),
            ("a <b> " + "x" * 60, Interval(0.02, 0.01, 0.03)),
        ],
        "two": [("0/entropy", Interval(0.01, 0.0, 0.02))],
    },
    "signal",
    "gain",
)
TABLE = Table(
    "A <table>", ["signal", "gain"], [["0/entropy", Interval(0.1, 0.05, 0.15)], ["none", None]], "Note."
)


@pytest.mark.parametrize(
    "cell, text",
    [
        (Interval(0.12345, -0.1, 0.3), "0.123 [-0.100, 0.300]"),
        (Interval(0.5, NAN, NAN), "0.5"),
        (Interval(NAN, NAN, NAN), "–"),
        (NAN, "–"),
        (None, "–"),
        (1234567.0, "1.235e+06"),
        (0.000123456, "0.0001235"),
        (320, "320"),
        ("text", "text"),
    ],
)
def test_a_cell_says_what_it_knows(cell, text):
    assert cell_text(cell) == text


def test_a_table_is_text_in_columns():
    assert TABLE.to_text() == ("signal     gain\n0/entropy  0.100 [0.050, 0.150]\nnone       –")
    assert TABLE.to_text(1).count("\n") == 1


def elements(figure, tag):
    names = (
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'  # not said in HTML
    )
    tree = ElementTree.fromstring(str(svg(figure)).replace("<svg ", f"<svg {names} ", 1))
    return tree.findall(f".//{{http://www.w3.org/2000/svg}}{tag}")


def dots(figure):
    """(x, y) of every point, in the order of the series; y grows downwards. What is grey is an axis."""
    found = [
        each for each in elements(figure, "g[@id='axes_1']//{*}use") if "#808080" not in each.get("style")
    ]
    return [(float(each.get("x")), float(each.get("y"))) for each in found]


def texts(figure):
    return ["".join(each.itertext()) for each in elements(figure, "text")]


def test_lines_lie_where_their_numbers_are():
    (x1, y1), (x2, y2), (x3, y3) = dots(LINES)
    assert x1 < x2 and y1 > y2  # in the order of x; higher scores lie higher up
    assert (x3, y3) == (x1, y1)
    assert {"best of <n>", "random", "NFE", "score & more"} <= set(texts(LINES))


def test_points_lie_in_rows():
    (x1, y1), (x2, y2), (x3, y3) = dots(POINTS)
    assert y1 < y3 < y2  # the two series of a row lie one below the other
    assert x1 < x3 < x2
    assert any(text.endswith("…") and len(text) == 40 for text in texts(POINTS))


@pytest.mark.parametrize("figure", [LINES, POINTS], ids=["lines", "points"])
def test_a_picture_is_the_same_every_time_and_read_on_white_and_on_black(figure):
    found = str(svg(figure))
    assert found == str(svg(figure))
    assert "<date" not in found and "metadata" not in found
    colours = {tuple(bytes.fromhex(c)) for c in re.findall("#([0-9a-f]{6})", found)}
    assert colours and all(60 < sum(colour) / 3 < 190 for colour in colours)


@pytest.mark.parametrize("value", [0.0, 3.5, -1e-9])
def test_a_single_number_has_a_picture(value):
    for at in (1, "row $x$"):
        figure = Figure("One", {"a": [(at, Interval(value, value, value))]}, "x", "y")
        assert len(dots(figure)) == 1


def test_a_figure_without_numbers_says_so():
    empty = Figure("None", {"a": [(1, Interval(NAN, NAN, NAN))]}, "x", "y")
    assert "nothing to show" in svg(empty) and "nothing to show" in svg(Figure("None", {}, "x", "y"))
    half = Figure("Half", {"a": [(1, Interval(NAN, NAN, NAN)), (2, Interval(1, 0, 2))]}, "x", "y")
    assert len(dots(half)) == 1


class Outline(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def finished(write, tmp_path):
    """A recipe, and its rows."""
    recipe = Recipe.load(write())
    return recipe, run(recipe, tmp_path / "out")


def test_the_page_is_whole_and_asks_for_nothing(finished):
    recipe, rows = finished
    found = page(recipe, rows, [TABLE, LINES, POINTS])
    outline = Outline(found)
    assert outline.open == [] and outline.links == []
    assert not re.search(r"url\((?!#)|@import|https?://(?!www.w3.org)", found)
    assert "<script" not in found
    text = " ".join(outline.text)
    assert (
        "A <table>" in text and "0.100 [0.050, 0.150]" in text and "best of <n>" in text and "Note." in text
    )
    assert '"seed": 7' in text and "not finished" not in text
    assert "prefers-color-scheme: dark" in found and 'content="light dark"' in found


def test_the_page_of_an_unfinished_run_says_so(finished):
    recipe, rows = finished
    assert "not finished" in page(recipe, rows[:6], [TABLE])


def test_a_page_without_a_recipe_shows_its_facts():
    text = " ".join(Outline(document("Calibration", "It was <found>.", {"verifier": "shapes"}, [TABLE])).text)
    assert all(part in text for part in ("Calibration", "It was <found>.", "verifier", "shapes", "A <table>"))
    assert "Run it again" not in text


def test_only_finished_prompts_are_compared(finished):
    recipe, rows = finished
    assert whole_prompts(recipe, rows) == rows
    left = whole_prompts(recipe, rows[:4] + rows[6:])
    assert {row["prompt"] for row in left} == {"0", "2", "3", "4", "5"} and len(left) == 15


def test_a_task_without_tables_gets_the_mean_of_each_number(finished):
    recipe, rows = finished
    (table,) = tables_of(recipe.task, rows)
    (row,) = table.rows
    mean = sum(each["value"] for each in rows) / len(rows)
    assert row[:3] == ["value", 6, 3] and row[3].mean == pytest.approx(mean)
    assert row[3].low < mean < row[3].high


def test_no_row_is_no_table(finished):
    with pytest.raises(BadInput, match="no prompt is finished yet"):
        tables_of("toy:work", [])


def test_methods_are_told_apart_only_where_there_are_several():
    row = {"key": "k", "model": "m", "prompt": "p", "method": "one", "seed": 0, "candidate": 0, "x": 1.0}
    assert list(groups([row])) == ["m"]
    assert list(groups([row, {**row, "method": "two"}])) == ["m, one", "m, two"]
    assert list(groups([{**row, "model": ""}])) == ["one"]
