"""Tables of an experiment, as text and as a page that needs nothing else."""

import math
import re
from html.parser import HTMLParser

import pytest

from seedbed.errors import BadInput
from seedbed.lab.evidence import groups
from seedbed.lab.experiment import Recipe
from seedbed.lab.presentation import Table, cell_text, document, page, tables_of, whole_prompts
from seedbed.lab.work import run
from seedbed.statistics import Interval

NAN = math.nan
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


def test_the_intervals_of_a_column_are_drawn_on_one_scale():
    rows = [
        ["a", 3.0, Interval(1, 0, 3)],
        ["b", None, Interval(-1, -2, 0)],
        ["c", 1.0, Interval(0.5, NAN, NAN)],
    ]
    table = Table("T", ["x", "plain", "gain"], rows)
    assert table.scales() == [None, None, (-2, 3)]
    found = document("T", "", {}, [table])
    dots = [float(at) for at in re.findall(r'<i style="left:([\d.]+)%', found)]
    bars = [tuple(map(float, two)) for two in re.findall(r'<u style="left:([\d.]+)%;width:([\d.]+)%', found)]
    assert dots == [60, 20, 50] and bars == [(40, 60), (0, 40)]
    assert found.count('<s style="left:40.0%"') == 3  # 0, which lies on the scale


def test_an_interval_alone_is_compared_with_nothing():
    assert TABLE.scales() == [None, None]
    assert 'class="track"' not in document("T", "", {}, [TABLE])


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
    found = page(recipe, rows, [TABLE])
    outline = Outline(found)
    assert outline.open == [] and outline.links == []
    assert not re.search(r"url\((?!#)|@import|https?://(?!www.w3.org)", found)
    assert "<script" not in found
    text = " ".join(outline.text)
    assert "A <table>" in text and "0.100 [0.050, 0.150]" in text and "Note." in text
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
