"""Figures of ELF models, family by family, and what they must beat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from recipes.elf.crystals import DATA, PAIRS, electron_density, formula, read_parts, source_of
from recipes.elf_data.shards import Crystal
from rich.progress import track

import napari_vox3d as vox
from napari_vox3d.density import tsirelson_stash_elf
from napari_vox3d.density.grids import interpolate
from napari_vox3d.models import MetricTable, Model

FITTED_TO = 300  # crystals, for three digits
POINTS = 1000  # of each crystal that the baselines are fitted to
ACROSS = 40  # bins of a table

Values = NDArray[np.floating]


@dataclass(frozen=True)
class Baselines:
    """Guesses that need no network: a constant, tables of medians, and a formula."""

    median: float
    by_sad: Values
    by_both: Values

    @classmethod
    def of_training(cls, shards: Path, pairs: Sequence[str] = PAIRS) -> Baselines:
        """Fit to some of the crystals that are trained on, see `read_parts`."""
        some = islice(read_parts(shards, ["training"], pairs), FITTED_TO)
        return cls.fitted(track(some, "Baselines", total=FITTED_TO))

    @classmethod
    def fitted(cls, crystals: Iterable[Crystal]) -> Baselines:
        """Fit to some crystals."""
        rng = np.random.default_rng(0)
        columns: list[tuple[Values, ...]] = []
        for crystal in crystals:
            values = _described(crystal)
            chosen = rng.integers(values[0].size, size=POINTS)
            columns.append(tuple(column.ravel()[chosen] for column in values))
        sad, promolecular, true = (np.concatenate(column) for column in zip(*columns, strict=True))
        both = ACROSS * _elf_bin(promolecular) + _sad_bin(sad)
        return cls(
            float(np.median(true)),
            _medians(true, _sad_bin(sad), ACROSS),
            _medians(true, both, ACROSS**2),
        )

    def guesses(self, crystal: Crystal) -> dict[str, Values | float]:
        """ELF by each of them, on the grid of the crystal."""
        sad, promolecular, _ = _described(crystal)
        both = ACROSS * _elf_bin(promolecular) + _sad_bin(sad)
        return {
            "global median": self.median,
            "table of the SAD": self.by_sad[_sad_bin(sad)],
            "Tsirelson–Stash": promolecular,
            "table of SAD and Tsirelson–Stash": self.by_both[both],
        }


def evaluate(
    model: Model, crystals: Sequence[Crystal], baselines: Baselines, which: str, device: str = "cpu"
) -> list[MetricTable]:
    """Mean absolute errors of a model and of the baselines, by family; and what its band covers.

    Parameters
    ----------
    model
        As trained.
    crystals
        That it was not trained on.
    baselines
        Fitted to what it was trained on.
    which
        How the crystals were held out, in a few words for the table.
    device
        Where the model runs.
    """
    rows: dict[str, list[float]] = {}
    covered: list[float] = []
    widths: list[float] = []
    expected: list[float] = []
    needs = model.card.input.source
    silent = model.without_known_range()
    for crystal in crystals:
        true = np.asarray(crystal.elf.values)
        guesses = baselines.guesses(crystal)
        if needs == "electron density":
            density = electron_density(crystal)
            guesses["Tsirelson–Stash of ρ"] = interpolate(
                tsirelson_stash_elf(density).values, true.shape
            )
        elf = vox.predict_elf(
            source_of(crystal, needs), silent, shape=true.shape, device=device,
            uncertainty=model.card.uncertainty is not None,
        )  # fmt: skip
        if isinstance(elf, tuple):
            elf, band = elf
            error = np.abs(elf.values - true)
            covered.append(float((error <= band.values).mean()))
            widths.append(float(band.values.mean()))
            expected.append(elf.metadata["provenance"]["expected error"])
        guesses[model.card.name] = elf.values
        for name, guess in guesses.items():
            rows.setdefault(name, []).append(float(np.abs(guess - true).mean()))
    tables = [table_of(rows, crystals, which)]
    if covered:
        tables.append(_band_table(covered, widths, expected, rows[model.card.name], which))
    return tables


def _band_table(
    covered: Sequence[float],
    widths: Sequence[float],
    expected: Sequence[float],
    errors: Sequence[float],
    which: str,
) -> MetricTable:
    """How honest the band and the expected error of each crystal are."""
    order = np.corrcoef(np.argsort(np.argsort(expected)), np.argsort(np.argsort(errors)))[0, 1]
    return MetricTable(
        data=f"The 90 % band and the expected error of each crystal; {len(covered)} crystals, "
        f"{which}",
        rows=[
            {"figure": "share of the points within the band", "value": _short(np.mean(covered))},
            {
                "figure": "crystals of which the band holds 80 % or more",
                "value": _short(np.mean(np.array(covered) >= 0.8)),
            },
            {"figure": "mean half-width of the band", "value": _short(np.mean(widths))},
            {"figure": "mean expected error", "value": _short(np.mean(expected))},
            {"figure": "mean error", "value": _short(np.mean(errors))},
            {"figure": "rank correlation of expected and true error", "value": _short(order)},
        ],
    )


def _short(value: float) -> float:
    return round(float(value), 4)


def table_of(
    errors: Mapping[str, Sequence[float]], crystals: Sequence[Crystal], which: str
) -> MetricTable:
    """Means over all crystals and over each family, and the median.

    Parameters
    ----------
    errors
        Of each predictor on each crystal.
    crystals
        In the same order.
    which
        How they were held out.
    """
    families = np.array([crystal.structure.family for crystal in crystals])
    found = sorted(set(families.tolist()))
    counts = ", ".join(f"{(families == family).sum()} {family}" for family in found)
    compositions = len({formula(crystal) for crystal in crystals})
    return MetricTable(
        data=f"MAE of the ELF over the points of grids of 0.2 Å, mean over {len(crystals)} "
        f"crystals of {compositions} compositions, {which} ({counts}); {DATA}",
        rows=[
            {
                "predictor": name,
                "all": round(float(np.mean(row)), 4),
                "median": round(float(np.median(row)), 4),
                **{f: round(float(np.mean(np.array(row)[families == f])), 4) for f in found},
            }
            for name, row in errors.items()
        ],
    )


def _described(crystal: Crystal) -> tuple[Values, Values, Values]:
    """Superposed density, its Tsirelson–Stash ELF, and the true ELF."""
    elf = crystal.elf
    sad = vox.superpose_atoms(crystal.structure.atoms, elf.shape)
    promolecular = vox.predict_elf(elf, "promolecule")
    return sad.values, promolecular.values, np.asarray(elf.values)


def _sad_bin(sad: Values) -> NDArray[np.intp]:
    """Bins from 10⁻⁴ to 10 e/Å³."""
    return np.clip((np.log10(np.maximum(sad, 1e-4)) + 4) * 8, 0, ACROSS - 1).astype(int)


def _elf_bin(elf: Values) -> NDArray[np.intp]:
    return np.clip(elf * ACROSS, 0, ACROSS - 1).astype(int)


def _medians(true: Values, bins: NDArray[np.intp], count: int) -> Values:
    """Median of `true` in each bin, the overall median where there is none."""
    order = np.argsort(bins, kind="stable")
    edges = np.searchsorted(bins[order], np.arange(count + 1))
    overall = np.median(true)
    parts = (true[order[a:b]] for a, b in pairwise(edges))
    return np.array([np.median(part) if part.size else overall for part in parts])
