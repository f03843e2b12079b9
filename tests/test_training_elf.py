import numpy as np
import pytest
import torch
from ase.build import bulk

import napari_vox3d as vox
from napari_vox3d.errors import Cancelled, ModelError, Vox3dError
from napari_vox3d.training import losses
from napari_vox3d.training.elf import prepare_example, train_elf

ARGUMENTS = {"base": 8, "blocks": 1, "kernel": 1, "attention_every": 0}
CHANNELS = ["invariants"]


@pytest.fixture(scope="module")
def examples():
    """Two crystals whose "true" ELF is the promolecular one: something there is to learn."""
    crystals = [bulk("Si"), bulk("NaCl", "rocksalt", 5.64)]
    elfs = [vox.predict_elf(atoms, "promolecule", spacing=0.3) for atoms in crystals]
    return [prepare_example(elf, CHANNELS, 0.5) for elf in elfs]


def error(network, examples):
    with torch.no_grad():
        return np.mean([
            (network(e.inputs[None])[0][0] - e.elf).abs().mean().item() for e in examples
        ])  # fmt: skip


def test_example_sorts_its_axes_and_keeps_crystal_and_elf_together():
    lattice = np.diag([6.0, 3.0, 4.0])  # a, b, c
    atoms = bulk("Al", cubic=True)
    atoms.set_cell(lattice, scale_atoms=True)
    elf = vox.predict_elf(atoms, "promolecule", shape=(16, 12, 24))
    example = prepare_example(elf, ["sad"], 0.5)
    assert example.elf.shape == (1, 6, 8, 12)
    assert example.inputs.shape == example.sad.shape == (1, 6, 8, 12)
    np.testing.assert_allclose(
        example.elf[0], elf.values[::2, ::2, ::2].transpose(1, 0, 2), atol=1e-6
    )
    np.testing.assert_allclose(example.inputs.clamp(0), example.sad, atol=1e-5)


def test_training_learns(examples):
    start = train_elf(examples, arguments=ARGUMENTS, minutes=1e-6)
    trained = train_elf(examples, arguments=ARGUMENTS, minutes=0.06, rate=1e-2)
    assert error(trained, examples) < 0.5 * error(start, examples)


def test_interrupted_training_goes_on_from_its_checkpoint(examples, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_vox3d.training.elf._SAVE_EVERY", 0.0)
    path, seen = tmp_path / "state.pt", []

    def stop(done, total):
        seen.append(done)
        if len(seen) == 5:
            raise Cancelled("Cancelled.")

    options = {"arguments": ARGUMENTS, "minutes": 0.03, "checkpoint": path}
    with pytest.raises(Cancelled):
        train_elf(examples, progress=stop, **options)
    assert path.exists()
    again = []
    train_elf(examples, progress=lambda done, total: again.append(done), **options)
    assert again[0] >= seen[3]
    finished = torch.load(path, weights_only=True)["network"]
    same = train_elf(examples, **options)  # nothing is left to do
    for name, value in same.state_dict().items():
        torch.testing.assert_close(value, finished[name])


def test_checkpoint_of_another_network_is_refused(examples, tmp_path):
    path = tmp_path / "state.pt"
    train_elf(examples, arguments=ARGUMENTS, minutes=1e-6, checkpoint=path)
    with pytest.raises(ModelError, match="start anew"):
        train_elf(examples, arguments=ARGUMENTS | {"base": 16}, minutes=1e-6, checkpoint=path)


def test_elf_without_atoms_cannot_be_trained_on():
    with pytest.raises(Vox3dError, match="no atoms"):
        prepare_example(vox.Volume(np.zeros((4, 4, 4)), 1.0, periodic=True), CHANNELS, 0.5)


def test_losses_vanish_at_the_truth_and_the_periodic_ones_do_not_see_shifts():
    torch.manual_seed(0)
    true, other = torch.rand(2, 1, 6, 5, 4), torch.rand(2, 1, 6, 5, 4)
    ones = torch.ones_like(true)
    for loss in (
        lambda p, t: losses.voxel_loss(p, t, ones),
        losses.gradient_loss,
        losses.distribution_loss,
    ):
        assert loss(true, true) == 0
        assert loss(other, true) > 0
        shift = {"shifts": (2, 3), "dims": (2, 4)}
        torch.testing.assert_close(loss(other.roll(**shift), true.roll(**shift)), loss(other, true))


def test_voxel_loss_is_quadratic_then_linear():
    zero, ones = torch.zeros(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1)
    assert losses.voxel_loss(zero + 0.05, zero, ones).item() == pytest.approx(0.05**2 / 0.2)
    assert losses.voxel_loss(zero + 0.5, zero, ones).item() == pytest.approx(0.5 - 0.05)


def test_weights_fall_with_the_density_and_average_to_one():
    sad = torch.tensor([0.0, 0.5, 1.0, 2.0]).view(1, 1, 1, 1, 4)
    weights = losses.density_weights(sad).flatten()
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0))
    expected = torch.tensor([1.0, 0.75, 0.5, 0.0]) ** 2
    torch.testing.assert_close(weights, expected / expected.mean())


def test_distribution_loss_is_the_wasserstein_distance():
    from scipy.stats import wasserstein_distance

    a, b = torch.rand(1, 1, 4, 4, 4), torch.rand(1, 1, 4, 4, 4)
    expected = wasserstein_distance(a.flatten().numpy(), b.flatten().numpy())
    assert losses.distribution_loss(a, b).item() == pytest.approx(expected, rel=1e-5)
