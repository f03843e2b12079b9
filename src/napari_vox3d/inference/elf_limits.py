"""What a model has never seen, said before anybody trusts its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

    from napari_vox3d.models import KnownRange

_STRANGE = 0.01  # share of strange points that is worth a word


def strangeness(
    known: KnownRange | None, atoms: Atoms | None, inputs: NDArray[np.floating]
) -> list[str]:
    """Say in which ways a crystal is unlike all that a model was trained on.

    Parameters
    ----------
    known
        Of the model's card; None if the card does not say.
    atoms
        The crystal, if it is known.
    inputs
        (channels, D, H, W) that the network is given. A point is strange if a channel is beyond
        all values of the training there: cells under pressure, atoms that overlap, open frameworks.

    Returns
    -------
    list of str
        Sentences; none if nothing is strange.
    """
    if known is None:
        return []
    notes = []
    elements = set() if atoms is None else set(atoms.get_chemical_symbols())
    if new := sorted(elements - set(known.elements)):
        notes.append(f"The model has never seen {', '.join(new)}; do not rely on its ELF there.")
    low, high = (np.array(limits)[:, None, None, None] for limits in (known.lowest, known.highest))
    strange = ((inputs < low) | (inputs > high)).any(0).mean()
    if strange > _STRANGE:
        notes.append(
            f"At {strange:.0%} of the points the density is unlike any that the model was trained "
            "on; do not rely on its ELF there."
        )
    return notes
