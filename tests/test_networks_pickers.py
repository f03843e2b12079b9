import pytest
import torch

from napari_vox3d import networks
from napari_vox3d.errors import ModelError
from napari_vox3d.networks.pickers import DensePicker

SMALL = {
    "UNet3d": {"channels": 4, "levels": 1},
    "EncoderNet3d": {"channels": 4, "levels": 2},
}


def make(backbone, **arguments):
    torch.manual_seed(0)
    picker = DensePicker(3, backbone, **SMALL[backbone], **arguments)
    for norm in picker.modules():  # as after training
        if isinstance(norm, torch.nn.BatchNorm3d):
            norm.running_mean.normal_(std=0.2)
            norm.running_var.uniform_(0.5, 2)
    return picker.eval()


@pytest.mark.parametrize("backbone", SMALL)
def test_cells_cover_the_volume(backbone):
    picker = make(backbone)
    shape = [picker.multiple * n for n in (2, 3, 4)]
    logits = picker(torch.randn(2, 1, *shape))
    assert logits.shape == (2, 3, *(n // picker.stride for n in shape))
    assert picker.multiple % picker.stride == 0
    assert picker.halo % picker.multiple == 0
    with pytest.raises(ValueError, match=f"multiples of {picker.multiple} voxels"):
        picker(torch.zeros(1, 1, picker.multiple + 1, *shape[1:]))


@pytest.mark.parametrize("backbone", SMALL)
def test_nothing_beyond_the_halo_matters(backbone):
    picker = make(backbone)
    edge, size = picker.multiple, 2 * picker.halo + 4 * picker.multiple
    volume = torch.randn(1, 1, 3 * edge, 3 * edge, size)
    before, after = volume.clone(), volume.clone()
    before[..., :edge] += 5
    after[..., -edge:] += 5
    with torch.inference_mode():
        plain = picker(volume)
        reached = [
            int((picker(changed) != plain).any(0).any(0).any(0).any(0).sum()) * picker.stride - edge
            for changed in (before, after)
        ]
    assert picker.halo / 2 < max(reached) <= picker.halo


def test_the_stem_leaves_a_flip_a_flip():
    picker = make("UNet3d")
    kernel = picker.stem[0].weight.data
    kernel.add_(kernel.flip(4).clone())
    volume = torch.randn(1, 1, 8, 8, 16)
    with torch.inference_mode():
        flipped = picker.stem(volume.flip(4)).flip(4)
        torch.testing.assert_close(flipped, picker.stem(volume))


@pytest.mark.parametrize("backbone", SMALL)
def test_memory_grows_with_the_volume(backbone):
    picker = make(backbone)
    small, large = picker.peak_bytes([32] * 3), picker.peak_bytes([64] * 3)
    assert 6 * small < large < 10 * small


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ModelError, match="backbone is one of UNet, "):
        networks.build("DensePicker", backbone="ResNet")
    with pytest.raises(ModelError, match="tiles of any size"):
        networks.build("DensePicker", backbone="UNet3d", shape=(8, 8, 8))
