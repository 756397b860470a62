import pytest

from diffmem.errors import DiffmemError, UserError, nearest


def test_a_users_mistake_is_an_understood_failure():
    assert issubclass(UserError, DiffmemError)


@pytest.mark.parametrize(
    ("word", "choices", "hint"),
    [
        ("chanels", ["blocks", "channels"], " Did you mean 'channels'?"),
        ("colour", ["color", "colours"], " Did you mean 'colours'?"),
        ("xyz", ["channels", "blocks"], ""),
        ("channels", [], ""),
        ("", ["channels"], ""),
    ],
)
def test_the_nearest_choice_is_suggested_if_one_is_near(word, choices, hint):
    assert nearest(word, choices) == hint
