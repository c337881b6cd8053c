"""The measured parts of the pages are what the committed results make."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/adaptation"))
sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/editing"))
import adaptation_page
import editing_page

RECIPES = Path(__file__).parents[2] / "recipes"


def test_the_pages_of_enhancement_and_editing():
    for module, folder in ((adaptation_page, "adaptation"), (editing_page, "editing")):
        found = json.loads((RECIPES / folder / "results.json").read_text())
        for path, text in module.pages(found).items():
            assert path.read_text() == text, f"{path} is out of date: run {module.__name__}.py"


def test_intervals_are_widened_for_every_setting_of_the_largest_recipe():
    found = json.loads((RECIPES / "adaptation/results.json").read_text())
    tried = {name: len(each["shapes-wan"]) - 2 for name, each in found.items()}  # but captions and the first
    assert tried == {"enhancement": 13, "guidance": 14, "layers": 6}
    assert max(tried.values()) == adaptation_page.SETTINGS
    page = (RECIPES.parent / "docs/enhancement.md").read_text()
    assert f"1 − .05/{adaptation_page.SETTINGS}, for the {adaptation_page.SETTINGS} settings" in page
