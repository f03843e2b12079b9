"""Writing a GTH pseudopotential as UPF 2, the format of Quantum ESPRESSO (Rydberg units)."""

from __future__ import annotations

from xml.etree import ElementTree as Xml

import numpy as np
from numpy.typing import NDArray
from recipes.elf_data.gth import Pseudopotential
from recipes.elf_data.pseudo_atom import RADII, PseudoAtom

Array = NDArray[np.float64]
STEP, START, REACH = 0.0125, -7.0, 60.0  # mesh exp(START + STEP i)/Z, up to REACH bohr


def upf_text(potential: Pseudopotential, atom: PseudoAtom) -> str:
    """UPF file with local potential, projectors, atomic orbitals and atomic density."""
    charge = max(1, potential.charge)
    count = int((np.log(REACH * charge) - START) / STEP) | 1  # odd, for Simpson's rule
    r = np.exp(START + STEP * np.arange(count)) / charge
    weights = r * STEP
    root = Xml.Element("UPF", version="2.0.1")
    Xml.SubElement(root, "PP_INFO").text = "GTH pseudopotential on a radial mesh"
    betas = [
        (momentum, i, r * values)
        for momentum in range(len(potential.channels))
        for i, values in enumerate(potential.projectors(momentum, r))
    ]
    _header(root, potential, count, betas, len(atom.orbitals))
    mesh = Xml.SubElement(
        root,
        "PP_MESH",
        dx=f"{STEP}",
        mesh=f"{count}",
        xmin=f"{START}",
        rmax=f"{r[-1]:.10f}",
        zmesh=f"{charge}",
    )
    _array(mesh, "PP_R", r)
    _array(mesh, "PP_RAB", weights)
    _array(root, "PP_LOCAL", 2 * potential.local(r))
    _nonlocal(root, potential, r, betas)
    _orbitals(root, atom, r)
    logarithm = np.interp(np.log(r), np.log(RADII), np.log(np.maximum(atom.density, 1e-30)))
    shells = np.where(r < RADII[-1], 4 * np.pi * r**2 * np.exp(logarithm), 0)
    _array(root, "PP_RHOATOM", shells * potential.charge / (shells @ weights))
    Xml.indent(root)  # Quantum ESPRESSO reads tags line by line
    return Xml.tostring(root, encoding="unicode", short_empty_elements=False)


def _header(
    root: Xml.Element,
    potential: Pseudopotential,
    count: int,
    betas: list[tuple[int, int, Array]],
    orbitals: int,
) -> None:
    flags = "is_ultrasoft is_paw is_coulomb has_so has_wfc has_gipaw paw_as_gipaw core_correction"
    Xml.SubElement(
        root,
        "PP_HEADER",
        {
            "generated": "from a GTH table",
            "author": "Goedecker, Teter, Hutter, Hartwigsen, Krack",
            "date": "-",
            "comment": potential.name,
            "element": potential.element,
            "pseudo_type": "NC",
            "relativistic": "scalar",
            **dict.fromkeys(flags.split(), "F"),
            "functional": "PBE",
            "z_valence": f"{potential.charge:.3f}",
            "total_psenergy": "0.0",
            "wfc_cutoff": "0.0",
            "rho_cutoff": "0.0",
            "l_max": f"{max((momentum for momentum, _, _ in betas), default=0)}",
            "l_max_rho": "0",
            "l_local": "-3",
            "mesh_size": f"{count}",
            "number_of_wfc": f"{orbitals}",
            "number_of_proj": f"{len(betas)}",
        },
    )


def _nonlocal(
    root: Xml.Element,
    potential: Pseudopotential,
    r: Array,
    betas: list[tuple[int, int, Array]],
) -> None:
    # The projectors are Gaussians: nothing is left at nine radii.
    reach = 9 * max((c.radius for c in potential.channels if len(c.couplings)), default=0.5)
    end = int(np.searchsorted(r, reach)) | 1
    section = Xml.SubElement(root, "PP_NONLOCAL")
    couplings = np.zeros((len(betas), len(betas)))
    for row, (momentum, i, values) in enumerate(betas):
        for column, (other, j, _) in enumerate(betas):
            if momentum == other:
                couplings[row, column] = 2 * potential.channels[momentum].couplings[i, j]
        _array(
            section,
            f"PP_BETA.{row + 1}",
            values,
            index=f"{row + 1}",
            angular_momentum=f"{momentum}",
            cutoff_radius_index=f"{end}",
            cutoff_radius=f"{r[end - 1]:.8f}",
            ultrasoft_cutoff_radius="0.0",
        )
    if betas:
        _array(section, "PP_DIJ", couplings.ravel())


def _orbitals(root: Xml.Element, atom: PseudoAtom, r: Array) -> None:
    section = Xml.SubElement(root, "PP_PSWFC")
    for number, orbital in enumerate(atom.orbitals, 1):
        shell = orbital.angular_momentum + 1 + orbital.order
        _array(
            section,
            f"PP_CHI.{number}",
            r * np.interp(r, RADII, orbital.values, right=0),
            index=f"{number}",
            label=f"{shell}{'SPDF'[orbital.angular_momentum]}",
            l=f"{orbital.angular_momentum}",
            n=f"{shell}",
            occupation=f"{orbital.electrons:.3f}",
            pseudo_energy="0.0",
            cutoff_radius="0.0",
            ultrasoft_cutoff_radius="0.0",
        )


def _array(parent: Xml.Element, tag: str, values: Array, **attributes: str) -> None:
    element = Xml.SubElement(
        parent, tag, type="real", size=f"{len(values)}", columns="4", **attributes
    )
    rows = (values[start : start + 4] for start in range(0, len(values), 4))
    element.text = "\n" + "\n".join(" ".join(f"{x:.14E}" for x in row) for row in rows) + "\n"
