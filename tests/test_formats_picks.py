import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile

from napari_vox3d.errors import FormatError
from napari_vox3d.formats import read_picks, write_picks
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

DATA = Path(__file__).parent / "data" / "picks"
LABELS = ["ribosome", "virus like particle", "007", "ribosome"]
INDICES = np.array([[0, 0, 0], [43, 135, 83], [1.25, 100.5, 7.75], [30, 2, 60]])


def tomogram(voxel_size=(12.0, 10.0, 10.0), name="rec_TS_01"):
    """Three different edges; an origin that pick files must not see."""
    return Volume(np.zeros((44, 136, 84), "f4"), voxel_size, [100, 200, 300], name=name)


def picks_in(volume, **fields):
    fields = {"scores": [0.5, 0.25, np.nan, 1.0], "shape": volume.shape, **fields}
    return Picks.from_indices(
        INDICES, LABELS, voxel_size=volume.voxel_size, tomogram=volume.name, **fields
    )


@pytest.mark.filterwarnings("ignore:p.json holds")
@pytest.mark.parametrize("voxel_size", [10.0, (12.0, 10.0, 10.0), (7.0, 8.0, 9.0)])
@pytest.mark.parametrize(
    ("name", "file_format"),
    [
        ("p.star", None), ("p.star", "relion5"), ("p.star", "relion4"), ("p.json", None),
        ("p.csv", None), ("p.coords", None), ("p.txt", "csv"),
    ],
)  # fmt: skip
def test_round_trips(tmp_path, name, file_format, voxel_size):
    volume = tomogram(voxel_size)
    picks = picks_in(volume)
    written = write_picks(tmp_path / name, picks, file_format)
    if name == "p.txt":
        written = [written[0].rename(tmp_path / "p.csv")]
    again = read_picks(written[0], volume)
    np.testing.assert_allclose(again.indices, picks.indices, atol=1e-3)
    np.testing.assert_allclose(again.positions, picks.positions, atol=1e-3)
    assert again.shape == volume.shape
    if name != "p.coords":
        np.testing.assert_allclose(again.scores, picks.scores, atol=1e-6)
        expected = picks.labels.tolist()
        if name == "p.json":
            expected = [label.replace(" ", "-") for label in expected]
        assert again.labels.tolist() == expected
    assert list(tmp_path.iterdir()) == written


@pytest.mark.parametrize("name", ["p.star", "p.json", "p.csv"])
def test_angles_survive(tmp_path, name):
    from scipy.spatial.transform import Rotation

    angles = np.array([[10, 20, 30], [200, 170, -40], [0, 0, 0], [5, 0, 0]])
    picks = replace(picks_in(tomogram(), angles=angles), labels=np.array("a"))
    again = read_picks(write_picks(tmp_path / name, picks)[0], tomogram())
    turn = Rotation.from_euler("ZYZ", again.angles, degrees=True)
    expected = Rotation.from_euler("ZYZ", picks.angles, degrees=True)
    np.testing.assert_allclose((turn * expected.inv()).magnitude(), 0, atol=1e-5)


@pytest.mark.parametrize("name", ["p.star", "p.csv", "p.json"])
def test_no_picks_are_still_a_file(tmp_path, name):
    none = picks_in(tomogram()).select(np.zeros(4, bool))
    (path,) = write_picks(tmp_path / name, none)
    assert len(read_picks(path, tomogram())) == 0


def test_relion5_counts_from_half_the_size_minus_one(tmp_path):
    volume = tomogram(10.0)
    (path,) = write_picks(tmp_path / "p.star", picks_in(volume))
    table = starfile.read(path)
    assert table["rlnTomoName"].unique().tolist() == ["TS_01"]
    centre = np.array([44, 136, 84]) / 2 - 1
    columns = [f"rlnCenteredCoordinate{axis}Angst" for axis in "ZYX"]
    np.testing.assert_allclose(table[columns], (INDICES - centre) * 10, atol=1e-4)
    alone = read_picks(path)
    np.testing.assert_allclose(alone.indices, INDICES, atol=1e-4)
    assert alone.shape == volume.shape


def test_relion5_centre_is_in_unbinned_pixels(tmp_path):
    binned = replace(picks_in(tomogram(10.0)), metadata={"tilt_series_pixel_size": 2.5})
    (path,) = write_picks(tmp_path / "p.star", binned)
    table = starfile.read(path)
    columns = [f"rlnCenteredCoordinate{axis}Angst" for axis in "ZYX"]
    centre = (np.array([44, 136, 84]) * 4 / 2 - 1) * 2.5
    np.testing.assert_allclose(table[columns], INDICES * 10 - centre, atol=1e-4)
    assert table["rlnTomoSizeX"][0] == 84 * 4
    np.testing.assert_allclose(read_picks(path, tomogram(10.0)).indices, INDICES, atol=1e-4)
    np.testing.assert_allclose(read_picks(path).indices, INDICES, atol=1e-4)


def test_relion4_writes_indices_x_first(tmp_path):
    (path,) = write_picks(tmp_path / "p.star", picks_in(tomogram()), "relion4")
    table = starfile.read(path)
    columns = ["rlnCoordinateZ", "rlnCoordinateY", "rlnCoordinateX"]
    np.testing.assert_allclose(table[columns], INDICES, atol=1e-6)


@pytest.mark.parametrize("name", ["data_01", "loop_x", "_a", "#3", "TS#3", "$x", "TS 01", "stop_2"])
@pytest.mark.parametrize("file_format", ["relion5", "relion4"])
def test_names_that_mean_something_to_star(tmp_path, name, file_format):
    volume = tomogram(name=name)
    picks = replace(picks_in(volume), labels=np.array(["data_", "loop_ 2", "a", "save_1"]))
    (path,) = write_picks(tmp_path / "p.star", picks, file_format)
    table = starfile.read(path)
    assert set(table["rlnTomoName"]) == {name}
    assert table["vox3dClass"].tolist() == picks.labels.tolist()
    assert read_picks(path, volume).labels.tolist() == picks.labels.tolist()


def test_quotes_in_names_become_typographic(tmp_path):
    picks = replace(picks_in(tomogram()), labels=np.array("3' \"end"))
    (path,) = write_picks(tmp_path / "p.star", picks)
    assert set(read_picks(path, tomogram()).labels) == {"3’ ”end"}


def test_a_star_file_that_was_mended_is_read(tmp_path):
    (path,) = write_picks(tmp_path / "p.star", picks_in(tomogram(name="TS_01")))
    good = path.read_text()
    path.write_text(good.replace("TS_01", "data_01"))
    with pytest.raises(FormatError, match="begins with data_"):
        read_picks(path, tomogram())
    path.write_text(good)
    assert len(read_picks(path, tomogram())) == 4


def test_real_relion5_picks():
    volume = Volume(np.zeros((44, 136, 84), "f4"), 10.52, name="TS_02")
    picks = read_picks(DATA / "relion5_particles.star", volume)
    expected = np.array([9.080000, 386.650021, -58.030014]) / 10.52 + [21, 67, 41]
    np.testing.assert_allclose(picks.indices[0], expected, atol=1e-5)
    assert len(picks) == 2
    assert len(read_picks(DATA / "relion5_particles.star", replace(volume, name="rec_TS_01"))) == 3


def test_a_file_of_several_tomograms_needs_to_know_which():
    with pytest.raises(FormatError, match=r"2 tomograms \(TS_01, TS_02\)"):
        read_picks(DATA / "relion5_particles.star")
    with pytest.raises(FormatError, match="none of them 'other'"):
        read_picks(DATA / "relion5_particles.star", tomogram(name="other"))


def test_refined_relion5_picks_are_shifted_in_the_frame_of_the_subtomogram():
    from scipy.spatial.transform import Rotation

    volume = Volume(np.zeros((300, 1000, 1000), "f4"), 2.7, name="TS_01")
    picks = read_picks(DATA / "relion5_refined.star", volume)
    frame = Rotation.from_euler("ZYZ", [174.931305, 90.261512, -129.54646], degrees=True)
    particle = Rotation.from_euler("ZYZ", [27.128677, 92.56899, 6.654494], degrees=True)
    shift = frame.as_matrix().T @ [-3.75772, 4.342283, -3.75772]
    centre = np.array([1000, 1000, 300]) * 2.7 / 2 - 1.35
    x_y_z = np.array([754.828605, -879.58025, 138.065739]) + centre - shift
    np.testing.assert_allclose(picks.positions[0], x_y_z[::-1], atol=1e-4)
    # RELION's matrices map the particle to the tomogram, the subtomogram's frame outside.
    matrix = frame.as_matrix().T @ particle.as_matrix().T
    found = Rotation.from_euler("ZYZ", picks.angles[0], degrees=True).as_matrix().T
    np.testing.assert_allclose(found, matrix, atol=1e-6)
    assert picks.labels[0] == "1"


def test_real_tables_of_other_programs():
    picks = read_picks(DATA / "tomoslice_points.star", tomogram())
    np.testing.assert_allclose(picks.indices[0], [63, 144.723436, 68.381837])
    warp = read_picks(DATA / "relion4_loop.star")  # 5 µm at 10,000 times: 5 Å
    np.testing.assert_allclose(warp.positions[0], np.array([964.5, 1084.5, 1572.444]) * 5)
    np.testing.assert_array_equal(warp.angles, 0)


def test_star_without_size_or_positions(tmp_path):
    path = tmp_path / "p.star"
    starfile.write({"particles": starfile.read(DATA / "relion5_particles.star")[:3]}, path)
    with pytest.raises(FormatError, match="centre of a tomogram whose size is unknown"):
        read_picks(path)
    with pytest.raises(FormatError, match=r"voxels without the voxel size.*name its tomogram"):
        read_picks(DATA / "tomoslice_points.star")
    path.write_text("data_x\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n1 2\n")
    with pytest.raises(FormatError, match="no positions in three dimensions"):
        read_picks(path)
    path.write_text("data_x\n\nloop_\n_x #1\n_y #2\n_z #3\n1 2 three\n")
    with pytest.raises(FormatError, match="unreadable values"):
        read_picks(path, tomogram())
    path.write_text("nothing of the kind")
    with pytest.raises(FormatError, match="STAR"):
        read_picks(path)


def test_writing_without_what_the_format_needs(tmp_path):
    loose = Picks([[1.0, 2, 3]], "a")
    for name in ("p.star", "p.coords"):
        with pytest.raises(FormatError, match="carry no voxel size"):
            write_picks(tmp_path / name, loose)
    with pytest.raises(FormatError, match=r'size these picks lack.*"relion4"'):
        write_picks(tmp_path / "p.star", replace(loose, voxel_size=10))
    assert not list(tmp_path.iterdir())
    for name in ("p.json", "p.csv"):
        (path,) = write_picks(tmp_path / name, loose)
        np.testing.assert_array_equal(read_picks(path).positions, loose.positions)


@pytest.mark.parametrize("name", ["p.tloc", "p.doc", "p"])
def test_formats_that_cannot_be_written_name_those_that_can(tmp_path, name):
    with pytest.raises(FormatError, match=r"\.star \(relion5, relion4\), \.json"):
        write_picks(tmp_path / name, picks_in(tomogram()))
    with pytest.raises(FormatError, match="no format 'pytom'"):
        write_picks(tmp_path / "p.star", picks_in(tomogram()), "pytom")


def test_copick_fields(tmp_path):
    (path,) = write_picks(tmp_path / "p.json", picks_in(tomogram()).select([0, 3]))
    content = json.loads(path.read_text())
    assert content["pickable_object_name"] == "ribosome"
    assert content["unit"] == "angstrom"
    assert content["run_name"] == "rec_TS_01"
    assert content["points"][1]["location"] == {"x": 600.0, "y": 20.0, "z": 360.0}
    assert content["points"][0].keys() == {"location", "transformation_", "instance_id", "score"}
    np.testing.assert_array_equal(content["points"][0]["transformation_"], np.eye(4))


def test_copick_warns_of_several_classes_and_keeps_them(tmp_path):
    with pytest.warns(UserWarning, match=r"3 classes.*write each class to a file of its own"):
        (path,) = write_picks(tmp_path / "p.json", picks_in(tomogram()))
    assert read_picks(path).counts() == {"ribosome": 2, "virus-like-particle": 1, "007": 1}


def test_copick_of_the_czii_challenge(tmp_path):
    path = tmp_path / "beta-amylase.json"
    point = {"location": {"x": 30, "y": 20, "z": 10}, "transformation_": np.eye(4).tolist()}
    content = {"pickable_object_name": "beta-amylase", "user_id": "data-portal",
               "run_name": "TS_5_4", "voxel_spacing": None, "unit": "angstrom",
               "points": [point | {"instance_id": 1}]}  # fmt: skip
    path.write_text(json.dumps(content))
    picks = read_picks(path)
    assert picks.classes == ["beta-amylase"]
    assert picks.tomogram == "TS_5_4"
    assert picks.voxel_size is None
    np.testing.assert_array_equal(read_picks(path, tomogram(10.0)).indices, [[1, 2, 3]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON .*"),
        ("[1]", "not a copick picks file"),
        ('{"points": [], "unit": "nm"}', "positions in 'nm'"),
        ('{"points": [{"location": {"x": 1}}]}', "not one of copick's"),
        ('{"points": [3]}', "not one of copick's"),
        (
            '{"points": [{"location": {"x": 1, "y": 2, "z": 3}, "transformation_": [[0]]}]}',
            "not one of copick's",
        ),
    ],
)
def test_bad_copick_files(tmp_path, text, message):
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        read_picks(path)


def test_tables_say_axis_and_unit(tmp_path):
    (path,) = write_picks(tmp_path / "p.csv", picks_in(tomogram(), radii=[1, 2, 3, 4]))
    header = path.read_text().splitlines()[0]
    assert header == (
        "tomogram,class,score,z_px,y_px,x_px,z_angstrom,y_angstrom,x_angstrom,radius_angstrom"
    )
    alone = read_picks(path)
    np.testing.assert_allclose(alone.voxel_size, [12, 10, 10])
    np.testing.assert_array_equal(alone.radii, [1, 2, 3, 4])
    assert alone.tomogram == "rec_TS_01"


def test_tables_of_napari(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("index,axis-0,axis-1,axis-2\n0.0,1.0,2.0,3.0\n1.0,4.0,5.0,6.0\n")
    np.testing.assert_allclose(read_picks(path, tomogram()).positions, [[12, 20, 30], [48, 50, 60]])
    with pytest.raises(FormatError, match="voxel size"):
        read_picks(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", r"line 1: has no columns.*z_angstrom"),
        ("index,axis-0,axis-1,axis-2,axis-3\n0,1,2,3,4\n", "no columns"),
        ("z_px,y_px,x_px\n1,2,3\n1,two,3\n", r"line 3: 'two' is no number \(y_px\)"),
        ("z_px,y_px,x_px\n1,2,3\n1,,3\n", "line 3: lacks a coordinate"),
        ("z_px,y_px,x_px\n1,2\n", "line 2: lacks a coordinate"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        read_picks(path, tomogram())


def test_coordinate_lists(tmp_path):
    path = tmp_path / "p.coords"
    path.write_text("# x y z\n10 20 30\n\n1.5\t2.5\t3.5\n")
    np.testing.assert_array_equal(
        read_picks(path, tomogram()).indices, [[30, 20, 10], [3.5, 2.5, 1.5]]
    )
    with pytest.raises(FormatError, match="voxel size"):
        read_picks(path)
    for text in ("1 2", "1 2 3 4", "1 2 z", "1 2 nan"):
        path.write_text(f"1 2 3\n{text}\n")
        with pytest.raises(FormatError, match="line 2: wants x, y and z"):
            read_picks(path, tomogram())
