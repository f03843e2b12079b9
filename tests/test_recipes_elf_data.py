import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.formula import Formula
from ase.neighborlist import neighbor_list
from scipy.integrate import trapezoid

from napari_vox3d.density import superpose_atoms, valence_electrons

sys.path.insert(0, str(Path(__file__).parents[1]))

from recipes.elf_data import __main__ as command
from recipes.elf_data import espresso, structures
from recipes.elf_data.elements import CUTOFF, VALENCE, contact
from recipes.elf_data.gth import Channel, Pseudopotential, read_gth
from recipes.elf_data.molecules import pack, simple_molecule
from recipes.elf_data.prototypes import PROTOTYPES
from recipes.elf_data.pseudo_atom import RADII, SHELL, solve_atom
from recipes.elf_data.shards import (
    CHANGE_STEP,
    ELF_STEP,
    FAINT,
    SPACING,
    read_shards,
    sample,
    write_shard,
)
from recipes.elf_data.structures import (
    Structure,
    effort,
    from_record,
    list_structures,
    to_record,
)
from recipes.elf_data.upf import upf_text

RECIPE = Path(__file__).parents[1] / "recipes" / "elf_data"

# Made up, in the layout of CP2K's files.
SNIPPET = """
# a comment
Xx GTH-PBE-q6 GTH-PBE
    2    4
     0.45000000    2    -8.50000000    1.25000000
    2
     0.42000000    2     9.00000000   -2.50000000
                                       3.25000000
     0.48000000    1     2.75000000
#
Si GTH-PBE-q9
    2 7
     0.4 0
    0
"""


@pytest.fixture
def potential():
    return read_gth(SNIPPET, "Xx", "GTH-PBE-q6")


def hydrogen_like(charge=1):
    return Pseudopotential("H", "test", (1,), 0.2, (-4.0, 0.7), ())


def test_a_gth_entry_is_read(potential):
    assert potential.occupations == (2, 4)
    assert potential.charge == 6
    assert potential.local_coefficients == (-8.5, 1.25)
    s, p = potential.channels
    assert s.couplings.tolist() == [[9.0, -2.5], [-2.5, 3.25]]
    assert (p.radius, p.couplings.tolist()) == (0.48, [[2.75]])


def test_an_entry_without_projectors_and_an_alias():
    assert read_gth(SNIPPET, "Xx", "GTH-PBE").charge == 6
    assert read_gth(SNIPPET, "Si", "GTH-PBE-q9").channels == ()


def test_a_missing_entry_is_said():
    with pytest.raises(KeyError, match="GTH-PBE-q4"):
        read_gth(SNIPPET, "Xx", "GTH-PBE-q4")


def test_projectors_are_normalised_and_the_potential_ends_as_a_charge(potential):
    for momentum in range(2):
        functions = potential.projectors(momentum, RADII)
        assert trapezoid(functions**2 * RADII**2, RADII) == pytest.approx(1, abs=1e-4)
    far = np.array([8.0])
    assert potential.local(far) == pytest.approx(-6 / far)


def test_the_atom_holds_its_electrons():
    atom = solve_atom(hydrogen_like())
    assert 4 * np.pi * atom.density @ SHELL == pytest.approx(1, abs=1e-5)
    # The exact density of hydrogen at one bohr is exp(-2)/π; PBE without spin is a little wider.
    assert np.interp(1.0, RADII, atom.density) == pytest.approx(np.exp(-2) / np.pi, rel=0.15)


def test_upf_is_line_by_line_and_keeps_the_electrons():
    atom = solve_atom(hydrogen_like())
    text = upf_text(hydrogen_like(), atom)
    tags = [line for line in text.splitlines() if "<" in line]
    assert all(line.strip().startswith("<") for line in tags)
    weights, density = (
        np.array(text.split(f"<{tag} ")[1].split(">", 1)[1].split("<")[0].split(), float)
        for tag in ("PP_RAB", "PP_RHOATOM")
    )
    assert weights @ density == pytest.approx(1)


def test_couplings_reach_upf_in_rydberg(potential):
    orbital = solve_atom(hydrogen_like())
    text = upf_text(potential, orbital)
    couplings = text.split("<PP_DIJ ")[1].split(">", 1)[1].split("<")[0].split()
    assert np.array(couplings, float).reshape(3, 3).tolist() == [
        [18, -5, 0],
        [-5, 6.5, 0],
        [0, 0, 5.5],
    ]


def test_every_element_has_a_cutoff_and_the_valence_of_the_package():
    assert CUTOFF.keys() == VALENCE.keys()
    assert VALENCE["Fe"] == 16
    for element, electrons in VALENCE.items():
        assert valence_electrons(Atoms(element)) == pytest.approx(electrons)


@pytest.mark.parametrize("prototype", PROTOTYPES, ids=lambda prototype: prototype.name)
def test_prototypes_have_small_cells_without_clashes(prototype):
    first = prototype.known[0]
    atoms = prototype.build(first.elements, first.lengths)
    assert len(atoms) <= 16
    symbols = atoms.get_chemical_symbols()
    i, j, distance = neighbor_list("ijd", atoms, 3.0)
    for a, b, d in zip(i, j, distance, strict=True):
        assert d > 0.4 * contact(symbols[a], symbols[b])


def test_known_lengths_replace_those_of_the_type():
    rutile = next(p for p in PROTOTYPES if p.name == "rutile")
    atoms = rutile.build(("Sn", "O"), (4.737, 4.737, 3.186))
    assert sorted(atoms.cell.lengths()) == pytest.approx([3.186, 4.737, 4.737])
    assert atoms.get_chemical_formula("metal") == "Sn2O4"


FEW_TYPES = ("fcc", "L12", "hBN type", "rutile", "black P", "MH3", "void bcc", "BiTeI")


@pytest.fixture(scope="module")
def lists():
    """All structures of a few types, and what is left of them without two formulas."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structures, "PROTOTYPES", [p for p in PROTOTYPES if p.name in FEW_TYPES])
        patch.setattr(structures, "RELATIVES", 12)
        patch.setattr(structures, "RANDOM_PAIRS", 12)
        patch.setattr(structures, "MOLECULES", 6)
        yield list_structures(), list_structures(["O4Ti2", "Al"])


def formulas(listed):
    return {structure.atoms.get_chemical_formula("metal", empirical=True) for structure in listed}


def test_reserved_formulas_are_left_out(lists):
    assert formulas(lists[0]) >= {"TiO2", "Al", "SnO2"}
    assert formulas(lists[1]).isdisjoint({"TiO2", "Al"})
    assert "SnO2" in formulas(lists[1])


def test_structures_have_names_of_their_own_and_are_feasible(lists):
    listed, _ = lists
    assert len({structure.name for structure in listed}) == len(listed)
    assert all(len(structure.atoms) <= structures.MOST_ATOMS for structure in listed)
    assert {structure.variant for structure in listed} == {"plain", "volume", "strain", "rattle"}
    assert {"metal", "intermetallic", "layered", "hydride", "electride", "molecular"} <= {
        structure.family for structure in listed
    }


def test_k_points_follow_the_cell_and_the_family():
    atoms = Atoms("Al", cell=[2 * np.pi, 4 * np.pi, np.pi], pbc=True)
    metal = Structure("Al-1", "metal", "fcc", "known", "plain", atoms)
    assert structures.k_points(metal) == (3, 2, 5)
    assert structures.k_points(replace(metal, family="molecular")) == (2, 1, 3)


def test_a_list_is_shuffled_and_repeatable(lists):
    families = [structure.family for structure in lists[0]]
    assert len(set(families[:25])) >= 4
    assert molecules_of(3) == molecules_of(3) != molecules_of(4)


def molecules_of(seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structures, "PROTOTYPES", [p for p in PROTOTYPES if p.name == "rocksalt"][:1])
        patch.setattr(structures, "_known", lambda rng: [])
        patch.setattr(structures, "_relatives", lambda rng, count: [])
        patch.setattr(structures, "RANDOM_PAIRS", 2)
        patch.setattr(structures, "MOLECULES", 4)
        return [structure.name for structure in list_structures(seed=seed)]


@pytest.mark.parametrize(
    ("elements", "family"),
    [
        (["Cu", "Zn"], "intermetallic"),
        (["Cl", "Na"], "ionic"),
        (["As", "Ga"], "covalent"),
        (["Fe", "O"], "3d compound"),
        (["H", "Ti"], "hydride"),
    ],
)
def test_families_follow_the_elements(elements, family):
    assert structures._family(elements) == family


def test_molecules_are_packed_without_touching():
    unit = simple_molecule("tetrahedron", "Ge", "H")
    atoms = pack(unit, np.random.default_rng(1), 0.9)
    distances = neighbor_list("d", atoms, 2.2)
    bond = contact("Ge", "H")
    assert distances.min() == pytest.approx(bond)
    assert len(distances[distances < bond + 0.01]) == 8


def crystal_of(atoms):
    rng = np.random.default_rng(0)
    shape = (20, 18, 24)
    structure = Structure("Si-1", "covalent", "diamond", "known", "plain", atoms)
    x = np.arange(20)[:, None, None] / 20
    change = 0.05 * np.cos(2 * np.pi * x) * np.ones(shape)
    rho = superpose_atoms(atoms, shape[::-1]).values.T + change
    return sample(structure, rho, rng.random(shape)), change


def test_shards_give_back_structure_elf_and_density(tmp_path):
    crystal, _ = crystal_of(bulk("Si"))
    other, _ = crystal_of(bulk("MgO", "rocksalt", 4.2))
    write_shard(tmp_path / "a.zip", [crystal, other])
    read, second = read_shards([tmp_path / "a.zip"])

    assert to_record(read.structure) == to_record(crystal.structure)
    assert second.structure.atoms.get_chemical_symbols() == ["Mg", "O"]
    assert np.abs(read.elf.values - crystal.elf.values).max() <= ELF_STEP / 2 + 1e-9
    assert read.elf.voxel_size == pytest.approx(SPACING, abs=0.02)
    error = np.abs(read.change.values - crystal.change.values)
    assert (error <= CHANGE_STEP * np.hypot(FAINT, crystal.change.values) + 3e-4).all()
    assert np.abs(read.change.values).max() == pytest.approx(0.05, rel=0.02)


def test_the_density_has_all_electrons_on_any_grid(tmp_path):
    crystal, change = crystal_of(bulk("Si"))
    write_shard(tmp_path / "a.zip", [crystal])
    (read,) = read_shards([tmp_path / "a.zip"])
    fine = read.density((24, 18, 20))
    assert fine.values.mean() * fine.volume == pytest.approx(8)
    exact = superpose_atoms(bulk("Si"), (24, 18, 20)).values + change.T
    assert fine.values == pytest.approx(exact, abs=2e-3)
    assert read.density().shape == read.elf.shape


def test_a_failure_is_kept_and_ends_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise espresso.CalculationError("pw.x stopped: out of time")

    structure = Structure("Si-1", "covalent", "diamond", "known", "plain", bulk("Si"))
    (tmp_path / "failures").mkdir()
    monkeypatch.setattr(command, "calculate", fail)
    assert "out of time" in command.make(structure, tmp_path, 1)
    assert (tmp_path / "failures" / "Si-1.txt").read_text() == "pw.x stopped: out of time"
    assert command._is_done(tmp_path, structure)


def test_only_cheap_crystals_of_a_list(tmp_path, monkeypatch):
    small = Structure("Si-1", "covalent", "diamond", "known", "plain", bulk("Si"))
    large = replace(small, name="Si-2", atoms=bulk("Si", cubic=True))
    (tmp_path / "structures-3.json").write_text(json.dumps([to_record(large), to_record(small)]))
    limit = (effort(small) + effort(large)) / 2
    chosen = []
    monkeypatch.setattr(command, "write_potentials", lambda *_: None)
    monkeypatch.setattr(command, "calculate_all", lambda structures, *_: chosen.extend(structures))
    words = ["elf_data", str(tmp_path), "--seed", "3", "--effort", str(limit)]
    monkeypatch.setattr(sys, "argv", words)
    command.main()
    assert [structure.name for structure in chosen] == ["Si-1"]


def test_a_result_is_packed(tmp_path, monkeypatch):
    atoms = bulk("Si")
    rho = superpose_atoms(atoms, (18, 18, 18)).values.T
    result = espresso.Result(rho, np.full((18, 18, 18), 0.5), 25)
    monkeypatch.setattr(command, "calculate", lambda *_, **__: result)
    (tmp_path / "results").mkdir()
    structure = Structure("Si-1", "covalent", "diamond", "known", "plain", atoms)
    command.make(structure, tmp_path, 1)
    monkeypatch.setattr(sys, "argv", ["elf_data", str(tmp_path), "--pack", str(tmp_path / "out")])
    command.main()
    (crystal,) = read_shards(sorted((tmp_path / "out").glob("*.zip")))
    assert crystal.elf.values == pytest.approx(0.5)
    assert crystal.density().values.mean() * crystal.elf.volume == pytest.approx(8)


def test_reasons_of_quantum_espresso(tmp_path, monkeypatch):
    bar = "%" * 80
    output = f"...\n {bar}\n     Error in routine electrons (1):\n   too many bands\n {bar}\n"
    finished = SimpleNamespace(stdout=output, returncode=1)
    monkeypatch.setattr(espresso.subprocess, "run", lambda *_, **__: finished)
    with pytest.raises(espresso.CalculationError, match=r"routine electrons.*too many bands"):
        espresso.calculate(bulk("Si"), (1, 1, 1), tmp_path, 10)
    finished.stdout, finished.returncode = "", -24
    with pytest.raises(espresso.CalculationError, match="out of time"):
        espresso.calculate(bulk("Si"), (1, 1, 1), tmp_path, 10)


def test_records_survive_json():
    structure = Structure("Si-1", "covalent", "diamond", "known", "plain", bulk("Si"))
    record = json.loads(json.dumps(to_record(structure)))
    assert to_record(from_record(record)) == to_record(structure)


def test_channels_without_projectors_are_allowed():
    empty = Pseudopotential("H", "test", (1,), 0.2, (-4.0, 0.7), (Channel(0.0, np.zeros((0, 0))),))
    assert empty.projectors(0, RADII).shape == (0, len(RADII))
    assert 'number_of_proj="0"' in upf_text(empty, solve_atom(empty))


def test_the_committed_shards_hold_what_was_promised_and_nothing_reserved():
    def records(folder):
        for path in sorted((RECIPE / folder).glob("*.zip")):
            with zipfile.ZipFile(path) as archive:
                yield from json.loads(archive.read("crystals.json"))

    def formula(record):
        return str(Atoms(record["symbols"]).symbols.formula.reduce()[0].convert("hill"))

    lines = (RECIPE / "reserved.txt").read_text().splitlines()
    reserved = {
        str(Formula(line).reduce()[0].convert("hill")) for line in lines if not line.startswith("#")
    }
    trained_on, accepted_on = list(records("shards")), list(records("reserved"))
    assert len(trained_on) >= 2500
    assert len({symbol for one in trained_on for symbol in one["symbols"]}) >= 60
    assert not {formula(one) for one in trained_on} & reserved
    beyond = {formula(one) for one in accepted_on} - reserved
    assert beyond == {"Na"}  # in the hP4 structure alone
    assert {one["prototype"] for one in accepted_on if formula(one) == "Na"} == {"Na-hP4"}
