import pytest
import torch

from diffmem.errors import UserError
from diffmem.memorization import open_features
from diffmem.memorization.features import PREPARATIONS, preparation_named


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("sscd", (32, 32), (288, 288)),
        ("sscd", (32, 48), (288, 432)),
        ("sscd-320", (32, 48), (320, 320)),
        ("dcr", (32, 64), (224, 224)),
    ],
)
def test_images_come_out_at_the_published_size(name, shape, wanted):
    out = PREPARATIONS[name](torch.zeros(2, 1, *shape, dtype=torch.uint8))
    assert out.shape == (2, 3, *wanted)
    assert out.dtype == torch.float32


def test_a_white_image_is_normalized_by_the_constants_of_imagenet():
    out = PREPARATIONS["sscd"](torch.full((1, 3, 8, 8), 255, dtype=torch.uint8))
    wanted = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(out.mean((0, 2, 3)), wanted)


def test_a_name_that_is_not_known_is_refused_with_the_nearest_one():
    with pytest.raises(UserError, match="Did you mean 'sscd'"):
        preparation_named("scd")


def test_a_network_gets_prepared_images_and_the_preparation_stands_in_the_key(tmp_path):
    class Size(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :4] + x.size(2)

    path = tmp_path / "size.pt"
    torch.jit.save(torch.jit.script(Size()), str(path))
    features = open_features(str(path), preparation="sscd")
    assert features.key.endswith("prepared as sscd")
    grey = torch.full((3, 1, 8, 8), 255, dtype=torch.uint8).numpy()
    assert features.compute(grey) == pytest.approx(288 + (1 - 0.485) / 0.229, rel=1e-5)
    assert open_features(str(path)).key != features.key


def test_inception_takes_no_preparation():
    with pytest.raises(UserError, match="prepare images by themselves"):
        open_features("inception", preparation="sscd")
