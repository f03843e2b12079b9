import numpy as np
import pytest
import torch

from napari_vox3d import networks
from napari_vox3d.errors import ModelError
from napari_vox3d.networks.ckconv import CartesianCKConv3d
from napari_vox3d.networks.ckconv_net import CKConvNet, PeriodicCKConv3d
from napari_vox3d.networks.flat_resnet import ELFPredictor
from napari_vox3d.networks.fourier import PeriodicFilter
from napari_vox3d.networks.slabs import count_ticks, in_slabs
from napari_vox3d.training.elf_fit import balance_inputs

CELL = torch.tensor([[[0.3, 0.2, 3.1], [0.4, 2.6, -0.5], [2.2, 0.7, 0.1]]])  # along D, H, W; Å
SHAPE = (12, 10, 8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ELFPredictor(in_ch=2, backbone="ckconv", base=16, blocks=2, reach=2.5).eval()


@pytest.fixture(scope="module")
def crystal():
    """Smooth periodic channels on a skewed cell."""
    torch.manual_seed(1)
    return smooth(torch.rand(1, 2, *SHAPE))


def smooth(values):
    """Keep waves of up to two periods along each axis."""
    waves = torch.fft.fftn(values, dim=(2, 3, 4))
    for axis in (2, 3, 4):
        n = values.shape[axis]
        far = (torch.fft.fftfreq(n, 1 / n).abs() > 2).nonzero().flatten()
        waves.index_fill_(axis, far, 0)
    return torch.fft.ifftn(waves, dim=(2, 3, 4)).real


def finer(values, factor):
    """The same waves on a grid that is so many times finer."""
    waves, shape = torch.fft.fftn(values, dim=(2, 3, 4)), values.shape[2:]
    fine = torch.zeros(*values.shape[:2], *(factor * n for n in shape), dtype=waves.dtype)
    places = [torch.fft.fftfreq(n, 1 / n).long() % (factor * n) for n in shape]
    fine[:, :, places[0][:, None, None], places[1][:, None], places[2]] = waves
    return torch.fft.ifftn(fine, dim=(2, 3, 4)).real * factor**3


def difference(one, other):
    return float((one - other).detach().abs().max())


def rotation():
    torch.manual_seed(2)
    q, _ = torch.linalg.qr(torch.randn(3, 3))
    return q * torch.linalg.det(q).sign()


def test_prediction_varies_and_lies_in_range(model, crystal):
    elf = model.predict_elf(crystal, CELL)
    assert elf.shape == (1, 1, *SHAPE)
    assert 0 <= elf.min() < elf.max() <= 1
    assert elf.std() > 1e-2


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 3)])
def test_supercell_gives_repeated_prediction(model, crystal, repeats):
    expected = model.predict_elf(crystal, CELL).repeat(1, 1, *repeats)
    bigger = CELL * torch.tensor(repeats)[:, None]
    assert difference(model.predict_elf(crystal.repeat(1, 1, *repeats), bigger), expected) < 1e-4


def test_rolled_cell_gives_rolled_prediction(model, crystal):
    shift = {"shifts": (3, -2, 5), "dims": (2, 3, 4)}
    expected = model.predict_elf(crystal, CELL).roll(**shift)
    assert difference(model.predict_elf(crystal.roll(**shift), CELL), expected) < 1e-4


def test_rotated_crystal_gives_the_same_values(model, crystal):
    expected = model.predict_elf(crystal, CELL)
    assert difference(model.predict_elf(crystal, CELL @ rotation()), expected) < 1e-4


def test_lattice_vectors_in_another_order_and_reversed_give_the_same_values(model, crystal):
    expected = model.predict_elf(crystal, CELL).permute(0, 1, 4, 2, 3).flip(3)
    other = CELL[:, [2, 0, 1]] * torch.tensor([1.0, -1.0, 1.0])[:, None]
    assert (
        difference(model.predict_elf(crystal.permute(0, 1, 4, 2, 3).flip(3), other), expected)
        < 1e-4
    )


def test_another_cell_of_the_same_crystal_gives_the_same_values_at_the_same_points(model):
    """Axis 0 becomes the sum of axes 0 and 1: voxel (i, j) of it is voxel (i, i + j) before."""
    torch.manual_seed(3)
    values, cell = smooth(torch.rand(1, 2, 10, 10, 8)), CELL.clone()
    rows = torch.arange(10)

    def sheared(x):
        return x[:, :, rows[:, None], (rows[:, None] + rows) % 10]

    elf = model.predict_elf(values, cell)
    cell[:, 0] += cell[:, 1]
    # up to waves at the Nyquist limit, which are others in another cell
    assert difference(model.predict_elf(sheared(values), cell), sheared(elf)) < 3e-4
    assert difference(sheared(elf), elf) > 1e-2


def test_stretched_crystal_gives_other_values(model, crystal):
    assert (
        difference(model.predict_elf(crystal, 1.3 * CELL), model.predict_elf(crystal, CELL)) > 1e-3
    )


def test_finer_grids_converge(model, crystal):
    coarse, fine, finest = (
        model.predict_elf(finer(crystal, n), CELL)[:, :, ::n, ::n, ::n] for n in (1, 2, 4)
    )
    assert difference(coarse, finest) < 0.03
    assert difference(fine, finest) < 0.3 * difference(coarse, finest)


def test_each_crystal_of_a_batch_has_its_own_lattice(model, crystal):
    lattices = torch.cat([CELL, 1.2 * CELL])
    values = torch.cat([crystal, crystal.roll(3, 2)])
    together = model.predict_elf(values, lattices)
    for n in range(2):
        alone = model.predict_elf(values[n : n + 1], lattices[n : n + 1])
        assert difference(together[n : n + 1], alone) < 1e-4


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 6, 3), (2, 3, 4)])
def test_any_grid_works(model, shape):
    elf = model.predict_elf(torch.rand(1, 2, *shape), CELL)
    assert elf.shape == (1, 1, *shape)
    assert elf.isfinite().all()


@pytest.mark.parametrize("slab_voxels", [1, 100, 3000, 10**6])
def test_groups_of_channels_give_the_plain_result_and_the_announced_ticks(
    model, crystal, slab_voxels
):
    inputs, lattices = torch.cat([crystal, crystal.flip(2)]), torch.cat([CELL, 1.1 * CELL])
    ticks = []
    with torch.no_grad():
        plain, _ = model(inputs, lattices)
    with in_slabs(model, slab_voxels, lambda: ticks.append(1)):
        pieces, _ = model(inputs, lattices)
    assert difference(pieces, plain) < 1e-5
    assert len(ticks) == count_ticks(model, (2, *SHAPE), slab_voxels)


def test_pieces_under_autocast(model, crystal):
    with torch.autocast("cpu", torch.bfloat16), in_slabs(model, 100):
        pieces, _ = model(crystal, CELL)
    with torch.no_grad():
        plain, _ = model(crystal, CELL)
    assert difference(pieces.float(), plain) < 0.05


def test_smaller_pieces_make_more_ticks(model):
    assert count_ticks(model, SHAPE, 10) > count_ticks(model, SHAPE, 10**6)


def test_all_parameters_but_the_windows_learn(crystal):
    torch.manual_seed(0)
    network = CKConvNet(2, 8, 1)
    network(crystal, CELL)[0].square().mean().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == ["body.0.around.mask.weight"]


def test_checkpointing_changes_memory_and_not_gradients(crystal):
    torch.manual_seed(0)
    plain, frugal = CKConvNet(2, 8, 2), CKConvNet(2, 8, 2, use_checkpoint=True)
    frugal.load_state_dict(plain.state_dict())
    for network in (plain, frugal):
        network(crystal, CELL)[0].sum().backward()
    for one, other in zip(plain.parameters(), frugal.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or difference(one.grad, other.grad) < 1e-5


def test_balanced_inputs_count_alike(crystal):
    torch.manual_seed(0)
    network = CKConvNet(2, 8, 1).eval()
    with torch.no_grad():
        expected, _ = network(crystal, CELL)
        balance_inputs(network, torch.tensor([10.0, 0.1]))
        scale = torch.tensor([10.0, 0.1])[:, None, None, None]
        balanced, _ = network(crystal * scale, CELL)
    assert difference(balanced, expected) < 1e-5


def test_memory_grows_with_the_grid_and_shrinks_in_pieces(model):
    plain = model.net.peak_bytes((32, 32, 32))
    assert plain > 5 * 4 * 16 * 32**3
    assert model.net.peak_bytes((32, 32, 32), 1) < 0.6 * plain
    assert model.net.peak_bytes((2, 32, 32, 32)) == 2 * plain


def test_lattice_is_asked_for(model, crystal):
    with pytest.raises(ModelError, match="needs the lattice"):
        model(crystal)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"backbone": "unet"}, "'flat_resnet' or 'ckconv'"),
        ({"backbone": "ckconv", "reach": 0.0}, "reach"),
        ({"backbone": "ckconv", "base": 12}, "cannot be built"),
    ],
)
def test_build_says_what_is_wrong(arguments, words):
    with pytest.raises(ModelError, match=words):
        networks.build("ELFPredictor", **arguments)


def test_weights_and_arguments_are_enough_to_build_it_again(model, crystal):
    again = networks.build(
        "ELFPredictor", in_ch=2, backbone="ckconv", base=16, blocks=2, reach=2.5
    ).eval()
    again.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(
        again.predict_elf(crystal, CELL).numpy(), model.predict_elf(crystal, CELL).numpy()
    )


def test_radial_kernel_is_the_limit_of_the_kernel_on_finer_grids():
    torch.manual_seed(0)
    radial = PeriodicCKConv3d(8, 3.0)
    summed = CartesianCKConv3d(8, 3.0)
    summed.load_state_dict(radial.state_dict())
    differences = []
    for size in (12, 24, 36):
        angle = torch.arange(size) / size * 2 * torch.pi
        values = torch.cos(angle[:, None, None] + 2 * angle[:, None] - angle) + torch.sin(angle)
        values = values.expand(1, 8, -1, -1, -1).contiguous()
        with torch.no_grad():
            differences.append((radial(values, CELL) - summed(values, CELL)).abs().max().item())
    assert differences[0] > 3 * differences[1] > 3 * differences[2]


@pytest.mark.parametrize("shape", [(4, 5, 6), (5, 4, 3)])
def test_filter_has_the_gradients_of_its_transforms(shape):
    torch.manual_seed(0)
    x = torch.rand(2, 2, *shape, dtype=torch.float64, requires_grad=True)
    spread = torch.rand(1, 2, *shape, dtype=torch.float64)
    even = spread + spread.flip((2, 3, 4)).roll((1, 1, 1), (2, 3, 4))  # its waves are real
    spectrum = torch.fft.rfftn(even, dim=(2, 3, 4)).real.requires_grad_()
    assert torch.autograd.gradcheck(PeriodicFilter.apply, (x, spectrum))


def test_residual_form_begins_at_the_elf_of_its_channel():
    predictor = ELFPredictor(in_ch=2, base=8, blocks=1, backbone="ckconv", residual=1)
    torch.nn.init.zeros_(predictor.net.head[0].weight)
    torch.nn.init.zeros_(predictor.net.head[0].bias)
    chi = torch.linspace(-3, 3, 60).reshape(1, 1, 3, 4, 5)
    inputs = torch.cat([torch.rand_like(chi), torch.asinh(chi)], 1)
    with torch.no_grad():
        elf, _ = predictor(inputs, CELL)
    torch.testing.assert_close(elf, 1 / (1 + chi**2), atol=2e-3, rtol=0)
    with pytest.raises(ModelError, match="no input channel 2; there are 2"):
        ELFPredictor(in_ch=2, residual=2)
