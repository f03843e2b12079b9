import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

import napari_vox3d as vox
from napari_vox3d.errors import InferenceError, ModelError
from napari_vox3d.inference.elf_inputs import foreign_electrons
from napari_vox3d.models import (
    ELFInput,
    ErrorBand,
    KnownRange,
    Model,
    ModelCard,
    NetworkSpec,
    registry,
)
from napari_vox3d.networks import build

SILICON = bulk("Si")
SHAPE = (16, 16, 16)


def model(name="test", default=False, head=False, known=None, source="superposed atoms"):
    arguments = {"in_ch": 24, "base": 8, "blocks": 1, "kernel": 1, "attention_every": 0,
                 "error_head": head}  # fmt: skip
    card = ModelCard(
        name=name, title=name, task="elf", training="none", licence="none", version="1",
        default=default, known=known, input=ELFInput(channels=["invariants"], source=source),
        network=NetworkSpec(name="ELFPredictor", arguments=arguments),
        uncertainty=ErrorBand(factor=0.5, mean_error=0.25, data="test") if head else None,
    )  # fmt: skip
    torch.manual_seed(0)
    return Model(card, build("ELFPredictor", **arguments).state_dict())


def density(atoms=SILICON, scale=1.0, shape=(48, 48, 48), **changes):
    """A superposed density that calls itself the real one."""
    sad = vox.superpose_atoms(atoms, shape)
    return vox.Volume.on_lattice(
        scale * sad.values, sad.lattice,
        **{"quantity": "electron density", "unit": "e/Å³", "atoms": atoms} | changes,
    )  # fmt: skip


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
    alone = vox.predict_elf(SILICON, model(head=True), shape=SHAPE)
    np.testing.assert_array_equal(alone.values, elf.values)
    assert alone.metadata["provenance"]["expected error"] == expected


def test_models_that_know_no_uncertainty_say_so():
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
