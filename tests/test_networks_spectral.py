import pytest
import torch

from napari_vox3d.networks.spectral import SpectralConv3d


@pytest.mark.parametrize("sizes", [(8, 9, 13), (24, 24, 24), (25, 11, 42)])
def test_is_the_plain_convolution(sizes):
    torch.manual_seed(0)
    plain = torch.nn.Conv3d(5, 3, 8, bias=False).requires_grad_(False)
    x = torch.randn(2, 5, *sizes)
    expected = plain(x)
    found = SpectralConv3d(plain)(x)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_transforms_of_another_size_give_the_same():
    torch.manual_seed(0)
    plain = torch.nn.Conv3d(2, 4, 3, bias=False).requires_grad_(False)
    x = torch.randn(1, 2, 17, 9, 20).to(torch.bfloat16)
    found = SpectralConv3d(plain, edge=7)(x)
    assert found.dtype == torch.float32
    assert float((found - plain(x.float())).abs().max()) < 1e-5


def test_spectra_are_not_stored():
    assert not SpectralConv3d(torch.nn.Conv3d(2, 2, 3, bias=False)).state_dict()
