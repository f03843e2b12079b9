import pytest
import torch
from torch import nn

from napari_vox3d.networks.folding import folded
from napari_vox3d.networks.pickers import DensePicker


def with_random_statistics(network):
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(std=0.3)
        if isinstance(module, nn.PReLU):
            module.weight.data.uniform_(-0.1, 0.4)
    return network.eval()


@pytest.mark.parametrize(
    "arguments",
    [
        {"levels": 1, "blocks": ["L1"], "window": (2, 2, 2), "patch": (1, 1, 1), "heads": 2},
        {"blocks": ["C3"]},
        {"blocks": ["C3C2"], "cell": "parallel"},
        {"blocks": ["C3"], "norm": "instance3d"},
        {"backbone": "HRNet", "blocks": ["C3"]},
        {"backbone": "SOANet", "blocks": ["C3"]},
        {"backbone": "EncoderNet3d"},
        {"backbone": "UNet3d"},
    ],
)
def test_a_folded_network_computes_the_same(arguments):
    network = with_random_statistics(DensePicker(3, **{"channels": 4, "levels": 2} | arguments))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    volume = torch.randn(1, 1, *[2 * network.multiple] * 3)
    with torch.inference_mode():
        expected, found = network(volume), folded(network)(volume)
    spread = float(expected.std())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * spread)
    torch.testing.assert_close(dict(network.state_dict()), before)  # the original stays


def test_the_default_keeps_only_norms_whose_maps_are_asked_for_twice():
    network = with_random_statistics(DensePicker(3, channels=4, levels=3, blocks=["C3"]))
    kept = [
        name
        for name, module in folded(network).named_modules()
        if isinstance(module, nn.BatchNorm3d)
    ]
    assert kept == ["backbone.blocks.D0.cells.0.norm1", "backbone.blocks.bridge.cells.0.norm1"]
