"""Files that are valid and unlike those that we write ourselves."""

from pathlib import Path

import numpy as np
import pytest

from napari_vox3d import Volume, read_pick_collection, read_picks
from napari_vox3d.errors import FormatError

TOMOGRAM = Volume(np.zeros((44, 136, 84), "f4"), 10.0, name="TS_01")
LOOP = "loop_\n_rlnMicrographName #1\n" + "".join(
    f"_rlnCoordinate{axis} #{n}\n" for n, axis in enumerate("XYZ", 2)
)
CENTRED = "data_particles\n\nloop_\n_rlnTomoName #1\n" + "".join(
    f"_rlnCenteredCoordinate{axis}Angst #{n}\n" for n, axis in enumerate("XYZ", 2)
)
TABLE = [1, 1, 1, 0, 0, 0, 10, 20, 30, 0.5, 0.5, 0, 1, -60, 60, -60, 60, 0, 0, 1, 1, 2, 0]


def found(folder, name, text, volume=TOMOGRAM):
    path = folder / name
    path.write_bytes(text.encode())
    return read_picks(path, volume)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: "# version 50001\n\n" + text,
        lambda text: text.replace(" ", "\t") + "\n \n\n",
        lambda text: "data_general\n\n_rlnTomoSubTomosAre2DStacks  1\n\n" + text,
        lambda text: text.replace("#4\n", "#4\n_rlnImageName #5\n").replace(
            ".0\n", ".0 1@a.mrcs\n"
        ),
        lambda text: text.replace("TS_01", '"TS 01"'),
        lambda text: text.replace("TS_01", "01"),
    ],
)
def test_star_files_of_relion_in_other_dress(tmp_path, change):
    picks = found(tmp_path, "p.star", change(CENTRED + "TS_01 100.0 -200.0 40.0\n"))
    expected = np.array([40, -200, 100]) / 10 + np.array([44, 136, 84]) / 2 - 1
    np.testing.assert_allclose(picks.indices, [expected])


@pytest.mark.parametrize("name", ["TS_01", "TS_01_10.00Apx", "rec_TS_01_bin4_denoised"])
@pytest.mark.parametrize("spelt", ["TS_0{}", "TS_0{}.tomostar", "Tomograms/TS_0{0}/TS_0{0}.mrc"])
def test_tomograms_are_known_by_the_names_of_their_tilt_series(tmp_path, name, spelt):
    rows = "".join(f"{spelt.format(n)} {n}0 20 30\n" for n in (1, 2, 3))
    volume = Volume(TOMOGRAM.values, 10.0, name=name)
    picks = found(tmp_path, "p.star", f"data_\n\n{LOOP}{rows}", volume)
    np.testing.assert_array_equal(picks.indices, [[30, 20, 10]])


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ("_rlnMagnification #5\n_rlnDetectorPixelSize #6\n", "10000 5.0"),
        ("_rlnDetectorPixelSize #5\n", "5.0"),
        ("_rlnPixelSize #5\n", "5.0"),
        ("_rlnTomoTiltSeriesPixelSize #5\n", "5.0"),
    ],
)
def test_pixel_sizes_of_older_relion_and_warp(tmp_path, columns, values):
    text = f"data_\n\n{LOOP}{columns}TS_01.mrc 10 20 30 {values}\n"
    np.testing.assert_allclose(found(tmp_path, "p.star", text).positions, [[150, 100, 50]])
    (alone,) = read_pick_collection(tmp_path / "p.star")
    np.testing.assert_allclose(alone.positions, [[150, 100, 50]])


def test_the_pixel_size_of_an_optics_group(tmp_path):
    optics = "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n1 5.0\n2 7.0\n\n"
    text = f"{optics}data_particles\n\n{LOOP}_rlnOpticsGroup #5\nTS_01.mrc 10 20 30 2\n"
    np.testing.assert_allclose(found(tmp_path, "p.star", text).positions, [[210, 140, 70]])


PORTAL = Path(__file__).parent / "data" / "picks" / "portal"


@pytest.mark.parametrize(
    ("name", "tomogram", "pixel_size"),
    [
        ("relion_3_star.star", "tomo_1", 1.7005),
        ("tomoman_relion_star.star", "grid_1_lamella1_pos1", 1.96),
    ],
)
def test_shifts_of_older_relion_are_in_voxels(name, tomogram, pixel_size):
    first = read_pick_collection(PORTAL / name)[0]
    assert first.tomogram == tomogram
    expected = [[12 + 3.2, 8 + 2.4, 4 + 1.2], [4 - 1.2, 4 - 2.4, 4 - 3.2]]
    np.testing.assert_allclose(first.positions, np.array(expected) * pixel_size)
    np.testing.assert_array_equal(first.angles, [[90, 45, 180], [-45, 90, 120]])


@pytest.mark.parametrize(("tomogram", "pixel_size"), [("TS_01.tomostar", 5.0), ("TS_01", 2.5)])
def test_warp_counts_in_voxels_of_its_particles_and_relion_of_the_tilt_series(
    tmp_path, tomogram, pixel_size
):
    names = ("OpticsGroup", "TomoTiltSeriesPixelSize", "TomoSubtomogramBinning", "ImagePixelSize")
    head = "".join(f"_rln{name} #{n}\n" for n, name in enumerate(names, 1))
    optics = f"data_optics\n\nloop_\n{head}1 2.5 2.0 5.0\n\n"
    particles = LOOP.replace("MicrographName", "TomoName") + "_rlnOpticsGroup #5\n"
    text = f"{optics}data_particles\n\n{particles}{tomogram} 10 20 30 1\n"
    expected = np.array([[30, 20, 10]]) * pixel_size
    np.testing.assert_allclose(found(tmp_path, "p.star", text).positions, expected)


def test_numbers_of_classes_that_are_no_whole_numbers(tmp_path):
    text = f"data_\n\n{LOOP}_rlnClassNumber #5\nTS_01 1 2 3 2.0\nTS_01 1 2 3 nan\n"
    assert found(tmp_path, "p.star", text).labels.tolist() == ["2", "particle"]


def test_a_missing_coordinate_is_named(tmp_path):
    with pytest.raises(FormatError, match="rlnCoordinateX: lacks values"):
        found(tmp_path, "p.star", f"data_\n\n{LOOP}TS_01 nan 2 3\nTS_01 1 2 3\n")


def test_tomograms_of_one_name_keep_their_folders(tmp_path):
    rows = "a/TS_01.mrc 1 2 3 5.0\nb/TS_01.mrc 4 5 6 5.0\nb/TS_02.mrc 7 8 9 5.0\n"
    (tmp_path / "p.star").write_text(f"data_\n\n{LOOP}_rlnPixelSize #5\n{rows}")
    names = [picks.tomogram for picks in read_pick_collection(tmp_path / "p.star")]
    assert names == ["a/TS_01.mrc", "b/TS_01.mrc", "TS_02"]


def test_particles_of_m_are_in_angstrom(tmp_path):
    columns = [
        *(f"wrpCoordinate{a}1" for a in "XYZ"),
        *(f"wrpAngle{a}1" for a in ("Rot", "Tilt", "Psi")),
    ]
    head = "".join(f"_{name} #{n}\n" for n, name in enumerate([*columns, "wrpSourceName"], 1))
    text = f"data_\n\nloop_\n{head}100 200 300 10 20 30 TS_01.tomostar\n"
    picks = found(tmp_path, "p.star", text)
    np.testing.assert_array_equal(picks.positions, [[300, 200, 100]])
    np.testing.assert_array_equal(picks.angles, [[10, 20, 30]])
    assert picks.tomogram == "TS_01"


def test_template_matches_of_warp_are_fractions_of_the_tomogram(tmp_path):
    text = f"data_\n\n{LOOP}TS_01.tomostar 0.25 0.5 0.75\n"
    np.testing.assert_allclose(found(tmp_path, "p.star", text).indices, [[33, 68, 21]])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.star", CENTRED),
        ("p.star", f"data_\n\n{LOOP}"),
        ("p.csv", "tomogram,z_px,y_px,x_px\n"),
        ("p.cbox", "data_cryolo\n\nloop_\n_CoordinateX #1\n_CoordinateY #2\n_CoordinateZ #3\n"
                   "_Width #4\n_Height #5\n"),
        ("p_info.json", '{"boxes_3d": [], "class_list": {}}'),
    ],
)  # fmt: skip
def test_headers_alone_hold_no_picks(tmp_path, name, text):
    assert len(found(tmp_path, name, text)) == 0


@pytest.mark.parametrize("columns", [26, 35, 36, 40, 42])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_dynamo_tables_of_any_width(tmp_path, columns, end):
    row = [*TABLE, 10.5, 20.5, 30.5, *[0] * 20][:columns]
    text = f"% a comment{end}" + " ".join(map(str, row)) + end
    picks = found(tmp_path, "p.tbl", text)
    np.testing.assert_allclose(picks.indices, [[29.5, 19.5, 9.5]])
    assert picks.labels.tolist() == ["2"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_are_separated_as_spreadsheets_do(tmp_path, separator):
    text = 'class, z_px, y_px, x_px\r\n\r\n"apo",1,2,3\r\n'.replace(",", separator)
    picks = found(tmp_path, "p.csv", "\ufeff" + text)
    np.testing.assert_array_equal(picks.indices, [[1, 2, 3]])
    assert picks.labels.tolist() == ["apo"]


@pytest.mark.parametrize(
    ("head", "rows"),
    [
        ("run_name,x,y,z,score", "TS_01,10,20,30,0.5\nTS_02,1,2,3,0.5\n"),
        ("id,experiment,particle_type,x,y,z", "0,TS_01,apo,10,20,30\n1,TS_02,apo,1,2,3\n"),
    ],
)
def test_tables_of_copick_and_of_the_czii_challenge_are_in_angstrom(tmp_path, head, rows):
    picks = found(tmp_path, "p.csv", f"{head}\n{rows}")
    np.testing.assert_array_equal(picks.positions, [[30, 20, 10]])
    _, second = read_pick_collection(tmp_path / "p.csv")
    assert second.tomogram == "TS_02"


def test_a_table_of_bare_x_y_z_does_not_say_its_unit(tmp_path):
    with pytest.raises(FormatError, match="Wanted: z_angstrom"):
        found(tmp_path, "p.csv", "x,y,z\n1,2,3\n")


def test_parts_of_files_by_name(tmp_path):
    found(tmp_path, "p.star", f"{CENTRED}TS_01 0 0 0\n")
    (tmp_path / "q.star").write_text(f"{CENTRED}TS_01 0 0 0\nTS_02 10 0 0\n")
    assert read_picks(f"{tmp_path}/q.star::TS_02", TOMOGRAM).indices[0, 2] == 42
    with pytest.raises(FormatError, match=r"1 tomogram .*none of them 'TS_07'"):
        read_picks(f"{tmp_path}/p.star::TS_07", TOMOGRAM)
    (tmp_path / "p.coords").write_text("1 2 3\n")
    with pytest.raises(FormatError, match="holds picks of one tomogram, so there is no 'TS_02'"):
        read_picks(f"{tmp_path}/p.coords::TS_02", TOMOGRAM)


def test_lists_of_contours_are_imods(tmp_path):
    with pytest.raises(FormatError, match=r"line 1: .*Name a list of IMOD's model2point \.txt"):
        found(tmp_path, "p.coords", "     1    108     80    299\n")
    assert found(tmp_path, "p.txt", "     1    108     80    299\n").indices.tolist() == [
        [299, 79.5, 107.5]
    ]
