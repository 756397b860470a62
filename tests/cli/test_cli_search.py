import json
from pathlib import Path

import pytest
import yaml
from search_builders import TINY

from diffmem.__main__ import main


def run(*words):
    main(list(map(str, words)))


def exit_of(*words):
    with pytest.raises(SystemExit) as caught:
        run(*words)
    return caught.value.code


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        yaml.safe_dump({**TINY, "levels": {"8": {}}, "search": {**TINY["search"], "most_sizes": 2}})
    )
    return path


@pytest.mark.usefixtures("undrawn")
def test_a_recipe_is_carried_out_and_reported(recipe, tmp_path, capsys):
    out = tmp_path / "study"
    run("study", recipe, "--out", out, "--device", "cpu")
    shown = capsys.readouterr().out
    assert "report.html" in shown
    result = json.loads((out / "report.json").read_text())
    assert result["finished"]
    assert [level["name"] for level in result["levels"]] == ["8"]
    assert (out / "report.html").stat().st_size < 5_000_000
    assert len(list(out.glob("*.png"))) >= 4

    before = (out / "report.json").read_bytes()
    run("study", "report", out)
    assert json.loads((out / "report.json").read_text())["levels"] == json.loads(before)["levels"]
    run("report", out)
    capsys.readouterr()
    run("study", "status", out)
    shown = capsys.readouterr().out
    assert "undecided" in shown or "memorized" in shown
    run("study", "watch", out, "--once")
    assert "8" in capsys.readouterr().out
    run("runs", out)
    assert str(TINY["sizes"][0]) in capsys.readouterr().out


def test_a_plan_names_runs_hours_memory_and_disk_and_writes_nothing(recipe, tmp_path, capsys, monkeypatch):
    from diffmem.studies.search import plan

    monkeypatch.setattr(plan, "_SIMULATIONS", 5)
    run("study", recipe, "--out", tmp_path / "study", "--plan", "--device", "cpu")
    shown = " ".join(capsys.readouterr().out.split())
    for word in ("runs", "trainings", "Memory", "disk", "a fixed grid"):
        assert word in shown
    assert not (tmp_path / "study").exists()


def test_a_new_recipe_is_complete_and_never_overwrites(tmp_path, capsys):
    from diffmem.studies.search.recipe import is_search, load_search

    path = tmp_path / "new.yaml"
    run("study", "new", path)
    assert is_search(path)
    assert len(load_search(path).levels) == 3
    assert str(path) in capsys.readouterr().out
    assert exit_of("study", "new", path) == 2
    assert "exists" in capsys.readouterr().err


def test_the_options_of_a_search_are_refused_for_a_list_of_sizes(tmp_path, capsys):
    digits = Path(__file__).resolve().parents[2] / "recipes" / "digits.yaml"
    assert exit_of("study", digits, "--out", tmp_path, "--plan") == 2
    assert "list of sizes" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "watch"])
def test_a_folder_that_is_no_search_is_told(tmp_path, capsys, command):
    assert exit_of("study", command, tmp_path) == 2
    assert "not the folder of a search" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_change_where_a_search_runs(recipe, tmp_path):
    run("study", recipe, "--out", tmp_path / "study", "--workers", 2, "--set", "title=T")
    assert yaml.safe_load((tmp_path / "study" / "recipe.yaml").read_text())["executor"] == {
        "kind": "local",
        "processes": 2,
    }
