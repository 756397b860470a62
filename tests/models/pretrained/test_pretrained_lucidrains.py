"""Checkpoints of denoising-diffusion-pytorch: exact where its own answers are known, analytic where the network is a constant."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from checkpoint_builders import FIXTURES, WITHOUT
from lucidrains_tools import STEPS, checkpoint, constants, elucidated, guided, small
from models_tools import images

from diffmem.errors import UserError
from diffmem.models.denoiser import Denoiser
from diffmem.models.networks.lucidrains_unet import load_unet
from diffmem.models.pretrained.lucidrains import open_lucidrains, recognise

SHAPE = (3, 8, 8)
FILES = {
    "lucidrains-v-sigmoid": "model-1.pt",
    "lucidrains-x0-cosine-selfcond": "model-1.pt",
    "lucidrains-cfg-cosine": "model.pt",
}
OBJECTIVES = ("pred_v", "pred_noise", "pred_x0")


def fixture(name):
    """The checkpoint and the trainer's answers of a folder of the fixtures."""
    if not FIXTURES.is_dir():
        pytest.skip(WITHOUT)
    folder = FIXTURES / name
    return torch.load(folder / FILES[name], weights_only=True), np.load(folder / "io.npz")


def refused(*arguments, **options):
    with pytest.raises(UserError) as error:
        open_lucidrains(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def constant(objective, answer, **options):
    """A checkpoint whose network predicts `answer` everywhere."""
    made = checkpoint(objective=objective, **options)
    made["ema"]["ema_model.model.final_conv.weight"] *= 0
    made["ema"]["ema_model.model.final_conv.bias"] = torch.full((3,), answer)
    return made


@pytest.mark.parametrize("name", FILES)
def test_it_answers_as_the_trainer_at_every_noise_level(name):
    made, answers = fixture(name)
    denoiser, _ = open_lucidrains(made, answers["x"].shape[2:])
    labels = torch.from_numpy(answers["labels"]) if "labels" in answers else None
    for k, sigma in enumerate(answers["sigma"]):
        x = torch.from_numpy(answers["x"][k])
        for key, given in {"D": labels, "D_null": None}.items():
            if key in answers:
                wanted = torch.from_numpy(answers[key][k])
                assert float((denoiser(x, sigma, given) - wanted).norm() / wanted.norm()) <= 1e-5
        assert float(denoiser.timestep(torch.tensor([sigma]))) == pytest.approx(int(answers["timestep"][k]))


def test_what_it_makes_is_a_denoiser_of_the_stored_noise_levels():
    made = checkpoint()
    denoiser, notes = open_lucidrains(made, SHAPE)
    stored = made["model"]["sqrt_recipm1_alphas_cumprod"].double()
    assert isinstance(denoiser, Denoiser)
    assert torch.equal(denoiser.levels, stored)
    assert (denoiser.sigma_min, denoiser.sigma_max) == (float(stored[0]), float(stored[-1]))
    assert (denoiser.image_shape, denoiser.num_labels, len(stored)) == (SHAPE, 0, STEPS)
    text = " ".join(notes)
    for words in (
        "denoising-diffusion-pytorch 2.3.4, step 1,200",
        "EMA",
        "of 7 updates",
        "pred_v",
        "40 timesteps",
        "auto_normalize",
        "sinusoidal_pos_emb_theta",
    ):
        assert words in text
    assert "self-conditioning" not in text


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("gamma", [None, 3, 5])
def test_the_objective_is_the_one_whose_loss_weights_are_stored(objective, gamma):
    denoiser, notes = open_lucidrains(constant(objective, 0.25, gamma=gamma), SHAPE)
    sigma = 0.7
    x = images(2) * sigma
    wanted = {
        "pred_v": x / (1 + sigma**2) - 0.25 * sigma / (1 + sigma**2) ** 0.5,
        "pred_noise": x - 0.25 * sigma,
        "pred_x0": torch.full_like(x, 0.25),
    }
    torch.testing.assert_close(denoiser(x, sigma), wanted[objective])
    assert f"The objective is {objective}, as the stored weights of its loss show." in notes


def test_a_network_of_a_learned_variance_estimates_the_noise_whatever_its_loss_weights_are():
    made = checkpoint(small(outputs=6), objective="pred_v")
    made["ema"]["ema_model.model.final_conv.weight"] *= 0
    made["ema"]["ema_model.model.final_conv.bias"] = torch.tensor([0.25] * 3 + [9.0] * 3)
    denoiser, notes = open_lucidrains(made, SHAPE)
    x = images(2)
    torch.testing.assert_close(denoiser(x, 0.7), x - 0.25 * 0.7)
    assert "The objective is pred_noise, as the learned variance shows." in notes


def untold(made):
    """The same file without weights of the loss that tell the objective, as early versions wrote it."""
    for state, prefix in ((made["model"], ""), (made["ema"], "ema_model.")):
        state[f"{prefix}p2_loss_weight"] = torch.ones_like(state.pop(f"{prefix}loss_weight"))
    return made


def test_an_objective_that_the_file_does_not_tell_is_asked_for():
    message = refused(untold(checkpoint()), SHAPE)
    assert all(word in message for word in ("'objective'", *OBJECTIVES, "default"))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_that_the_file_does_not_tell_is_taken_as_given(objective):
    told, _ = open_lucidrains(constant(objective, 0.25), SHAPE)
    given, notes = open_lucidrains(untold(constant(objective, 0.25)), SHAPE, {"objective": objective})
    assert torch.equal(told(images(2), 0.7), given(images(2), 0.7))
    assert f"The objective is {objective}, as given; the file does not tell." in notes


def test_raw_weights_come_only_when_they_are_asked_for():
    made = checkpoint()
    average, said = open_lucidrains(made, SHAPE)
    raw, raw_said = open_lucidrains(made, SHAPE, weights="raw")
    assert "raw weights" in raw_said[0] and "raw" not in said[0]  # noqa: PT018
    bare, _ = open_lucidrains(made["model"], SHAPE)
    x = images(2)
    assert torch.equal(raw(x, 0.7), bare(x, 0.7))
    assert float((raw(x, 0.7) - average(x, 0.7)).norm()) > 0.1


def test_an_image_is_denoised_alike_alone_and_among_others():
    denoiser, _ = open_lucidrains(checkpoint(), SHAPE)
    x, sigma = images(3), torch.tensor([0.1, 0.7, 1.1])
    together = denoiser(x, sigma)
    for k in range(3):
        torch.testing.assert_close(denoiser(x[k : k + 1], sigma[k])[0], together[k], rtol=1e-4, atol=1e-5)


def test_self_conditioning_is_said():
    _, notes = open_lucidrains(checkpoint(small(inputs=6)), SHAPE)
    assert any("self-conditioning" in note and "zeros" in note for note in notes)


def test_images_need_not_be_square():
    denoiser, _ = open_lucidrains(checkpoint(), (3, 6, 10))
    assert denoiser(torch.ones(1, 3, 6, 10), 0.7).shape == (1, 3, 6, 10)


def test_classes_are_those_of_the_table_and_no_label_is_the_null_embedding():
    made = guided()
    denoiser, notes = open_lucidrains(made, SHAPE)
    assert denoiser.num_labels == 5
    assert any("4 heads" in note and "guidance" in note for note in notes)
    x = images(2)
    null = denoiser(x, 0.7)
    assert torch.equal(null, denoiser(x, 0.7, torch.tensor([-1, -1])))
    made["model.classes_emb.weight"][3] = made["model.null_classes_emb"]
    changed, _ = open_lucidrains(made, SHAPE)
    assert torch.equal(changed(x, 0.7, torch.tensor([3, 3])), null)
    assert not torch.equal(changed(x, 0.7, torch.tensor([2, 2])), null)


def test_the_heads_that_the_tensors_do_not_tell_can_be_given():
    usual, four, two = (
        open_lucidrains(guided(), SHAPE, settings)[0](images(2), 0.7)
        for settings in (None, {"heads": 4}, {"heads": 2})
    )
    assert torch.equal(usual, four)
    assert not torch.allclose(four, two)


def test_heads_are_asked_for_where_the_attention_is_not_of_the_usual_size():
    assert "does not tell heads" in refused(guided(width=16), SHAPE)
    _, notes = open_lucidrains(guided(width=16), SHAPE, {"heads": 2})
    assert any("2 heads" in note for note in notes)
    assert "cannot have 5 heads" in refused(guided(width=16), SHAPE, {"heads": 5})


def test_elucidated_diffusion_has_the_preconditioning_of_edm():
    made = elucidated()
    made["net.final_conv.weight"] *= 0
    made["net.final_conv.bias"] = torch.full((3,), 0.25)
    x, sigma = images(2), 3.0
    for data, settings in ((0.5, None), (0.8, {"sigma_data": 0.8})):
        denoiser, notes = open_lucidrains(made, SHAPE, settings)
        total = sigma**2 + data**2
        torch.testing.assert_close(denoiser(x, sigma), data**2 / total * x + 0.25 * sigma * data / total**0.5)
        assert any(f"(sigma_data) {data}" in note for note in notes)
        assert isinstance(denoiser, Denoiser)
        assert (denoiser.sigma_min, denoiser.sigma_max) == (0, float("inf"))


def test_constants_of_the_other_diffusion_in_elucidated_diffusion_are_refused_without_advice():
    told = refused(elucidated() | constants(), SHAPE)
    assert "is not one of this trainer's ElucidatedDiffusion." in told
    assert "Did you mean" not in told


def test_a_model_of_sequences_is_named():
    made = checkpoint()
    made["ema"]["ema_model.model.init_conv.weight"] = torch.ones(8, 3, 7)
    assert "a model of sequences (Unet1D)" in refused(made, SHAPE)


def test_the_network_of_elucidated_diffusion_is_shown_a_quarter_of_the_log_of_sigma():
    made, x, sigma = elucidated(), images(2), 3.0
    network = load_unet({name.removeprefix("net."): one for name, one in made.items()}, 3)
    time = torch.full((2,), np.log(sigma) / 4)
    wanted = 0.25 * x / 9.25 + sigma * 0.5 / 9.25**0.5 * network(x / 9.25**0.5, time)
    torch.testing.assert_close(open_lucidrains(made, SHAPE)[0](x, sigma), wanted, rtol=1e-4, atol=1e-5)


def test_elucidated_diffusion_has_no_labels_and_no_other_tensors():
    denoiser, _ = open_lucidrains(elucidated(), SHAPE)
    with pytest.raises(UserError, match="takes no labels"):
        denoiser(images(1), 1.0, torch.tensor([0]))
    assert "'betas' is not one of this trainer's" in refused(elucidated() | {"betas": torch.ones(3)}, SHAPE)
    assert "takes no setting 'objective'" in refused(elucidated(), SHAPE, {"objective": "pred_v"})


@pytest.mark.parametrize("data", [0, -1, float("nan"), float("inf"), "0.5", True])
def test_a_standard_deviation_that_is_no_positive_number_is_refused(data):
    assert "positive number" in refused(elucidated(), SHAPE, {"sigma_data": data})


@pytest.mark.parametrize("heads", [0, -4, 2.0, "4", True])
def test_heads_that_are_no_positive_whole_number_are_refused(heads):
    assert "positive whole number" in refused(guided(), SHAPE, {"heads": heads})


@pytest.mark.parametrize("version", ["1.6.4", "1.7.1", None])
def test_the_attention_of_versions_before_1_9_is_refused_by_version(version):
    made = checkpoint(version=version)
    for state, prefix in ((made["model"], ""), (made["ema"], "ema_model.")):
        weight = state.pop(f"{prefix}model.mid_attn.to_qkv.weight")
        state[f"{prefix}model.mid_attn.fn.fn.to_qkv.weight"] = weight
    message = refused(made, SHAPE)
    assert f"denoising-diffusion-pytorch {version or 'of unknown version'}" in message
    assert "before 1.9" in message


def test_attention_without_learned_keys_is_refused_as_that_of_an_earlier_version():
    made = checkpoint(version="1.8.6")
    made["ema"] = {name: one for name, one in made["ema"].items() if not name.endswith(".mem_kv")}
    message = refused(made, SHAPE)
    assert "denoising-diffusion-pytorch 1.8.6" in message
    assert "before 1.9" in message


def test_the_size_of_the_images_is_asked_for():
    assert "image_shape=(C, H, W)" in refused(checkpoint())


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((3, 8, 7), "multiples of 2"),
        ((1, 8, 8), "reads 3 channels"),
        ((3, 8), "three positive whole numbers"),
        ((3, 8, 0), "three positive whole numbers"),
        ((3, 8, 2.5), "three positive whole numbers"),
    ],
)
def test_sizes_that_no_image_of_the_network_has_are_refused(shape, words):
    assert words in refused(checkpoint(), shape)


@pytest.mark.parametrize(
    ("inputs", "outputs", "channels"), [(3, 3, 3), (6, 3, 3), (3, 6, 3), (1, 1, 1), (2, 1, 1)]
)
def test_where_only_the_sides_are_given_the_network_tells_its_channels(inputs, outputs, channels):
    made = checkpoint(small(inputs=inputs, outputs=outputs))
    assert open_lucidrains(made, (None, 8, 8))[0].image_shape == (channels, 8, 8)


def test_channels_that_could_be_those_of_two_networks_are_asked_for():
    made = checkpoint(small(inputs=6, outputs=6))
    assert "images of 6, or of 3 with self-conditioning and a learned variance" in refused(made, (None, 8, 8))
    assert open_lucidrains(made, SHAPE)[0].image_shape == SHAPE


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"objective": "v"}, "must be 'pred_v' or 'pred_noise' or 'pred_x0', not 'v'"),
        ({"objective": ["pred_v"]}, "objective must be"),
        (
            {"objective": "pred_x0"},
            "The objective is 'pred_v', as the stored weights of its loss show, not 'pred_x0'",
        ),
        ({"objektive": "pred_v"}, "takes no setting 'objektive'. Did you mean"),
        ({"heads": 4}, "takes no setting 'heads'"),
        ({"sigma_data": 0.5}, "takes no setting 'sigma_data'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    assert words in refused(checkpoint(), SHAPE, settings)


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("extra", torch.ones(2), "Tensor 'extra' is not one of this trainer's"),
        ("model.extra.weight", torch.ones(2), "Tensor 'extra.weight' is not one of this network"),
        ("model.final_conv.bias", torch.full((3,), torch.nan), "not finite"),
        ("model.final_conv.bias", None, "model.final_conv.bias' is no tensor"),
        ("sqrt_recipm1_alphas_cumprod", torch.full((STEPS,), torch.inf), "not finite"),
        ("sqrt_recipm1_alphas_cumprod", torch.ones(STEPS), "do not grow"),
        ("sqrt_recipm1_alphas_cumprod", torch.ones(1), "at least 2 timesteps"),
    ],
)
def test_a_file_with_other_tensors_is_refused(name, tensor, words):
    made = checkpoint()
    made["ema"][f"ema_model.{name}"] = made["model"][name] = tensor
    assert words in refused(made, SHAPE)
    assert words in refused(made, SHAPE, weights="raw")


def test_a_file_without_an_average_points_to_its_raw_weights():
    made = checkpoint()
    del made["ema"]
    assert "weights 'raw'" in refused(made, SHAPE)
    assert open_lucidrains(made, SHAPE, weights="raw")[0].num_labels == 0


def test_weights_of_another_name_are_refused():
    assert "'ema' or 'raw', not 'best'" in refused(checkpoint(), SHAPE, weights="best")


@pytest.mark.parametrize(
    "other",
    [{}, {"model": None}, {"model": {}}, {"model": {"a.weight": 1}, "step": 3}, {0: 1}, {"model": {0: 1}}],
)
def test_other_files_are_not_recognised(other):
    assert not recognise(other)
    assert "no checkpoint of denoising-diffusion-pytorch" in refused(other, SHAPE)


def test_its_own_files_are_recognised():
    assert recognise(checkpoint())
    assert recognise(checkpoint()["model"])
    assert recognise(guided())
    assert recognise(elucidated())
