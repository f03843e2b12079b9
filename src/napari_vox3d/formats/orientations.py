"""Orientations of particles in the conventions of different programs.

`Picks.angles` are RELION's: ZYZ Euler angles that turn the tomogram's frame into the particle's,
in x, y, z. Dynamo's angles (ZXZ) describe the same rotation; matrices in files describe the way
back, from the particle's frame to the tomogram's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_vox3d.picks import Picks

# Upper case turns about the axes as they have turned, lower case about those at rest. Dynamo:
# https://www.dynamo-em.org/w/index.php?title=Euler_angles_convention, `dynamo_euler2matrix`.
RELION = "ZYZ"
DYNAMO = "zxz"


def from_euler(angles: NDArray[np.float64], convention: str) -> NDArray[np.float64] | None:
    """(N, 3) angles of `Picks` from those of another program; None if no particle is turned."""
    from scipy.spatial.transform import Rotation

    if not np.any(angles):
        return None
    turns = Rotation.from_euler(convention, angles, degrees=True)
    return turns.as_euler(RELION, degrees=True, suppress_warnings=True)


def to_euler(picks: Picks, convention: str) -> NDArray[np.float64]:
    """(N, 3) angles of the picks in the convention of another program; 0 where unknown."""
    from scipy.spatial.transform import Rotation

    if picks.angles is None or not len(picks):
        return np.zeros((len(picks), 3))
    turns = Rotation.from_euler(RELION, picks.angles, degrees=True)
    return turns.as_euler(convention, degrees=True, suppress_warnings=True)


def from_matrices(matrices: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """(N, 3) angles of `Picks` from (N, 3, 3) rotations of particles into the tomogram.

    None if no particle is turned.
    """
    from scipy.spatial.transform import Rotation

    if np.allclose(matrices, np.eye(3)):
        return None
    turns = Rotation.from_matrix(matrices).inv()
    return turns.as_euler(RELION, degrees=True, suppress_warnings=True)


def to_matrices(picks: Picks) -> NDArray[np.float64]:
    """(N, 3, 3) rotations from the particle's frame to the tomogram's, in x, y, z."""
    from scipy.spatial.transform import Rotation

    if picks.angles is None or not len(picks):
        return np.tile(np.eye(3), (len(picks), 1, 1))
    return Rotation.from_euler(RELION, picks.angles, degrees=True).inv().as_matrix()
