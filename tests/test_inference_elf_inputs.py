from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from elf_models import SHAPE, SILICON, density, model

import napari_vox3d as vox
from napari_vox3d.density.grids import nearest_shape
from napari_vox3d.errors import InferenceError, ModelError
from napari_vox3d.inference.elf import stated_error
from napari_vox3d.inference.elf_inputs import foreign_electrons
from napari_vox3d.models import KnownRange, registry
from napari_vox3d.training.elf_errors import known_range
from napari_vox3d.training.elf_examples import Example, prepare_example

READS_DENSITY = model(source="electron density")


def test_model_of_the_density_looks_at_its_values():
    told = vox.predict_elf(density(), READS_DENSITY, shape=SHAPE)
    other = density()
    bent = other.with_values(other.values * (1 + 0.1 * np.sin(np.arange(48) / 48 * 2 * np.pi)))
    assert np.abs(vox.predict_elf(bent, READS_DENSITY, shape=SHAPE).values - told.values).max() > 0
    assert told.metadata["provenance"]["input"] == "the electron density of the source"
    assert "notes" not in told.metadata["provenance"]
    superposed = vox.predict_elf(SILICON, model(), shape=SHAPE)
    np.testing.assert_allclose(told.values, superposed.values, atol=2e-2)
    assert superposed.metadata["provenance"]["input"] == "superposed atomic densities"


@pytest.mark.parametrize("source", [SILICON, vox.superpose_atoms(SILICON, SHAPE)])
def test_model_of_the_density_refuses_everything_else(source):
    with pytest.raises(InferenceError, match="predicts from the electron density itself"):
        vox.predict_elf(source, READS_DENSITY, shape=SHAPE)


def test_foreign_electrons_are_counted():
    assert foreign_electrons(density()) == ""
    assert "9.60 electrons, and the valence shells that models know have 8" in foreign_electrons(
        density(scale=1.2)
    )
    assert foreign_electrons(SILICON)
    assert "without atoms" in foreign_electrons(
        vox.Volume(np.ones(SHAPE), 1.0, quantity="electron density", unit="e/Å³", periodic=True)
    )
    with pytest.warns(UserWarning, match="holds 9.60 electrons"):
        elf = vox.predict_elf(density(scale=1.2), READS_DENSITY, shape=SHAPE)
    assert "9.60 electrons" in elf.metadata["provenance"]["notes"][0]


def test_default_model_fits_the_source(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path))
    monkeypatch.setattr(registry, "SHIPPED", tmp_path / "none")
    model("a-density", True, source="electron density").save(tmp_path / "a")
    model("atoms", True).save(tmp_path / "b")

    def used(source):
        return vox.predict_elf(source, shape=SHAPE).metadata["run"]["model"]

    assert used(SILICON) == "atoms"
    assert used(density()) == "a-density"
    assert used(density(scale=1.2)) == "atoms"  # an all-electron density, or other semicore
    assert used(vox.superpose_atoms(SILICON, SHAPE)) == "atoms"
    assert vox.load_model("default", task="elf").card.name == "atoms"


def test_uncertainty_is_a_band_and_a_number():
    elf, band = vox.predict_elf(SILICON, model(head=True), shape=SHAPE, uncertainty=True)
    assert (elf.quantity, band.quantity) == ("elf", "uncertainty")
    assert band.shape == elf.shape == SHAPE
    assert 0 < band.values.min() < band.values.max() <= 1
    expected = elf.metadata["provenance"]["expected error"]
    assert expected == pytest.approx(band.values.mean() * 0.25 / 0.5, rel=1e-3)
    half_width = band.values.mean()
    assert stated_error(elf) == f"expected error {expected:.3f}; 90 % band ±{half_width:.3f}"
    assert elf.metadata["run"]["arguments"]["uncertainty"] is True
    alone = vox.predict_elf(SILICON, model(head=True), shape=SHAPE)
    np.testing.assert_array_equal(alone.values, elf.values)
    assert stated_error(alone) == stated_error(elf)
    assert "uncertainty" not in alone.metadata["run"]["arguments"]


def test_models_that_know_no_uncertainty_say_so():
    assert stated_error(vox.predict_elf(SILICON, model(), shape=SHAPE)) == ""
    with pytest.raises(ModelError, match="cannot say how far off"):
        vox.predict_elf(SILICON, model(), shape=SHAPE, uncertainty=True)


def test_unknown_elements_and_strange_densities_are_announced():
    values = KnownRange(elements=["Si", "C"], lowest=[-99.0] * 24, highest=[99.0] * 24)
    low = values.model_copy(update={"highest": [99.0] * 23 + [-99.0]})
    gaas = bulk("GaAs", "zincblende", 5.65)
    with pytest.warns(UserWarning, match="AsGa: The model has never seen As, Ga;"):
        vox.predict_elf(gaas, model(known=values), shape=SHAPE)
    with pytest.warns(UserWarning, match="Si2: At 100% of the points the density is unlike any"):
        elf = vox.predict_elf(SILICON, model(known=low), shape=SHAPE)
    assert len(elf.metadata["provenance"]["notes"]) == 1


@pytest.mark.filterwarnings("error")
def test_known_crystals_go_without_a_word():
    known = KnownRange(elements=["Si"], lowest=[-99.0] * 24, highest=[99.0] * 24)
    assert "notes" not in vox.predict_elf(SILICON, model(known=known)).metadata["provenance"]


def test_card_with_range_and_uncertainty_survives_a_file(tmp_path):
    known = KnownRange(elements=["Si"], lowest=[0.0] * 24, highest=[1.0] * 24)
    saved = model(head=True, known=known, source="electron density").save(tmp_path)
    card = vox.load_model(tmp_path).card
    assert card == saved.card
    assert card.needs_density
    assert (card.known, card.uncertainty.factor) == (known, 0.5)


def test_carbon_atoms_in_a_box_have_no_neighbours_to_be_strange():
    """A cell much larger than the atom: the vacuum is announced if no training had any."""
    known = KnownRange(elements=["C"], lowest=[-5.0] + [-99.0] * 23, highest=[99.0] * 24)
    atom = Atoms("C", cell=[8, 8, 8], positions=[[4, 4, 4]], pbc=True)
    with pytest.warns(UserWarning, match="of the points"):
        vox.predict_elf(atom, model(known=known), spacing=0.5)


@pytest.mark.parametrize("source", ["superposed atoms", "electron density"])
def test_owners_lie_in_the_frame_of_the_grid(source):
    """A grid that begins elsewhere: the same crystal, seen from there."""
    reads = model(source=source, channels=("invariants", "owners"))
    salt = bulk("NaCl", "rocksalt", 5.64)
    here = density(salt)
    moved = np.roll(here.values, (-12, -9, 0), (0, 1, 2))
    there = density(salt).with_values(moved, origin=12 * here.step[0] + 9 * here.step[1])
    one, other = (vox.predict_elf(given, reads, shape=SHAPE).values for given in (here, there))
    np.testing.assert_allclose(np.roll(one, (-4, -3, 0), (0, 1, 2)), other, atol=1e-4)
    assert one.std() > 1e-3
    elsewhere = salt.copy()
    elsewhere.positions += 0.3  # atoms that the density does not belong to
    wrong = vox.predict_elf(density(salt).with_values(here.values, atoms=elsewhere), reads,
                            shape=SHAPE)  # fmt: skip
    assert np.abs(wrong.values - one).max() > 1e-3


def test_owners_need_atoms():
    bare = replace(vox.superpose_atoms(SILICON, SHAPE), atoms=None, name="my SAD")
    with pytest.raises(InferenceError, match="my SAD carries no atoms, which the model asks for"):
        vox.predict_elf(bare, model(channels=("invariants", "owners")), shape=SHAPE)
    assert vox.predict_elf(bare, model(), shape=SHAPE).atoms is None


@pytest.mark.filterwarnings("ignore:.*never seen")
def test_owners_more_extreme_than_any_seen_are_announced():
    """Descriptors of a pure element are at the limit everywhere: rounding must not matter."""
    reads = model(channels=("invariants", "owners"))
    seen = [prepare_example(vox.predict_elf(bulk(symbol), "promolecule"), ["invariants", "owners"],
                            0.25) for symbol in ("Al", "Si")]  # fmt: skip
    # As training keeps them: in half precision, with limits of three digits.
    seen = [Example(e.inputs.half().float(), e.sad, e.elf, e.lattice) for e in seen]
    known = known_range(seen, ["Al", "Si"])
    reads = reads.with_card(reads.card.model_copy(update={"known": known}))

    def notes(atoms):
        grid = nearest_shape(atoms.cell.array, 0.25)
        elf = vox.predict_elf(atoms, reads, shape=grid)
        return elf.metadata["provenance"].get("notes", [])

    assert notes(bulk("Al")) == notes(bulk("Si")) == []
    never, unlike = notes(bulk("Cu"))
    assert "never seen Cu" in never
    assert "100% of the points" in unlike
