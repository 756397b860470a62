import os
import shutil
import signal

import numpy as np
import pytest
import torch
from parameters import few, these
from studies_builders import carried_out, evaluation_files, forbid, result_of, snapshots, table, tiny_recipe

from diffmem.memorization import RatioRule
from diffmem.models.weights import read_tensors
from diffmem.studies import emm
from diffmem.studies.study import Study

TWO = "executor={kind: local, processes: 2}"


@pytest.fixture(autouse=True)
def fewer_replicates(monkeypatch):
    monkeypatch.setattr(emm, "_REPLICATES", 50)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder and the table of a study that nothing disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emm, "_REPLICATES", 50)
        return folder, table(carried_out(Study(tiny_recipe(), folder)))


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished study that a test may damage, and its table."""
    folder, undisturbed = finished
    return shutil.copytree(folder, tmp_path / "copy"), undisturbed


def runs_of(found):
    """The runs of a table of one level."""
    (level,) = found["levels"]
    return level["runs"]


def modification_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "seconds.json"}


def again(folder, *settings):
    warnings = []
    result = carried_out(Study(tiny_recipe(*settings), folder), warn=warnings.append)
    return table(result), warnings


def test_the_table_has_a_run_of_each_size_with_all_its_evaluations(finished):
    _, found = finished
    assert [each["size"] for each in runs_of(found)] == [4, 8]
    for each in runs_of(found):
        assert [evaluation["epoch"] for evaluation in each["evaluations"]][-1] == 20
        assert len(each["evaluations"]) == 3
        assert all(evaluation["memorized"]["total"] == 8 for evaluation in each["evaluations"])
        assert each["null"]["total"] == 20
        assert each["duplicates"] == 0
    assert found["protocol"] == "pixel-l2/uint8/ratio<0.9000/exact-dups-collapsed/v1"


def test_a_finished_study_is_not_done_again(copied, monkeypatch):
    folder, undisturbed = copied
    forbid(monkeypatch, "training", "sampling")
    before = modification_times(folder)
    assert again(folder) == (undisturbed, [])
    assert modification_times(folder) == before


def test_another_threshold_is_answered_from_the_stored_neighbours(copied, monkeypatch):
    folder, undisturbed = copied
    forbid(monkeypatch, "training", "sampling")
    found, _ = again(folder, "measure.threshold=0.5", "measure.epsilon=0.5")
    counts = [e["memorized"]["count"] for r in runs_of(found) for e in r["evaluations"]]
    before = [e["memorized"]["count"] for r in runs_of(undisturbed) for e in r["evaluations"]]
    assert all(stricter <= loose for stricter, loose in zip(counts, before, strict=True))
    assert sum(counts) < sum(before)
    assert found["epsilon"] == 0.5


def test_another_sampler_is_evaluated_without_training(copied, monkeypatch):
    folder, undisturbed = copied
    forbid(monkeypatch, "training")
    files = set(evaluation_files(folder))
    found, _ = again(folder, "sampling.steps=4")
    assert len(evaluation_files(folder)) == 2 * len(files)
    assert files <= set(evaluation_files(folder))
    assert [each["run_id"] for each in runs_of(found)] == [each["run_id"] for each in runs_of(undisturbed)]
    assert runs_of(found) != runs_of(undisturbed)


def test_another_number_of_samples_begins_with_the_same_images(copied, monkeypatch):
    folder, _ = copied
    forbid(monkeypatch, "training")
    again(folder, "measure.samples=5")
    study = Study(tiny_recipe(), folder)
    for each in study.runs():
        few = each.evaluations(study.recipe.sampling, 5)
        many = each.evaluations(study.recipe.sampling, 8)
        for a, b in zip(few, many, strict=True):
            np.testing.assert_array_equal(a.images, b.images[:5])


@pytest.mark.parametrize(
    "setting",
    ["seeds=[1]", "model.dropout=0", "training.batch_size=4", "data.seed=1", "training.order=shuffled"],
)
def test_another_model_training_seed_or_data_has_other_runs(tmp_path, setting):
    runs = {each.run_id for each in Study(tiny_recipe(), tmp_path).runs()}
    others = {each.run_id for each in Study(tiny_recipe(setting), tmp_path).runs()}
    assert not runs & others


def test_a_longer_training_or_other_evaluation_points_are_the_same_run(tmp_path):
    """They change nothing that a step does: what is trained is gone on with."""
    runs = {each.run_id for each in Study(tiny_recipe(), tmp_path).runs()}
    for setting in ("training.epochs=80", "training.evaluations.count=5"):
        assert {each.run_id for each in Study(tiny_recipe(setting), tmp_path).runs()} == runs


def test_a_run_that_was_trained_for_longer_keeps_its_configuration(tmp_path):
    (run, _) = Study(tiny_recipe(), tmp_path).runs()
    run.write_config()
    (shorter, _) = Study(tiny_recipe("training.epochs=10"), tmp_path).runs()
    shorter.write_config()
    assert "epochs: 20" in (run.folder / "config.yaml").read_text()
    (longer, _) = Study(tiny_recipe("training.epochs=80"), tmp_path).runs()
    longer.write_config()
    assert "epochs: 80" in (run.folder / "config.yaml").read_text()


@pytest.mark.parametrize(
    "setting", ["title=Other", "measure.samples=9", "sampling.steps=9", "data.heldout=null"]
)
def test_what_does_not_change_the_training_keeps_the_runs(tmp_path, setting):
    # Held-out images are drawn away from the end of the permutation, but the pool differs: only its size is the same.
    runs = [each.run_id for each in Study(tiny_recipe("data.selection=first"), tmp_path).runs()]
    others = [each.run_id for each in Study(tiny_recipe("data.selection=first", setting), tmp_path).runs()]
    if setting == "data.heldout=null":
        assert len(others) == len(runs)
    else:
        assert others == runs


def test_two_seeds_are_two_runs_of_each_size(tmp_path):
    study = Study(tiny_recipe("seeds=[0, 5]"), tmp_path)
    assert [(len(each.training_set), each.seed) for each in study.runs()] == [(4, 0), (4, 5), (8, 0), (8, 5)]
    assert len({each.run_id for each in study.runs()}) == 4


@pytest.mark.slow
def test_two_workers_find_what_one_finds(tmp_path, finished):
    found, warnings = again(tmp_path, TWO)
    assert (found, warnings) == (finished[1], [])


@pytest.mark.parametrize("calls", these([1, 3, 6, 10], 6))
def test_a_study_that_is_stopped_and_begun_again_gives_the_undisturbed_table(tmp_path, finished, calls):
    told = []

    def stop_after_some(done, total, note=""):
        told.append(done)
        if len(told) == calls:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        carried_out(Study(tiny_recipe(), tmp_path), progress=stop_after_some)
    assert again(tmp_path) == (finished[1], [])


@pytest.mark.slow
def test_a_parent_that_is_stopped_lets_its_workers_save(tmp_path, finished):
    def stop(done, total, note=""):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carried_out(Study(tiny_recipe(TWO), tmp_path), progress=stop)
    assert again(tmp_path) == (finished[1], [])


def test_the_progress_ends_with_all_of_the_work(tmp_path):
    told = []
    carried_out(Study(tiny_recipe(), tmp_path), progress=lambda *each: told.append(each))
    assert told[-1][0] == pytest.approx(told[-1][1])
    done = [each[0] for each in told]
    assert done == sorted(done)


@pytest.mark.parametrize("how", few(["cut", "changed", "empty", "text"], 2))
def test_a_damaged_evaluation_is_reported_and_made_anew(copied, monkeypatch, how):
    folder, undisturbed = copied
    forbid(monkeypatch, "training")
    path = evaluation_files(folder)[1]
    with np.load(path) as held:
        numbers = held["distances"].tobytes()
    damage(path, how, path.read_bytes().index(numbers))
    found, warnings = again(folder)
    assert found == undisturbed
    assert len(warnings) == 1
    assert str(path) in warnings[0]


def test_a_lost_evaluation_is_made_anew(copied, monkeypatch):
    folder, undisturbed = copied
    forbid(monkeypatch, "training")
    evaluation_files(folder)[0].unlink()
    assert again(folder) == (undisturbed, [])


@pytest.mark.parametrize(
    ("how", "position"),
    these(
        [("cut", 0), ("changed", 1), ("cut", 2), ("lost", 0), ("lost", 1), ("lost", 2)],
        ("changed", 1),
        ("lost", 0),
    ),
)
def test_a_bad_snapshot_is_trained_again_where_it_is_needed(copied, position, how):
    folder, undisturbed = copied
    path = snapshots(folder)[position]
    weights, words = read_tensors(path)
    weights = {
        name: tensor.clone() for name, tensor in weights.items()
    }  # they lie in the file that is damaged next
    path.unlink() if how == "lost" else damage(path, how)
    for file in evaluation_files(folder):
        file.unlink()
    found, warnings = again(folder)
    assert found == undisturbed
    again_weights, again_text = read_tensors(path)
    assert again_text == words
    assert all(torch.equal(again_weights[name], tensor) for name, tensor in weights.items())
    assert [path.name in each for each in warnings] == ([] if how == "lost" else [True])


@pytest.mark.parametrize("kind", ["train", "heldout"])
def test_a_damaged_copy_of_the_data_is_written_again(copied, kind):
    folder, undisturbed = copied
    path = next((folder / "data").glob(f"{kind}-*.npz"))
    before = path.read_bytes()
    damage(path, "cut")
    for file in evaluation_files(folder):
        file.unlink()
    assert again(folder) == (undisturbed, [])
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"distances": [1.0]}', '{"distances": "x"}'])
def test_damaged_distances_of_the_held_out_images_are_measured_again(copied, monkeypatch, content):
    folder, undisturbed = copied
    forbid(monkeypatch, "training", "sampling")
    next(folder.glob("runs/*/null-*.json")).write_text(content)
    found, warnings = again(folder)
    assert found == undisturbed
    assert len(warnings) == 1


@pytest.mark.parametrize("content", ["", "[]", '{"seconds": "long"}'])
def test_damaged_times_do_no_harm(copied, content):
    folder, undisturbed = copied
    (folder / "seconds.json").write_text(content)
    for path in folder.glob("runs/*/time.json"):
        path.write_text(content)
    assert again(folder) == (undisturbed, [])


def test_a_result_before_the_work_says_that_all_is_missing(tmp_path):
    result = result_of(Study(tiny_recipe(), tmp_path))
    assert not result.finished
    assert result.levels[0].emm.status == "unfinished"
    assert result.runs == []
    assert result.notes == ["unfinished; 2 of 2 runs are missing"]


def test_a_run_that_is_not_finished_is_in_the_record_so_far_alone(copied):
    folder, _ = copied
    evaluation_files(folder)[1].unlink()
    study = Study(tiny_recipe(), folder)
    assert len(result_of(study).runs) == 1
    record = result_of(study, so_far=True)
    states = [(run.verdict, run.stopped, len(run.evaluations)) for run in record.runs]
    assert sorted(states, key=lambda state: state[2]) == [("unfinished", "running", 2), (None, "end", 3)]
    assert [run.epochs_trained for run in record.runs] == [20, 20]
    assert record.levels[0].emm.status == "unfinished"
    for path in folder.glob("runs/*/null-*.json"):
        path.unlink()
    assert result_of(study).runs == []  # without the null no run is finished


def test_a_budget_ends_a_study_without_an_emm_and_a_larger_one_trains_only_what_is_missing(
    finished, tmp_path
):
    _, undisturbed = finished
    settings, told = ["budget.images=1"], []
    study = Study(tiny_recipe(*settings), tmp_path)
    result = carried_out(study, warn=told.append)
    assert [run.size for run in result.runs] == [8]  # the longest first
    (level,) = result.levels
    assert level.emm.status == level.emm_last.status == "unfinished"
    assert level.emm.value is None
    assert result.notes[0].startswith("unfinished: budget spent (")
    assert result.notes[0].endswith("1 of 2 runs are missing")
    assert "The budget is spent" in told[0]
    before = modification_times(tmp_path / "runs" / result.runs[0].run_id)
    whole = carried_out(Study(tiny_recipe("budget.images=1e9"), tmp_path))
    assert table(whole) == undisturbed
    assert modification_times(tmp_path / "runs" / result.runs[0].run_id) == before


def damage(path, how, position=None):
    content = path.read_bytes()
    middle = len(content) // 2 if position is None else position
    path.write_bytes(
        {
            "cut": content[:middle],
            "changed": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
            "empty": b"",
            "text": b"not an archive",
        }[how]
    )


def test_the_example_shows_the_first_seeds_with_their_true_neighbours(finished):
    folder, _ = finished
    study = Study(tiny_recipe(), folder)
    shown = study.example(study.runs()[1].run_id, count=3)
    training = study.sets[8].images
    stored_ = max(
        study.runs()[1].evaluations(study.recipe.sampling, 8),
        key=lambda each: RatioRule(0.9)(each.neighbours).mean(),
    )
    np.testing.assert_array_equal(shown.generated, stored_.images[:3])
    for image, nearest, second, ratio in zip(
        shown.generated, shown.nearest, shown.second, shown.ratios, strict=True
    ):
        distances = np.sqrt(((training.astype(float) - image) ** 2).sum(axis=(1, 2, 3)))
        order = np.argsort(distances)
        np.testing.assert_array_equal(nearest, training[order[0]])
        np.testing.assert_array_equal(second, training[order[1]])
        assert ratio == pytest.approx(distances[order[0]] / distances[order[1]])
    assert len(study.example(study.runs()[1].run_id, count=100).generated) == 8
