import sys

import numpy as np
import pytest
import torch

from diffmem.errors import UserError
from diffmem.memorization.features import features_key, open_features, pixel_features


class Mean(torch.nn.Module):
    def forward(self, images):
        return images.to(torch.float32).mean(dim=(2, 3))


class Scalar(torch.nn.Module):
    def forward(self, images):
        return images.to(torch.float32).mean()


def images(count=5, channels=3, side=8):
    return np.random.default_rng(0).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def saved(network, path):
    torch.jit.script(network).save(str(path))
    return str(path)


def test_pixel_features_are_the_mean_grey_levels_of_a_grid():
    given = images(side=8)
    wanted = given.astype(float).reshape(5, 3, 4, 2, 4, 2).mean(axis=(3, 5)).reshape(5, -1)
    np.testing.assert_allclose(open_features("pixels").compute(given), wanted)


@pytest.mark.parametrize("side", [1, 3, 4])
def test_small_images_are_their_own_pixel_features(side):
    given = images(side=side)
    np.testing.assert_array_equal(pixel_features(given), given.reshape(5, -1))


def test_a_torchscript_network_sees_the_images_as_they_are(tmp_path):
    found = open_features(saved(Mean(), tmp_path / "mean.pt"))
    given = images(count=150)  # more than a batch
    np.testing.assert_allclose(found.compute(given), given.mean(axis=(2, 3)), rtol=1e-6)
    assert found.key == features_key(str(tmp_path / "mean.pt"))
    assert found.key.startswith("torchscript mean.pt ")


def test_two_networks_of_one_name_have_different_keys(tmp_path):
    (tmp_path / "a").mkdir()
    one, other = saved(Mean(), tmp_path / "net.pt"), saved(Scalar(), tmp_path / "a" / "net.pt")
    assert features_key(one) != features_key(other)


def test_a_network_that_returns_no_rows_is_refused(tmp_path):
    found = open_features(saved(Scalar(), tmp_path / "scalar.pt"))
    with pytest.raises(UserError, match=r"returned \(\) for 5 images, not \(B, F\)"):
        found.compute(images())


def test_a_file_that_is_no_torchscript_is_refused(tmp_path):
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(UserError, match=r"text\.pt is not a TorchScript file"):
        open_features(str(tmp_path / "text.pt"))


def test_unknown_features_are_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"'inceptoin' are neither .* Did you mean 'inception'"):
        open_features("inceptoin")


def test_inception_without_its_package_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match=r"pip install 'diffmem\[fid\]'"):
        open_features("inception")


class Inception(torch.nn.Module):
    """Stands for the package's network: channels it was shown, from weights in a file."""

    def __init__(self, name, layers, weights):
        super().__init__()
        self.scale = torch.load(weights)["scale"]
        assert layers == ["2048"]

    def forward(self, given):
        assert given.dtype == torch.uint8
        return (given.to(torch.float32).mean(dim=(2, 3)) * self.scale,)


@pytest.fixture
def inception(monkeypatch, tmp_path):
    """The package with its weights not yet there; returns where they belong."""
    package = type(sys)("torch_fidelity")
    package.feature_extractor_inceptionv3 = type(sys)("torch_fidelity.feature_extractor_inceptionv3")
    package.feature_extractor_inceptionv3.FeatureExtractorInceptionV3 = Inception
    package.feature_extractor_inceptionv3.URL_INCEPTION_V3 = "file:///nowhere/weights-abcdef12.pth"
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints" / "weights-abcdef12.pth"


def test_grey_images_are_shown_to_the_inception_network_as_rgb(inception):
    inception.parent.mkdir(parents=True)
    torch.save({"scale": torch.tensor(2.0)}, inception)
    grey = images(channels=1)
    wanted = 2 * grey.mean(axis=(2, 3)).repeat(3, axis=1)
    np.testing.assert_allclose(open_features("inception").compute(grey), wanted, rtol=1e-6)


def test_weights_that_cannot_be_downloaded_are_told_with_their_place(inception):
    with pytest.raises(UserError, match="could not be downloaded") as told:
        open_features("inception")
    assert f"put it at {inception}" in str(told.value)
    assert not inception.exists()


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize("content", ["junk", "pickle"])
def test_weights_that_are_damaged_or_hold_code_are_refused(inception, content):
    inception.parent.mkdir(parents=True)
    if content == "pickle":
        torch.save({"scale": Trap()}, inception)
    else:
        inception.write_text("junk")
    with pytest.raises(UserError, match="does not hold the weights"):
        open_features("inception")
