import pytest
import torch
from torch.nn import functional as F

from napari_vox3d.networks.pooled import pooled_convolution


def plainly(volume, weight):
    return F.max_pool3d(F.conv3d(volume, weight, padding=1), 2)


@pytest.mark.parametrize("shape", [(1, 1, 2, 2, 2), (2, 1, 16, 24, 20)])
def test_values_and_gradient_are_those_of_the_plain_layers(shape):
    torch.manual_seed(0)
    volume = torch.randn(shape, dtype=torch.float64)
    weight = torch.randn(5, 1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    found, expected = pooled_convolution(volume, weight), plainly(volume, weight)
    torch.testing.assert_close(found, expected)
    asked = torch.randn_like(expected)
    (learnt,), (true,) = (torch.autograd.grad(maps, weight, asked) for maps in (found, expected))
    torch.testing.assert_close(learnt, true)


def test_channels_lie_last_in_memory_as_the_next_layer_wants_them():
    found = pooled_convolution(torch.randn(1, 1, 8, 8, 8), torch.randn(4, 1, 3, 3, 3))
    assert found.is_contiguous(memory_format=torch.channels_last_3d)


def test_all_of_several_largest_values_learn():
    weight = torch.zeros(1, 1, 3, 3, 3, requires_grad=True)
    found = pooled_convolution(torch.ones(1, 1, 2, 2, 2), weight)
    found.sum().backward()
    # each of the eight voxels sees itself in the middle of the kernel
    assert weight.grad[0, 0, 1, 1, 1] == 8
