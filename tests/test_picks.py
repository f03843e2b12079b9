import numpy as np
import pytest

from napari_vox3d import Picks, Vox3dError


def some_picks(**fields):
    return Picks([[10, 20, 30], [40, 50, 60], [70, 80, 90]], ["a", "b", "a"], [0.9, 0.5, 0.1],
                 voxel_size=[10, 5, 2], shape=(20, 30, 50), **fields)  # fmt: skip


def test_indices_are_positions_over_voxel_size():
    np.testing.assert_allclose(some_picks().indices[0], [1, 4, 15])
    picks = Picks.from_indices([[1, 4, 15]], "a", voxel_size=[10, 5, 2])
    np.testing.assert_allclose(picks.positions, [[10, 20, 30]])
    assert picks.labels.tolist() == ["a"]
    assert np.isnan(picks.scores).all()


def test_indices_need_a_voxel_size():
    with pytest.raises(Vox3dError, match="voxel size"):
        Picks([[1, 2, 3]], "a").indices  # noqa: B018


def test_select_keeps_every_column_and_the_frame():
    picks = some_picks(radii=[1, 2, 3], angles=np.arange(9.0).reshape(3, 3), tomogram="TS_1")
    chosen = picks.select(picks.scores > 0.3)
    assert len(chosen) == 2
    assert chosen.tomogram == "TS_1"
    assert chosen.shape == (20, 30, 50)
    np.testing.assert_allclose(chosen.radii, [1, 2])
    np.testing.assert_allclose(chosen.angles[1], [3, 4, 5])
    np.testing.assert_allclose(picks.select([2, 0]).scores, [0.1, 0.9])


def test_counts_and_classes_keep_their_order():
    assert some_picks().counts() == {"a": 2, "b": 1}
    assert some_picks().classes == ["a", "b"]


def test_concatenate_joins_and_drops_half_known_columns():
    picks = some_picks(radii=5.0)
    joined = Picks.concatenate([picks, picks.select([0])])
    assert len(joined) == 4
    assert joined.radii.tolist() == [5.0] * 4
    assert Picks.concatenate([picks, some_picks()]).radii is None
    assert len(Picks.concatenate([])) == 0


def test_columns_of_different_length_are_refused():
    with pytest.raises(Vox3dError, match="labels"):
        Picks([[1, 2, 3]], ["a", "b"])
    with pytest.raises(Vox3dError, match="angles"):
        Picks([[1, 2, 3]], "a", angles=np.zeros((2, 3)))
