import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_builders import tiny_recipe

from diffmem.studies.search.choice import Outcome
from diffmem.studies.search.levels import Item, decision_log, follow, hint_order

LEVELS = "levels={a: {}, b: {}, c: {}, d: {}, e: {}}"
WIDE = ("sizes=[16, 512]", "search.start=null", "search.most_sizes=12", "search.tolerance=0.1")


def verdict(size, emm):
    rate = 1 / (1 + (1.857 * (size / emm) ** 2))  # 35% at emm
    return Outcome("memorized" if size <= emm else "not memorized", rate)


@given(st.integers(1, 40))
def test_every_level_has_its_turn_once_and_after_the_level_that_it_learns_from(count):
    order = hint_order(count)
    assert sorted(level for level, _ in order) == list(range(count))
    seen = []
    for level, parent in order:
        assert (parent is None) == (not seen)
        assert parent is None or parent in seen
        seen.append(level)


def test_the_middle_level_is_first_and_others_learn_from_the_nearest():
    assert hint_order(5) == [(2, None), (0, 2), (3, 2), (1, 0), (4, 3)]


def test_levels_wait_for_the_one_that_says_where_to_begin():
    recipe = tiny_recipe(LEVELS, *WIDE)
    searches = follow(recipe, lambda item: verdict(item.size, 200) if item.level == "c" else None)
    assert searches["c"][0].finished
    for name in "ad":
        (item,) = searches[name][0].waiting
        assert 0.85 * 200 / 1.23 < item.size < 200
    for name in "be":
        assert searches[name][0].found is None
        assert searches[name][0].waiting == []


def test_without_hints_all_levels_begin_at_once():
    recipe = tiny_recipe(LEVELS, *WIDE, "search.hints=false")
    searches = follow(recipe, lambda item: None)
    assert [group[0].waiting for group in searches.values()] == [[Item(name, 0, 16)] for name in "abcde"]


def test_hints_save_trainings():
    def trainings(*settings):
        searches = follow(tiny_recipe(LEVELS, *WIDE, *settings), lambda item: verdict(item.size, 200))
        return sum(len(group[0].found.outcomes) for group in searches.values())

    assert trainings() < trainings("search.hints=false")


def test_later_seeds_begin_where_the_first_one_ended():
    recipe = tiny_recipe("levels={a: {}}", *WIDE, "seeds=[5, 6, 7]")
    searches = follow(recipe, lambda item: verdict(item.size, 200 + item.seed) if item.seed == 5 else None)
    assert searches["a"][0].finished
    assert (
        searches["a"][1].rule.start
        == searches["a"][2].rule.start
        == pytest.approx(searches["a"][0].emm.value / (1.1 / 0.9) ** 0.5)
    )


def test_a_level_beyond_the_sizes_hints_at_their_end():
    recipe = tiny_recipe("levels={a: {}, b: {}}", *WIDE)
    searches = follow(recipe, lambda item: verdict(item.size, 5000) if item.level == "a" else None)
    assert searches["a"][0].emm.status == "above largest"
    assert searches["b"][0].waiting == [Item("b", 0, 512)]


def test_the_log_of_a_search_that_waits_says_so():
    recipe = tiny_recipe("levels={a: {}, b: {}}", *WIDE)
    searches = follow(recipe, lambda item: None)
    (entry,) = decision_log(searches["b"], {})
    assert "waits" in entry.text
