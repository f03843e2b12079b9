import errno
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell

import napari_vox3d as vox
from napari_vox3d.errors import Cancelled, InferenceError, ModelError, Vox3dError
from napari_vox3d.inference import elf_pass
from napari_vox3d.models import ELFInput, Model, ModelCard, NetworkSpec, load_model
from napari_vox3d.networks import build, slabs, streamed

SILICON = bulk("Si")
HEXAGONAL = bulk("Mg")


def small_model(channels=("invariants",), spacing=None, density="promolecular", **changes):
    arguments = {"in_ch": {"invariants": 24}.get(channels[0], len(channels)), "base": 8,
                 "blocks": 1, "kernel": 1, "attention_every": 0} | changes  # fmt: skip
    card = ModelCard(
        name="test", title="Test", task="elf", training="none", licence="none", version="1",
        network=NetworkSpec(name="ELFPredictor", arguments=arguments),
        input=ELFInput(channels=list(channels), spacing=spacing, density=density),
    )  # fmt: skip
    torch.manual_seed(0)
    return Model(card, build("ELFPredictor", **arguments).state_dict())


MODELS = {
    "promolecule": "promolecule",
    "flat_resnet": small_model(),
    "ckconv": small_model(backbone="ckconv"),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
every_network = pytest.mark.parametrize("backbone", ["flat_resnet", "ckconv"])


@every_model
def test_result_is_an_elf_on_the_cell(model):
    elf = vox.predict_elf(HEXAGONAL, model, spacing=0.4)
    assert (elf.quantity, elf.periodic, elf.values.dtype) == ("elf", True, np.float32)
    assert 0 <= elf.values.min() < elf.values.max() <= 1
    np.testing.assert_allclose(elf.lattice, HEXAGONAL.cell.array)
    assert elf.voxel_size.max() <= 0.4
    assert elf.atoms == HEXAGONAL
    assert elf.metadata["provenance"]["input"] == "superposed atomic densities"


@pytest.mark.parametrize("name", ["flat-resnet-small", "ckconv"])
def test_half_the_bits_move_a_trained_elf_by_less_than_a_hundredth(name):
    exact = vox.predict_elf(SILICON, name, precision="float32").values
    half = vox.predict_elf(SILICON, name, precision="bfloat16").values
    assert 0 < np.abs(half - exact).max() < 0.01


def test_grid_of_a_volume_is_kept_exactly():
    cell = np.array([[3.0, 0, 0], [0.4, 4.0, 0], [0.2, -0.3, 5.0]])
    atoms = Atoms("NaCl", cell=cell, scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], pbc=True)
    given = vox.Volume.on_lattice(np.zeros((21, 16, 13)), cell, atoms=atoms, origin=[0.5, 0, 0.1])
    elf = vox.predict_elf(given, "promolecule")
    assert elf.shape == given.shape
    np.testing.assert_array_equal(elf.step, given.step)
    np.testing.assert_array_equal(elf.origin, given.origin)


def test_origin_moves_the_grid_and_not_the_crystal():
    lattice = 4 * np.eye(3)
    atoms = Atoms("Ne", cell=lattice, positions=[[1, 2, 3]], pbc=True)
    here = vox.Volume.on_lattice(np.zeros((16, 16, 16)), lattice, atoms=atoms)
    there = vox.Volume.on_lattice(np.zeros((16, 16, 16)), lattice, atoms=atoms, origin=[0.25, 0, 0])
    first, second = (vox.predict_elf(v, "promolecule").values for v in (here, there))
    np.testing.assert_allclose(np.roll(first, -1, axis=0), second, atol=1e-5)


@every_model
def test_supercell_repeats_the_prediction(model):
    one = vox.predict_elf(SILICON, model, shape=(16, 16, 16)).values
    double = make_supercell(SILICON, np.diag([2, 1, 1]))
    two = vox.predict_elf(double, model, shape=(16, 16, 32)).values
    np.testing.assert_allclose(two, np.tile(one, (1, 1, 2)), atol=2e-4)


@every_network
def test_invariant_model_does_not_see_how_a_cell_lies(backbone):
    turned = HEXAGONAL.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    straight, other = (
        vox.predict_elf(atoms, small_model(backbone=backbone), shape=(20, 16, 16)).values
        for atoms in (HEXAGONAL, turned)
    )
    np.testing.assert_allclose(straight, other, atol=1e-4)
    assert straight.std() > 0.01


def test_continuous_kernels_do_not_see_which_cell_of_a_crystal_is_given():
    """Another choice of the third vector: point (k, j, i) of it is (k, j, i + k) of the first."""
    sheared, cell = SILICON.copy(), SILICON.cell.array.copy()
    cell[2] += cell[0]
    sheared.set_cell(cell)
    one, other = (
        vox.predict_elf(atoms, small_model(backbone="ckconv"), shape=(16, 16, 16)).values
        for atoms in (SILICON, sheared)
    )
    places = np.indices(one.shape)
    same = one[places[0], places[1], (places[2] + places[0]) % 16]
    np.testing.assert_allclose(other, same, atol=1e-3)
    assert np.abs(same - one).max() > 0.02


def test_continuous_kernels_know_the_size_of_the_cell():
    """The superposed densities are the same numbers; only the lattice in Å differs."""
    sad = vox.superpose_atoms(SILICON, (16, 16, 16))
    small, large = (
        vox.predict_elf(
            vox.Volume.on_lattice(
                sad.values, scale * sad.lattice, quantity=sad.quantity, unit=sad.unit
            ),
            small_model(("sad",), backbone="ckconv", reach=2.0),
        ).values
        for scale in (1.0, 1.5)
    )
    assert np.abs(small - large).max() > 0.005


def test_model_of_one_spacing_computes_there_and_interpolates():
    model = small_model(("log_sad", "promolecular_elf"), spacing=0.5, kernel=3)
    elf = vox.predict_elf(SILICON, model, shape=(30, 30, 30))
    assert elf.shape == (30, 30, 30)
    assert elf.metadata["provenance"]["network grid"] == [8, 8, 8]
    own = vox.predict_elf(SILICON, model, shape=(8, 8, 8)).values
    coarse = vox.predict_elf(SILICON, model, shape=(16, 16, 16)).values[::2, ::2, ::2]
    np.testing.assert_allclose(coarse, own, atol=1e-5)


def test_values_of_a_density_with_atoms_are_not_looked_at():
    lattice = SILICON.cell.array
    rng = np.random.default_rng(0)
    given = vox.Volume.on_lattice(
        rng.random((16, 16, 16)), lattice, atoms=SILICON, quantity="superposed atomic density"
    )
    from_atoms = vox.predict_elf(SILICON, "promolecule", shape=(16, 16, 16)).values
    np.testing.assert_array_equal(vox.predict_elf(given, "promolecule").values, from_atoms)


def test_superposed_density_without_atoms_serves():
    sad = vox.superpose_atoms(SILICON, (48, 48, 48))
    bare = vox.Volume.on_lattice(sad.values, sad.lattice, quantity=sad.quantity, unit=sad.unit)
    elf = vox.predict_elf(bare, "promolecule")
    np.testing.assert_allclose(
        elf.values, vox.predict_elf(SILICON, "promolecule", shape=(48, 48, 48)).values, atol=0.02
    )


def test_paths_of_structures_and_of_volumes(tmp_path):
    SILICON.write(tmp_path / "POSCAR", format="vasp")
    vox.write_volume(tmp_path / "CHGCAR", vox.superpose_atoms(SILICON, (12, 12, 12)))
    structure = vox.predict_elf(tmp_path / "POSCAR", "promolecule")
    assert structure.source == str(tmp_path / "POSCAR")
    assert vox.predict_elf(tmp_path / "CHGCAR", "promolecule").shape == (12, 12, 12)


@every_network
def test_progress_runs_to_the_end_and_cancels(backbone):
    model, calls = small_model(backbone=backbone), []
    vox.predict_elf(SILICON, model, shape=(16,) * 3, progress=lambda *c: calls.append(c))
    done, total = calls[-1]
    assert done == total
    assert len(calls) > 5

    def cancel(done, total):
        if done:
            raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        vox.predict_elf(SILICON, model, shape=(16,) * 3, progress=cancel)


@pytest.mark.parametrize("model", ["promolecule", "ckconv"])
def test_preparations_report_what_they_have_done(model):
    calls = []
    vox.predict_elf(SILICON.repeat(2), model, spacing=0.25, progress=lambda *c: calls.append(c))
    shares = [done / total for done, total in calls]
    assert shares == sorted(shares)
    assert sum(0 < share < 0.25 for share in shares) > 2
    assert sum(0.25 < share < 1 for share in shares) > 5


def failing(monkeypatch, backbone, error, times):
    """Make the first `times` convolutions or transforms fail."""
    left = [times]

    def sometimes(real):
        def call(*args, **kwargs):
            if left[0]:
                left[0] -= 1
                raise error
            return real(*args, **kwargs)

        return call

    if backbone == "ckconv":
        monkeypatch.setattr(torch.fft, "irfftn", sometimes(torch.fft.irfftn))
    else:
        real = torch.nn.Conv3d._conv_forward
        monkeypatch.setattr(torch.nn.Conv3d, "_conv_forward", sometimes(real))


@every_network
def test_out_of_memory_takes_smaller_pieces_and_goes_on(monkeypatch, backbone):
    model, ticks = small_model(backbone=backbone), []
    plain = vox.predict_elf(SILICON, model, shape=(16,) * 3).values
    failing(monkeypatch, backbone, torch.OutOfMemoryError("CUDA out of memory"), 1)
    work = model.network().net.work_per_voxel()
    monkeypatch.setattr(elf_pass, "_SLAB_WORK", work * 8192)
    count = slabs.count_ticks
    monkeypatch.setattr(slabs, "count_ticks", lambda *a: ticks.append(count(*a)) or ticks[-1])
    again = vox.predict_elf(SILICON, model, shape=(16,) * 3).values
    np.testing.assert_allclose(plain, again, atol=1e-5)
    few, more = ticks
    assert more > few


@every_network
def test_out_of_memory_for_good_says_what_would_fit(monkeypatch, backbone):
    failing(monkeypatch, backbone, torch.OutOfMemoryError("CUDA out of memory"), 1000)
    with pytest.raises(InferenceError, match=r"spacing of .* Å would fit"):
        vox.predict_elf(SILICON, small_model(backbone=backbone), shape=(16,) * 3)


def test_a_network_within_a_limit_keeps_activations_in_files_or_is_refused(monkeypatch):
    flat, continuous = small_model(), small_model(backbone="ckconv")
    asked = {"shape": (24, 16, 20), "device": "cpu"}
    plain, ticks = vox.predict_elf(SILICON, flat, **asked), []
    net = flat.network().net
    limit = streamed.stream_bytes(net, asked["shape"], 4)
    assert limit < net.peak_bytes(asked["shape"], 1)
    made = vox.predict_elf(SILICON, flat, memory=limit / 1e9, **asked,
                           progress=lambda *numbers: ticks.append(numbers))  # fmt: skip
    np.testing.assert_allclose(made.values, plain.values, atol=1e-5)
    assert all(one <= other for one, other in pairwise(done / total for done, total in ticks))
    for model, memory in ((flat, 1e-6), (continuous, 1e-6), (flat, 0)):
        with pytest.raises(InferenceError, match=r"spacing of .* Å would fit"):
            vox.predict_elf(SILICON, model, memory=memory, **asked)
    monkeypatch.setattr(elf_pass.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(InferenceError, match="In files it would need"):
        vox.predict_elf(SILICON, flat, memory=limit / 1e9, **asked)
    monkeypatch.undo()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(streamed._Planes, "put", full)
    with pytest.raises(InferenceError, match=r"cannot be kept in .*No space left"):
        vox.predict_elf(SILICON, flat, memory=limit / 1e9, **asked)


@every_network
def test_other_errors_are_not_taken_for_lack_of_memory(monkeypatch, backbone):
    failing(monkeypatch, backbone, RuntimeError("shapes differ"), 1)
    with pytest.raises(RuntimeError, match="shapes differ"):
        vox.predict_elf(SILICON, small_model(backbone=backbone), shape=(16,) * 3)


def test_model_with_continuous_kernels_survives_a_file(tmp_path):
    model = small_model(backbone="ckconv", reach=2.5)
    again = load_model(model.save(tmp_path / "mine").weights.parent)
    one, other = (vox.predict_elf(SILICON, m, shape=(12,) * 3).values for m in (model, again))
    np.testing.assert_array_equal(one, other)
    assert again.network().net.body[0].around.reach == 2.5


def test_weights_of_another_network_are_refused():
    flat, continuous = small_model(), small_model(backbone="ckconv")
    mixed = Model(continuous.card, flat.network().state_dict())
    with pytest.raises(ModelError, match="do not fit ELFPredictor"):
        vox.predict_elf(SILICON, mixed)


def test_elfnet_checkpoints_are_not_fed_other_densities():
    with pytest.raises(ModelError, match="ELFNet"):
        vox.predict_elf(SILICON, small_model(("sad",), density="elfnet"))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (Atoms("H2", [[0, 0, 0], [0, 0, 0.7]]), {}, "no cell"),
        (vox.Volume(np.zeros((4, 4, 4)), 10.0, name="tomo"), {}, "not periodic"),
        (vox.Volume(np.zeros((4, 4, 4)), 1.0, periodic=True), {}, "carries no atoms"),
        (SILICON, {"spacing": -1}, "positive"),
        (SILICON, {"spacing": 0.2, "shape": (8, 8, 8)}, "not both"),
        (SILICON, {"shape": (8, 8)}, "three axes"),
        (bulk("Pu", "fcc", 4.6), {}, "Pu"),
        (SILICON, {"device": "cuda:77"}, "cuda:77"),
    ],
)
def test_impossible_requests_are_one_sentence(source, options, message):
    with pytest.raises(Vox3dError, match=message):
        vox.predict_elf(source, small_model(), **options)
