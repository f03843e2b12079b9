"""Volumes of odd numbers and shapes: each gives a right result, or one sentence."""

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from samples import MOLECULE

import napari_vox3d as vox
from napari_vox3d import Volume
from napari_vox3d.density import tsirelson_stash_elf
from napari_vox3d.density.resampling import orthogonal_box
from napari_vox3d.errors import Vox3dError
from napari_vox3d.formats import read_volumes, write_volume
from napari_vox3d.inference.picking import pick_particles
from napari_vox3d.inference.tiles import Normalisation
from napari_vox3d.models import Model, ModelCard, NetworkSpec, ParticleClass, PickingInput
from napari_vox3d.networks import build
from napari_vox3d.picks import Picks
from napari_vox3d.training import picking
from napari_vox3d.training.picker_forms import DenseForm

sys.path.insert(0, str(Path(__file__).parents[1]))
from elf_models import SILICON, density, model

SHAPE = (16, 20, 24)
NOISE = np.random.default_rng(0).normal(size=SHAPE).astype("f4")


def with_one(value, dtype="f4"):
    values = NOISE.astype(dtype)
    values[3, 4, 5] = value
    return values


def whole_range(dtype):
    limits = np.iinfo(dtype)
    values = np.random.default_rng(0).integers(limits.min, limits.max, SHAPE, dtype, endpoint=True)
    values[0, 0, :2] = limits.min, limits.max
    return values


ODD = {
    "nan": np.full(SHAPE, np.nan, "f4"),
    "one nan": with_one(np.nan),
    "one infinite": with_one(np.inf),
    "largest float32": with_one(3.4e38),
    "infinite": np.full(SHAPE, -np.inf, "f4"),
    "zeros": np.zeros(SHAPE, "f4"),
    "beyond float32": with_one(1e308, "f8"),
    **{dtype: whole_range(dtype) for dtype in ("i1", "u1", "i2", "u2")},
    "two levels": np.where(NOISE > 0, 32767, -32768).astype("i2"),
    "bool": NOISE > 0,
    "integers of 64 bits": whole_range("i8"),
    "complex": NOISE.astype("c8"),
    "one voxel": np.ones((1, 1, 1), "f4"),
    "plane": NOISE[:1],
    "line": NOISE[:1, :1],
    "no voxels": np.zeros((0, 4, 4), "f4"),
}


@pytest.fixture(autouse=True)
def _no_warnings_of_numpy():
    """Arithmetic that goes wrong unseen fails the test; words to the user do not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        yield


@pytest.fixture(scope="module")
def picker():
    """A small random network of three outputs, whose every peak counts."""
    torch.manual_seed(0)
    arguments = {"backbone": "UNet", "channels": 4, "levels": 2, "blocks": ["C3"], "num_classes": 3}
    card = make_card(NetworkSpec(name="DensePicker", arguments=arguments))
    return Model(card, build("DensePicker", **arguments).state_dict())


def make_card(network):
    kinds = [ParticleClass(name=name, radius=60, colour="#000000", threshold=0.0) for name in "ab"]
    return ModelCard(
        name="random", title="Random", task="picking", network=network, classes=kinds,
        input=PickingInput(voxel_size=10, normalisation="robust"), background=0,
        training="None.", licence="BSD-3-Clause", version="1",
    )  # fmt: skip


def sentence_or(function, *arguments, **options):
    """Result of a function, or None if it refuses with a sentence."""
    try:
        return function(*arguments, **options)
    except Vox3dError:
        return None


def kept(path, volume):
    write_volume(path, volume)
    return read_volumes(path)[0]


@pytest.mark.parametrize("name", ["a.mrc", "a.mrc.gz", "a.tif", "a.ome.tif", "a.xsf", "a.cube"])
@pytest.mark.parametrize("kind", ODD)
def test_what_is_written_is_read_again_or_refused(tmp_path, kind, name):
    volume = Volume(ODD[kind], 10.0)
    found = sentence_or(kept, tmp_path / name, volume)
    if found is None:
        return
    assert found.shape == volume.shape
    expected = ODD[kind]
    if name == "a.xsf":
        expected = np.where(np.isfinite(expected), expected, np.nan)
    tolerance = 1e-6 if name.endswith((".xsf", ".cube")) or expected.dtype.itemsize > 4 else 0
    np.testing.assert_allclose(np.asarray(found.values), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["CHGCAR", "ELFCAR", "x.xsf"])
@pytest.mark.parametrize("kind", ODD)
def test_crystals_are_written_and_read_again_or_refused(tmp_path, kind, name):
    if kind == "no voxels":
        return
    what = {"CHGCAR": ("electron density", "e/Å³")}.get(name, ("elf", ""))
    volume = Volume.on_lattice(ODD[kind], MOLECULE.cell.array, quantity=what[0], unit=what[1],
                               atoms=MOLECULE)  # fmt: skip
    found = sentence_or(kept, tmp_path / name, volume)
    if found is None:
        return
    values = ODD[kind].astype(float)
    digits = {"rtol": 1e-4 if name == "ELFCAR" else 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(found.values, values, **digits)


def test_statistics_in_a_header_hold_for_the_extremes(tmp_path):
    import mrcfile

    for dtype in ("i1", "i2", "u2"):
        write_volume(tmp_path / "a.mrc", Volume(ODD[dtype], 10))
        with mrcfile.open(tmp_path / "a.mrc") as file:
            limits = np.iinfo(dtype)
            assert (file.header.dmin, file.header.dmax) == (limits.min, limits.max)
            assert file.header.rms == pytest.approx(ODD[dtype].astype(float).std(), rel=1e-5)
    write_volume(tmp_path / "a.mrc", Volume(ODD["one infinite"], 10))
    with mrcfile.open(tmp_path / "a.mrc") as file:  # not determined, as MRC 2014 says it
        assert file.header.dmax < file.header.dmin
        assert file.header.rms < 0


@pytest.mark.parametrize("kind", ODD)
def test_particles_are_found_or_the_volume_is_refused(picker, kind):
    picks = sentence_or(pick_particles, Volume(ODD[kind], 10.0), picker, device="cpu")
    if picks is None:
        return
    assert np.isfinite(picks.positions).all()
    assert np.isfinite(picks.scores).all()
    assert ((picks.indices > -0.51) & (picks.indices < np.array(ODD[kind].shape) - 0.49)).all()


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2"])
@pytest.mark.parametrize("scheme", ["robust", "zscore"])
def test_integers_do_not_overflow_when_they_are_measured(dtype, scheme):
    exact = Normalisation.of(Volume(ODD[dtype].astype("f8"), 10), scheme)
    assert Normalisation.of(Volume(ODD[dtype], 10), scheme) == pytest.approx(exact)
    assert exact.width > 0


def test_one_broken_voxel_changes_nothing_far_away(picker):
    broken = pick_particles(Volume(with_one(np.inf), 10.0), picker, device="cpu")
    mended = pick_particles(Volume(with_one(np.median(NOISE)), 10.0), picker, device="cpu")
    np.testing.assert_allclose(broken.positions, mended.positions, atol=0.5)


@pytest.mark.parametrize("size", [1e-6, 0.01, 1e6, 1e12])
def test_voxels_of_impossible_size_are_refused_before_memory_is_taken(picker, size):
    with pytest.raises(Vox3dError, match="far from the 10 Å of the model"):
        pick_particles(Volume(NOISE, size), picker, device="cpu")


def test_a_mirrored_tomogram_is_refused_and_an_unmeasured_one_is_not(picker):
    with pytest.raises(Vox3dError, match="mirrored"):
        pick_particles(Volume(NOISE, np.diag([10.0, -10.0, 10.0])), picker)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        unknown = pick_particles(Volume(NOISE, 1.0, calibrated=False), picker, device="cpu")
    assert caught
    known = pick_particles(Volume(NOISE, 10.0), picker, device="cpu")
    np.testing.assert_allclose(unknown.indices, known.indices)


DENSITIES = {
    "nan": (lambda values: np.full_like(values, np.nan), None),
    "one nan": (lambda values: np.where(values == values.max(), np.nan, values), None),
    "infinite": (lambda values: np.where(values == values.max(), np.inf, values), None),
    "too large": (lambda values: values * 1e300, None),
    "complex": (lambda values: values.astype(complex), None),
    "zeros": (np.zeros_like, True),
    "constant": (lambda values: np.full_like(values, 0.1), True),
    "negative": (np.negative, True),
    "integers": (lambda values: (100 * values).astype("u2"), True),
}


@pytest.mark.parametrize("kind", DENSITIES)
def test_an_elf_is_predicted_from_a_density_or_it_is_refused(kind):
    change, predicted = DENSITIES[kind]
    one = density(shape=(8, 8, 8))
    one = replace(one, values=change(np.asarray(one.values)))
    known = model(source="electron density")
    elf = sentence_or(vox.predict_elf, one, known, device="cpu")
    assert (elf is not None) == bool(predicted)
    if elf is not None:
        assert np.isfinite(elf.values).all()
        assert 0 <= np.min(elf.values) <= np.max(elf.values) <= 1


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 8), (1, 8, 8), (2, 2, 2)])
def test_grids_of_single_points(shape):
    elf = sentence_or(vox.predict_elf, SILICON, model(), shape=shape, device="cpu")
    assert (elf is None) == (shape == (1, 1, 1))
    assert elf is None or (elf.shape == shape and np.isfinite(elf.values).all())


def test_the_hand_of_a_cell_does_not_matter():
    left = SILICON.copy()
    left.set_cell(left.cell.array[[1, 0, 2]])
    assert np.linalg.det(left.cell.array) * np.linalg.det(SILICON.cell.array) < 0
    one, other = (
        np.asarray(vox.predict_elf(atoms, model(), shape=(8, 8, 8), device="cpu").values)
        for atoms in (SILICON, left)
    )
    np.testing.assert_allclose(other, one.transpose(0, 2, 1), atol=1e-5)


def test_atoms_that_are_nowhere_are_refused():
    lost = SILICON.copy()
    lost.positions[0] = np.nan
    with pytest.raises(Vox3dError, match="no finite numbers"):
        vox.predict_elf(lost, model(), device="cpu")


# --- what is measured and learnt -----------------------------------------------------------------

DENSITY = {"quantity": "electron density", "unit": "e/Å³"}
MEASURES = {
    "maxima": vox.find_maxima,
    "statistics": vox.volume_statistics,
    "comparison": lambda volume: vox.compare_volumes(volume, volume),
    "line": lambda volume: vox.line_profile(volume, [0.0, 0, 0], [1.0, 2, 3]),
    "plane": lambda volume: vox.lattice_plane(volume, (1, 1, 0)),
    "surface": lambda volume: vox.isosurface(volume, 0.5),
    "formula": lambda volume: tsirelson_stash_elf(replace(volume, **DENSITY)),
}


def numbers_of(result):
    """All numbers of a result, in one array."""
    if isinstance(result, dict):
        result = list(result.values())
    elif hasattr(result, "__dict__") and not isinstance(result, np.ndarray):
        result = [value for name, value in vars(result).items() if name != "metadata"]
    if isinstance(result, list | tuple):
        return np.concatenate([np.zeros(0), *map(numbers_of, result)])
    values = np.asarray(result) if isinstance(result, np.ndarray | float | int) else np.zeros(0)
    return values.astype(float).ravel() if values.dtype.kind in "fiub" else np.zeros(0)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("kind", ODD)
def test_odd_crystals_are_measured_in_finite_numbers_or_refused(kind, measure):
    if kind == "no voxels":
        return
    volume = Volume.on_lattice(ODD[kind], MOLECULE.cell.array, quantity="elf", atoms=MOLECULE)
    found = sentence_or(MEASURES[measure], volume)
    assert found is None or np.isfinite(numbers_of(found)).all()


EXTREMES = {"float32": (3.4e38, "f4"), "float64": (1.7e308, "f8"), "tiny": (1e-300, "f8")}


@pytest.mark.parametrize("extreme", EXTREMES)
def test_a_crystal_of_extreme_numbers_is_like_one_of_usual_numbers(extreme):
    factor, dtype = EXTREMES[extreme]
    usual = np.random.default_rng(0).uniform(-1, 1, SHAPE).astype(dtype)
    skewed = MOLECULE.cell.array + np.eye(3, k=-1)
    one, other = (
        Volume.on_lattice(values, skewed, quantity="elf", atoms=MOLECULE)
        for values in (usual, usual * np.array(factor, dtype))
    )
    for measure in ("line", "plane", "statistics"):
        expected, found = (MEASURES[measure](volume) for volume in (one, other))
        if measure == "statistics":
            assert found.deviation / factor == pytest.approx(expected.deviation)
            np.testing.assert_array_equal(found.counts, expected.counts)
            continue
        largest = np.finfo(float).max / max(1, factor)  # a spline goes beyond its values
        expected = np.clip(np.asarray(expected.values), -largest, largest)
        np.testing.assert_allclose(found.values / factor, expected, rtol=1e-4, atol=1e-4)
    surfaces = [vox.isosurface(one, 0.5), vox.isosurface(other, 0.5 * factor, other)]
    np.testing.assert_array_equal(surfaces[0].faces, surfaces[1].faces)
    np.testing.assert_allclose(surfaces[0].vertices, surfaces[1].vertices, atol=1e-3)
    assert np.isfinite(surfaces[1].colours).all()
    opposite = other.with_values(-other.values)
    assert np.isfinite(numbers_of(vox.compare_volumes(other, opposite))).all()
    assert np.isfinite(orthogonal_box(other).values).all()


def test_values_that_differ_in_their_last_digit_have_statistics():
    values = np.where(NOISE > 0, 1.0, np.nextafter(1, 2))
    found = vox.volume_statistics(Volume.on_lattice(values, MOLECULE.cell.array))
    assert found.counts.sum() == values.size


@pytest.mark.parametrize("how", [
    {"hkl": (10**9, 1, 0)}, {"hkl": (np.nan, 1, 0)}, {"hkl": (0, 0, 1), "origin": [1e300, 0, 0]},
    {"hkl": (0, 0, 1), "extent": 1e300, "spacing": 1e299}, {"hkl": (0, 0, 1), "spacing": 1e-9},
])  # fmt: skip
def test_impossible_planes_are_refused_before_memory_is_taken(how):
    volume = Volume.on_lattice(NOISE, MOLECULE.cell.array)
    with pytest.raises(Vox3dError):
        vox.lattice_plane(volume, **how)


LEARNT = ("nan", "one infinite", "zeros", "i1", "u2", "beyond float32", "one voxel", "plane")


@pytest.fixture
def quick_training(monkeypatch):
    monkeypatch.setattr(DenseForm, "edge", 16)
    monkeypatch.setattr(
        picking,
        "estimate_thresholds",
        lambda model, *_, **__: {kind.name: 0.5 for kind in model.card.classes},
    )


def all_finite(model):
    return all(torch.isfinite(part).all() for part in model.network().state_dict().values())


@pytest.mark.parametrize("kind", ODD)
def test_a_picker_learns_finite_numbers_or_the_volume_is_refused(quick_training, long, kind):
    if kind not in LEARNT and not long:
        pytest.skip("only in the long form")
    middle = np.array(ODD[kind].shape) / 2
    picks = Picks.from_indices([middle], "a", voxel_size=10, radii=40.0)
    how = {"base": None, "network": "unet", "steps": 1, "device": "cpu"}
    made = sentence_or(vox.train_picker, [(Volume(ODD[kind], 10.0), picks)], **how)
    assert made is None or all_finite(made)


@pytest.mark.parametrize("kind", ODD)
def test_an_elf_model_learns_finite_numbers_or_the_volume_is_refused(long, kind):
    if kind == "no voxels" or (kind not in LEARNT and not long):
        pytest.skip("only in the long form")
    elf = Volume.on_lattice(ODD[kind], SILICON.cell.array, quantity="elf", atoms=SILICON)
    made = sentence_or(vox.train_elf, [elf], steps=1, spacing=0.8, device="cpu")
    assert made is None or all_finite(made)


def silicon(**changes):
    atoms = SILICON.copy()
    if "cell" in changes:
        atoms.set_cell(changes["cell"], scale_atoms=True)
    if "positions" in changes:
        atoms.positions = changes["positions"]
    return atoms


ATOMS = {
    "none": SILICON[:0],
    "no cell": Atoms("Si", [[0, 0, 0]]),
    "flat cell": Atoms("Si", [[0, 0, 0]], cell=[[3, 0, 0], [0, 3, 0], [1, 1, 0]]),
    "left-handed": silicon(cell=SILICON.cell.array[[1, 0, 2]]),
    "mirrored": silicon(cell=-SILICON.cell.array),
    "tiny": silicon(cell=1e-3 * SILICON.cell.array),
    "needle": silicon(cell=[[0.5, 0, 0], [0, 0.5, 0], [0, 0, 60]]),
    "one place": silicon(positions=np.zeros((2, 3))),
    "far away": silicon(positions=SILICON.positions + 1e6),
    "nowhere": silicon(positions=[[0, 0, 0], [np.nan, 0, 0]]),
    "unknown": Atoms("X", [[0, 0, 0]], cell=[3, 3, 3], pbc=True),
    "heaviest": Atoms("Og", [[0, 0, 0]], cell=[3, 3, 3], pbc=True),
    "not periodic": Atoms("Si", [[0, 0, 0]], cell=[4, 4, 4], pbc=False),
}


@pytest.mark.parametrize("kind", ATOMS)
def test_odd_atoms_are_superposed_to_finite_numbers_or_refused(kind):
    found = sentence_or(vox.superpose_atoms, ATOMS[kind], (12, 12, 12))
    if found is not None:
        values = np.asarray(found.values)
        assert np.isfinite(values).all()
        assert values.max() > 0
        assert values.min() > -0.2 * values.max()  # such a coarse grid rings
    if kind in ("left-handed", "mirrored", "one place"):
        usual = vox.superpose_atoms(SILICON, (12, 12, 12))
        assert np.mean(found.values) == pytest.approx(np.mean(usual.values), rel=0.05)


@pytest.mark.parametrize("grid", [
    {"shape": (0, 4, 4)}, {"shape": (-4, 4, 4)}, {"shape": (10**6,) * 3}, {"spacing": 0},
    {"spacing": -0.2}, {"spacing": np.nan}, {"spacing": np.inf}, {"spacing": 1e-9},
])  # fmt: skip
@pytest.mark.parametrize("function", [
    vox.superpose_atoms, lambda atoms, **grid: vox.predict_elf(atoms, "promolecule", **grid)
])  # fmt: skip
def test_impossible_grids_are_refused_before_memory_is_taken(function, grid):
    with pytest.raises(Vox3dError):
        function(SILICON, **grid)
