"""The list of crystals to calculate: known ones, relatives, random pairs, molecules; and variants.

The list depends on the seed alone. Its order is shuffled within reason: every family is spread
evenly over it, and what is quickly calculated tends to come early.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from ase.units import Bohr
from pymatgen.core import Composition
from recipes.elf_data.elements import (
    CUTOFF,
    NOBLE,
    TRANSITION_3D,
    VALENCE,
    contact,
    electronegativity,
    is_metal,
)
from recipes.elf_data.molecules import pack, random_molecule
from recipes.elf_data.prototypes import PROTOTYPES, Prototype

MOST_ATOMS = 16
LEAST_ROOM = 2.0  # Å³ an atom
LARGEST_CELL = 300.0  # Å³
MOST_EFFORT = 2.5e6  # about one minute of one core
BLUR = 0.7
# 1/Å, 2π included. For ELF within 0.01; molecules hardly know of each other.
K_SPACING = {"metal": 0.4, "intermetallic": 0.45, "molecular": 0.8}
USUAL_K_SPACING = 0.5
RELATIVES, RANDOM_PAIRS, MOLECULES = 1300, 700, 320
MOST_OF_A_FAMILY = 650
CATION = 0.8  # metals next to non-metals come closer to each other than in their elements
IONIC = 1.7  # difference of electronegativities
SIMPLE_TYPES = (
    "rocksalt", "zincblende", "CsCl", "NiAs", "wurtzite", "fluorite", "rutile", "L12", "CdI2",
    "AlB2", "hBN type", "WC", "ReO3",
)  # fmt: skip
# Elements that take each other's place in a crystal.
COLUMNS = tuple(
    column.split()
    for column in (
        "Li Na K Rb Cs", "Be Mg Ca Sr Ba", "Mg Zn Cd Hg", "Sc Y La", "Ti Zr Hf", "V Nb Ta",
        "Cr Mo W", "Mn Tc Re", "Fe Ru Os", "Co Rh Ir", "Ni Pd Pt", "Cu Ag Au", "B Al Ga In Tl",
        "C Si Ge Sn Pb", "N P As Sb Bi", "O S Se Te", "F Cl Br I", "Sc Ti V Cr Mn Fe Co Ni Cu",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Structure:
    """A crystal of the list.

    `origin` is known, relative, random or molecule; `variant` is plain, volume, strain or rattle.
    """

    name: str
    family: str
    prototype: str
    origin: str
    variant: str
    atoms: Atoms


def to_record(structure: Structure) -> dict[str, Any]:
    """What JSON can hold of a structure, in Å."""
    atoms = structure.atoms
    return {
        **{key: value for key, value in vars(structure).items() if key != "atoms"},
        "symbols": atoms.get_chemical_symbols(),
        "cell": atoms.cell.array.round(10).tolist(),
        "positions": atoms.positions.round(10).tolist(),
    }


def from_record(record: dict[str, Any]) -> Structure:
    """Make the structure that `to_record` described."""
    symbols, cell, positions = (record[key] for key in ("symbols", "cell", "positions"))
    words = {key: record[key] for key in ("name", "family", "prototype", "origin", "variant")}
    return Structure(**words, atoms=Atoms(symbols, positions, cell=cell, pbc=True))


def list_structures(reserved: Collection[str] = (), seed: int = 0) -> list[Structure]:
    """List every crystal of the data set; any beginning has the families in the same proportions.

    Parameters
    ----------
    reserved
        Formulas that must not occur, whatever the structure; and ``"Na-hP4"`` is always left out.
    seed
        Chooses relatives, sizes, variants and the order.

    Notes
    -----
    Within a family, crystals come by the effort of their calculation, blurred by a factor of about
    two, so that the first of them are many and still not all small.
    """
    warnings.filterwarnings("ignore", message="scaled_positions .* are equivalent")
    warnings.filterwarnings("ignore", message="No Pauling electronegativity")
    rng = np.random.default_rng(seed)
    forbidden = {Composition(formula).reduced_formula for formula in reserved}
    kept: dict[str, list[Structure]] = defaultdict(list)
    plain = [
        *_known(rng),
        *_relatives(rng, RELATIVES),
        *_random_pairs(rng, RANDOM_PAIRS),
        *_molecules(rng, MOLECULES),
    ]
    for structure in plain:
        if _formula(structure.atoms) in forbidden:
            continue
        candidates = [_vary(structure, rng)]
        if structure.origin in ("known", "molecule"):
            candidates.append(structure)
        kept[structure.family].extend(filter(_is_feasible, candidates))
    fair: list[tuple[float, Structure]] = []
    for members in kept.values():
        chosen = [members[i] for i in rng.permutation(len(members))[:MOST_OF_A_FAMILY]]
        blurred = [effort(structure) * rng.lognormal(sigma=BLUR) for structure in chosen]
        places = (np.argsort(np.argsort(blurred)) + rng.random(len(chosen))) / len(chosen)
        fair.extend(zip(places, chosen, strict=True))
    return [_named(structure) for _, structure in sorted(fair, key=lambda item: item[0])]


def _named(structure: Structure) -> Structure:
    """Name a structure after what it is, so that its result is found again in another list."""
    atoms = structure.atoms
    numbers = np.concatenate([atoms.cell.array, atoms.positions]).round(4) + 0.0
    digest = hashlib.sha1(atoms.numbers.astype("<i4").tobytes() + numbers.astype("<f8").tobytes())
    return replace(structure, name=f"{_formula(atoms)}-{digest.hexdigest()[:10]}")


def k_points(structure: Structure) -> tuple[int, int, int]:
    """How many k points along a, b, c."""
    spacing = K_SPACING.get(structure.family, USUAL_K_SPACING)
    periods = 2 * np.pi * np.linalg.norm(structure.atoms.cell.reciprocal(), axis=1)
    a, b, c = (max(1, int(np.ceil(period / spacing - 1e-9))) for period in periods)
    return a, b, c


def _is_feasible(structure: Structure) -> bool:
    """Whether the cell has a sensible size, and pw.x little to do."""
    atoms = structure.atoms
    sensible = LEAST_ROOM * len(atoms) <= atoms.get_volume() <= LARGEST_CELL
    return sensible and len(atoms) <= MOST_ATOMS and effort(structure) <= MOST_EFFORT


def effort(structure: Structure) -> float:
    """What pw.x has to do: plane waves × bands × k points.

    There are V k³/6π² plane waves, k² being the cut-off, and as many k points as symmetry leaves.
    """
    atoms = structure.atoms
    symbols = atoms.get_chemical_symbols()
    cutoff = max(CUTOFF[symbol] for symbol in symbols)
    waves = atoms.get_volume() / Bohr**3 * cutoff**1.5 / (6 * np.pi**2)
    bands = 0.6 * sum(VALENCE[symbol] for symbol in symbols)
    unsymmetrical = structure.variant == "rattle" or structure.origin == "molecule"
    symmetry = 2 if unsymmetrical else 4 if structure.variant == "strain" else 8
    return float(waves * bands * max(1, np.prod(k_points(structure)) / symmetry))


def _formula(atoms: Atoms) -> str:
    return Composition(atoms.get_chemical_formula()).reduced_formula


def _known(rng: np.random.Generator) -> Iterator[Structure]:
    for prototype in PROTOTYPES:
        for crystal in prototype.known:
            if (prototype.name, crystal.elements) == ("hP4", ("Na",)):
                continue
            atoms = prototype.build(crystal.elements, crystal.lengths)
            if not crystal.lengths:
                loose = (0.72, 1.0) if prototype.family == "electride" else (0.95, 1.08)
                atoms = _resized(atoms, rng.uniform(*loose))
            yield _structure(prototype, "known", atoms)


def _relatives(rng: np.random.Generator, count: int) -> Iterator[Structure]:
    """Crystals of known ones by exchanging elements for others of their column.

    They are as tight as the crystal they come from.
    """
    parents = [(p, k) for p in PROTOTYPES for k in p.known if p.name not in ("hP4", "fcc gas")]
    weights = np.array([1 / np.sqrt(len(p.known)) for p, _ in parents])
    seen = {(p.name, k.elements) for p, k in parents}
    while count:
        prototype, parent = parents[rng.choice(len(parents), p=weights / weights.sum())]
        elements = tuple(_exchange(symbol, rng) for symbol in parent.elements)
        if (prototype.name, elements) in seen or len(set(elements)) < len(elements):
            continue
        seen.add((prototype.name, elements))
        atoms = prototype.build(elements, parent.lengths)
        original = prototype.build(parent.elements, parent.lengths)
        tightness = _tightness(original) if parent.lengths else 1.0
        yield _structure(
            prototype, "relative", _resized(atoms, tightness * rng.uniform(0.97, 1.04))
        )
        count -= 1


def _exchange(symbol: str, rng: np.random.Generator) -> str:
    """Return the same element, or with three chances in four one of a column it is in."""
    columns = [column for column in COLUMNS if symbol in column]
    if not columns or rng.random() < 0.25:
        return symbol
    return str(rng.choice(columns[rng.integers(len(columns))]))


def _random_pairs(rng: np.random.Generator, count: int) -> Iterator[Structure]:
    """Simple types with any two elements, likely or not."""
    types = [prototype for prototype in PROTOTYPES if prototype.name in SIMPLE_TYPES]
    elements = [symbol for symbol in VALENCE if symbol not in NOBLE]
    for _ in range(count):
        prototype = types[rng.integers(len(types))]
        pair = tuple(str(symbol) for symbol in rng.choice(elements, 2, replace=False))
        atoms = _resized(prototype.build(pair), rng.uniform(0.97, 1.12))
        yield _structure(prototype, "random", atoms)


def _molecules(rng: np.random.Generator, count: int) -> Iterator[Structure]:
    for _ in range(count):
        unit = random_molecule(rng)
        atoms = pack(unit, rng, rng.uniform(0.75, 1.0))
        yield Structure("", "molecular", "molecules", "molecule", "plain", atoms)


def _structure(prototype: Prototype, origin: str, atoms: Atoms) -> Structure:
    family = prototype.family or _family(sorted(set(atoms.get_chemical_symbols())))
    if origin == "random":
        family = _family(sorted(set(atoms.get_chemical_symbols())))
    return Structure("", family, prototype.name, origin, "plain", atoms)


def _family(elements: list[str]) -> str:
    """Kind of compound, by its elements."""
    metals = [is_metal(symbol) for symbol in elements]
    if all(metals):
        return "metal" if len(elements) == 1 else "intermetallic"
    if "H" in elements:
        return "hydride"
    if any(symbol in TRANSITION_3D for symbol in elements):
        return "3d compound"
    differences = [
        abs(electronegativity(a) - electronegativity(b)) for a, b in combinations(elements, 2)
    ]
    return "ionic" if max(differences, default=0) > IONIC else "covalent"


def _vary(structure: Structure, rng: np.random.Generator) -> Structure:
    """Change the volume, strain the cell, or strain it and move every atom.

    Relatives and random pairs vary in size already: half of them stay as they are.
    """
    hypothetical = structure.origin in ("relative", "random")
    chances = [0.5, 0.15, 0.2, 0.15] if hypothetical else [0.0, 0.35, 0.35, 0.3]
    variant = str(rng.choice(["plain", "volume", "strain", "rattle"], p=chances))
    atoms = structure.atoms.copy()
    cell = atoms.cell.array
    if variant == "volume":
        atoms.set_cell(cell * rng.uniform(0.93, 1.08), scale_atoms=True)
    elif variant in ("strain", "rattle"):
        # Along x, y and z, so that a strained crystal keeps mirror planes and is quickly done.
        atoms.set_cell(cell * (1 + rng.normal(0, 0.03, 3)), scale_atoms=True)
    if variant == "rattle":
        shear = rng.normal(0, 0.02, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (shear + shear.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(0, rng.uniform(0.02, 0.12), atoms.positions.shape)
    return replace(structure, variant=variant, atoms=atoms)


def _tightness(atoms: Atoms) -> float:
    """Distance over usual distance of the pair of atoms that is closest in this sense."""
    reach = 4.0
    while not len((pairs := neighbor_list("ijd", atoms, reach))[0]):
        reach *= 1.5
    kinds, numbers = np.unique(atoms.get_chemical_symbols(), return_inverse=True)
    usual = np.array([[contact(a, b) for b in kinds] for a in kinds])
    metal = np.array([is_metal(kind) for kind in kinds])
    if not metal.all():
        usual[np.ix_(metal, metal)] *= CATION
    i, j, distance = pairs
    return float((distance / usual[numbers[i], numbers[j]]).min())


def _resized(atoms: Atoms, tightness: float) -> Atoms:
    """Scale a crystal uniformly until its tightest pair is at `tightness`."""
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array * (tightness / _tightness(atoms)), scale_atoms=True)
    return atoms
