"""Tables and figures of an experiment, as text and as a page that needs nothing else."""

import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from seedbed.errors import BadInput
from seedbed.lab.page import HEIGHT, WIDTH, document, page, svg
from seedbed.lab.recipe import Recipe
from seedbed.lab.statistics import Interval
from seedbed.lab.tables import Figure, Table, cell_text, groups, tables_of, whole_prompts
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


def elements(figure, tag, within=".//"):
    tree = ElementTree.fromstring(str(svg(figure)))
    return tree.findall(f"{within}{tag}")


def test_lines_lie_where_their_numbers_are():
    circles = elements(LINES, "circle")
    assert len(circles) == 3
    at = {each.find("title").text: (float(each.get("cx")), float(each.get("cy"))) for each in circles}
    (x1, y1), (x2, y2) = (
        at["best of <n>, 1: 0.700 [0.650, 0.750]"],
        at["best of <n>, 2: 0.800 [0.750, 0.850]"],
    )
    assert x1 < x2 and y1 > y2  # higher scores lie higher up
    lines = [each for each in elements(LINES, "line") if each.get("class") == "interval"]
    assert len(lines) == 2  # the point without an interval has no line
    for line in lines:
        top, bottom = sorted(float(line.get(name)) for name in ("y1", "y2"))
        x = float(line.get("x1"))
        assert (x, (top + bottom) / 2) in [(x1, pytest.approx(y1, abs=0.1)), (x2, pytest.approx(y2, abs=0.1))]
        assert bottom - top == pytest.approx(
            y1 - y2, abs=0.2
        )  # each interval is as wide as the two are apart
    path = elements(LINES, "polyline")[0].get("points").split()
    assert [float(point.split(",")[0]) for point in path] == [x1, x2]  # in the order of x


def test_points_lie_in_rows_and_intervals_across():
    circles = elements(POINTS, "circle")
    rows = {each.find("title").text.split(":")[0]: each for each in circles}
    y_one, y_two = (float(rows[f"{name}, 0/entropy"].get("cy")) for name in ("one", "two"))
    assert 0 < y_two - y_one < 22  # one below the other within their row
    (zero,) = [each for each in elements(POINTS, "line") if each.get("class") == "axis"]
    x = float(zero.get("x1"))
    assert float(rows["one, 0/entropy"].get("cx")) < x < float(rows["two, 0/entropy"].get("cx"))
    shown = [each.text for each in elements(POINTS, "text")]
    assert any(text.endswith("…") and len(text) == 40 for text in shown)


@pytest.mark.parametrize("figure", [LINES, POINTS], ids=["lines", "points"])
def test_nothing_lies_outside_the_picture(figure):
    tree = ElementTree.fromstring(str(svg(figure)))
    width, height = map(float, tree.get("viewBox").split()[2:])
    assert width == WIDTH and (height == HEIGHT or figure is POINTS)
    for each in tree.iter():
        for name, most in (("x", width), ("x1", width), ("x2", width), ("cx", width)):
            assert 0 <= float(each.get(name, 0)) <= most
        for name, most in (("y", height), ("y1", height), ("y2", height), ("cy", height)):
            assert 0 <= float(each.get(name, 0)) <= most


@pytest.mark.parametrize("value", [0.0, 3.5, -1e-9])
def test_a_single_number_has_a_picture(value):
    for at in (1, "row"):
        figure = Figure("One", {"a": [(at, Interval(value, value, value))]}, "x", "y")
        assert len(elements(figure, "circle")) == 1


def test_a_figure_without_numbers_says_so():
    empty = Figure("None", {"a": [(1, Interval(NAN, NAN, NAN))]}, "x", "y")
    assert "nothing to show" in svg(empty) and "nothing to show" in svg(Figure("None", {}, "x", "y"))
    half = Figure("Half", {"a": [(1, Interval(NAN, NAN, NAN)), (2, Interval(1, 0, 2))]}, "x", "y")
    assert len(elements(half, "circle")) == 1


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
    assert not re.search(r"url\(|@import|https?://", found)
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


def test_the_tables_of_generation_are_best_of_n():
    scores = [[0.0, 1.0], [0.5, 0.5], [0.25, 0.75]]
    rows = [
        {"key": f"{p}{c}", "model": "m", "prompt": str(p), "method": "generation", "seed": p, "candidate": c}
        | {"outcome.score": score, "nfe": 40.0}
        for p, pool in enumerate(scores)
        for c, score in enumerate(pool)
    ]
    table, figure = tables_of("generation", rows)
    (row,) = table.rows
    assert row[:4] == ["m", 3, 2, 40.0]
    assert [round(interval.mean, 12) for interval in row[4:]] == [0.5, 0.75, 0.25]
    assert [(x, round(value.mean, 12)) for x, value in figure.series["m"]] == [(40, 0.5), (80, 0.75)]


def test_methods_are_told_apart_only_where_there_are_several():
    row = {"key": "k", "model": "m", "prompt": "p", "method": "one", "seed": 0, "candidate": 0, "x": 1.0}
    assert list(groups([row])) == ["m"]
    assert list(groups([row, {**row, "method": "two"}])) == ["m, one", "m, two"]
    assert list(groups([{**row, "model": ""}])) == ["one"]
