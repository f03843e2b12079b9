"""Measure a model on the compositions that were reserved from the beginning.

    python -m recipes.elf.accept ACCEPTANCE SHARDS MODEL

ACCEPTANCE is a folder with the shards of the reserved crystals, SHARDS that of all others: the
baselines are fitted to what was trained on, and the crystals whose ELF everybody knows come from
there. The tables are printed and added to the card of the model, a folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from recipes.elf.crystals import DATA, formula, source_of
from recipes.elf.evaluation import Baselines, evaluate
from recipes.elf_data.shards import Crystal, read_shards

import napari_vox3d as vox
from napari_vox3d import Volume
from napari_vox3d.models import MetricTable, Model, load_model

APART = "Na-hP4"  # a prototype beyond anything trained on
NEAR = 0.5  # Å within which a maximum counts as found
# What is looked at in crystals that everybody knows, by formula and prototype.
LANDMARKS = {
    ("Si", "diamond"): "middle of the bond",
    ("MgO", "rocksalt"): "maximum",
    ("ClNa", "rocksalt"): "maximum",
    ("Al", "fcc"): "maximum",
}


def main() -> None:
    """Measure, print, write the card."""
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("acceptance", type=Path)
    options.add_argument("shards", type=Path)
    options.add_argument("model", type=Path)
    given = options.parse_args()
    model = load_model(given.model, "elf")
    reserved = list(read_shards(sorted(given.acceptance.glob("*.zip"))))
    usual = [crystal for crystal in reserved if crystal.structure.prototype != APART]
    which = "compositions reserved from the beginning, without hP4 sodium"
    tables = [
        *evaluate(model, usual, Baselines.of_training(given.shards), which),
        electrides(model, [one for one in reserved if one.structure.family == "electride"]),
        landmarks(model, read_shards(sorted(given.shards.glob("*.zip")))),
    ]
    for table in tables:
        print(table.data, *table.rows, sep="\n  ")
    metrics = [*model.card.metrics, *tables]
    model.with_card(model.card.model_copy(update={"metrics": metrics})).save(given.model)


def electrides(model: Model, crystals: Iterable[Crystal]) -> MetricTable:
    """How far the model's maximum is from the highest one between the atoms, and how high."""
    rows: list[dict[str, str | float]] = []
    for crystal in crystals:
        elf = predicted(model, crystal)
        true, found = vox.find_maxima(crystal.elf), vox.find_maxima(elf, least=0.3)
        (between,) = np.nonzero(true.labels == "interstitial")
        place = true.positions[between[0]]  # they come by falling value
        away = distances(found.positions, place, elf.cell)
        nearest = int(away.argmin())
        rows.append(
            {
                "crystal": f"{formula(crystal)}, {crystal.structure.prototype}",
                "DFT": round(float(true.scores[between[0]]), 3),
                "model": round(float(found.scores[nearest]), 3),
                "Å apart": round(float(away[nearest]), 2),
                "MAE": mean_error(elf, crystal),
            }
        )
    return MetricTable(
        data=f"The highest maximum between the atoms of reserved electrides; within {NEAR} Å it "
        f"is found; {DATA}",
        rows=rows,
    )


def landmarks(model: Model, crystals: Iterable[Crystal]) -> MetricTable:
    """Values at places that everybody knows."""
    rows: list[dict[str, str | float]] = []
    for crystal in crystals:
        structure = crystal.structure
        where = LANDMARKS.get((formula(crystal), structure.prototype))
        if where is None or (structure.origin, structure.variant) != ("known", "plain"):
            continue
        elf = predicted(model, crystal)
        rows.append(
            {
                "crystal": f"{formula(crystal)}, {where}",
                "DFT": round(landmark(crystal.elf, where), 3),
                "model": round(landmark(elf, where), 3),
                "MAE": mean_error(elf, crystal),
            }
        )
    return MetricTable(
        data=f"Well-known places, most of these crystals trained on; {DATA}",
        rows=sorted(rows, key=lambda row: row["crystal"]),
    )


def landmark(elf: Volume, where: str) -> float:
    """ELF in the middle of the first bond, or its largest value."""
    if where == "maximum":
        return float(elf.values.max())
    return float(vox.line_profile(elf, 0, 1, samples=3).values[1])


def predicted(model: Model, crystal: Crystal) -> Volume:
    """ELF by the model, on the grid of the crystal; it is meant to be new to the model."""
    source = source_of(crystal, model.card.input.source)
    return vox.predict_elf(source, model.without_known_range(), shape=crystal.elf.shape)


def mean_error(elf: Volume, crystal: Crystal) -> float:
    """Mean absolute error, four digits."""
    return round(float(np.abs(elf.values - crystal.elf.values).mean()), 4)


def distances(
    points: NDArray[np.float64], place: NDArray[np.float64], cell: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Å between (N, 3) points and the nearest image of a place."""
    fractions = (points - place) @ np.linalg.inv(cell)
    fractions -= np.rint(fractions)
    images = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3), -1).reshape(-1, 3)
    return np.linalg.norm((fractions[:, None] + images) @ cell, axis=-1).min(1)


if __name__ == "__main__":
    main()
