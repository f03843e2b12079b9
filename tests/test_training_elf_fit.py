import random

import numpy as np
import pytest
import torch
from ase.build import bulk

import napari_vox3d as vox
from napari_vox3d.errors import Cancelled, InferenceError, ModelError, NotEnoughMemory, Vox3dError
from napari_vox3d.networks import ELFPredictor
from napari_vox3d.training.elf_examples import Example, prepare_example, redescribed
from napari_vox3d.training.elf_fit import fit_elf

ARGUMENTS = {"base": 8, "blocks": 1, "kernel": 1, "attention_every": 0}
CONTINUOUS = {"backbone": "ckconv", "base": 8, "blocks": 1, "reach": 2.0}
CHANNELS = ["invariants"]


@pytest.fixture(scope="module")
def examples():
    """Two crystals whose "true" ELF is the promolecular one: something there is to learn."""
    crystals = [bulk("Si"), bulk("NaCl", "rocksalt", 5.64)]
    elfs = [vox.predict_elf(atoms, "promolecule", spacing=0.3) for atoms in crystals]
    return [prepare_example(elf, CHANNELS, 0.5) for elf in elfs]


def fit(examples, arguments=ARGUMENTS, **options):
    network, _ = fit_elf(examples, arguments=arguments, device="cpu", **options)
    return network


def error(network, examples):
    with torch.no_grad():
        predicted = [network(e.inputs[None], e.lattice[None])[0][0] for e in examples]
    return np.mean([(p - e.elf).abs().mean() for p, e in zip(predicted, examples, strict=True)])


def alike(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_example_sorts_its_axes_and_keeps_crystal_elf_and_lattice_together():
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
    np.testing.assert_allclose(example.lattice, [[0, 3, 0], [4, 0, 0], [0, 0, 6]])


def test_example_follows_the_origin_of_a_volume():
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1)
    here = vox.predict_elf(atoms, "promolecule", shape=(12, 12, 12))
    shifted = vox.Volume(
        np.roll(here.values, -3, axis=0),
        here.step,
        origin=3 * here.step[0],
        periodic=True,
        atoms=atoms,
    )
    one, other = (prepare_example(elf, ["sad"], 0.45) for elf in (here, shifted))
    assert one.sad.shape == (1, 12, 12, 12)
    torch.testing.assert_close(other.sad, one.sad.roll(-3, 1), atol=1e-4, rtol=0)
    torch.testing.assert_close(other.elf, one.elf.roll(-3, 1), atol=1e-4, rtol=0)


def test_turning_keeps_values_at_their_places():
    torch.manual_seed(0)
    values = torch.rand(1, 1, 4, 5, 6)
    batch = Example(values, values, values, torch.randn(1, 3, 3))

    def between(batch):
        """From the smallest value to the largest, Å, modulo the lattice of the first batch."""
        values = batch.elf[0, 0]
        ends = [torch.nonzero(values == end)[0] for end in (values.min(), values.max())]
        fraction = (ends[1] - ends[0]) / torch.tensor(values.shape)
        return fraction @ batch.lattice[0]

    for seed in range(8):
        turned = redescribed(batch, random.Random(seed))
        assert torch.equal(turned.inputs, turned.elf)
        shift = (between(turned) - between(batch)) @ torch.linalg.inv(batch.lattice[0])
        torch.testing.assert_close(shift, shift.round(), atol=1e-4, rtol=0)


def test_training_learns(examples):
    start = fit(examples, steps=0)
    trained = fit(examples, steps=60, rate=1e-2)
    assert error(trained, examples) < 0.5 * error(start, examples)


def test_each_crystal_of_a_batch_is_trained_with_its_own_lattice(examples, monkeypatch):
    """Two crystals of one shape: their lattices come together, with what belongs to them."""
    other = Example(examples[0].inputs, examples[0].sad, examples[0].elf, 2 * examples[0].lattice)
    seen = []
    real = ELFPredictor.forward

    def forward(self, sad, lattice=None):
        seen.append(lattice)
        return real(self, sad, lattice)

    monkeypatch.setattr(ELFPredictor, "forward", forward)
    fit([examples[0], other], arguments=CONTINUOUS, steps=1)
    (lattice,) = seen
    volumes = torch.linalg.det(lattice).abs()
    assert volumes.max() / volumes.min() == pytest.approx(8)


def test_continuous_network_learns(examples):
    start = fit(examples, arguments=CONTINUOUS, steps=0)
    trained = fit(examples, arguments=CONTINUOUS, steps=40, rate=1e-2)
    assert error(trained, examples) < 0.6 * error(start, examples)


def test_frequencies_of_kernels_are_not_decayed(examples):
    """With a rate of almost zero only the decay could change anything, if it were coupled."""
    start = fit(examples, arguments=CONTINUOUS, steps=0)
    decayed = fit(examples, arguments=CONTINUOUS, steps=1, rate=1e-6, weight_decay=1e5)
    name = "net.body.0.around.kernel.positional_embedding.linear.weight"
    torch.testing.assert_close(
        decayed.get_parameter(name), start.get_parameter(name), atol=1e-5, rtol=0
    )
    mix = "net.body.0.mix.narrow.weight"
    assert not torch.allclose(decayed.get_parameter(mix), start.get_parameter(mix), rtol=1e-4)


def test_interrupted_training_ends_like_an_uninterrupted_one(examples, tmp_path):
    path, told = tmp_path / "state.safetensors", []

    def cancel(done, total):
        told.append((done, total))
        if done == 3:
            raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        fit(examples, steps=7, checkpoint=path, progress=cancel)
    assert told == [(1, 7), (2, 7), (3, 7)]
    steps = []
    resumed = fit(
        examples, steps=7, checkpoint=path, on_step=lambda step, loss: steps.append((step, loss))
    )
    assert [step for step, _ in steps] == [4, 5, 6, 7]
    assert all(0 < loss < 1 for _, loss in steps)
    assert alike(resumed, fit(examples, steps=7))
    assert not alike(resumed, fit(examples, steps=7, seed=1))
    assert alike(resumed, fit(examples, steps=7, checkpoint=path))  # nothing is left to do


def test_checkpoint_is_written_meanwhile(examples, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_vox3d.training.loop._SAVE_EVERY", 0.0)
    path, seen = tmp_path / "state.safetensors", []
    fit(examples, steps=2, checkpoint=path, on_step=lambda *_: seen.append(path.exists()))
    assert seen == [False, True]


def test_stop_ends_training_early_and_keeps_the_network(examples):
    asked = []
    network, steps = fit_elf(
        examples, arguments=ARGUMENTS, steps=50, device="cpu", stop=lambda: len(asked) == 4,
        on_step=lambda *call: asked.append(call),
    )  # fmt: skip
    assert steps == len(asked) == 4
    assert not network.training


def test_time_ends_training(examples):
    calls = []
    fit(examples, minutes=0.02, progress=lambda *call: calls.append(call))
    done, total = calls[-1]
    assert 1 <= done <= total <= 3 * done


def test_time_can_be_counted_by_another_clock(examples):
    _, steps = fit_elf(
        examples, arguments=ARGUMENTS, minutes=1, device="cpu",
        clock=iter(range(0, 1000, 10)).__next__,
    )  # fmt: skip
    assert 2 <= steps <= 6


def test_training_leaves_the_randomness_of_others_alone(examples):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    fit(examples, steps=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("change", [{"arguments": ARGUMENTS | {"base": 16}}, {"seed": 1}])
def test_checkpoint_of_another_training_is_refused(examples, tmp_path, change):
    path = tmp_path / "state.safetensors"
    fit(examples, steps=1, checkpoint=path)
    with pytest.raises(ModelError, match=r"Remove it|seed 0"):
        fit(examples, steps=2, checkpoint=path, **change)


def test_file_that_is_no_checkpoint_is_refused(examples, tmp_path):
    (tmp_path / "state").write_text("nonsense")
    with pytest.raises(ModelError, match="not a checkpoint"):
        fit(examples, steps=1, checkpoint=tmp_path / "state")


def test_lack_of_memory_is_explained(examples, monkeypatch):
    def fail(self, sad, lattice=None):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ELFPredictor, "forward", fail)
    with pytest.raises(NotEnoughMemory, match=r"Training on \d+ × \d+×\d+×\d+ points does not fit"):
        fit(examples, steps=1)


def test_other_errors_are_not_taken_for_lack_of_memory(examples, monkeypatch):
    def fail(self, sad, lattice=None):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(ELFPredictor, "forward", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        fit(examples, steps=1)


def test_unknown_device_is_refused(examples):
    with pytest.raises(InferenceError, match="cuda:77"):
        fit_elf(examples, arguments=ARGUMENTS, steps=1, device="cuda:77")


@pytest.mark.parametrize(
    ("elf", "message"),
    [
        (vox.Volume(np.zeros((4, 4, 4)), 1.0, periodic=True), "no atoms"),
        (vox.Volume(np.zeros((4, 4, 4)), 1.0, atoms=bulk("Si"), name="Box"), "Box is not periodic"),
        (vox.superpose_atoms(bulk("Cu"), (8, 8, 8)), "no ELF: its values lie between"),
        (
            vox.Volume(np.full((4, 4, 4), np.nan), 1.0, atoms=bulk("Si"), periodic=True),
            "between nan and nan",
        ),
    ],
)
def test_elf_that_cannot_be_trained_on(elf, message):
    with pytest.raises(Vox3dError, match=message):
        prepare_example(elf, CHANNELS, 0.5)
