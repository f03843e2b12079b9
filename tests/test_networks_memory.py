import pytest
import torch

from napari_vox3d.errors import NotEnoughMemory, is_out_of_memory
from napari_vox3d.inference.device import free_memory
from napari_vox3d.networks.memory import available_memory, require_memory

CPU = torch.device("cpu")


def test_memory_of_the_processor():
    free_memory("cpu")
    assert 2**20 < available_memory("cpu") < 2**50


def test_what_fits_may_begin():
    require_memory(2**20, CPU, "A pass", "Take less.")


def test_what_does_not_fit_is_refused_and_counts_as_out_of_memory():
    with pytest.raises(NotEnoughMemory, match=r"UNet needs about 1000000\.0 GB") as e:
        require_memory(10**15, CPU, "UNet", "Take smaller tiles.")
    assert str(e.value).endswith("free on cpu. Take smaller tiles.")
    assert is_out_of_memory(e.value)
