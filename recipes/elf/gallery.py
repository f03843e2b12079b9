"""Draw what a model does well and where it fails, for the documents.

    python -m recipes.elf.gallery ACCEPTANCE MODEL PICTURE.png

from the root of the repository: the ordinary reserved crystal, the electrides, and the worst three
others. Of each the lattice plane through an atom is drawn in which the model is most wrong:
by the calculation, by the model, the difference, and the band that the model states.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import pyplot
from numpy.typing import NDArray
from recipes.elf.accept import APART, mean_error
from recipes.elf.crystals import DATA, formula, source_of
from recipes.elf_data.shards import Crystal, read_shards
from rich.progress import track

import napari_vox3d as vox
from napari_vox3d import Volume
from napari_vox3d.models import Model, load_model

WORST = 3
PLANES = [hkl for hkl in product((0, 1, -1), repeat=3) if any(hkl) and hkl > (0, 0, 0)]


class Drawn(NamedTuple):
    """A crystal with what is drawn of it."""

    crystal: Crystal
    elf: Volume
    band: Volume
    error: float


def main() -> None:
    """Predict all, choose, draw."""
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("acceptance", type=Path)
    options.add_argument("model", type=Path)
    options.add_argument("picture", type=Path)
    given = options.parse_args()
    model = load_model(given.model, "elf")
    crystals = list(read_shards(sorted(given.acceptance.glob("*.zip"))))
    draw([*chosen([predicted(model, crystal) for crystal in track(crystals)])], given.picture)


def predicted(model: Model, crystal: Crystal) -> Drawn:
    """ELF and band by the model, on the grid of the crystal; it is meant to be new to the model."""
    elf, band = vox.predict_elf(
        source_of(crystal, model.card.input.source),
        model.without_known_range(),
        shape=crystal.elf.shape,
        uncertainty=True,
    )
    return Drawn(crystal, elf, band, mean_error(elf, crystal))


def chosen(drawn: Sequence[Drawn]) -> Iterator[Drawn]:
    """The ordinary one, the best known crystal of each reserved electride, and the worst."""
    usual = sorted(
        (one for one in drawn if one.crystal.structure.prototype != APART),
        key=lambda one: one.error,
    )
    yield usual[len(usual) // 2]
    electrides = {
        formula(one.crystal): one
        for one in drawn
        if one.crystal.structure.family == "electride" and one.crystal.structure.variant == "plain"
    }
    yield from electrides.values()
    shown = {id(one) for one in electrides.values()}
    yield from [one for one in usual[::-1] if id(one) not in shown][:WORST]


def draw(rows: Sequence[Drawn], picture: Path) -> None:
    """Four pictures of each."""
    titles = ("DFT", "model", "model − DFT", "90 % band, ±")
    figure, axes = pyplot.subplots(
        len(rows), 4, figsize=(9, 2.25 * len(rows)), layout="constrained", squeeze=False
    )
    for number, (row, one) in enumerate(zip(axes, rows, strict=True)):
        true, elf = one.crystal.elf, one.elf
        hkl, origin = worst_plane(one)
        planes = [
            vox.lattice_plane(volume, hkl, origin=origin)
            for volume in (true, elf, elf.with_values(elf.values - true.values), one.band)
        ]
        edges = planes[0].voxel_size * planes[0].shape
        for place, plane, title, (low, high, colours) in zip(
            row,
            planes,
            titles,
            [(0, 1, "viridis"), (0, 1, "viridis"), (-0.5, 0.5, "RdBu_r"), (0, 0.5, "magma")],
            strict=True,
        ):
            image = place.imshow(
                plane.values[0], cmap=colours, vmin=low, vmax=high, origin="lower",
                extent=(0, edges[2], 0, edges[1]), interpolation="bilinear",
            )  # fmt: skip
            place.set_xticks([])
            place.set_yticks([])
            if number == 0:
                place.set_title(title, fontsize=10)
            if number == len(rows) - 1 and title != "DFT":
                figure.colorbar(image, ax=place, location="bottom", shrink=0.9)
        structure = one.crystal.structure
        row[0].set_ylabel(
            f"{formula(one.crystal)}, {structure.prototype}\n({' '.join(map(str, hkl))}), "
            f"MAE {one.error:.3f}",
            fontsize=8,
        )
    figure.supxlabel(DATA, fontsize=7)
    figure.savefig(picture, dpi=80)


def worst_plane(one: Drawn) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Miller indices and origin of the plane through an atom with the largest mean error."""
    error = one.elf.with_values(np.abs(one.elf.values - one.crystal.elf.values))
    places = one.crystal.structure.atoms.positions[:, ::-1] + error.origin

    def mean_error(plane: tuple[tuple[int, ...], NDArray[np.float64]]) -> float:
        return float(vox.lattice_plane(error, plane[0], origin=plane[1]).values.mean())

    return max(product(PLANES, places), key=mean_error)


if __name__ == "__main__":
    main()
