"""What a model has never seen, said before anybody trusts its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

    from napari_vox3d.models import KnownRange

_STRANGE = 0.01  # share of strange points that is worth a word
# What a channel may lie beyond the training: a part of its range there, and what rounding amounts
# to. A crystal of one element has the descriptors of that element everywhere, to all digits.
_BEYOND, _ROUNDING = 0.01, 0.01


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
        all values of the training there, by more than a hundredth of their range: cells under
        pressure, atoms that overlap, open frameworks, elements more extreme than any seen.

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
    slack = np.maximum(_BEYOND * (high - low), _ROUNDING)
    strange = ((inputs < low - slack) | (inputs > high + slack)).any(0).mean()
    if strange > _STRANGE:
        notes.append(
            f"At {strange:.0%} of the points the density is unlike any that the model was trained "
            "on; do not rely on its ELF there."
        )
    return notes
