from __future__ import annotations

import threading
import time

import pytest
import torch

from diffmem.threads import dealing, dealt, even_parts, one_thread, pulled


@pytest.fixture(params=[1, 2, 4])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_all_items_are_worked_on_without_gradients_and_threads_are_given_back(threads):
    def work(item: int) -> tuple[int, bool, int]:
        return item * item, torch.is_grad_enabled(), torch.get_num_threads()

    results = list(dealt(work, range(20)))
    assert sorted(square for square, _, _ in results) == [item * item for item in range(20)]
    assert not any(grad for _, grad, _ in results)
    assert {inner for _, _, inner in results} == {1}
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [threads]


def test_threads_write_into_what_was_made_in_inference_mode(threads):
    with torch.inference_mode():
        found = torch.zeros(20)

        def work(item: int) -> None:
            torch.add(torch.ones(1), item, out=found[item : item + 1])

        assert len(list(dealt(work, range(20)))) == 20
    assert found.tolist() == list(range(1, 21))


def test_an_interrupt_right_after_the_number_of_threads_was_set_gives_it_back(threads, monkeypatch):
    given = torch.set_num_threads

    def interrupted(count: int) -> None:
        given(count)
        if count == 1:
            monkeypatch.undo()
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "set_num_threads", interrupted)
    with pytest.raises(KeyboardInterrupt), one_thread():
        pass
    assert torch.get_num_threads() == threads


def test_an_error_ends_the_work(threads):
    done = []

    def work(item: int) -> None:
        if item == 3:
            raise ValueError("three")
        time.sleep(0.005)  # all would be done before the error is noticed, if they took no time
        done.append(item)

    with pytest.raises(ValueError, match="three"):
        list(dealt(work, range(1000)))
    assert len(done) < 999
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("count", "largest"), [(0, 5), (1, 5), (5, 5), (6, 5), (1000, 7), (3, 1)])
def test_parts_cover_the_range_once_and_are_small_enough(threads, count, largest):
    parts = even_parts(count, largest)
    assert [item for part in parts for item in range(part.start, part.stop)] == list(range(count))
    assert all(part.stop - part.start <= largest for part in parts)


def test_the_number_of_threads_comes_back_after_an_error(threads):
    def failing() -> None:
        with one_thread():
            assert torch.get_num_threads() == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert torch.get_num_threads() == threads


def test_between_blocks_that_are_dealt_operations_have_one_thread(threads):
    with dealing():
        assert torch.get_num_threads() == 1
        seen = pulled(lambda items: (list(items), threading.get_ident(), torch.get_num_threads()), range(50))
        assert torch.get_num_threads() == 1
        assert len(even_parts(1000, 1000, fewest=2)) == threads
    assert torch.get_num_threads() == threads
    assert sorted(item for items, _, _ in seen for item in items) == list(range(50))
    assert len(seen) == threads
    assert {inner for _, _, inner in seen} == {1}


def test_no_more_threads_pull_than_there_are_items(threads):
    assert pulled(list, []) == []
    assert sorted(map(len, pulled(list, [1]))) == [1]
