from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models_tools import images, tiny

from diffmem.errors import UserError
from diffmem.models.config import ModelConfig, build_denoiser
from diffmem.models.denoiser import Denoiser
from diffmem.models.preconditioning import EDM, VE, VP

KINDS = ["vp", "ve", "edm"]
sigmas = st.floats(0.002, 80).map(lambda value: torch.tensor([value], dtype=torch.float64))


@given(sigmas, st.floats(0.1, 2))
def test_edm_inputs_and_targets_have_unit_variance(sigma, sigma_data):
    c_skip, c_out, c_in, c_noise = EDM(sigma_data=sigma_data).coefficients(sigma)
    one = torch.ones(1, dtype=torch.float64)
    torch.testing.assert_close(c_in**2 * (sigma**2 + sigma_data**2), one)
    target = ((1 - c_skip) ** 2 * sigma_data**2 + c_skip**2 * sigma**2) / c_out**2
    torch.testing.assert_close(target, one, rtol=1e-6, atol=0)
    torch.testing.assert_close((4 * c_noise).exp(), sigma)


@given(sigmas, st.floats(-0.2, 0.2))
def test_no_other_skip_amplifies_the_errors_of_an_edm_network_less(sigma, change):
    # Karras et al. 2022, appendix B.6: c_skip minimises c_out.
    c_skip, c_out, _, _ = EDM().coefficients(sigma)
    other = c_skip + change
    assert (1 - other) ** 2 * 0.5**2 + other**2 * sigma**2 >= c_out**2 * (1 - 1e-9)


@given(sigmas)
def test_a_vp_network_sees_unit_variance_and_predicts_the_noise(sigma):
    c_skip, c_out, c_in, _ = VP().coefficients(sigma)
    torch.testing.assert_close(c_in**2 * (1 + sigma**2), torch.ones(1, dtype=torch.float64))
    noise = torch.tensor([0.3], dtype=torch.float64)
    torch.testing.assert_close(c_skip * (0.8 + sigma * noise) + c_out * noise, torch.full_like(noise, 0.8))


@given(st.floats(1e-5, 1))
def test_vp_time_inverts_sigma(t):
    vp, time = VP(), torch.tensor([t], dtype=torch.float64)
    torch.testing.assert_close(vp.time(vp.sigma_of(time)), time, rtol=1e-6, atol=0)
    assert vp.sigma(t) == pytest.approx(vp.sigma_of(time).item(), rel=1e-12)


@given(st.floats(0.002, 150))
def test_vp_sigma_inverts_time(sigma):
    vp, level = VP(), torch.tensor([sigma], dtype=torch.float64)
    torch.testing.assert_close(vp.sigma_of(vp.time(level)), level, rtol=1e-6, atol=0)


def test_vp_counts_its_time_in_steps():
    vp = VP(steps=1000)
    levels = vp.sigma_of(torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64))
    expected = torch.tensor([99.9, 499.5, 999.0], dtype=torch.float64)
    torch.testing.assert_close(vp.coefficients(levels)[3], expected)


def test_the_noise_ranges_are_those_of_the_study():
    assert VP().sigma_min == pytest.approx(0.0010005, abs=5e-8)
    assert VP().sigma_max == pytest.approx(152.17, abs=5e-3)
    assert (VE().sigma_min, VE().sigma_max) == (0.02, 100.0)
    assert (EDM().sigma_min, EDM().sigma_max) == (0.0, math.inf)


@given(sigmas)
def test_a_ve_network_sees_the_image_as_it_is(sigma):
    c_skip, c_out, c_in, c_noise = VE().coefficients(sigma)
    assert (c_skip, c_in) == (1.0, 1.0)
    assert torch.equal(c_out, sigma)
    torch.testing.assert_close(2 * c_noise.exp(), sigma)


@pytest.mark.parametrize("kind", KINDS)
def test_a_preconditioned_network_is_a_denoiser(kind):
    denoiser = tiny(preconditioning=kind, num_labels=3)
    assert isinstance(denoiser, Denoiser)
    assert denoiser.image_shape == (3, 8, 8)
    assert denoiser.num_labels == 3
    assert denoiser.device == torch.device("cpu")
    assert denoiser.sigma_min < 0.03 < 80 < denoiser.sigma_max


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_labels", [0, 3])
def test_one_sigma_for_all_images_equals_the_same_sigma_for_each(kind, num_labels):
    denoiser, x = tiny(preconditioning=kind, num_labels=num_labels), images(3)
    labels = torch.tensor([0, 2, 1]) if num_labels else None
    with torch.no_grad():
        expected = denoiser(x, torch.full((3,), 0.7), labels)
        for sigma in (0.7, torch.tensor(0.7), torch.tensor([0.7]), torch.tensor(0.7, dtype=torch.float64)):
            torch.testing.assert_close(denoiser(x, sigma, labels), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_network_is_almost_only_its_skip(kind):
    settings = {"preconditioning": kind, "channels": 8, "multipliers": (1, 2), "blocks": 1}
    song = build_denoiser(ModelConfig(**settings), (3, 8, 8))
    adm = build_denoiser(ModelConfig(architecture="adm", **settings), (3, 8, 8))
    x = images(2)
    c_skip = song.preconditioning.coefficients(torch.tensor([0.5]))[0]
    with torch.no_grad():
        torch.testing.assert_close(song(x, 0.5), c_skip * x, atol=1e-3, rtol=0)
        assert torch.equal(adm(x, 0.5), c_skip * x)


def test_a_denoiser_computes_in_float32():
    denoiser, x = tiny(), images(2)
    double = denoiser(x.double(), torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert double.dtype == torch.float32
    assert torch.equal(double, denoiser(x, torch.tensor([1.0, 2.0])))


def test_left_out_labels_are_minus_one():
    denoiser, x = tiny(num_labels=3), images(2)
    none = denoiser(x, 1.0, torch.tensor([-1, -1]))
    torch.testing.assert_close(denoiser(x, 1.0), none, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(denoiser(x, 1.0, torch.tensor([0, 0])), none)


@pytest.mark.parametrize("label", [3, 77, -2])
def test_a_label_out_of_range_is_named(label):
    with pytest.raises(UserError, match=rf"Label {label} is outside 0\.\.2"):
        tiny(num_labels=3)(images(2), 1.0, torch.tensor([0, label]))


def test_an_unconditional_denoiser_takes_no_labels():
    with pytest.raises(UserError, match="unconditional"):
        tiny()(images(2), 1.0, torch.tensor([0, 0]))
