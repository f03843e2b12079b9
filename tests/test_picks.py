from dataclasses import replace

import numpy as np
import pytest

from napari_vox3d import Picks, Volume, Vox3dError


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


def volume(shape=(44, 136, 84), voxel_size=10.0, **fields):
    return Volume(np.zeros(shape, "f4"), voxel_size, name="TS_01", **fields)


def made_on(shape=(44, 136, 84), voxel_size=10.0):
    indices = [[1, 2, 3], [43, 135, 83]]
    return Picks.from_indices(indices, "a", voxel_size=voxel_size, shape=shape, radii=[50, 60])


@pytest.mark.parametrize(
    ("shape", "voxel_size", "fits"),
    [
        ((44, 136, 84), 10.0, True),
        ((44, 136, 84), 10.2, False),
        ((22, 68, 42), 20.0, True),
        ((22, 67, 42), 20.0, False),  # 20 Å are a voxel of neither
        ((88, 272, 168), 5.0, True),
        ((88, 271, 167), 5.0, True),  # binning rounds
        ((44, 84, 136), 10.0, False),
        ((45, 136, 84), 10.0, False),
        ((44, 136, 84), 1.0, False),
    ],
)
def test_grids_of_one_extent_fit(shape, voxel_size, fits):
    said = made_on().fitting(volume(shape, voxel_size))
    assert (said == "") == fits
    if not fits:
        assert said.startswith("The picks were made on 44 × 136 × 84 voxels of 10 Å, and TS_01 has")


def test_what_is_unknown_is_judged_by_where_the_picks_lie():
    unknown = replace(made_on(), shape=None, voxel_size=None)
    assert unknown.fitting(volume()) == ""
    assert unknown.fitting(volume((44, 136, 83))) == "1 of 2 picks lie outside TS_01."
    alone = replace(made_on(), shape=None)
    assert alone.fitting(volume()) == ""
    assert "voxels of 10 Å, and" in alone.fitting(volume(voxel_size=20.0))
    raw = volume(voxel_size=1.0, calibrated=False)
    assert made_on().fitting(raw).endswith("TS_01 has 44 × 136 × 84 voxels of unknown size.")


def test_moving_keeps_angstrom_or_voxels():
    picks = made_on()
    target = volume(voxel_size=(24.0, 22.0, 20.0))
    by_length = picks.moved_to(target, "angstrom")
    np.testing.assert_array_equal(by_length.positions, picks.positions)
    by_index = picks.moved_to(target, "voxels")
    np.testing.assert_allclose(by_index.indices, picks.indices)
    for moved in (by_length, by_index):
        assert moved.shape == target.shape
        assert moved.tomogram == "TS_01"
        assert moved.fitting(target) == ""
        back = moved.as_made()
        np.testing.assert_allclose(back.positions, picks.positions)
        np.testing.assert_allclose(back.radii, picks.radii)
        assert (back.shape, back.metadata) == (picks.shape, {})
        np.testing.assert_allclose(back.moved_to(target, "voxels").indices, picks.indices)
    with pytest.raises(Vox3dError, match="only Å can be kept"):
        replace(picks, voxel_size=None).moved_to(target, "voxels")
    same = picks.moved_to(volume(), "voxels")
    assert same.metadata == {}
    assert same.as_made() is same
