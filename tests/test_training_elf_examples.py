from itertools import islice

import pytest
import torch
from ase.build import bulk

import napari_vox3d as vox
from napari_vox3d.errors import Vox3dError
from napari_vox3d.training import elf_examples
from napari_vox3d.training.elf_examples import (
    Example,
    ExampleStore,
    endless_batches,
    prepare_example,
    stacked,
)


def blank(*shape):
    values = torch.zeros(1, *shape)
    return Example(values, values, values, torch.eye(3))


@pytest.fixture(scope="module")
def silicon():
    return vox.predict_elf(bulk("Si"), "promolecule", spacing=0.4)


def test_stored_example_is_the_prepared_one(silicon, tmp_path):
    stored = ExampleStore(tmp_path, ["invariants"], 0.5).prepare(silicon)
    expected = prepare_example(silicon, ["invariants"], 0.5)
    assert stored.shape == expected.shape
    for name, value in vars(stored.load()).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, getattr(expected, name), rtol=1e-3, atol=5e-4)


def test_crystals_are_prepared_once(silicon, tmp_path, monkeypatch):
    ExampleStore(tmp_path, ["sad"], 0.5).prepare(silicon)
    with monkeypatch.context() as patch:
        patch.setattr(elf_examples, "prepare_example", None)
        ExampleStore(tmp_path, ["sad"], 0.5).prepare(silicon)
    store = ExampleStore(tmp_path, ["sad"], 0.8)  # other grids are other files
    store.prepare(silicon)
    store.prepare(silicon, name="my silicon")
    store.prepare(silicon, lambda: vox.superpose_atoms(silicon.atoms, (24, 24, 24)))
    assert len(list(tmp_path.iterdir())) == 4


def test_network_may_be_given_the_electron_density(silicon):
    sad = vox.superpose_atoms(silicon.atoms, (24, 24, 24))
    twice = sad.with_values(2 * sad.values, quantity="electron density")
    given = prepare_example(silicon, ["sad"], 0.5, twice)
    superposed = prepare_example(silicon, ["sad"], 0.5)
    torch.testing.assert_close(given.inputs, 2 * superposed.inputs, rtol=1e-2, atol=1e-3)
    assert torch.equal(given.sad, superposed.sad)


def test_nothing_is_kept_of_what_cannot_be_trained_on(tmp_path):
    with pytest.raises(Vox3dError, match="is no ELF"):
        ExampleStore(tmp_path, ["sad"], 0.5).prepare(vox.superpose_atoms(bulk("Cu"), (8, 8, 8)))
    assert not list(tmp_path.iterdir())


def test_every_crystal_comes_once_an_epoch_in_batches_of_bounded_size():
    examples = [blank(4, 4, 4) for _ in range(7)] + [blank(3, 4, 5) for _ in range(4)]
    examples += [blank(2, 2, n) for n in range(2, 9)]
    examples += [blank(9, 9, 9)]  # larger than any batch
    seen, epoch = [], []
    for batch in endless_batches(examples, 0, 0, 200):
        epoch.append(batch)
        seen += [member for members, _ in batch for member in members]
        if len(seen) == len(examples):
            break
    assert {id(member) for member in seen} == {id(example) for example in examples}
    for batch in epoch:
        assert sum(share for _, share in batch) == pytest.approx(1)
        sizes = [len(members) * members[0].elf.numel() for members, _ in batch]
        assert sum(sizes) <= 200 or sizes == [9**3]
        assert all(len({member.shape for member in members}) == 1 for members, _ in batch)
    assert any(len(batch) > 1 for batch in epoch)  # shapes are mixed where there is room
    assert any(len(members) == 3 for batch in epoch for members, _ in batch)


def test_order_depends_on_the_seed_and_can_be_entered_anywhere():
    examples = [blank(2, 2, n) for n in range(2, 12)]

    def order(seed, first=0, batches=12):
        return [
            tuple(members[0].shape for members, _ in batch)
            for batch in islice(endless_batches(examples, seed, first, 30), batches)
        ]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0, 7, 5) == order(0)[7:]


def test_stacking_gives_each_crystal_its_lattice():
    first, second = blank(2, 3, 4), blank(2, 3, 4)
    batch = stacked([first, Example(second.inputs, second.sad, second.elf, 2 * second.lattice)])
    assert batch.elf.shape == (2, 1, 2, 3, 4)
    assert batch.shape == (2, 3, 4)
    torch.testing.assert_close(batch.lattice[1], 2 * batch.lattice[0])
