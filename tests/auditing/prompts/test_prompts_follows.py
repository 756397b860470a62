import numpy as np

from diffmem.auditing.prompts.follows import LEAST_PROMPTS, follows_prompts

PROMPTS = 40


def samples(prompt=0.0, seed=0.0, rest=1.0, prompts=PROMPTS, source=0):
    """Two samples of each prompt: a part of the prompt, a part of the seed, and a part of each alone."""
    rng = np.random.default_rng(source)
    of_prompt, of_seed, alone = (
        rng.normal(size=size) for size in ((prompts, 1, 48), (1, 2, 48), (prompts, 2, 48))
    )
    values = prompt * of_prompt + seed * of_seed + rest * alone
    images = np.clip(128 + 25 * values, 0, 255).astype(np.uint8).reshape(-1, 3, 4, 4)
    return images, [np.array([2 * at, 2 * at + 1]) for at in range(prompts)]


def test_samples_that_depend_on_their_prompts_are_known_by_it():
    found = follows_prompts(*samples(prompt=1.0))
    assert (found.nearer, found.farther, found.follows) == (PROMPTS, 0, True)


def test_samples_that_a_list_tells_wrongly_do_not_depend_on_it():
    images, of_prompt = samples(prompt=1.0)
    shuffled = np.random.default_rng(1).permutation(len(images))
    assert not follows_prompts(images[shuffled], of_prompt).follows


def test_the_same_seeds_for_all_prompts_neither_hide_nor_feign_dependence():
    assert follows_prompts(*samples(prompt=1.0, seed=3.0)).follows
    assert not follows_prompts(*samples(seed=3.0)).follows


def test_independent_samples_are_taken_for_dependent_ones_at_most_as_often_as_the_level_says():
    wrong = [follows_prompts(*samples(source=source)).follows for source in range(300)]
    assert np.mean(wrong) <= 0.05


def test_few_prompts_of_two_samples_say_nothing():
    images, of_prompt = samples(prompts=LEAST_PROMPTS)
    assert follows_prompts(images, of_prompt) is not None
    assert follows_prompts(images, of_prompt[1:]) is None
    assert follows_prompts(images, [each[:1] for each in of_prompt]) is None
