import pytest
import torch
import torch.nn.functional as F
from checkpoint_builders import FIXTURES, WITHOUT, guided_diffusion, pytorch_ddpm, worst_error

from diffmem.errors import UserError
from diffmem.models.denoiser import Denoiser
from diffmem.models.networks.tabled_unet import TabledUNet
from diffmem.models.pretrained.pytorch_ddpm import open_pytorch_ddpm, recognise

TABLE = "time_embedding.timembedding.0.weight"
RATES = {"beta_1": 1e-4, "beta_T": 0.02}
FLAGS = "--T=1000\n--attn=1\n--beta_1=0.0001\n--beta_T=0.02\n--train\n"


def refused(action, *words):
    with pytest.raises(UserError) as error:
        action()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.fixture(scope="module")
def checkpoint():
    return pytorch_ddpm()


@pytest.mark.skipif(not FIXTURES.exists(), reason=WITHOUT)
@pytest.mark.parametrize("name", ["pytorch-ddpm-t1000"])
def test_a_trained_checkpoint_answers_as_its_trainers_own_model(name):
    folder = FIXTURES / name
    path = folder / "ckpt.pt"
    held = torch.load(path, weights_only=True)
    assert recognise(held)
    denoiser, notes = open_pytorch_ddpm(held, beside=path)
    assert worst_error(denoiser, folder) < 2e-6
    assert "flagfile.txt" in " ".join(notes)
    raw, _ = open_pytorch_ddpm(held, beside=path, weights="raw")
    assert worst_error(raw, folder) > 5e-6  # three steps of training are not far


def test_it_is_a_denoiser_of_the_image_size_in_the_file(checkpoint):
    denoiser, notes = open_pytorch_ddpm(checkpoint, settings=RATES)
    assert isinstance(denoiser, Denoiser)
    assert (denoiser.image_shape, denoiser.num_labels) == ((3, 8, 8), 0)
    assert denoiser.sigma_max == pytest.approx(157.4, rel=1e-3)
    text = " ".join(notes)
    for part in (
        "pytorch-ddpm",
        "averaged",
        "ema_model",
        "500,000",
        "1,000 timesteps",
        "noise",
        "the settings",
    ):
        assert part in text


def test_d_is_x_minus_sigma_times_the_predicted_noise():
    checkpoint = pytorch_ddpm(scale=0.0)
    checkpoint["ema_model"]["tail.2.bias"] = torch.tensor([1.0, 2.0, 3.0])
    denoiser, _ = open_pytorch_ddpm(checkpoint, settings=RATES)
    x = torch.randn(2, 3, 8, 8)
    wanted = x - 0.5 * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    torch.testing.assert_close(denoiser(x, 0.5), wanted)


@pytest.mark.parametrize("place", ["downblocks.0", "downblocks.2", "upblocks.1", "upblocks.3"])
def test_a_block_is_that_of_the_published_formula_and_then_attention(checkpoint, place):
    tensors = checkpoint["ema_model"]
    layer = TabledUNet(tensors).get_submodule(place)
    own = {
        name.removeprefix(f"{place}."): one.double()
        for name, one in tensors.items()
        if name.startswith(f"{place}.")
    }
    layer.load_state_dict(own, assign=True)

    def applied(name, y, map=F.conv2d, **options):
        return map(y, weight=own[f"{name}.weight"], bias=own[f"{name}.bias"], **options)

    channels = own["block1.0.weight"].shape[0]
    x, time = torch.randn(2, channels, 4, 4).double(), torch.randn(2, 128).double()
    y = applied("block1.2", F.silu(applied("block1.0", x, F.group_norm, num_groups=32)), padding=1)
    y = y + applied("temb_proj.1", F.silu(time), F.linear)[:, :, None, None]
    y = applied("block2.3", F.silu(applied("block2.0", y, F.group_norm, num_groups=32)), padding=1)
    y = y + (x if channels == 32 else applied("shortcut", x))
    if "attn.proj.weight" in own:
        normed = applied("attn.group_norm", y, F.group_norm, num_groups=32)
        q, k, v = (applied(f"attn.proj_{one}", normed).flatten(2) for one in "qkv")
        share = (torch.einsum("bcp,bcs->bps", q, k) / 32**0.5).softmax(-1)
        y = y + applied("attn.proj", torch.einsum("bps,bcs->bcp", share, v).reshape(y.shape))
    torch.testing.assert_close(layer(x, time), y)


def test_the_blocks_of_the_way_up_are_given_what_is_below_them_and_then_the_last_output_of_the_way_down(
    checkpoint,
):
    network, down, up = TabledUNet(checkpoint["ema_model"]), [], []
    network.load_state_dict(checkpoint["ema_model"], assign=True)
    for layer in (network.head, *network.downblocks):
        layer.register_forward_hook(lambda layer, given, made: down.append(made))
    for layer in (network.middleblocks[1], *network.upblocks):
        layer.register_forward_hook(lambda layer, given, made: up.append((given[0], made)))
    network(torch.randn(1, 3, 8, 8), torch.zeros(1))
    for place, skip in ((0, 3), (1, 2), (3, 1), (4, 0)):  # between them the sides are doubled
        assert torch.equal(up[place + 1][0], torch.cat([up[place][1], down[skip]], dim=1))


def test_the_raw_weights_give_another_answer_and_say_so(checkpoint):
    averaged, _ = open_pytorch_ddpm(checkpoint, settings=RATES)
    raw, notes = open_pytorch_ddpm(checkpoint, settings=RATES, weights="raw")
    x = torch.randn(1, 3, 8, 8)
    assert not torch.allclose(averaged(x, 1.0), raw(x, 1.0), atol=1e-2)
    assert "raw weights (net_model)" in notes[0]


def test_rates_are_in_float32_and_their_products_in_float64(checkpoint):
    denoiser, _ = open_pytorch_ddpm(checkpoint, settings=RATES)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float32)
    signal = (1 - betas.double()).cumprod(0)
    torch.testing.assert_close(denoiser.levels, ((1 - signal) / signal).sqrt(), rtol=1e-12, atol=0)
    coarse = (1 - betas).cumprod(0).double()
    assert float((((1 - coarse) / coarse).sqrt() / denoiser.levels - 1).abs().max()) > 5e-5


def test_without_a_flagfile_the_rates_are_asked_for(checkpoint, tmp_path):
    words = ("beta_1", "above 0 and below 1", "0.0001", "settings={'beta_1': 0.0001}", "flagfile.txt")
    refused(lambda: open_pytorch_ddpm(checkpoint), *words)
    refused(lambda: open_pytorch_ddpm(checkpoint, beside=tmp_path / "ckpt.pt"), *words)
    refused(lambda: open_pytorch_ddpm(checkpoint, settings={"beta_1": 1e-4}), "beta_T", "0.02")


@pytest.mark.parametrize("name", ["ckpt.pt", ""])
def test_the_flagfile_beside_the_checkpoint_tells_the_rates(checkpoint, tmp_path, name):
    (tmp_path / "flagfile.txt").write_text(FLAGS.replace("0.02", "0.01"))
    denoiser, notes = open_pytorch_ddpm(checkpoint, beside=tmp_path / name)
    wanted, _ = open_pytorch_ddpm(checkpoint, settings={**RATES, "beta_T": 0.01})
    assert torch.equal(denoiser.levels, wanted.levels)
    assert "from flagfile.txt" in " ".join(notes)


def test_settings_go_before_the_flagfile(checkpoint, tmp_path):
    (tmp_path / "flagfile.txt").write_text(FLAGS)
    denoiser, notes = open_pytorch_ddpm(checkpoint, settings={"beta_T": 0.01}, beside=tmp_path)
    wanted, _ = open_pytorch_ddpm(checkpoint, settings={**RATES, "beta_T": 0.01})
    assert torch.equal(denoiser.levels, wanted.levels)
    assert "flagfile.txt and the settings" in " ".join(notes)


def test_a_flagfile_of_another_training_or_with_no_rates_is_refused(checkpoint, tmp_path):
    flags = tmp_path / "flagfile.txt"
    flags.write_text(FLAGS.replace("T=1000", "T=500"))
    refused(lambda: open_pytorch_ddpm(checkpoint, beside=tmp_path), "T=500", "1000 timesteps")
    flags.write_text(FLAGS.replace("0.02", "much"))
    refused(lambda: open_pytorch_ddpm(checkpoint, beside=tmp_path), "beta_T", "'much'")
    flags.write_text("--T=1000\n")
    refused(lambda: open_pytorch_ddpm(checkpoint, beside=tmp_path), "beta_1")


@pytest.mark.parametrize("value", [0, 1, -0.1, "0.02", None, float("nan"), True])
def test_an_impossible_rate_is_refused(checkpoint, value):
    refused(lambda: open_pytorch_ddpm(checkpoint, settings={**RATES, "beta_T": value}), "beta_T")


def test_a_setting_that_does_not_exist_is_refused_with_the_nearest(checkpoint):
    refused(
        lambda: open_pytorch_ddpm(checkpoint, settings={"beta_t": 0.02}), "'beta_t'", "Did you mean 'beta_T'?"
    )


def changed(checkpoint, drop=(), **tensors):
    network = {**checkpoint["ema_model"], **{name.replace("__", "."): one for name, one in tensors.items()}}
    for name in drop:
        del network[name]
    return {**checkpoint, "ema_model": network}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra__weight": torch.zeros(1)}, ["'extra.weight'", "not one of this network"]),
        ({"downblocks__0__shortcut__scale": torch.zeros(1)}, ["'downblocks.0.shortcut.scale'"]),
        ({"drop": ["tail.2.bias"]}, ["lacks", "tail.2.bias"]),
        ({"drop": ["upblocks.2.main.weight", "upblocks.2.main.bias"]}, ["upblocks"]),
        ({"tail__2__weight": torch.zeros(3, 32, 1, 1)}, ["'tail.2.weight'", "(3, 32, 1, 1)"]),
        ({"tail__0__weight": torch.zeros(20)}, ["tail.0", "32 equal groups"]),
        ({"tail__2__bias": torch.full((3,), torch.nan)}, ["tail.2.bias", "not finite"]),
        ({"head__weight": torch.zeros(32, 1, 3, 3)}, ["(1, 3, 8, 8)", "(1, 1, 8, 8)"]),
        ({"downblocks__0__temb_proj__1__weight": torch.zeros(64, 128),
          "downblocks__0__temb_proj__1__bias": torch.zeros(64)}, ["do not fit each other"]),
        ({TABLE.replace(".", "__"): torch.zeros(1000, 32)}, ["sines and cosines"]),
    ],
)  # fmt: skip
def test_tensors_that_are_not_exactly_those_of_the_network_are_refused(checkpoint, change, words):
    refused(lambda: open_pytorch_ddpm(changed(checkpoint, **change), settings=RATES), *words)


def test_the_size_of_images_is_asked_for_without_x_t_and_must_fit(checkpoint):
    without = {name: value for name, value in checkpoint.items() if name != "x_T"}
    refused(lambda: open_pytorch_ddpm(without, settings=RATES), "image_shape")
    assert open_pytorch_ddpm(without, (3, 4, 4), RATES)[0].image_shape == (3, 4, 4)
    refused(lambda: open_pytorch_ddpm(without, (3, 5, 5), RATES), "multiples of 2")
    refused(lambda: open_pytorch_ddpm(checkpoint, (3, 4, 4), RATES), "(3, 8, 8)", "(3, 4, 4)")


def test_a_network_that_the_checkpoint_lacks_is_refused(checkpoint):
    one = {"ema_model": checkpoint["ema_model"]}
    refused(lambda: open_pytorch_ddpm(one, (3, 8, 8), RATES, "raw"), "'net_model'", "weights='ema'")
    refused(lambda: open_pytorch_ddpm(checkpoint, settings=RATES, weights="mean"), "'ema' or 'raw'", "'mean'")


@pytest.mark.parametrize("extra", [{7: torch.ones(2)}, {"beta": 0.5}])
def test_a_network_of_other_things_than_named_tensors_is_refused(checkpoint, extra):
    held = {**checkpoint, "ema_model": {**checkpoint["ema_model"], **extra}}
    refused(lambda: open_pytorch_ddpm(held, settings=RATES), "'ema_model'", "holds other things")


def test_only_its_own_checkpoints_are_recognised(checkpoint):
    assert recognise(checkpoint)
    assert not recognise({})
    assert not recognise({"net_model": guided_diffusion(), "ema_model": guided_diffusion()})  # torchcfm's
    assert not recognise({"net_model": None, "ema_model": 3})
    assert not recognise(guided_diffusion())
