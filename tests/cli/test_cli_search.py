import json
from functools import partial

import pytest
import yaml
from search_builders import TINY
from studies_builders import TINY as GRID
from studies_builders import tiny_recipe

from diffmem.__main__ import main
from diffmem.runs.store.workers import reported_status
from diffmem.runs.together import execute_together
from diffmem.studies import emm
from diffmem.studies.folder import write_study_folder
from diffmem.studies.search import plan
from diffmem.studies.study import Study


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Fewer draws of intervals, fewer simulated searches, and a moment to measure speed in."""
    monkeypatch.setattr(emm, "_REPLICATES", 50)
    monkeypatch.setattr(plan, "_SIMULATIONS", 5)
    monkeypatch.setattr(plan, "measure_speed", partial(plan.measure_speed, seconds=0.1))


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
    shown = capsys.readouterr().out
    assert "8" in shown
    assert shown.endswith("\n")
    run("runs", out)
    assert str(TINY["sizes"][0]) in capsys.readouterr().out


def test_a_plan_names_runs_hours_memory_and_disk_and_writes_nothing(recipe, tmp_path, capsys):
    run("study", recipe, "--out", tmp_path / "study", "--plan", "--device", "cpu")
    shown = " ".join(capsys.readouterr().out.split())
    for word in ("runs", "trainings", "Memory", "disk", "a fixed grid"):
        assert word in shown
    assert not (tmp_path / "study").exists()


def test_the_plan_of_a_grid_speaks_of_no_search(grid, tmp_path, capsys):
    run("study", grid, "--out", tmp_path / "study", "--plan", "--device", "cpu", "--workers", "1")
    shown = " ".join(capsys.readouterr().out.split())
    assert "trainings, 1 at a time" in shown
    assert "search" not in shown
    assert "fixed grid" not in shown


def test_workers_beside_an_executor_are_refused(recipe, tmp_path, capsys):
    given = ("--out", tmp_path / "study", "--workers", "2", "--set", "executor=inline")
    assert exit_of("study", recipe, *given) == 2
    assert "--workers 2 and --set executor=inline both say where trainings run" in capsys.readouterr().err


def test_a_new_recipe_is_complete_and_never_overwrites(tmp_path, capsys):
    from diffmem.studies.search.recipe import load_study

    path = tmp_path / "new.yaml"
    run("study", "new", path)
    found = load_study(path)
    assert (found.plan, len(found.levels)) == ("search", 3)
    assert str(path) in capsys.readouterr().out
    assert exit_of("study", "new", path) == 2
    assert "exists" in capsys.readouterr().err


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.yaml"
    levels = {"8": {}, "12": {"model.channels": 12}}
    path.write_text(
        yaml.safe_dump({**GRID, "plan": "grid", "factor": "channels", "levels": levels}, sort_keys=False)
    )
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_grid_with_levels_has_a_store_a_status_and_a_report_for_each_level(grid, tmp_path, capsys):
    out, store = tmp_path / "grid", tmp_path / "store"
    run("study", grid, "--out", out, "--store", store, "--device", "cpu")
    shown = capsys.readouterr().out
    assert len(list((store / "runs").iterdir())) == 4
    assert str(out / "report.html") in shown
    record = json.loads((out / "report.json").read_text())
    assert {level["name"]: len(level["runs"]) for level in record["levels"]} == {"8": 2, "12": 2}
    assert {path.name for path in out.glob("*.png")} >= {
        "emm.png",
        "rmem_vs_size.png",
        "rmem_vs_epochs.png",
    }
    for command in (("status", out), ("watch", out, "--once")):
        run("study", *command)
        shown = " ".join(capsys.readouterr().out.split())
        assert "channels" in shown
        assert "4 of 4 runs are finished" in shown
    run("report", out)
    before = capsys.readouterr().out

    sizes = ["--set", "sizes=[4, 8, 16]"]
    run("study", grid, "--out", tmp_path / "more", "--store", store, "--plan", "--device", "cpu", *sizes)
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 trainings" in shown
    assert "already in the store: 4" in shown
    assert not (tmp_path / "more").exists()
    assert str(out / "report.html") in before


def test_the_status_of_a_grid_says_how_far_each_run_is(tmp_path, capsys):
    study = Study(tiny_recipe(), tmp_path)
    write_study_folder(tmp_path, study.recipe, tmp_path)
    small, large = study.runs()
    execute_together([(small, study.recipe.sampling, study.recipe.measure)])
    with reported_status(large.folder) as report:
        large.write_config()
        report(25, 100, "training")
        run("study", "status", tmp_path)
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 of 2 runs are finished" in shown
    assert "5/20" in shown
    assert shown.count("training") == 1


@pytest.mark.usefixtures("undrawn")
def test_a_grid_that_its_budget_ended_has_a_report_and_says_what_it_spent_and_waits_for(
    grid, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "grid"
    run("study", grid, "--out", out, "--device", "cpu", "--set", "budget.images=1")
    assert "The budget is spent" in "".join(capsys.readouterr())
    levels = json.loads((out / "report.json").read_text())["levels"]
    assert [level["emm"]["status"] for level in levels] == ["unfinished", "unfinished"]
    assert sum(len(level["runs"]) for level in levels) == 1
    run("report", out)
    capsys.readouterr()
    monkeypatch.setattr("diffmem.api.studies.waiting_for_jobs", lambda folder: "1 job pending: Resources")
    for command in (("status", out), ("watch", out, "--once")):
        run("study", *command)
        shown = " ".join(capsys.readouterr().out.split())
        assert "Waiting: 1 job pending: Resources" in shown
        assert "of 1 images" in shown


@pytest.mark.parametrize("command", ["status", "watch"])
def test_a_folder_that_is_no_search_is_told(tmp_path, capsys, command):
    assert exit_of("study", command, tmp_path) == 2
    assert "not the folder of a study" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_change_where_a_search_runs(recipe, tmp_path):
    run("study", recipe, "--out", tmp_path / "study", "--workers", 2, "--set", "title=T")
    assert yaml.safe_load((tmp_path / "study" / "recipe.yaml").read_text())["executor"] == {
        "kind": "local",
        "processes": 2,
    }
