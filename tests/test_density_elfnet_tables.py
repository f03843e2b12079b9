import pickle

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

import napari_vox3d as vox
from napari_vox3d.density.elfnet_tables import elfnet_shape, superpose_elfnet_tables
from napari_vox3d.errors import ModelError
from napari_vox3d.models import ELFInput, Model, ModelCard, NetworkSpec
from napari_vox3d.networks import build

GRID = 0.16 * 1.05 ** np.arange(100)


def table(folder, symbol, values, **changes):
    folder.mkdir(exist_ok=True)
    content = {
        "header": "made up",
        "z_valence": 1,
        "r_grid_bohr": GRID.tolist(),
        "rho_neutral": np.asarray(values, object).tolist(),
    }
    (folder / f"{symbol}.pkl").write_bytes(pickle.dumps(content | changes))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "neutral_densities"
    table(folder, "H", np.exp(-GRID))
    table(folder, "Na", 0.5 * np.exp(-GRID / 2))
    return folder


def test_grid_is_that_of_elfnet():
    """680 eV, twice the largest wave: 0.1176 Å, even smooth numbers, then multiples of 16."""
    assert elfnet_shape(np.diag([3.0, 4.0, 5.0])) == (48, 48, 32)
    assert elfnet_shape(np.diag([3.77, 3.0, 3.0]))[2] == 48


def test_tables_are_read_as_functions_of_the_distance(folder):
    atoms = Atoms("H", cell=[6, 6, 6], positions=[[0, 0, 0]], pbc=True)
    values = superpose_elfnet_tables(atoms, (40, 40, 40), folder).values
    assert values.mean() == pytest.approx(1)  # electrons of the cell
    along = values[0, 0, :13]
    expected = np.interp(0.15 * np.arange(13) / 0.5291772108, GRID, np.exp(-GRID))
    np.testing.assert_allclose(along / along[0], expected / expected[0], rtol=1e-6)


def test_atoms_count_by_their_valence_and_axes_run_c_b_a(folder):
    atoms = Atoms("HNa", cell=[4, 5, 6], positions=[[0, 0, 0], [1, 0, 3]], pbc=True)
    values = superpose_elfnet_tables(atoms, (24, 20, 16), folder).values
    assert values[12, 0, 4] == values[:, :, 4].max()
    assert values.mean() == pytest.approx(2)


def elfnet_model():
    arguments = {"base": 8, "blocks": 1, "kernel": 3, "attention_every": 0}
    card = ModelCard(
        name="published", title="ELFNet", task="elf", training="none", licence="none", version="1",
        network=NetworkSpec(name="ELFPredictor", arguments=arguments),
        input=ELFInput(density="elfnet"),
    )  # fmt: skip
    torch.manual_seed(0)
    return Model(card, build("ELFPredictor", **arguments).state_dict())


def test_published_checkpoint_is_fed_its_own_tables_along_a_b_c(folder):
    atoms = Atoms("HNa", cell=[1.5, 2.5, 3.5], positions=[[0, 0, 0], [0.6, 0, 1.4]], pbc=True)
    shape = elfnet_shape(atoms.cell.array)
    model = elfnet_model()
    elf = vox.predict_elf(atoms, model, shape=shape, tables=folder)
    sad = superpose_elfnet_tables(atoms, shape, folder).values
    inputs = torch.from_numpy(sad.T.copy()).float()[None, None]
    expected = model.network().predict_elf(inputs)[0, 0].numpy().T
    np.testing.assert_allclose(elf.values, expected, atol=1e-4)
    assert elf.metadata["provenance"]["input"] == "ELFNet's atomic tables"
    assert elf.metadata["run"]["arguments"]["tables"] == str(folder)


def test_tables_beside_the_checkpoint_are_found(folder):
    elfnet_model().save(folder.parent)
    atoms = Atoms("H", cell=[1.5, 1.5, 1.5], pbc=True)
    elf = vox.predict_elf(atoms, folder.parent / "card.json", spacing=0.3)
    assert elf.metadata["provenance"]["input"] == "ELFNet's atomic tables"


def test_without_tables_nothing_is_predicted():
    with pytest.raises(ModelError, match="name ELFNet's folder neutral_densities"):
        vox.predict_elf(bulk("Si"), elfnet_model())


class Harmful:
    def __reduce__(self):
        return print, ("harm",)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: table(f, "H", [Harmful()] * 100), "refers to builtins.print"),
        (lambda f: table(f, "H", [1.0] * 99), "columns do not fit"),
        (lambda f: table(f, "H", [np.nan] * 100), "refers to|columns do not fit"),
        (lambda f: table(f, "H", GRID, r_grid_bohr=[1.0] * 100), "refers to|columns do not fit"),
        (lambda f: (f / "H.pkl").write_bytes(b"nonsense"), "is not a table of ELFNet"),
        (lambda f: (f / "H.pkl").write_bytes(bytes(2**20 + 1)), "too large"),
        (lambda f: (f / "H.pkl").unlink(), "cannot be read .*folder neutral_densities"),
    ],
)
def test_other_files_are_refused_and_nothing_runs(folder, write, message, capsys):
    write(folder)
    with pytest.raises(ModelError, match=message):
        superpose_elfnet_tables(Atoms("H", cell=[3, 3, 3], pbc=True), (16, 16, 16), folder)
    assert "harm" not in capsys.readouterr().out


def test_unknown_element_is_named(folder):
    with pytest.raises(ModelError, match="does not know Pu"):
        superpose_elfnet_tables(bulk("Pu", "fcc", 4.6), (16, 16, 16), folder)
