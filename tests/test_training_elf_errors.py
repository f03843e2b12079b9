import pytest
import torch

from napari_vox3d.errors import Vox3dError
from napari_vox3d.networks import ELFPredictor
from napari_vox3d.training.elf_errors import add_error_head, known_range
from napari_vox3d.training.elf_examples import Example

ARGUMENTS = {"base": 8, "blocks": 1, "kernel": 1, "attention_every": 0}


def crystals(network, count, seed):
    """Crystals whose ELF the network misses by more where its first input is high."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for _ in range(count):
        inputs = torch.rand(2, 6, 7, 8, generator=generator)
        with torch.no_grad():
            predicted = network.net.head(network.net.features(inputs[None]))[0]
        noise = torch.randn(predicted.shape, generator=generator)
        error = 0.02 * noise * (1 + 9 * (inputs[:1] > 0.5))
        result.append(Example(inputs, inputs[:1], predicted + error, 3 * torch.eye(3)))
    return result


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ELFPredictor(in_ch=2, **ARGUMENTS)


@pytest.fixture(scope="module")
def fitted(network):
    return add_error_head(network, ARGUMENTS, crystals(network, 12, 0), crystals(network, 12, 1))


def test_head_leaves_the_prediction_alone(network, fitted):
    inputs = torch.rand(1, 2, 5, 5, 5)
    with torch.no_grad():
        main, aux = fitted[0](inputs)
        torch.testing.assert_close(main, network(inputs)[0])
    assert aux[0].shape == main.shape
    assert aux[0].min() > 0


def test_band_holds_the_stated_share_of_new_crystals(network, fitted):
    headed, band = fitted
    inside, error, scale = [], [], []
    for crystal in crystals(network, 12, 2):
        with torch.no_grad():
            main, (width,) = headed(crystal.inputs[None])
        error.append((main[0] - crystal.elf).abs())
        scale.append(width[0])
        inside.append((error[-1] <= band.factor * width[0]).float().mean())
    assert torch.stack(inside).mean().item() == pytest.approx(band.share, abs=0.02)
    mean = torch.stack(error).mean()
    assert band.mean_error * torch.stack(scale).mean().item() == pytest.approx(mean.item(), rel=0.1)


def test_head_knows_where_errors_are_large(network, fitted):
    (crystal,) = crystals(network, 1, 3)
    with torch.no_grad():
        _, (width,) = fitted[0](crystal.inputs[None])
    high = crystal.inputs[0] > 0.5
    assert width[0, 0][high].mean() > 4 * width[0, 0][~high].mean()


def test_head_needs_crystals_to_learn_from_and_others_to_check(network):
    with pytest.raises(Vox3dError, match="crystals to learn from and others"):
        add_error_head(network, ARGUMENTS, crystals(network, 1, 0), [])


def test_known_range_spans_all_examples():
    first = torch.zeros(2, 3, 3, 3)
    second = first.clone()
    second[0, 0, 0, 0], second[1, 2, 2, 2] = -2.0, 5.0
    examples = [Example(values, values, values, torch.eye(3)) for values in (first, second)]
    known = known_range(examples, ["O", "H", "O"])
    assert known.elements == ["H", "O"]
    assert (known.lowest, known.highest) == ([-2.0, 0.0], [0.0, 5.0])
