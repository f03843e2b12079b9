import pytest
import torch

from napari_vox3d import networks

pytestmark = pytest.mark.slow

CELLS = {"channels": 4, "heads": 4, "window": (2, 4, 4), "patch": (1, 2, 2)}
CUBE = (1, 1, 4, 8, 8)

# name, arguments, shape of the input
MODELS = {
    "CryoET3DCNN": ("CryoET3DCNN", {}, (1, 1, 64, 64, 64)),
    "ELFPredictor": (
        "ELFPredictor",
        {"base": 8, "blocks": 2, "kernel": 3, "attention_every": 2},
        (1, 1, 8, 9, 10),
    ),
    "EncoderNet3d": (
        "EncoderNet3d",
        {"channel": 4, "layers": [2, 2], "out_length": 3},
        (1, 1, 9, 10, 8),
    ),
    "CKConvND": (
        "CKConvND",
        {"data_dim": 3, "hidden_dim": 4, "padding": "circular"},
        (1, 4, 6, 8, 10),
    ),
    "UNet C3": ("UNet", {"in_channels": 1, "blocks": ["C3"], **CELLS}, CUBE),
    "UNet T1L1": ("UNet", {"in_channels": 1, "blocks": ["T1L1"], **CELLS}, CUBE),
    "HRNet C3": ("HRNet", {"in_channels": 1, "blocks": ["C3"], **CELLS}, CUBE),
    "HRNet L1": ("HRNet", {"in_channels": 1, "blocks": ["L1"], **CELLS}, CUBE),
    "SOANet C3": ("SOANet", {"in_channels": 1, "blocks": ["C3"], **CELLS}, CUBE),
    "SOANet S3Sh": ("SOANet", {"in_channels": 1, "stages": 1, "blocks": ["S3Sh"], **CELLS}, CUBE),
    "DensePicker": (
        "DensePicker",
        {"channels": 4, "levels": 1, "blocks": ["C3"]},
        (1, 1, 16, 16, 16),
    ),
}


def make(name):
    torch.manual_seed(0)
    network, arguments, shape = MODELS[name]
    return networks.build(network, **arguments).eval(), torch.rand(shape)


@pytest.mark.parametrize("name", MODELS)
def test_exported_networks_give_the_same_numbers(name):
    network, x = make(name)
    with torch.no_grad():
        expected = network(x)
        exported = torch.export.export(network, (x,))
        torch.testing.assert_close(exported.module()(x), expected, atol=1e-5, rtol=1e-4)


def test_the_dense_form_can_be_exported():
    network = networks.CryoET3DCNN().dense().eval()
    x = torch.rand(1, 1, 64, 64, 72)
    with torch.no_grad():
        exported = torch.export.export(network, (x,))
        torch.testing.assert_close(exported.module()(x), network(x), atol=1e-5, rtol=1e-4)


def test_sizes_can_be_left_open():
    network, x = make("SOANet C3")
    depth, height, width = (torch.export.Dim(axis, min=2, max=64) for axis in "dhw")
    with torch.no_grad():
        exported = torch.export.export(
            network, (x,), dynamic_shapes=({2: depth, 3: 2 * height, 4: 2 * width},)
        )
        other = torch.rand(1, 1, 6, 16, 24)
        torch.testing.assert_close(exported.module()(other), network(other), atol=1e-5, rtol=1e-4)


def test_continuous_kernels_leave_sizes_open():
    network = networks.CKConvND(3, 2, samples=4).eval()
    depth, height, width = (torch.export.Dim(axis, min=2, max=64) for axis in "dhw")
    with torch.no_grad():
        exported = torch.export.export(
            network,
            (torch.rand(1, 2, 8, 9, 10),),
            dynamic_shapes=({2: depth, 3: height, 4: width},),
        )
        other = torch.rand(1, 2, 6, 3, 11)
        torch.testing.assert_close(exported.module()(other), network(other), atol=1e-5, rtol=1e-4)
