import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from checkpoint_builders import FIXTURES, WITHOUT, guided_diffusion, pytorch_ddpm, worst_error

from diffmem.errors import UserError
from diffmem.models.denoiser import Denoiser
from diffmem.models.networks.guided_unet import GuidedUNet, Heads
from diffmem.models.pretrained.guided_diffusion import SETTINGS, open_guided_diffusion, recognise

SHAPE = (3, 8, 8)
ANSWERS = {
    "image_size": 8,
    "num_heads": 4,
    "use_new_attention_order": False,
    "noise_schedule": "linear",
    "diffusion_steps": 1000,
    "predict_xstart": False,
}


def refused(action, *words):
    with pytest.raises(UserError) as error:
        action()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def opened(tensors=None, **answers):
    return open_guided_diffusion(
        guided_diffusion() if tensors is None else tensors, settings={**ANSWERS, **answers}
    )


TRAINED = ["improved-diffusion-linear", "guided-diffusion-cosine-learnsigma-cond-updown-neworder"]


def of_fixture(folder, **changes):
    folder = FIXTURES / folder
    path = folder / "ema_0.9_000002.pt"
    facts = json.loads((folder / "facts.json").read_text())
    answers = {"use_new_attention_order": False, **{name: facts[name] for name in SETTINGS if name in facts}}
    held = torch.load(path, weights_only=True)
    assert recognise(held)
    return open_guided_diffusion(held, settings={**answers, **changes}, beside=path)


@pytest.mark.skipif(not FIXTURES.exists(), reason=WITHOUT)
@pytest.mark.parametrize("folder", TRAINED)
def test_a_trained_checkpoint_answers_as_its_trainers_own_model(folder):
    denoiser, notes = of_fixture(folder)
    assert worst_error(denoiser, FIXTURES / folder) < 2e-6
    assert "averaged weights by the file's name (rate 0.9), saved at step 2" in notes[0]


@pytest.mark.skipif(not FIXTURES.exists(), reason=WITHOUT)
@pytest.mark.parametrize("folder", TRAINED)
def test_the_wrong_order_of_attention_is_not_what_the_trainer_answered(folder):
    new = "neworder" in folder
    assert worst_error(of_fixture(folder, use_new_attention_order=not new)[0], FIXTURES / folder) > 1e-4


def test_it_is_a_denoiser_and_its_notes_say_what_was_assumed():
    denoiser, notes = opened()
    assert isinstance(denoiser, Denoiser)
    assert (denoiser.image_shape, denoiser.num_labels) == (SHAPE, 0)
    assert denoiser.sigma_max == pytest.approx(157.4, rel=1e-3)
    text = " ".join(notes)
    for part in ("guided-diffusion", "does not tell whether its weights are averaged", "1,000 timesteps", "linear",
                 "noise", "4 head(s)", "old order", "No classes", "timestep_respacing", "num_heads_upsample"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize("outputs", [3, 6])
def test_d_is_of_the_first_channels_alone_as_noise_or_clean_image(outputs):
    tensors = guided_diffusion(outputs=outputs, scale=0.0)
    tensors["out.2.bias"] = torch.arange(1.0, outputs + 1)
    x, first = torch.randn(2, *SHAPE), torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    noise, notes = opened(tensors)
    torch.testing.assert_close(noise(x, 0.5), x - 0.5 * first)
    assert ("variance" in " ".join(notes)) == (outputs == 6)
    clean, _ = opened(tensors, predict_xstart=True)
    torch.testing.assert_close(clean(x, 0.5), first.expand_as(x))


@pytest.mark.parametrize("scales", [True, False])
def test_the_embedding_scales_or_is_added_as_the_shapes_say(scales):
    denoiser, _ = opened(guided_diffusion(scales=scales))
    x = torch.randn(1, *SHAPE)
    assert torch.isfinite(denoiser(x, 1.0)).all()
    assert not torch.allclose(denoiser(x, 1.0), denoiser(x, 1.01), atol=1e-4)


def test_blocks_that_change_the_resolution_are_found_by_the_last_layers_of_the_way_up():
    tensors = guided_diffusion(updown=True)
    network = GuidedUNet(tensors, Heads(4))
    network.load_state_dict(tensors, assign=True)
    sides = []
    for stage in (*network.input_blocks, network.middle_block, *network.output_blocks):
        stage.register_forward_hook(lambda stage, given, made: sides.append(made.shape[-1]))
    network(torch.randn(1, *SHAPE), torch.zeros(1))
    assert sides == [8, 8, 4, 4, 4, 4, 8, 8, 8]
    assert torch.isfinite(opened(tensors)[0](torch.randn(1, *SHAPE), 1.0)).all()


def test_each_stage_of_the_way_up_is_given_what_is_below_it_and_then_its_mirror_image():
    tensors, below, skips = guided_diffusion(), [], []
    network = GuidedUNet(tensors, Heads(4))
    network.load_state_dict(tensors, assign=True)
    for stage in network.input_blocks:
        stage.register_forward_hook(lambda stage, given, made: skips.append(made))
    for stage in (network.middle_block, *network.output_blocks):
        stage.register_forward_hook(lambda stage, given, made: below.append((given[0], made)))
    network(torch.randn(1, *SHAPE), torch.zeros(1))
    for i in range(4):
        assert torch.equal(below[i + 1][0], torch.cat([below[i][1], skips[3 - i]], dim=1))


def test_timesteps_are_cosines_and_then_sines():
    tensors = guided_diffusion()
    network = GuidedUNet(tensors, Heads(4))
    network.load_state_dict(tensors, assign=True)
    seen = []
    network.time_embed.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    network(torch.randn(2, *SHAPE), torch.tensor([3.0, 7.5]))
    angles = torch.outer(torch.tensor([3.0, 7.5]), 10_000.0 ** (-torch.arange(16) / 16))
    torch.testing.assert_close(seen[0], torch.cat([angles.cos(), angles.sin()], dim=1))


def test_the_two_orders_of_attention_and_other_heads_differ_but_are_one_for_a_single_head():
    x = torch.randn(1, *SHAPE)

    def answer(**answers):
        return opened(**answers)[0](x, 1.0)

    old = answer()
    assert not torch.allclose(old, answer(use_new_attention_order=True), atol=1e-4)
    assert not torch.allclose(old, answer(num_heads=2), atol=1e-4)
    assert torch.equal(old, answer(num_head_channels=8))
    assert torch.equal(answer(num_heads=1), answer(num_heads=1, use_new_attention_order=True))


def test_the_way_up_may_have_heads_of_its_own_unless_their_channels_are_given():
    heads = Heads(4, upwards=2)
    assert (heads.of(32, upwards=False), heads.of(32, upwards=True)) == (4, 2)
    assert Heads(channels=16, upwards=8).of(64, upwards=True) == 4
    _, notes = opened(num_heads_upsample=2)
    assert "4 head(s), 2 in the way up" in " ".join(notes)


@pytest.mark.parametrize(("new", "order"), [(False, "hqc"), (True, "qhc")])
def test_attention_is_that_of_the_published_formula(new, order):
    tensors = guided_diffusion()
    layer = GuidedUNet(tensors, Heads(4, new_order=new)).middle_block[1]
    at = "middle_block.1."
    own = {name.removeprefix(at): one.double() for name, one in tensors.items() if name.startswith(at)}
    layer.load_state_dict(own, assign=True)
    x = torch.randn(2, 32, 4, 4, dtype=torch.float64)
    flat = F.group_norm(x.flatten(2), 32, own["norm.weight"], own["norm.bias"])
    qkv = torch.einsum("oi,bip->bop", own["qkv.weight"][:, :, 0], flat) + own["qkv.bias"][:, None]
    sizes = {"h": 4, "q": 3, "c": 8}
    parts = torch.einsum(f"b{order}p->qbhcp", qkv.reshape(2, *(sizes[letter] for letter in order), 16))
    share = torch.einsum("bhcp,bhcs->bhps", parts[0], parts[1]).div(math.sqrt(8)).softmax(-1)
    mixed = torch.einsum("bhps,bhcs->bhcp", share, parts[2]).reshape(2, 32, 16)
    wanted = x.flatten(2) + torch.einsum("oi,bip->bop", own["proj_out.weight"][:, :, 0], mixed)
    wanted = (wanted + own["proj_out.bias"][:, None]).reshape(x.shape)
    torch.testing.assert_close(layer(x, torch.zeros(2, 128)), wanted)


@pytest.mark.parametrize("scales", [True, False])
@pytest.mark.parametrize(
    "place", ["input_blocks.1.0", "input_blocks.2.0", "output_blocks.1.0", "output_blocks.1.1"]
)
def test_a_block_is_that_of_the_published_formula(place, scales):
    tensors = guided_diffusion(updown=True, scales=scales)
    layer = GuidedUNet(tensors, Heads(4)).get_submodule(place)
    own = {
        name.removeprefix(f"{place}."): one.double()
        for name, one in tensors.items()
        if name.startswith(f"{place}.")
    }
    layer.load_state_dict(own, assign=True)

    def applied(name, y, map=F.conv2d, **options):
        return map(y, weight=own[f"{name}.weight"], bias=own[f"{name}.bias"], **options)

    def resized(y):
        if place == "input_blocks.2.0":
            return (y[..., ::2, ::2] + y[..., 1::2, ::2] + y[..., ::2, 1::2] + y[..., 1::2, 1::2]) / 4
        return y.repeat_interleave(2, -1).repeat_interleave(2, -2) if place == "output_blocks.1.1" else y

    channels = own["in_layers.0.weight"].shape[0]
    x, embedding = torch.randn(2, channels, 4, 4).double(), torch.randn(2, 128).double()
    y = resized(F.silu(applied("in_layers.0", x, F.group_norm, num_groups=32)))
    y = applied("in_layers.2", y, padding=1)
    shift = applied("emb_layers.1", F.silu(embedding), F.linear)[:, :, None, None]
    if scales:
        scale, shift = shift[:, :32], shift[:, 32:]
        y = applied("out_layers.0", y, F.group_norm, num_groups=32) * (1 + scale) + shift
    else:
        y = applied("out_layers.0", y + shift, F.group_norm, num_groups=32)
    y = applied("out_layers.3", F.silu(y), padding=1)
    skip = resized(x) if channels == 32 else applied("skip_connection", resized(x))
    torch.testing.assert_close(layer(x, embedding), skip + y)


def test_a_class_without_an_embedding_changes_nothing():
    tensors = guided_diffusion(classes=2)
    tensors["label_emb.weight"][1] = 0
    x = torch.randn(1, *SHAPE)
    torch.testing.assert_close(opened(tensors)[0](x, 1.0, torch.tensor([1])), opened()[0](x, 1.0))


def test_levels_are_in_float64():
    denoiser, _ = opened()
    signal = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    torch.testing.assert_close(denoiser.levels, ((1 - signal) / signal).sqrt(), rtol=1e-12, atol=0)
    long, _ = opened(diffusion_steps=4000, rescale_timesteps=True)
    signal = (1 - torch.linspace(2.5e-5, 0.005, 4000, dtype=torch.float64)).cumprod(0)
    torch.testing.assert_close(long.levels, ((1 - signal) / signal).sqrt(), rtol=1e-12, atol=0)


def test_the_cosine_schedule_is_the_published_one():
    denoiser, _ = opened(noise_schedule="cosine")
    steps = torch.arange(1, 999, dtype=torch.float64)  # the rate of the last one is capped
    signal = ((steps / 1000 + 0.008) / 1.008 * math.pi / 2).cos().square() / math.cos(
        0.008 / 1.008 * math.pi / 2
    ) ** 2
    torch.testing.assert_close(denoiser.levels[:998], ((1 - signal) / signal).sqrt(), rtol=1e-9, atol=0)


def test_rescaled_timesteps_count_every_number_of_steps_as_1000():
    tensors, x, t = guided_diffusion(), torch.randn(1, *SHAPE), torch.tensor([2000.0])
    made = {rate: GuidedUNet(tensors, Heads(4), rate) for rate in (1.0, 0.25)}
    for network in made.values():
        network.load_state_dict(tensors, assign=True)
    torch.testing.assert_close(made[0.25](x, t), made[1.0](x, t / 4))
    answers = {"diffusion_steps": 4000, "noise_schedule": "cosine"}
    rescaled, _ = opened(tensors, **answers, rescale_timesteps=True)
    plain, _ = opened(tensors, **answers, rescale_timesteps=False)
    assert not torch.allclose(rescaled(x, 1.0), plain(x, 1.0), atol=1e-4)
    short, _ = opened(tensors, rescale_timesteps=True)
    assert torch.equal(short(x, 1.0), opened(tensors)[0](x, 1.0))


def test_a_network_of_classes_needs_the_class_of_each_image():
    denoiser, notes = opened(guided_diffusion(classes=5))
    x = torch.randn(2, *SHAPE)
    assert denoiser.num_labels == 5
    assert "5 classes, none of them for 'no label'" in " ".join(notes)
    one, two = denoiser(x, 1.0, torch.tensor([0, 4]))
    assert torch.allclose(denoiser(x, 1.0, torch.tensor([0, 0]))[0], one, atol=1e-5)
    assert not torch.allclose(denoiser(x, 1.0, torch.tensor([0, 0]))[1], two, atol=1e-3)
    for labels in (None, torch.tensor([0, -1])):
        refused(lambda labels=labels: denoiser(x, 1.0, labels), "0..4", "no label")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("image_size", ["image_shape"]),
        ("num_heads", ["positive whole number", "num_head_channels", "4"]),
        ("use_new_attention_order", ["False or True", "settings={'use_new_attention_order': False}"]),
        ("noise_schedule", ["'linear' or 'cosine'", "settings={'noise_schedule': 'linear'}"]),
        ("diffusion_steps", ["positive whole number", "1000", "4000"]),
        ("predict_xstart", ["False or True"]),
    ],
)
def test_what_the_file_does_not_tell_is_asked_for_with_the_trainers_default(name, words):
    answers = {key: value for key, value in ANSWERS.items() if key != name}
    refused(lambda: open_guided_diffusion(guided_diffusion(), settings=answers), name, "default", *words)


def test_rescaling_is_asked_for_only_where_it_matters():
    refused(
        lambda: opened(diffusion_steps=4000),
        "rescale_timesteps", "True or False", "True in improved-diffusion, False in guided-diffusion",
    )  # fmt: skip


def test_a_network_without_attention_is_asked_for_no_heads():
    answers = {
        key: value for key, value in ANSWERS.items() if key not in ("num_heads", "use_new_attention_order")
    }
    _, notes = open_guided_diffusion(guided_diffusion(attention=False), settings=answers)
    assert "no attention" in " ".join(notes)


@pytest.mark.parametrize(
    "answer",
    [
        {"noise_schedule": "quadratic"},
        {"predict_xstart": 1},
        {"num_heads": 0},
        {"num_heads": 5},
        {"num_heads": 4.0},
        {"num_head_channels": 64},
        {"diffusion_steps": True},
        {"diffusion_steps": 20},
        {"image_size": 7},
        {"use_new_attention_order": "no"},
    ],
)
def test_an_impossible_answer_is_refused(answer):
    refused(lambda: opened(**answer))


def test_a_setting_that_does_not_exist_is_refused_with_the_nearest():
    refused(lambda: opened(noise_shedule="linear"), "'noise_shedule'", "Did you mean 'noise_schedule'?")


def test_the_trainers_word_for_an_option_that_is_not_set_is_understood():
    x = torch.randn(1, *SHAPE)
    assert torch.equal(opened(num_head_channels=-1, num_heads_upsample=-1)[0](x, 1.0), opened()[0](x, 1.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra.weight": torch.zeros(1)}, ["'extra.weight'", "not one of this network"]),
        ({"input_blocks.1.1.norm.weight": torch.zeros(32)}, ["input_blocks.1.1"]),
        ({"input_blocks.9.0.weight": torch.zeros(32, 32, 3, 3)}, ["input_blocks"]),
        ({"middle_block.0.skip_connection.bias": torch.zeros(32)}, ["'middle_block.0.skip_connection.bias'"]),
        ({"out.2.bias": None}, ["lacks", "out.2.bias"]),
        ({"input_blocks.2.0.op.weight": None, "input_blocks.2.0.op.bias": None}, ["input_blocks"]),
        ({"out.2.weight": torch.zeros(3, 32, 1, 1)}, ["'out.2.weight'", "(3, 32, 1, 1)"]),
        ({"out.2.weight": torch.zeros(5, 32, 3, 3), "out.2.bias": torch.zeros(5)}, ["(1, 5, 8, 8)"]),
        ({"out.0.weight": torch.zeros(48)}, ["out.0", "32 equal groups"]),
        ({"out.2.bias": torch.full((3,), torch.inf)}, ["out.2.bias", "not finite"]),
        ({"time_embed.2.weight": torch.zeros(128, 64)}, ["do not fit each other"]),
        ({"step": 3}, ["tensors alone"]),
    ],
)
def test_tensors_that_are_not_exactly_those_of_the_network_are_refused(change, words):
    tensors = {**guided_diffusion(), **change}
    refused(lambda: opened({name: one for name, one in tensors.items() if one is not None}), *words)


def test_a_network_for_super_resolution_is_refused():
    refused(lambda: opened(guided_diffusion(inputs=6, outputs=6)), "6 channels", "super-resolution")


def test_the_name_of_the_file_tells_raw_weights_from_averaged_ones():
    def told(name, weights="ema"):
        tensors = guided_diffusion()
        return open_guided_diffusion(tensors, settings=ANSWERS, weights=weights, beside=Path(name))[1][0]

    assert "raw weights by the file's name, saved at step 500,000" in told("model500000.pt")
    assert "raw weights" in told("model500000.pt", "raw")
    assert "rate 0.9999" in told("ema_0.9999_500000.pt")
    assert "does not tell" in told("64x64_diffusion.pt")
    refused(lambda: told("ema_0.9999_500000.pt", "raw"), "'raw'")
    refused(lambda: told("model500000.pt", "mean"), "'ema' or 'raw'", "'mean'")


def test_image_shape_answers_for_the_size():
    answers = {key: value for key, value in ANSWERS.items() if key != "image_size"}
    assert open_guided_diffusion(guided_diffusion(), SHAPE, answers)[0].image_shape == SHAPE
    refused(lambda: open_guided_diffusion(guided_diffusion(), (1, 8, 8), answers), "(3, 8, 8)", "(1, 8, 8)")
    refused(
        lambda: open_guided_diffusion(guided_diffusion(), (3, 16, 16), ANSWERS), "(3, 8, 8)", "(3, 16, 16)"
    )


def test_only_its_own_checkpoints_are_recognised():
    assert recognise(guided_diffusion())
    assert not recognise({})
    assert not recognise(pytorch_ddpm())
    assert not recognise({"model": guided_diffusion()})
    classifier = {
        name: one for name, one in guided_diffusion().items() if not name.startswith("output_blocks")
    }
    assert not recognise(classifier)


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_network_for_super_resolution_of_grey_images_is_not_one_of_images_of_two_channels(outputs):
    tensors = guided_diffusion(outputs=outputs)
    tensors["input_blocks.0.0.weight"] = tensors["input_blocks.0.0.weight"][:, :2]
    refused(lambda: opened(tensors), "takes 2 channels", "super-resolution", "--samples")


def test_a_network_of_consistency_models_is_told_by_its_attention():
    tensors = guided_diffusion()
    for name in [name for name in tensors if name.endswith(("qkv.weight", "proj_out.weight"))]:
        tensors[name] = tensors[name][..., None]
    refused(lambda: opened(tensors), "consistency_models", "--samples")
