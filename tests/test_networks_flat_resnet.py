import subprocess
import sys
from pathlib import Path

import pytest
import torch

from napari_vox3d import networks
from napari_vox3d.errors import Cancelled, ModelError
from napari_vox3d.networks.flat_resnet import ELFPredictor, FlatResNet3D
from napari_vox3d.networks.slabs import CircularConv3d, count_ticks, in_slabs

KEYS = Path(__file__).parent / "data" / "elfnet_state_dict.txt"
SHAPES = [(7, 5, 9), (2, 3, 4), (1, 6, 3), (1, 1, 1), (11, 4, 2)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ELFPredictor()


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(1)
    return FlatResNet3D(in_ch=2, base=8, blocks=3, kernel=5, attention_every=2)


def grid(*shape, channels=1, batch=1):
    torch.manual_seed(2)
    return torch.rand(batch, channels, *shape)


def difference(one, other):
    return float((one - other).detach().abs().max())


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_number_of_parameters(model):
    assert count(model.net) == 4_232_985
    assert count(model) == 4_232_989


def test_names_and_shapes_are_those_of_elfnet(model):
    ours = [f"{name} {tuple(value.shape)}" for name, value in model.state_dict().items()]
    assert ours == KEYS.read_text().splitlines()


def test_forward_gives_main_and_no_auxiliary_outputs(model):
    main, aux = model(grid(6, 5, 4))
    assert main.shape == (1, 1, 6, 5, 4)
    assert main.requires_grad
    assert aux == []


@pytest.mark.parametrize("shape", SHAPES)
def test_prediction_lies_in_range_on_any_grid(model, shape):
    elf = model.predict_elf(50 * grid(*shape) - 10)
    assert elf.shape == (1, 1, *shape)
    assert not elf.requires_grad
    assert 0 <= elf.min() <= elf.max() <= 1


def test_rolled_cell_gives_rolled_prediction(model):
    sad = grid(8, 6, 7)
    shift = {"shifts": (3, -2, 5), "dims": (2, 3, 4)}
    elf = model.predict_elf(sad)
    assert difference(model.predict_elf(sad.roll(**shift)), elf.roll(**shift)) < 5e-4
    assert elf.std() > 1e-3


@pytest.mark.parametrize("shape", [(6, 5, 4), (2, 3, 4)])
@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 3)])
def test_supercell_gives_repeated_prediction(model, shape, repeats):
    sad = grid(*shape)
    supercell = sad.repeat(1, 1, *repeats)
    expected = model.predict_elf(sad).repeat(1, 1, *repeats)
    assert difference(model.predict_elf(supercell), expected) < 5e-4


def test_scale_of_the_input_does_not_matter(model):
    sad = 5 * grid(6, 5, 4)
    assert difference(model.predict_elf(1000 * sad), model.predict_elf(sad)) < 1e-3


@pytest.mark.parametrize("slab_voxels", [1, 45, 100, 10**6])
@pytest.mark.parametrize("shape", SHAPES)
def test_slabs_give_the_plain_result_and_the_announced_ticks(small, shape, slab_voxels):
    inputs = grid(*shape, channels=2, batch=2)
    ticks = []
    with torch.no_grad():
        plain, _ = small(inputs)
    with in_slabs(small, slab_voxels, lambda: ticks.append(1)):
        slabs, _ = small(inputs)
    assert not slabs.requires_grad
    assert difference(slabs, plain) < 1e-5
    assert len(ticks) == count_ticks(small, (2, *shape), slab_voxels)


def test_slabs_end_with_the_context_and_after_a_cancel(small):
    inputs = grid(6, 5, 4, channels=2)
    ticks = []

    def cancel():
        ticks.append(1)
        raise Cancelled("stop")

    with pytest.raises(Cancelled), in_slabs(small, 20, cancel):
        small(inputs)
    small(inputs)
    assert ticks == [1]


def test_slabs_concern_only_the_given_network(small):
    other = FlatResNet3D(base=4, blocks=1, kernel=3)
    with in_slabs(small, 20, lambda: pytest.fail("another network ticked")):
        other(grid(4, 4, 4))


def test_slabs_under_autocast(small):
    inputs = grid(6, 5, 4, channels=2)
    with torch.autocast("cpu", torch.bfloat16), in_slabs(small, 40):
        slabs, _ = small(inputs)
    with torch.no_grad():
        plain, _ = small(inputs)
    assert difference(slabs.float(), plain) < 0.05


def test_circular_convolution_against_a_sum_over_shifts():
    layer = CircularConv3d(1, 1, 3)
    x = grid(4, 2, 1)
    expected = torch.zeros_like(x)
    for index, weight in enumerate(layer.weight.flatten()):
        offset = (index // 9 - 1, index // 3 % 3 - 1, index % 3 - 1)
        expected += weight * x.roll([-n for n in offset], (2, 3, 4))
    assert difference(layer(x), expected) < 1e-6


def test_checkpointing_changes_memory_and_not_gradients():
    torch.manual_seed(0)
    plain = FlatResNet3D(base=4, blocks=2, kernel=3, attention_every=1)
    frugal = FlatResNet3D(base=4, blocks=2, kernel=3, attention_every=1, use_checkpoint=True)
    frugal.load_state_dict(plain.state_dict())
    for network in (plain, frugal):
        network(grid(4, 4, 4))[0].sum().backward()
    for one, other in zip(plain.parameters(), frugal.parameters(), strict=True):
        assert difference(one.grad, other.grad) < 1e-5


def test_initial_weights_have_the_fan_out_deviation(model):
    weight = model.net.body[0].f[0].weight
    assert float(weight.std()) == pytest.approx((2 / (32 * 125)) ** 0.5, rel=0.02)


def test_slabs_need_less_memory(model):
    plain = model.net.peak_bytes((64, 64, 64))
    assert plain > 4 * 4 * 32 * 64**3
    assert model.net.peak_bytes((64, 64, 64), 16 * 64 * 64) < plain
    assert model.net.peak_bytes((2, 64, 64, 64)) == 2 * plain


def test_build_by_name():
    network = networks.build("ELFPredictor", in_ch=2, base=8, blocks=1, kernel=3)
    assert network.net.stem[0].weight.shape == (8, 2, 3, 3, 3)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("Nonsense", {}, "Unknown network 'Nonsense'.*ELFPredictor"),
        ("ELFPredictor", {"depth": 4}, "no argument depth; it takes in_ch"),
        ("ELFPredictor", {"backbone": "unet"}, "backbone 'unet'"),
        ("FlatResNet3D", {"kernel": 4}, "odd kernel, not 4"),
        ("FlatResNet3D", {"base": 12}, "cannot be built"),
        ("FlatResNet3D", {"base": "many"}, "cannot be built"),
    ],
)
def test_build_says_what_is_wrong(name, arguments, words):
    with pytest.raises(ModelError, match=words):
        networks.build(name, **arguments)


def test_networks_are_imported_when_used():
    code = "import napari_vox3d.networks, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError):
        _ = networks.Nonsense
