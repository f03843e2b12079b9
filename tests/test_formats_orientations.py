import numpy as np

from napari_vox3d.formats import orientations
from napari_vox3d.picks import Picks


def test_dynamo_and_relion_agree_on_where_a_particle_points():
    # The pair that eulerangles.convert_eulers gives for Dynamo's 10, 50, -70.
    relion = orientations.from_euler(np.array([[10.0, 50, -70]]), orientations.DYNAMO)
    np.testing.assert_allclose(relion, [[-160, 50, 100]], atol=1e-9)
    back = orientations.to_euler(Picks([[0, 0, 0]], "a", angles=relion), orientations.DYNAMO)
    np.testing.assert_allclose(back, [[10, 50, -70]], atol=1e-9)


def test_matrices_lead_from_the_particle_to_the_tomogram():
    turned = Picks(np.zeros((2, 3)), "a", angles=[[30, 60, 0], [30, 60, 90]])
    axes = orientations.to_matrices(turned) @ [0, 0, 1]  # RELION: tilt and psi place the axis
    far = np.sin(np.pi / 3)
    np.testing.assert_allclose(axes, [[-far, 0, 0.5], [0, far, 0.5]], atol=1e-12)
    found = orientations.from_matrices(orientations.to_matrices(turned))
    np.testing.assert_allclose(found, turned.angles, atol=1e-9)
    assert orientations.from_matrices(np.eye(3)[None]) is None
