from types import SimpleNamespace

import pytest
from parsl.jobs.states import JobState, JobStatus

from diffmem.executors import parsl_jobs
from diffmem.executors.jobs import JobBook
from diffmem.executors.parsl_jobs import JobWatch


class Executor:
    """What the watch asks of Parsl's executor: jobs are blocks '0', '1', ... with the ids 100, 101, ..."""

    def __init__(self, places=1, most=3):
        self.workers_per_node = places
        self.provider = SimpleNamespace(nodes_per_block=1, max_blocks=most)
        self.tasks, self.status, self.managers = 0, {}, []
        self.blocks_to_job_id = {}
        self.given_back = []

    def outstanding(self):
        return self.tasks

    def connected_managers(self):
        return self.managers

    def scale_out_facade(self, count):
        for _ in range(count):
            block = str(len(self.status))
            self.status[block] = JobStatus(JobState.PENDING)
            self.blocks_to_job_id[block] = str(100 + int(block))

    def scale_in_facade(self, count, max_idletime):
        self.given_back.append((count, max_idletime))

    def works(self, block, tasks=1, idle=0.0, **more):
        """Let the workers of a block report."""
        self.status[block] = JobStatus(JobState.RUNNING)
        manager = {
            "block_id": block,
            "tasks": tasks,
            "idle_duration": idle,
            "active": True,
            "draining": False,
        }
        self.managers = [each for each in self.managers if each["block_id"] != block] + [{**manager, **more}]

    def fails(self, block, output="", message=None, tmp_path=None):
        path = tmp_path / f"{block}.stderr"
        path.write_text(output)
        self.status[block] = JobStatus(JobState.MISSING, message, stderr_path=str(path))


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(parsl_jobs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def watch(tmp_path, clock):
    return JobWatch(JobBook(tmp_path, "slurm", "study"), scales=True)


def look(watch, executor):
    watch(executor, executor.status)
    return [f"{block}:{one.state.name}" for block, one in executor.status.items() if not one.terminal]


def test_there_are_as_many_jobs_as_the_runs_need_and_those_that_wait_are_left_alone(watch, clock):
    executor = Executor(places=8)
    executor.tasks = 1
    for _ in range(100):
        clock[0] += 60
        assert look(watch, executor) == ["0:PENDING"]
    executor.tasks = 9
    assert len(look(watch, executor)) == 2
    executor.tasks = 80
    assert len(look(watch, executor)) == 3  # the most
    clock[0] += 600
    look(watch, executor)
    assert executor.given_back == []
    assert watch.book.ids == ["100", "101", "102"]


def test_what_nothing_needs_for_two_minutes_is_given_back_if_it_is_idle(watch, clock):
    executor = Executor()
    executor.tasks = 2
    look(watch, executor)
    executor.works("0")
    executor.tasks = 1
    executor.works("1", tasks=0, idle=119.0)
    look(watch, executor)
    executor.works("1", tasks=0, idle=121.0)
    look(watch, executor)
    clock[0] += 119
    look(watch, executor)
    assert executor.given_back == []
    clock[0] += 2
    look(watch, executor)
    assert executor.given_back == [(1, 120.0)]


def test_a_job_that_is_about_to_reach_its_limit_is_replaced_for_the_runs_that_wait(watch):
    executor = Executor(places=2)
    executor.tasks = 2
    look(watch, executor)
    executor.works("0", tasks=1, draining=True)
    assert look(watch, executor) == ["0:RUNNING", "1:PENDING"]
    assert look(watch, executor) == ["0:RUNNING", "1:PENDING"]


def test_a_lost_job_is_replaced_at_the_next_look(watch):
    executor = Executor()
    executor.tasks = 1
    look(watch, executor)
    executor.works("0")
    look(watch, executor)
    executor.status["0"] = JobStatus(JobState.COMPLETED, "CANCELLED")
    executor.managers = []
    assert look(watch, executor) == ["1:PENDING"]
    assert watch.news() == []
    look(watch, executor)
    assert watch.book.ids == ["101"]


def test_a_job_that_fails_at_once_is_told_with_what_it_wrote_and_three_in_a_row_are_the_end(
    watch, clock, tmp_path
):
    executor = Executor()
    executor.tasks = 1
    look(watch, executor)
    for block in "012":
        executor.fails(
            block, f"job00{block}: module: not found\njob00{block}: module: not found\n", "FAILED", tmp_path
        )
        look(watch, executor)
        assert [one for one in executor.status.values() if not one.terminal] == []
        clock[0] += 11  # the next is not asked for at once
        look(watch, executor)
    assert watch.news() == [
        "Job 100 ended (FAILED) before a worker of it had reported: job000: module: not found"
    ]
    assert str(watch.failure) == "3 jobs in a row could not start a worker: job002: module: not found"
    assert len(executor.status) == 3


def test_two_failures_before_one_that_works_are_forgiven(watch, clock, tmp_path):
    executor = Executor()
    executor.tasks = 1
    look(watch, executor)
    for block in "01":
        executor.fails(block, "bad node", None, tmp_path)
        look(watch, executor)
        clock[0] += 11
        look(watch, executor)
    executor.works("2")
    look(watch, executor)
    executor.status["2"] = JobStatus(JobState.TIMEOUT)
    look(watch, executor)
    executor.fails("3", "bad node", None, tmp_path)
    look(watch, executor)
    assert watch.failure is None


def test_a_refusal_of_the_scheduler_is_told_in_its_words(watch):
    executor = Executor()
    executor.tasks = 1
    executor.scale_out_facade = lambda count: executor.status.update(
        {"0": JobStatus(JobState.FAILED, "Failed to start block 0: sbatch: error: invalid partition")}
    )
    look(watch, executor)
    look(watch, executor)
    assert watch.news() == ["The scheduler takes no job: sbatch: error: invalid partition"]


def test_jobs_of_a_user_s_configuration_are_noted_but_not_asked_for(tmp_path):
    watch, executor = JobWatch(JobBook(tmp_path, "parsl", "study"), scales=False), Executor()
    executor.tasks = 1
    assert look(watch, executor) == []
    executor.scale_out_facade(1)
    look(watch, executor)
    assert watch.book.ids == ["100"]
    assert watch.book.waiting.startswith("1 job pending; job 100, ")
