import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile

from napari_vox3d.errors import FormatError
from napari_vox3d.formats import read_picks, write_picks
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

PROJECT = Path(__file__).parent / "data" / "picks" / "relion5_project"
PICKS = PROJECT / "Picks" / "job_picks"
CENTRED = [f"rlnCenteredCoordinate{axis}Angst" for axis in "ZYX"]


def as_relion_places_them(particles, size, binning, pixel_size):
    """Voxels (z, y, x) of a tomogram: get_particle_poses of RELION 5, solved for the index."""
    centre = (np.array(size) / 2 - 1) * pixel_size
    return (particles[CENTRED].to_numpy() + centre) / (pixel_size * binning)


@pytest.mark.parametrize("name", ["particles.star", "optimisation_set.star"])
def test_a_project_tells_size_and_pixel_size(name):
    volume = Volume(np.zeros((44, 136, 84), "f4"), 10.52, name="rec_TS_02.mrc")
    found = read_picks(PICKS / name, volume)
    table = starfile.read(PICKS / "particles.star")
    own = table[table["rlnTomoName"] == "TS_02"]
    expected = as_relion_places_them(own, (44, 136, 84), 1, 10.52)
    np.testing.assert_allclose(found.indices, expected, atol=1e-6)
    assert found.tomogram == "TS_02"
    assert found.metadata == {
        "tilt_series_pixel_size": 10.52,
        "tilt_series_size": [44, 136, 84],
    }


def project(folder, size=(100, 271, 202), binning=4, pixel_size=2.5):
    """A project whose sizes are not multiples of the binning."""
    tomograms = {
        "rlnTomoName": ["TS_01"],
        "rlnTomoTiltSeriesPixelSize": [pixel_size],
        "rlnTomoTomogramBinning": [float(binning)],
        **{f"rlnTomoSize{axis}": [n] for axis, n in zip("ZYX", size, strict=True)},
    }
    starfile.write({"global": pd.DataFrame(tomograms)}, folder / "tomograms.star")
    return size, binning, pixel_size


def test_sizes_that_binning_rounds_are_relions(tmp_path):
    size, binning, pixel_size = project(tmp_path)
    indices = np.array([[0, 0, 0], [24, 67, 50], [1.5, 2.25, 3.125]])
    frame = {"voxel_size": 10.0, "shape": (25, 68, 50), "tomogram": "rec_TS_01.mrc"}
    (path,) = write_picks(tmp_path / "p.star", Picks.from_indices(indices, "a", **frame))
    table = starfile.read(path)
    assert table["rlnTomoName"].unique().tolist() == ["TS_01"]
    assert table["rlnTomoSizeY"].unique().tolist() == [271]
    placed = as_relion_places_them(table, size, binning, pixel_size)
    np.testing.assert_allclose(placed, indices, atol=1e-5)
    volume = Volume(np.zeros((25, 68, 50), "f4"), 10.0, name="TS_01")
    found = read_picks(path, volume)
    np.testing.assert_allclose(found.indices, indices, atol=1e-5)
    # Elsewhere, without the list of tomograms, the picks still know.
    (tmp_path / "elsewhere").mkdir()
    (path,) = write_picks(tmp_path / "elsewhere" / "p.star", found)
    placed = as_relion_places_them(starfile.read(path), size, binning, pixel_size)
    np.testing.assert_allclose(placed, indices, atol=1e-5)


def test_particles_alone_get_their_frame_from_the_list_beside_them(tmp_path):
    project(tmp_path)
    frame = {"voxel_size": 10.0, "shape": (25, 68, 50), "tomogram": "TS_01"}
    (path,) = write_picks(tmp_path / "p.star", Picks.from_indices([[1, 2, 3]], "a", **frame))
    table = starfile.read(path)[["rlnTomoName", *CENTRED]]
    starfile.write({"particles": table}, path, overwrite=True)
    found = read_picks(path)
    np.testing.assert_allclose(found.indices, [[1, 2, 3]], atol=1e-5)
    assert found.shape == (25, 68, 50)
    (tmp_path / "tomograms.star").unlink()
    with pytest.raises(FormatError, match="centre of a tomogram whose size is unknown"):
        read_picks(path)


@pytest.mark.parametrize(
    ("particles", "tomograms", "optimisation_set"),
    [
        ("run_data.star", "Tomograms/tomograms.star", "run_optimisation_set.star"),
        ("run_it025_data.star", "Tomograms/tomograms.star", "run_it025_optimisation_set.star"),
        ("ribosomes.star", "ribosomes_tomograms.star", "ribosomes_optimisation_set.star"),
        ("ribosomes.star", "ribosomes_tomograms.star", ""),
    ],
)
def test_sets_bear_the_name_of_their_particles(tmp_path, particles, tomograms, optimisation_set):
    project(tmp_path)
    frame = {"voxel_size": 10.0, "shape": (25, 68, 50), "tomogram": "TS_01"}
    (path,) = write_picks(tmp_path / particles, Picks.from_indices([[1, 2, 3]], "a", **frame))
    table = starfile.read(path)[["rlnTomoName", *CENTRED]]
    starfile.write({"particles": table}, path, overwrite=True)
    (tmp_path / tomograms).parent.mkdir(exist_ok=True)
    (tmp_path / "tomograms.star").rename(tmp_path / tomograms)
    if optimisation_set:
        (tmp_path / optimisation_set).write_text(
            f"data_\n\n_rlnTomoParticlesFile {particles}\n_rlnTomoTomogramsFile {tomograms}\n"
        )
        # Another set in the folder is of other particles.
        (tmp_path / "optimisation_set.star").write_text("data_\n\n_rlnTomoTomogramsFile gone\n")
    np.testing.assert_allclose(read_picks(path).indices, [[1, 2, 3]], atol=1e-5)


def test_the_size_of_another_tomogram_is_passed_over(tmp_path):
    shutil.copytree(PROJECT, tmp_path / "project")
    # The list says 84 × 136 × 44 of TS_01, whose tomogram is of another size.
    volume = Volume(np.zeros((36, 206, 94), "f4"), 10.52, name="TS_01")
    found = read_picks(tmp_path / "project/Picks/job_picks/particles.star", volume)
    table = starfile.read(PICKS / "particles.star")
    own = table[table["rlnTomoName"] == "TS_01"]
    expected = as_relion_places_them(own, (36, 206, 94), 1, 10.52)
    np.testing.assert_allclose(found.indices, expected, atol=1e-6)


def test_a_set_without_its_particles(tmp_path):
    shutil.copy(PICKS / "optimisation_set.star", tmp_path / "optimisation_set.star")
    with pytest.raises(FormatError, match=r"names particles in Picks/job_picks/particles\.star"):
        read_picks(tmp_path / "optimisation_set.star")
    (tmp_path / "tomograms.star").write_text("garbage")
    shutil.copy(PICKS / "particles.star", tmp_path / "particles.star")
    with pytest.raises(FormatError, match=r"tomograms\.star.*STAR"):
        read_picks(tmp_path / "particles.star", Volume(np.zeros((2, 2, 2)), 1.0, name="TS_01"))


def test_scaled_relion4_positions_are_of_the_tilt_series(tmp_path):
    project(tmp_path)
    one = Picks.from_indices([[1, 2, 3]], "a", voxel_size=10.0, tomogram="TS_01")
    (path,) = write_picks(tmp_path / "p.star", one, "relion4")
    table = starfile.read(path)
    columns = ["rlnCoordinateZ", "rlnCoordinateY", "rlnCoordinateX"]
    np.testing.assert_allclose(table[columns], [[4, 8, 12]])
    found = read_picks(path, Volume(np.zeros((25, 68, 50), "f4"), 10.0, name="TS_01"))
    np.testing.assert_allclose(found.indices, [[1, 2, 3]], atol=1e-6)


def test_real_refined_particles_are_where_relion_has_them():
    path = PROJECT.parent / "relion5_refine3d.star"
    table = starfile.read(path)["particles"]
    shape, pixel_size, binning = (150, 500, 450), 3.105, 4
    for name, own in table.groupby("rlnTomoName"):
        volume = Volume(np.zeros(shape, "f4"), pixel_size * binning, name=f"rec_{name}")
        found = read_picks(path, volume)
        shifts = own[[f"rlnOrigin{axis}Angst" for axis in "ZYX"]].to_numpy()
        size = np.array(shape) * binning
        placed = as_relion_places_them(own, size, binning, pixel_size)
        np.testing.assert_allclose(found.indices, placed - shifts / volume.voxel_size, atol=1e-6)
        np.testing.assert_allclose(
            found.angles, own[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]]
        )
