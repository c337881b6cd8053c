import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from seedbed.report.page import PICTURES, selection_page


def selection(candidates: int = 4, layers: int = 3, **changes: Any) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    scores = generator.normal(0.011, 0.0002, (candidates, layers))
    totals = scores.mean(1) if layers else generator.random(candidates)
    order = np.argsort(totals).tolist()
    return {
        "prompt": "a red circle moving left",
        "model": "shapes",
        "call": {"num_inference_steps": 3},
        "seed": 0,
        "best": order[0],
        "order": order,
        "totals": totals.tolist(),
        "scores": scores.tolist(),
        "layers": [f"blocks.{i}.attn" for i in range(layers)],
        "acquisition": "bansa",
        "prefer": "low",
        "reason": "no calibration profile beside the model",
        "recipes": [{"seed": 0, "candidate": i, "shape": [2, 4]} for i in range(candidates)],
        "ledger": {"scoring": 4.0, "generation": 16.0},
        "seconds": {"scoring": 0.5, "generation": 2.0},
        "seedbed": "0.1.0",
        **changes,
    }


def clip(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (frames, 16, 16, 3), dtype=np.uint8)


class Page(HTMLParser):
    """Start tags with their attributes, the text, and whether every element was closed."""

    VOID = frozenset({"meta", "img", "link", "br", "path", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


FULL = {"frames": clip(3), "fps": 8, "previews": [clip(2, i) for i in range(4)], "unit": "nats"}


@pytest.mark.parametrize(
    "data",
    [
        selection(),
        selection(**FULL),
        selection(candidates=1, **{**FULL, "previews": None}),
        selection(frames=clip(1), previews=[clip(1), None, clip(1), None]),
        selection(layers=1, prefer="high"),
        selection(layers=0, acquisition="random"),
        selection(layers=70, candidates=60),
        selection(recipes=[{"given": True, "candidate": i, "seed": None} for i in range(4)]),
        selection(totals=[None] * 4),
        selection(scores=[[None] * 3] * 4),
        selection(scores=[[1.0] * 3] * 4, totals=[1.0] * 4, best=2, order=[2, 0, 1, 3]),
    ],
    ids=[
        "selection",
        "full",
        "single",
        "images",
        "one-layer",
        "no-layers",
        "large",
        "given",
        "no-totals",
        "no-scores",
        "ties",
    ],
)
def test_page_is_whole_and_asks_for_nothing(data: dict[str, Any]) -> None:
    html = selection_page(data)
    page = Page(html)
    assert page.open == []
    assert not re.search(r"nan|None|Undefined", " ".join(page.text))
    for tag, attributes in page.tags:
        for name in ("src", "href", "poster", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, name)
    assert not re.search(r"url\(|@import|https?://", html)
    assert len([row for row in page.of("tr") if row.get("class") == "chosen"]) == 1


def test_table_ranks_the_candidates_and_marks_the_chosen_one() -> None:
    data = selection(**FULL)
    html = selection_page(data)
    ranked = [int(i) for i in re.findall(r'<th scope="row">Noise (\d+)', html)]
    assert ranked == data["order"]
    chosen = re.search(r'<tr class="chosen">.*?</tr>', html, re.S)
    assert chosen and f"Noise {data['best']}" in chosen.group() and "chosen</mark>" in chosen.group()
    shown = [float(s) for s in re.findall(r'<td class="number">(0\.\d+)</td>\n</tr>', html)]
    np.testing.assert_allclose(shown, np.array(data["totals"])[data["order"]], atol=1e-5)
    assert len(set(shown)) == len(shown)


def test_nothing_in_the_record_becomes_markup() -> None:
    attack = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}'
    data = selection(
        prompt=attack,
        model=attack,
        reason=attack,
        acquisition=attack,
        call={attack: attack},
        replay=attack,
        seedbed=attack,
        ledger={attack: 1.0},
        seconds={attack: 1.0},
        recipes=[{"seed": attack, "candidate": attack} for _ in range(4)],
        **FULL | {"unit": attack},
    )
    data["layers"] = [attack] * 3
    page = Page(selection_page(data))
    assert len(page.of("script")) == 1
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert attack in " ".join(page.text)


def test_everything_moving_or_drawn_has_words() -> None:
    page = Page(selection_page(selection(**FULL)))
    assert len(page.of("video")) == 5
    assert all(video["aria-label"] for video in page.of("video"))
    images = Page(selection_page(selection(frames=clip(1), previews=[clip(1)] * 4)))
    assert len(images.of("img")) == 5
    assert all(image["alt"] for image in images.of("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.of("svg"))
    assert all(cell.get("scope") in ("col", "row") for cell in page.of("th"))
    assert page.of("html")[0]["lang"] == "en"


def test_lines_are_drawn_where_the_scores_are() -> None:
    data = selection(
        scores=[[0.0, 1.0], [1.0, 0.0]], totals=[0.5, 0.4], candidates=2, layers=2, best=1, order=[1, 0]
    )
    html = selection_page(data)
    (rising,) = re.findall(r'<polyline class="line" points="([^"]+)"', html)
    (falling,) = re.findall(r'<polyline class="line chosen" points="([^"]+)"', html)
    rising_y, falling_y = ([float(p.split(",")[1]) for p in line.split()] for line in (rising, falling))
    assert rising_y[0] > rising_y[1]  # SVG's y points down
    assert falling_y == rising_y[::-1]


@pytest.mark.parametrize(
    "values", [(1.40712, 1.41103), (0.0051, 0.0174), (3e-9, 8e-9), (-2.0, 250.0), (1.0, 1.0)]
)
def test_axis_encloses_the_scores_in_round_figures(values: tuple[float, float]) -> None:
    data = selection(
        scores=[[values[0]], [values[1]]], totals=list(values), candidates=2, layers=1, best=0, order=[0, 1]
    )
    shown = re.findall(r'text-anchor="end">(-?[\d.e-]+)</text>', selection_page(data))
    ticks = [float(tick) for tick in shown]
    assert 2 <= len(ticks) <= 7 and len(set(shown)) == len(shown)
    assert min(ticks) <= min(values) and max(values) <= max(ticks)
    np.testing.assert_allclose(np.diff(ticks), np.diff(ticks)[0], rtol=1e-6)
    assert all(len(tick.lstrip("-").replace(".", "").lstrip("0").split("e")[0]) <= 5 for tick in shown)


@pytest.mark.parametrize("prefer", ["low", "high"])
def test_heat_map_colours_the_preferred_side(prefer: str) -> None:
    data = selection(
        scores=[[0.0], [1.0]], totals=[0.0, 1.0], candidates=2, layers=1, best=0, order=[0, 1], prefer=prefer
    )
    kinds = re.findall(r'<rect class="(\w+)"', selection_page(data))
    assert kinds == (["good", "bad"] if prefer == "low" else ["bad", "good"])


def test_cost_adds_up() -> None:
    text = " ".join(Page(selection_page(selection(**FULL))).text)
    assert "On top of what generating alone takes: scoring 25 %." in text
    assert re.search(r"Total\s+20\s+2\.5", text)


def test_large_previews_are_shrunk() -> None:
    big = np.random.default_rng(0).integers(0, 255, (2, 512, 640, 3), dtype=np.uint8)
    small = len(selection_page(selection(candidates=1, previews=[big[:, :128, :160]])))
    assert len(selection_page(selection(candidates=1, previews=[big]))) < 3 * small


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two #rrggbb colours."""
    lights = []
    for colour in (one, other):
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        lights.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(lights) / min(lights)


def test_text_has_contrast_in_light_and_dark() -> None:
    html = selection_page(selection())
    schemes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", html, re.S)
    ]
    assert len(schemes) == 2
    for colours in schemes:
        for ground in ("paper", "card", "wash"):
            for text in ("ink", "soft", "accent"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def test_large_costs_are_written_out() -> None:
    data = selection(ledger={"preview": 12344.6, "generation": 40.0}, seconds={"preview": 1.0})
    text = " ".join(Page(selection_page(data)).text)
    assert "12,345" in text and "12,385 " in text and "preview 30,862 %" in text
    assert not re.search(r"\de\+\d", text)


def test_sentences_of_previews_stand_apart() -> None:
    for options in ({}, {"picked": 1}):
        data = selection(acquisition="preview", options=options)
        assert re.search(r"\.\s+Nobody, human or verifier", " ".join(Page(selection_page(data)).text))


def test_wide_tables_scroll_within_a_narrow_page() -> None:
    assert '<div class="scroll"><table class="candidates">' in selection_page(selection())


def test_a_page_without_previews_promises_none() -> None:
    """A column, or a sentence, would ask for what a report does not pay for."""
    for data in (selection(), selection(frames=clip(3)), selection(scores=[[1.0] * 3] * 4, totals=[1.0] * 4)):
        text = " ".join(Page(selection_page(data)).text)
        assert "review" not in text


def test_a_scale_takes_no_room_where_nothing_is_placed_on_it() -> None:
    ties = selection(layers=0, totals=[None] * 4)
    assert 'class="scale"' in selection_page(selection())
    assert 'class="scale"' not in selection_page(ties)


@pytest.mark.parametrize("layers", [0, 30])
def test_a_thousand_candidates_make_no_heavy_page(layers: int) -> None:
    """Pictures and plots of the best alone; every candidate has its line."""
    previews = [] if layers else [clip(2, i % 7) for i in range(1000)]
    html = selection_page(selection(1000, layers, previews=previews))
    assert len(html) < 3_000_000
    page = Page(html)
    assert page.open == [] and len(page.of("video")) == (0 if layers else PICTURES + 1)
    assert html.count('class="rank"') == 1000
    assert ("The best 60 of 1000 candidates." in html) is bool(layers)
