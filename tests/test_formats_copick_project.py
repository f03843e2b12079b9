import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

import napari_vox3d as vox
from napari_vox3d import (
    Picks,
    Volume,
    read_pick_collection,
    read_picks,
    read_volume,
    write_pick_collection,
    write_picks,
)
from napari_vox3d.cli import app
from napari_vox3d.errors import FormatError
from napari_vox3d.formats import kind_of
from napari_vox3d.formats.copick_project import tomograms_of

copick = pytest.importorskip("copick")
INDICES = np.array([[1, 2, 3], [43.25, 135, 83], [7, 60, 10]])


def picks(labels=("apo-ferritin", "ribosome", "ribosome"), **fields):
    frame = {"voxel_size": 10.0, "shape": (44, 136, 84), "tomogram": "TS-01"}
    return Picks.from_indices(INDICES, labels, **(frame | fields))


def ome_zarr(folder, values, voxel_size):
    """An image as copick writes it: OME-NGFF 0.4 in zarr 2."""
    (folder / "0").mkdir(parents=True)
    array = {
        "zarr_format": 2, "shape": values.shape, "chunks": values.shape, "dtype": "<f4",
        "compressor": None, "fill_value": 0, "order": "C", "filters": None,
        "dimension_separator": "/",
    }  # fmt: skip
    (folder / "0" / ".zarray").write_text(json.dumps(array))
    (folder / "0" / "0" / "0").mkdir(parents=True)
    (folder / "0" / "0" / "0" / "0").write_bytes(values.astype("<f4").tobytes())
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    axes = [{"name": a, "type": "space", "unit": "angstrom"} for a in "zyx"]
    scale = [{"type": "scale", "scale": [voxel_size] * 3}]
    image = {"version": "0.4", "axes": axes,
             "datasets": [{"path": "0", "coordinateTransformations": scale}]}  # fmt: skip
    (folder / ".zattrs").write_text(json.dumps({"multiscales": [image]}))


@pytest.fixture
def project(tmp_path):
    """Two runs with tomograms; apo-ferritin by alice and by a tool."""
    objects = [
        copick.models.PickableObject(
            name="apo-ferritin", is_particle=True, label=1, color=(255, 0, 16, 255), radius=60
        ),
        copick.models.PickableObject(name="ribosome", is_particle=True, label=2, radius=150),
        copick.models.PickableObject(name="membrane", is_particle=False, label=3),
    ]
    path = tmp_path / "czii.json"
    root = copick.ops.open.new_config(
        str(path), str(tmp_path / "overlay"), "czii", pickable_objects=objects
    )
    for name in ("TS-01", "TS-02"):
        run = root.new_run(name)
        for user, session, x in (("alice", "7", 100.0), ("pytom", "0", 200.0)):
            made = run.new_picks("apo-ferritin", session_id=session, user_id=user)
            made.from_numpy(np.array([[x, 20.0, 30.0]]), scores=np.array([0.25]))
    folder = tmp_path / "overlay" / "ExperimentRuns" / "TS-01"
    values = np.arange(44 * 136 * 84, dtype="f4").reshape(44, 136, 84)
    ome_zarr(folder / "VoxelSpacing10.000" / "wbp.zarr", values, 10.0)
    return path


def test_a_run_is_read_with_the_radii_of_its_objects(project):
    with pytest.warns(UserWarning, match="apo-ferritin by alice/7, pytom/0, and all were read"):
        found = read_picks(f"{project}::TS-01")
    np.testing.assert_array_equal(found.positions, [[30, 20, 100], [30, 20, 200]])
    np.testing.assert_array_equal(found.radii, [60, 60])
    np.testing.assert_array_equal(found.scores, [0.25, 0.25])
    assert found.tomogram == "TS-01"
    assert found.metadata["colours"] == {"apo-ferritin": "#ff0010"}
    assert kind_of(project) == "picks"


def test_picks_are_chosen_by_copicks_own_names(project):
    found = read_picks(f"{project}::TS-01::apo-ferritin:pytom/0")
    np.testing.assert_array_equal(found.positions, [[30, 20, 200]])
    found = read_picks(f"{project}::TS-02::*:alice/*")
    np.testing.assert_array_equal(found.positions, [[30, 20, 100]])
    with pytest.raises(FormatError, match="has no picks ribosome of TS-01"):
        read_picks(f"{project}::TS-01::ribosome")
    with pytest.raises(FormatError, match=r"2 runs \(TS-01, TS-02\), none of them 'TS-03'"):
        read_picks(f"{project}::TS-03")
    with pytest.raises(FormatError, match=r"2 runs.*Name one of them: czii\.json::TS-01"):
        read_picks(project)


@pytest.mark.filterwarnings("ignore:.*all were read")
def test_the_open_tomogram_names_the_run(project):
    volume = Volume(np.zeros((44, 136, 84), "f4"), 10.0, name="TS-02")
    found = read_picks(project, volume)
    np.testing.assert_array_equal(found.indices, [[3, 2, 10], [3, 2, 20]])
    assert found.shape == volume.shape
    assert [one.tomogram for one in read_pick_collection(project)] == ["TS-01", "TS-02"]


def test_tomograms_are_read_from_the_project(project):
    pytest.importorskip("zarr")
    assert tomograms_of(project) == [f"{project}::TS-01::wbp@10"]
    assert tomograms_of(project, "*::wbp@10") == [f"{project}::TS-01::wbp@10"]
    with pytest.raises(FormatError, match="has no tomogram wbp@20"):
        tomograms_of(project, "*::wbp@20")
    for part in ("TS-01", "TS-01::wbp@10"):
        volume = read_volume(f"{project}::{part}")
        assert volume.name == "TS-01"
        assert volume.shape == (44, 136, 84)
        np.testing.assert_allclose(volume.voxel_size, 10)
        assert np.asarray(volume.values[1, 0, 3]) == 136 * 84 + 3
    assert kind_of(f"{project}::TS-01::wbp@10") == "volume"
    with pytest.raises(FormatError, match="has no tomogram of TS-02"):
        read_volume(f"{project}::TS-02")
    with pytest.raises(
        FormatError, match=r"no tomogram ctf@10 of TS-01.*czii\.json::TS-01::wbp@10"
    ):
        read_volume(f"{project}::TS-01::ctf@10")


def test_copick_reads_what_is_written(project):
    angles = [[10, 20, 30], [200, 170, -40], [0, 0, 0]]
    write_picks(project, picks(angles=angles, scores=[0.5, np.nan, 1]))
    run = copick.from_file(str(project)).get_run("TS-01")
    (apo,) = run.get_picks("apo-ferritin", user_id="vox3d")
    np.testing.assert_allclose(apo.full_positions(), [[30, 20, 10]])
    (ribosomes,) = run.get_picks("ribosome")
    np.testing.assert_allclose(ribosomes.full_positions(), INDICES[1:, ::-1] * 10)
    assert [point.score for point in ribosomes.points] == [None, 1]
    assert ribosomes.meta.voxel_spacing == 10
    expected = Rotation.from_euler("ZYZ", angles[1], degrees=True).inv().as_matrix()
    np.testing.assert_allclose(ribosomes.numpy()[1][0, :3, :3], expected, atol=1e-9)
    assert len(run.get_picks("apo-ferritin")) == 3  # those of alice and pytom are left alone
    again = read_picks(f"{project}::TS-01::*:vox3d")
    np.testing.assert_allclose(again.indices, INDICES)
    np.testing.assert_array_equal(again.radii, [60, 150, 150])
    # Once more takes their place.
    write_picks(project, picks().select([0]))
    assert len(read_picks(f"{project}::TS-01::apo-ferritin:vox3d")) == 1


def test_new_objects_are_added_with_a_word(project):
    virus = replace(picks(radii=[70, 80, 90]), labels=np.array("virus like_particle"))
    with pytest.warns(UserWarning, match="got new objects: virus-like-particle"):
        write_picks(project, virus)
    known = copick.from_file(str(project)).get_object("virus-like-particle")
    assert known.radius == 80
    assert json.loads(project.read_text())["pickable_objects"][1]["name"] == "ribosome"


def test_a_run_that_is_not_there_is_not_made_up(project):
    with pytest.raises(FormatError, match=r"2 runs.*none of them 'TS-09'"):
        write_picks(project, replace(picks(), tomogram="TS-09"))


def test_a_project_begins_with_its_picks(tmp_path):
    second = replace(picks(), tomogram="rec_TS_02.mrc")
    written = write_pick_collection(tmp_path / "config.json", [picks(), second])
    assert written == [tmp_path / "config.json"]
    root = copick.from_file(str(written[0]))
    assert {run.name for run in root.runs} == {"TS-01", "TS_02"}
    for one in read_pick_collection(written[0]):
        np.testing.assert_allclose(one.indices, INDICES)
    volume = Volume(np.zeros((44, 136, 84), "f4"), 10.0, name="TS_02")
    np.testing.assert_allclose(read_picks(written[0], volume).indices, INDICES)


def test_several_tomograms_of_a_run_are_a_choice(project):
    folder = project.parent / "overlay" / "ExperimentRuns" / "TS-01" / "VoxelSpacing20.000"
    ome_zarr(folder / "denoised.zarr", np.zeros((2, 3, 4), "f4"), 20.0)
    for path in (read_volume, tomograms_of):
        with pytest.raises(FormatError, match=r"several|2 tomograms.*wbp@10, .*denoised@20"):
            path(f"{project}::TS-01" if path is read_volume else project)
    assert read_volume(f"{project}::TS-01::denoised@20").shape == (2, 3, 4)
    assert tomograms_of(project, "*::denoised@20") == [f"{project}::TS-01::denoised@20"]


@pytest.mark.parametrize("name", ["config.json", "czii.json"])
def test_a_batch_of_a_project_goes_into_the_project(project, monkeypatch, name):
    pytest.importorskip("zarr")
    folder = project.parent / "overlay" / "ExperimentRuns" / "TS-02" / "VoxelSpacing10.000"
    ome_zarr(folder / "wbp.zarr", np.zeros((44, 136, 84), "f4"), 10.0)
    project = project.rename(project.with_name(name))

    def pick(volume, *_args, **_options):
        return picks(labels=["new", "ribosome", "ribosome"], tomogram=volume.name)

    monkeypatch.setitem(vars(vox), "pick_particles", pick)
    words = ["pick", str(project), "--one-file", "-o", str(project)]
    for state in ("done", "skipped"):  # also where the project got new objects meanwhile
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        assert state in result.stdout
    folder = project.with_name(f"{project.stem}_picks")
    assert sorted(path.name for path in folder.iterdir()) == ["TS-01.star", "TS-02.star"]
    for run in copick.from_file(str(project)).runs:
        (made,) = run.get_picks("new", user_id="vox3d")
        np.testing.assert_allclose(made.full_positions(), [[30, 20, 10]], atol=1e-3)
        assert run.get_picks("apo-ferritin", user_id="alice")


def test_damaged_projects_and_missing_libraries(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text('{"pickable_objects": 3}')
    with pytest.raises(FormatError, match="is a project that copick cannot use") as caught:
        read_picks(path)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "copick", None)
    with pytest.raises(
        FormatError, match=r"not installed\. Install it: pip install 'napari-vox3d\["
    ):
        read_picks(path)


def test_shifts_of_refinement_count_in_single_files_too(tmp_path):
    pose = np.eye(4)
    pose[:3, 3] = [1, 2, 3]
    point = {"location": {"x": 10, "y": 20, "z": 30}, "transformation_": pose.tolist()}
    content = {"pickable_object_name": "a", "user_id": "u", "session_id": "1", "points": [point]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    np.testing.assert_array_equal(read_picks(path).positions, [[33, 22, 11]])


def test_looking_at_a_json_does_not_import_copick(project):
    code = (
        "import sys; from napari_vox3d.formats import kind_of;"
        f"assert kind_of({str(project)!r}) == 'picks'; assert 'copick' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
