from tests.selection.test_docs import run_all


def test_the_documented_snippet_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_all("compatibility.md", tmp_path)
    assert [choice.recipe.seed for choice in names["choices"]] == [5, 6]
    assert len(names["videos"]) == 2
