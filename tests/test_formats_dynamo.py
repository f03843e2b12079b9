from dataclasses import replace
from pathlib import Path

import dynamotable
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from napari_vox3d.errors import FormatError
from napari_vox3d.formats import read_picks, write_picks
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

DATA = Path(__file__).parent / "data" / "picks" / "dynamo"
INDICES = np.array([[0, 0, 0], [43.25, 135, 83], [1.25, 100.5, 7.75]])


def tomogram(voxel_size=10.0, name="TS_01"):
    return Volume(np.zeros((44, 136, 84), "f4"), voxel_size, name=name)


def picks(**fields):
    frame = {"voxel_size": 10, "shape": (44, 136, 84), "tomogram": "TS_01"}
    return Picks.from_indices(INDICES, "7", **(frame | fields))


def test_a_real_table_and_its_map():
    path = DATA / "t_complex.tbl"
    table = dynamotable.read(path, DATA / "t_complex.doc")
    for number, name in ((1, "tomo_ts01"), (2, "rec_tomo_ts02.mrc")):
        own = table[table["tomo"] == number]
        found = read_picks(path, tomogram(15.0, name))
        expected = own[["z", "y", "x"]].to_numpy() + own[["dz", "dy", "dx"]].to_numpy() - 1
        np.testing.assert_allclose(found.indices, expected, atol=1e-6)
        np.testing.assert_allclose(found.scores, own["cc"])
        theirs = Rotation.from_euler("zxz", own[["tdrot", "tilt", "narot"]], degrees=True)
        ours = Rotation.from_euler("ZYZ", found.angles, degrees=True)
        np.testing.assert_allclose((ours * theirs.inv()).magnitude(), 0, atol=1e-6)
    with pytest.raises(FormatError, match=r"2 tomograms \(tomo_ts01.*none of them 'TS_09'"):
        read_picks(path, tomogram(name="TS_09"))


def test_a_table_without_a_map_asks_for_one(tmp_path):
    whole = (DATA / "t_complex.tbl").read_text()
    path = tmp_path / "t.tbl"
    path.write_text(whole)
    with pytest.raises(FormatError, match=r"table map \('1 TS_01' a line\) beside it as t\.doc"):
        read_picks(path, tomogram())
    path.with_suffix(".vll").write_text(
        "# good ones\nfolder/first.mrc\n* apix = 2\n> a.tbl\nfolder/second.mrc\n* index = 1\n"
        "folder/TS_01.rec\n"
    )
    assert len(read_picks(path, tomogram())) == 6
    (tmp_path / "indices_column20.doc").write_text("1 /data/TS_01.mrc\n2 /data/TS_02.mrc\n")
    path.with_suffix(".vll").unlink()
    assert len(read_picks(path, tomogram())) == 12
    (tmp_path / "t.doc").write_text("TS_01.mrc\n")
    with pytest.raises(FormatError, match=r"t\.doc, line 1: wants a number and a tomogram"):
        read_picks(path, tomogram())


def test_dynamotable_reads_what_is_written(tmp_path):
    angles = [[10, 20, 30], [200, 170, -40], [0, 0, 0]]
    written = write_picks(tmp_path / "p.tbl", picks(angles=angles, scores=[0.5, 0.25, 0.125]))
    assert [path.name for path in written] == ["p.tbl", "p.doc"]
    table = dynamotable.read(*written)
    np.testing.assert_allclose(table[["z", "y", "x"]], INDICES + 1, atol=1e-6)
    assert table["tag"].tolist() == [1, 2, 3]
    assert table["class"].tolist() == [7, 7, 7]
    assert table["cc"].tolist() == [0.5, 0.25, 0.125]
    assert table["apix"].tolist() == [10, 10, 10]
    assert table["tomo_file"].unique().tolist() == ["TS_01"]
    alone = read_picks(written[0])
    np.testing.assert_allclose(alone.indices, INDICES, atol=1e-6)
    assert alone.tomogram == "TS_01"


def test_the_map_keeps_its_tomograms(tmp_path):
    (tmp_path / "p.doc").write_text("3 /data/TS_03.mrc\n7 /data/TS_01.mrc\n")
    path, table_map = write_picks(tmp_path / "p.tbl", picks())
    assert dynamotable.read(path)["tomo"].unique().tolist() == [7]
    assert table_map.read_text() == "3 /data/TS_03.mrc\n7 /data/TS_01.mrc\n"
    write_picks(path, replace(picks(), tomogram="TS_02"))
    assert table_map.read_text().endswith("8 TS_02\n")
    assert write_picks(path, replace(picks(), tomogram="")) == [path]


def test_names_of_classes_become_numbers_with_a_word(tmp_path):
    named = replace(picks(), labels=["apo", "ribosome", "apo"])
    with pytest.warns(UserWarning, match="1 is apo, 2 is ribosome"):
        path, _ = write_picks(tmp_path / "p.tbl", named)
    assert read_picks(path).labels.tolist() == ["1", "2", "1"]


def test_another_binning_is_rescaled_and_a_calibration_keeps_voxels(tmp_path):
    path, _ = write_picks(tmp_path / "p.tbl", picks())
    message = r"made on voxels of 10 Å, and TS_01 has 44 × 136 × 84 voxels of 20 Å\. Positions in Å"
    with pytest.warns(UserWarning, match=message):
        binned = read_picks(path, tomogram(20.0))
    np.testing.assert_allclose(binned.indices, INDICES / 2, atol=1e-6)
    with pytest.warns(UserWarning, match="Voxel indices were kept"):
        calibrated = read_picks(path, tomogram(10.2))
    np.testing.assert_allclose(calibrated.indices, INDICES, atol=1e-6)


def test_tables_that_nobody_told_the_pixel_size(tmp_path):
    path, _ = write_picks(tmp_path / "p.tbl", replace(picks(), voxel_size=1.0))
    table = dynamotable.read(path)
    np.testing.assert_allclose(table["apix"], 1)
    found = read_picks(path, tomogram(20.0))
    np.testing.assert_allclose(found.indices, INDICES * 10, atol=1e-6)


def test_damaged_tables(tmp_path):
    path = tmp_path / "p.tbl"
    path.write_text("1 2 3\n")
    with pytest.raises(FormatError, match="has 3 columns, and a Dynamo table has 26 or more"):
        read_picks(path, tomogram())
    path.write_text(" ".join(["1"] * 25 + ["x"]))
    with pytest.raises(FormatError, match="not all of it is numbers"):
        read_picks(path, tomogram())
    path.write_text(" ".join(["1"] * 25 + ["nan"]))
    with pytest.raises(FormatError, match="lacks values"):
        read_picks(path, tomogram())
    path.write_text(" ".join(["1"] * 26))
    with pytest.raises(FormatError, match="without the voxel size"):
        read_picks(path)
