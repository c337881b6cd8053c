"""`seedbed verifier audit`."""

import json

from seedbed.lab.audit import LINES


def test_the_command(seedbed, tmp_path):
    page = tmp_path / "page.html"
    asked = ("verifier", "audit", "artifacts", "--world", "shapes", "--count", "8")
    code, out, err = seedbed(*asked, "--out", str(page), "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert list(said["traps"]) == list(LINES) and said["verifier"] == "artifacts" and said["videos"] == 8
    assert said["traps"]["another prompt"] == {"right": [0.5, 0.5, 0.5], "equal": 1.0}
    assert "another prompt" in page.read_text()
    for wrong, message in (
        ((), "say which videos are sound"),
        (("--world", "shapes", "--videos", "here"), "say which videos are sound"),
        (("--videos", str(tmp_path / "none")), "cannot read the videos"),
        (("--world", "digits", "--out", str(tmp_path / "page.txt")), "html"),
    ):
        code, out, err = seedbed("verifier", "audit", "artifacts", *wrong)
        assert code == 2 and out == "" and message in err and err.count("\n") == 1
    code, out, err = seedbed("verifier", "audit", "eyes", "--world", "shapes")
    assert code == 2 and "there is no verifier 'eyes'" in err and err.count("\n") == 1
