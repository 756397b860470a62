import numpy as np
import pytest
from search_builders import carried_out, table, tiny_recipe

import diffmem as dm
from diffmem.errors import DiffmemError, UserError
from diffmem.files import write_json
from diffmem.runs import run as runs
from diffmem.runs.store.index import RunIndex
from diffmem.studies.folder import write_study_folder
from diffmem.studies.search import work
from diffmem.studies.search.levels import Item
from diffmem.studies.search.study import SearchStudy
from diffmem.training import Trainer


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished search; not to be changed."""
    return carried_out(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished search, to be changed."""
    import shutil

    shutil.copytree(finished.folder, tmp_path / "copy")
    return SearchStudy(tiny_recipe(), tmp_path / "copy")


def forbid(monkeypatch, *what):
    def fail(*given, **named):
        raise AssertionError("this was done already")

    if "training" in what:
        monkeypatch.setattr(Trainer, "step", fail)
    if "sampling" in what:
        monkeypatch.setattr(runs, "generate_resumable", fail)


def parts_of(study):
    return sorted(
        path for path in study.folder.glob("runs/*/evaluations/*/*/*.npz") if "images" not in path.name
    )


def test_every_level_gets_its_emm_with_the_decisions_that_led_to_it(finished):
    result = finished.result()
    assert result.finished
    assert [level.name for level in result.levels] == ["8", "12"]
    for level in result.levels:
        assert level.emm.status == "estimated"
        assert level.emm.low <= level.emm.value <= level.emm.high
        assert level.settings == {"model.channels": int(level.name)}
        entries = [entry.text for entry in result.log if entry.level == level.name]
        assert entries[0].startswith("begins with N =")
        assert len(entries) == len(level.runs) + 1
        assert "EMM is between" in entries[-1]


def test_a_second_level_begins_where_the_first_ended(finished):
    first, second = finished.result().levels
    starts = [search.rule.start for group in finished.searches().values() for search in group]
    assert starts[0] == 8
    assert starts[1] == pytest.approx(first.emm.value / (1.4 / 0.6) ** 0.5)
    assert round(starts[1]) in [run.size for run in second.runs]


def test_a_training_that_memorizes_for_certain_is_stopped(finished):
    stopped = [run for level in finished.result().levels for run in level.runs if run.stopped == "decided"]
    assert stopped
    for run in stopped:
        assert run.verdict == "memorized"
        assert run.epochs_trained < run.epochs
        assert run.evaluations[-1].verdict == "at least"


def test_a_run_has_its_null_and_what_it_cost(finished):
    result = finished.result()
    for level in result.levels:
        assert level.cost.images_trained == sum(run.images_trained for run in level.runs) > 0
        assert level.cost.images_sampled == sum(run.images_sampled for run in level.runs) > 0
        assert 0 < level.cost.share < 1.5
        for run in level.runs:
            assert run.null.total > 0
            assert 0 <= run.peak.distinct_replicated <= run.size - run.duplicates == run.size
            assert run.peak.mean_nearest_distance > 0
            assert run.images_trained == run.epochs_trained * run.size
    assert result.cost.units == pytest.approx(sum(level.cost.units for level in result.levels))


def test_what_is_finished_is_not_done_again(copied, monkeypatch):
    before = table(copied.result())
    forbid(monkeypatch, "training", "sampling")
    copied.execute()
    assert table(SearchStudy(tiny_recipe(), copied.folder).result()) == before


def test_its_folder_alone_opens_it_again(finished):
    assert table(dm.open_emm(finished.folder).study.result()) == table(finished.result())


def test_another_threshold_is_answered_by_stored_neighbours(copied, monkeypatch):
    """A threshold at which every training so far is certain: nothing is trained for these, and no image is sampled."""
    forbid(monkeypatch, "training", "sampling")
    strict = SearchStudy(tiny_recipe("measure.threshold=0.01", "search.start=8"), copied.folder)
    item = Item("8", 0, 8)
    assert strict.size_record(item).evaluations[0].memorized.count == 0
    assert strict.size_record(item).images_sampled == copied.size_record(item).images_sampled
    assert strict.outcome(item).verdict == "not memorized"


def test_more_epochs_go_on_from_the_training_that_is_there(copied, monkeypatch):
    seen = []
    step = Trainer.step

    def noted(trainer):
        seen.append(trainer.seen)
        step(trainer)

    monkeypatch.setattr(Trainer, "step", noted)
    longer = SearchStudy(tiny_recipe("training.epochs=48"), copied.folder)
    undecided = next(run for run in copied.result().levels[0].runs if run.verdict == "undecided")
    item = Item("8", 0, undecided.size)
    assert longer.run(item).run_id == copied.run(item).run_id
    work.work_on_size(longer.content(item, "cpu"), lambda *told: None, print)
    assert min(seen) == 24 * undecided.size


@pytest.mark.slow
def test_two_studies_on_one_store_share_their_trainings(tmp_path, monkeypatch):
    store = tmp_path / "store"
    carried_out(tmp_path / "one", "levels={'8': {model.channels: 8}}", store=store)
    runs = sorted(path.name for path in (store / "runs").iterdir())
    forbid(monkeypatch, "training", "sampling")
    second = carried_out(
        tmp_path / "two", "levels={'eight': {model.channels: 8}}", "title=Other", store=store
    )
    assert second.result().finished
    assert sorted(path.name for path in (store / "runs").iterdir()) == runs
    assert dm.open_emm(tmp_path / "two").study.store == store.resolve()


@pytest.mark.slow
def test_a_training_that_another_study_has_is_waited_for_and_used(tmp_path, monkeypatch):
    """The lease is held by another owner until, as seen from here, it has done the work."""
    study = SearchStudy(tiny_recipe("levels={'8': {model.channels: 8}}", "search.most_sizes=2"), tmp_path)
    first = Item("8", 0, 8)
    from diffmem.studies import driver

    waits = []
    with RunIndex(tmp_path) as other:
        assert other.claim(study.run(first).run_id, "other")

        def wait(seconds):
            waits.append(seconds)
            work.work_on_size(study.content(first, "cpu"), lambda *told: None, print)
            other.release(study.run(first).run_id)

        monkeypatch.setattr(driver.time, "sleep", wait)
        study.execute()
    assert waits
    assert study.result().finished


@pytest.mark.parametrize("damage", ["part", "images", "snapshot", "state", "null", "config"])
def test_a_damaged_file_is_found_and_made_anew_and_the_report_says_so(copied, damage):
    item = Item("8", 0, 8)
    run, before = copied.run(item), table(copied.result())
    path = {
        "part": parts_of(copied)[0],
        "images": next(run.folder.glob("evaluations/*/*/*.images.npz")),
        "snapshot": next(run.folder.glob("snapshots/*.safetensors")),
        "state": run.folder / "training-state.safetensors",
        "null": next(run.folder.glob("null-*.json")),
        "config": run.folder / "config.yaml",
    }[damage]
    if damage == "part":
        path = sorted(run.folder.glob("evaluations/*/*/0000000000.npz"))[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = SearchStudy(tiny_recipe(), copied.folder)
    told = []
    again.execute(warn=told.append)
    result = SearchStudy(tiny_recipe(), copied.folder).result()
    assert table(result) == before
    if damage == "part":
        assert any("regenerated" in text for text in told)
        (record,) = [one for level in result.levels for one in level.runs if one.run_id == run.run_id]
        assert any("damaged" in text for text in record.incidents)


def test_images_of_a_gallery_that_are_damaged_are_generated_again(copied):
    item, told = Item("8", 0, 8), []
    whole = copied.example(item)
    for path in copied.run(item).folder.glob("evaluations/*/*/*.images.npz"):
        path.write_bytes(path.read_bytes()[:100])
    again = copied.example(item, warn=told.append)
    assert np.array_equal(again.generated, whole.generated)
    assert "generated again" in told[0]


@pytest.mark.slow
def test_a_snapshot_that_is_damaged_before_its_images_are_sampled_is_made_anew(tmp_path):
    """The power fails while a snapshot is on its way to the disk: the state is newer than what can be read."""
    whole = carried_out(tmp_path / "whole", "levels={'8': {model.channels: 8}}", "search.most_sizes=2")
    study = SearchStudy(whole.recipe, tmp_path / "cut")
    item = Item("8", 0, 8)
    work.work_on_size(study.content(item, "cpu"), lambda *told: None, print)
    run = study.run(item)
    snapshot = sorted(run.folder.glob("snapshots/*"))[0]
    snapshot.write_bytes(snapshot.read_bytes()[:1000])
    for part in run.folder.glob(f"evaluations/*/{int(snapshot.stem):010d}/*"):
        part.unlink()
    told = []
    SearchStudy(whole.recipe, tmp_path / "cut").execute(warn=told.append)
    result = SearchStudy(whole.recipe, tmp_path / "cut").result()
    assert table(result) == table(whole.result())
    assert any("regenerated" in text for text in told)
    assert any(
        "regenerated" in text for level in result.levels for one in level.runs for text in one.incidents
    )


def test_an_unfinished_study_can_be_reported_at_any_moment(tmp_path):
    study = SearchStudy(tiny_recipe(), tmp_path)
    result = study.result()
    assert not result.finished
    assert [run.verdict for run in result.levels[0].runs] == ["unfinished"]
    assert result.levels[1].runs == []
    assert "waits" in next(entry.text for entry in result.log if entry.level == "12")
    work.work_on_size(study.content(Item("8", 0, 8), "cpu"), lambda *told: None, print)
    result = SearchStudy(tiny_recipe(), tmp_path).result()
    assert result.levels[0].runs[0].verdict != "unfinished" or len(result.levels[0].runs) == 2


def test_a_budget_ends_a_search_and_its_record_says_so(tmp_path):
    result = carried_out(tmp_path, "budget.images=1").result()
    assert not result.finished
    assert sum(len(level.runs) for level in result.levels) == 2  # one that is done, one that waits
    assert {level.emm.status for level in result.levels} == {"unfinished"}
    assert result.notes[0].startswith("unfinished: budget spent (")


@pytest.mark.slow
def test_several_seeds_are_searched_each_and_their_variation_is_in_the_interval(tmp_path):
    study = carried_out(
        tmp_path,
        "levels={'8': {model.channels: 8}}",
        "seeds=[0, 1, 2]",
        "search.most_sizes=2",
        "search.tolerance=0.45",
    )
    (level,) = study.result().levels
    assert set(level.by_seed) == {0, 1, 2}
    assert {run.seed for run in level.runs} == {0, 1, 2}
    assert any("3 seeds" in note for note in level.emm.notes)


@pytest.mark.slow
def test_the_number_of_processes_does_not_change_the_result(finished, tmp_path):
    parallel = carried_out(tmp_path, "executor={kind: local, processes: 2}")
    assert table(parallel.result()) == table(finished.result())


def test_a_worker_whose_result_is_not_here_is_told(tmp_path, monkeypatch):
    from diffmem import files
    from diffmem.studies.search import adaptive

    monkeypatch.setattr(adaptive, "_WORK", "search_builders:nothing")
    monkeypatch.setattr(files, "_SECONDS_TO_APPEAR", 0.0)
    with pytest.raises(DiffmemError, match="another disk"):
        carried_out(tmp_path)


def test_a_failing_training_ends_the_study_with_its_error(tmp_path):
    with pytest.raises(DiffmemError, match="learning rate"):
        carried_out(tmp_path, "training.learning_rate=1e30", "training.warmup=0")


def test_a_size_that_the_data_cannot_give_is_told_before_anything_is_trained(tmp_path):
    with pytest.raises(UserError, match=r"5000|5,000"):
        SearchStudy(tiny_recipe("sizes=[4, 5000]"), tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_store_that_was_named_once_is_found_again_and_a_damaged_note_of_it_is_told(tmp_path):
    study = SearchStudy(tiny_recipe(), tmp_path / "study", tmp_path / "store")
    (tmp_path / "store").mkdir()
    write_study_folder(study.folder, study.recipe, study.store)
    assert dm.open_emm(tmp_path / "study").study.store == (tmp_path / "store").resolve()
    write_json(tmp_path / "study" / "place.json", {"store": str(tmp_path / "gone")})
    with pytest.raises(UserError, match="gone"):
        dm.open_emm(tmp_path / "study")


@pytest.mark.slow
@pytest.mark.parametrize("writes", [0, 3, 8, 20])
def test_a_full_disk_ends_a_study_with_its_error_and_it_goes_on_later(
    finished, tmp_path, monkeypatch, writes
):
    import errno
    import os

    made, fsync = [0], os.fsync

    def full(handle):
        made[0] += 1
        if made[0] > writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiffmemError, match="No space left"):
        carried_out(tmp_path)
    monkeypatch.setattr(os, "fsync", fsync)
    assert table(carried_out(tmp_path).result()) == table(finished.result())
