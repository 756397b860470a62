"""A batch that does not fit the device: a stand-in for its memory raises what torch raises."""

import pickle

import pytest
import torch

from diffmem.errors import UserError
from diffmem.memory import BatchTooLargeError, within_memory


def device_for(images, asked=None):
    """Work on a device with memory for so many images at once; `asked` collects what it was asked for."""

    def work(count):
        if asked is not None:
            asked.append(count)
        if count > images:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total ..."
            )
        return count

    return work


def test_work_that_fits_is_done_once():
    asked = []
    assert within_memory(device_for(64, asked), 64, "batch") == 64
    assert asked == [64]


@pytest.mark.parametrize(
    ("images", "count", "fits"), [(63, 64, 32), (32, 64, 32), (5, 100, 3), (1, 512, 1), (2, 3, 1)]
)
def test_the_error_names_the_setting_and_the_largest_half_that_fits(images, count, fits):
    with pytest.raises(BatchTooLargeError) as caught:
        within_memory(device_for(images), count, "training.batch_size")
    assert caught.value.fits == fits
    text = str(caught.value)
    assert text.startswith(
        f"training.batch_size = {count} needs more memory than the device has (CUDA out of memory. Tried to allocate 2.00 GiB)."
    )
    assert f" {fits} would fit: set training.batch_size to that or less" in text


def test_processes_that_share_a_batch_are_told_of_the_whole_batch():
    with pytest.raises(UserError, match=r"batch = 512 needs .* 128 would fit"):
        within_memory(device_for(40), 128, "batch", processes=4)


@pytest.mark.parametrize("count", [1, 8])
def test_where_not_one_image_fits_no_batch_size_is_advised(count):
    with pytest.raises(UserError, match="Not even one image") as caught:
        within_memory(device_for(0), count, "batch")
    assert "would fit" not in str(caught.value)


def test_the_error_of_a_worker_process_arrives_whole():
    error = pickle.loads(pickle.dumps(BatchTooLargeError("batch = 8 needs more", 4)))
    assert (str(error), error.fits) == ("batch = 8 needs more", 4)


def test_other_errors_are_left_alone():
    with pytest.raises(ZeroDivisionError):
        within_memory(lambda count: count / 0, 4, "batch")
