import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
from ase.build import bulk
from elf_models import model as tiny_elf_model
from typer.testing import CliRunner

import napari_vox3d as vox
from napari_vox3d import Picks, Run, Volume, Vox3dError
from napari_vox3d.cli import app
from napari_vox3d.provenance import as_text, split_text

RUN = Run(
    "pick_particles",
    "tomo.mrc",
    {"threshold": {"a b": 0.25}, "region": [[0, 8], [0, 9], [2, 10]]},
    model="m",
    sha256="0" * 64,
    voxel_size=(7.84, 7.84, 7.84),
)


def run_script(script):
    exec(compile(script, "script.py", "exec"), {"__name__": "__main__"})


def run_command(command):
    program, *words = shlex.split(command)
    assert program == "vox3d"
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output + str(result.exception)


def assert_same_picks(path, expected):
    found = vox.read_picks(path)
    assert len(found) == len(expected) > 0
    # Another process may add in another order.
    np.testing.assert_allclose(found.positions, expected.positions, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert found.labels.tolist() == expected.labels.tolist()


@pytest.fixture
def tomogram(tmp_path, monkeypatch):
    """A small tomogram in the working folder, without its voxel size."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(24, 36, 40)).astype(np.float32)
    z, y, x = np.indices(values.shape)
    for centre in ((8, 10, 12), (12, 24, 28)):
        inside = sum((i - c) ** 2 for i, c in zip((z, y, x), centre, strict=True)) < 25
        values[inside] -= 3
    with mrcfile.new("tomo 1.mrc") as file:
        file.set_data(values)
    with pytest.warns(UserWarning, match="voxel size"):
        return vox.read_volume("tomo 1.mrc")


@pytest.fixture
def settings():
    names = [kind.name for kind in vox.load_model(task="picking").card.classes]
    return {
        "threshold": dict.fromkeys(names[:2], 0.02),
        "min_distance": {names[0]: 55.5},
        "classes": names[:2],
        "contrast": "bright",
        "flips": True,
        "voxel_size": 10.5,
        "region": [slice(2, None), slice(None, 33), slice(None)],
        "device": "cpu",
    }


def test_metadata_goes_round():
    assert Run.from_metadata(RUN.as_metadata()) == RUN
    assert Run.from_metadata(json.loads(json.dumps(RUN.as_metadata()))) == RUN
    assert Run.from_metadata({}) is None
    assert Run.from_metadata({"run": "something else"}) is None
    assert Run.from_metadata({"run": {"function": "f"}}) is None


def test_what_a_later_version_adds_is_passed_over():
    stored = {"run": {**RUN.as_metadata()["run"], "mood": "good"}}
    assert Run.from_metadata(stored) == RUN


def test_text_goes_round_in_a_longer_comment():
    text = as_text(RUN.as_metadata(), most=1000)
    assert text.isascii()
    assert "\n" not in text
    rest, found = split_text(f"before {text}  after")
    assert rest == "before after"
    assert Run.from_metadata(found) == RUN


@pytest.mark.parametrize("text", ["plain", "napari-vox3d run {cut", "napari-vox3d run [1]"])
def test_other_comments_tell_of_no_run(text):
    assert split_text(text) == (text, {})


def test_a_run_is_never_cut():
    assert as_text(RUN.as_metadata(), most=100) == ""
    assert as_text({}, most=100) == ""


def test_relion_sees_no_table_in_a_comment():
    text = as_text(replace(RUN, source="/data_1/loop_/x.mrc").as_metadata(), most=1000)
    assert "data_" not in text
    assert "loop_" not in text
    assert Run.from_metadata(split_text(text)[1]).source == "/data_1/loop_/x.mrc"


def test_picks_say_how_to_get_them_again(tomogram, settings):
    picks = vox.pick_particles(tomogram, **settings)
    run = Run.from_metadata(picks.metadata)
    card = vox.load_model(task="picking").card
    assert (run.function, run.source) == ("pick_particles", "tomo 1.mrc")
    assert (run.model, run.sha256, run.version) == (card.name, card.sha256, vox.__version__)
    assert run.voxel_size == (10.5,) * 3
    expected = {**settings, "region": [[2, 24], [0, 33], [0, 40]]}
    assert run.arguments == expected
    vox.write_picks("expected.csv", picks)
    run_script(run.as_script(save_as="script.csv"))
    run_command(run.as_command(save_as="command.csv"))
    expected = vox.read_picks("expected.csv")
    assert_same_picks("script.csv", expected)
    assert_same_picks("command.csv", expected)


def test_a_script_runs_in_a_fresh_python(tomogram, settings):
    picks = vox.pick_particles(tomogram, **settings, precision="float32")
    Path("again.py").write_text(Run.from_metadata(picks.metadata).as_script())
    subprocess.run([sys.executable, "again.py"], check=True)
    vox.write_picks("expected.star", picks)
    assert_same_picks("tomo 1.star", vox.read_picks("expected.star"))


def test_defaults_are_not_named(tmp_path):
    values = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    maps = vox.score_particles(Volume(values, 10.0, name="made up"))
    run = Run.from_metadata(maps[0].metadata)
    assert run.arguments == {}
    assert run.source == "made up"
    assert run.missing == ["made up"]
    assert Run.from_metadata(vox.find_particles(maps).metadata).arguments == {}
    with pytest.raises(Vox3dError, match="no command for score_particles"):
        run.as_command()


def test_score_maps_come_again(tomogram):
    maps = vox.score_particles(tomogram, voxel_size=10, region=[(0, 16), (0, 16), (0, 16)])
    run_script(Run.from_metadata(maps[0].metadata).as_script(save_as="again"))
    for score in maps:
        again = vox.read_volume(f"again_{score.name}.mrc")
        np.testing.assert_array_equal(again.values, score.values)
        assert {**again.metadata["run"], "when": ""} == {**score.metadata["run"], "when": ""}


def test_another_volume_of_a_file(tomogram):
    with mrcfile.new("stack.mrc") as file:
        file.set_data(np.stack([np.zeros(tomogram.shape, np.float32), tomogram.values]))
        file.voxel_size = 10
    second = vox.read_volumes("stack.mrc")[1]
    picks = vox.pick_particles(second, threshold=0.02)
    run = Run.from_metadata(picks.metadata)
    assert run.arguments == {"member": 1, "threshold": 0.02}
    vox.write_picks("expected.csv", picks)
    run_script(run.as_script(save_as="script.csv"))
    run_command(run.as_command(save_as="command.csv"))
    assert_same_picks("script.csv", vox.read_picks("expected.csv"))
    assert_same_picks("command.csv", vox.read_picks("expected.csv"))
    assert CliRunner().invoke(app, ["pick", "stack.mrc", "--member", "2"]).exit_code == 2


@pytest.mark.parametrize("region", ["0:4", "0:4,x:2,:", "1,2,3", "0:1:2,:,:"])
def test_a_region_that_is_none_is_refused(tomogram, region):
    result = CliRunner().invoke(app, ["pick", "tomo 1.mrc", "--region", region])
    assert result.exit_code == 2
    assert "START:STOP" in result.output


@pytest.mark.parametrize("options", [{"spacing": 0.4}, {"shape": (6, 7, 8)}, {}])
def test_elfs_come_again(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    bulk("NaCl", "rocksalt", 5.64).write("POSCAR", format="vasp")
    elf = vox.predict_elf("POSCAR", "promolecule", **options)
    run = Run.from_metadata(elf.metadata)
    assert (run.function, run.source, run.model) == ("predict_elf", "POSCAR", "promolecule")
    assert run.missing == []
    vox.write_volume("expected.ELFCAR", elf)
    run_script(run.as_script(save_as="script.ELFCAR"))
    run_command(run.as_command())
    expected = vox.read_volume("expected.ELFCAR")
    for path in ("script.ELFCAR", "POSCAR.ELFCAR"):
        again = vox.read_volume(path)
        np.testing.assert_array_equal(again.values, expected.values)
        assert again.metadata["run"]["arguments"] == run.arguments


def test_an_elf_and_its_uncertainty_come_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bulk("Si").write("POSCAR", format="vasp")
    tiny_elf_model(head=True).save(tmp_path / "model")
    made = vox.predict_elf("POSCAR", "model", spacing=0.4, uncertainty=True)
    for volume in made:
        run = Run.from_metadata(volume.metadata)
        assert run.arguments == {"spacing": 0.4, "uncertainty": True}
    run_script(run.as_script(save_as="script.ELFCAR"))
    run_command(run.as_command())
    for stem in ("script", "POSCAR"):
        for name, volume in zip((stem, f"{stem}.uncertainty"), made, strict=True):
            again = vox.read_volume(f"{name}.ELFCAR")
            np.testing.assert_allclose(again.values, volume.values, atol=1e-5)
            assert again.quantity == volume.quantity


def test_a_bare_crystal_of_a_density_file_keeps_its_grid():
    crystal = bulk("Si")
    crystal.info["source"] = "CHGCAR"
    run = Run.from_metadata(vox.predict_elf(crystal, "promolecule").metadata)
    assert run.arguments == {"spacing": 0.2}


@pytest.fixture
def elf():
    values = np.random.default_rng(1).random((4, 5, 6))
    crystal = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    fields = {"quantity": "elf", "atoms": crystal, "metadata": RUN.as_metadata()}
    return Volume.on_lattice(values, crystal.cell.array, **fields)


@pytest.mark.parametrize("name", ["ELFCAR", "ELFCAR.gz", "elf.cube", "elf.xsf", "elf.mrc"])
def test_files_of_volumes_tell_of_their_run(tmp_path, elf, name):
    path = tmp_path / name
    vox.write_volume(path, elf)
    again = vox.read_volume(path)
    assert Run.from_metadata(again.metadata) == RUN
    assert again.quantity == ("density" if name == "elf.mrc" else "elf")
    vox.write_volume(tmp_path / f"second_{name}", again)
    once_more = vox.read_volume(tmp_path / f"second_{name}")
    assert Run.from_metadata(once_more.metadata) == RUN
    result = CliRunner().invoke(app, ["info", str(path)])
    assert "pick_particles" in result.output
    assert "tomo.mrc" in result.output


def test_other_programs_read_volumes_with_a_run(tmp_path, elf):
    from ase.io import read
    from ase.io.xsf import read_xsf
    from pymatgen.io.vasp.outputs import Elfcar

    for name in ("ELFCAR", "elf.cube", "elf.xsf", "elf.mrc"):
        vox.write_volume(tmp_path / name, elf)
    found = Elfcar.from_file(tmp_path / "ELFCAR")
    np.testing.assert_allclose(found.data["total"].T, elf.values, atol=1e-5)
    assert found.structure.reduced_formula == "NaCl"
    cube = read(tmp_path / "elf.cube", format="cube", read_data=True, full_output=True)
    np.testing.assert_allclose(cube["datas"][0].T, elf.values, rtol=1e-6)
    atoms = read(tmp_path / "elf.xsf", format="xsf")
    assert atoms.get_chemical_formula() == elf.atoms.get_chemical_formula()
    with (tmp_path / "elf.xsf").open() as file:
        xsf, *_ = read_xsf(file, read_data=True)
    np.testing.assert_allclose(xsf[:-1, :-1, :-1].T, elf.values, rtol=1e-9)
    assert mrcfile.validate(tmp_path / "elf.mrc")


@pytest.fixture
def picks():
    fields = {"tomogram": "TS_data_1", "shape": (20, 30, 40), "voxel_size": 10.0}
    return Picks(np.eye(3) * 50, "ribosome", metadata=RUN.as_metadata(), **fields)


@pytest.mark.parametrize("name", ["a.star", "a.cbox", "a.json"])
def test_files_of_picks_tell_of_their_run(tmp_path, picks, name):
    vox.write_picks(tmp_path / name, picks)
    tomogram = Volume(np.zeros(picks.shape, np.float32), 10.0, name="TS_data_1")
    again = vox.read_picks(tmp_path / name, tomogram)
    assert Run.from_metadata(again.metadata) == RUN


def test_each_tomogram_of_a_star_file_has_its_run(tmp_path, picks):
    other = replace(RUN, source="other.mrc")
    second = replace(picks, tomogram="TS_2", metadata=other.as_metadata())
    third = replace(picks, tomogram="TS_3", metadata={})
    vox.write_pick_collection(tmp_path / "all.star", [picks, second, third])
    runs = [Run.from_metadata(p.metadata) for p in vox.read_pick_collection(tmp_path / "all.star")]
    assert runs == [RUN, other, None]


def test_other_programs_read_picks_with_a_run(tmp_path, picks):
    for name in ("a.star", "a.cbox", "a.csv"):
        vox.write_picks(tmp_path / name, picks)
    assert len(starfile.read(tmp_path / "a.star")) == 3
    assert len(starfile.read(tmp_path / "a.cbox")["cryolo"]) == 3
    assert len(pd.read_csv(tmp_path / "a.csv")) == 3


def test_copick_reads_picks_with_a_run(tmp_path, picks):
    models = pytest.importorskip("copick.models")
    vox.write_picks(tmp_path / "a.json", picks)
    content = json.loads((tmp_path / "a.json").read_text())
    assert len(models.CopickPicksFile(**content).points) == 3


def test_info_shows_the_run(tmp_path, picks):
    vox.write_picks(tmp_path / "a.star", replace(
        picks, metadata=replace(RUN, edited=True).as_metadata()))  # fmt: skip
    result = CliRunner().invoke(app, ["info", str(tmp_path / "a.star")])
    for said in ("pick_particles", "tomo.mrc", "0" * 20, "edited by hand", "a b"):
        assert said in result.output


def test_what_is_no_file_is_to_be_filled_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there.mrc").touch()
    run = Run("train_picker", "", {"examples": [["layer 1", ["there.mrc"]], ["gone/x.mrc", []]]})
    assert run.missing == ["layer 1", "gone/x.mrc"]
    script = run.as_script()
    assert "# Put a path here: 'layer 1' is not a file." in script
    assert "read_examples(['PATH/TO/layer 1'], ['there.mrc'])" in script
    assert "read_examples(['gone/x.mrc'], [])" in script


def test_an_edited_result_says_so():
    assert "edited by hand" in replace(RUN, edited=True).as_script()
    assert "edited" not in RUN.as_script()


def test_a_function_without_a_script_is_refused():
    with pytest.raises(Vox3dError, match="no script for evaluate_picks"):
        Run("evaluate_picks", "x").as_script()


def test_the_command_cannot_take_several_pick_files_of_several_tomograms():
    run = Run("train_picker", "", {"examples": [["a", ["1", "2"]], ["b", ["3"]]]})
    with pytest.raises(Vox3dError, match="copy the script"):
        run.as_command()


@pytest.fixture
def own_models(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)


def test_a_picker_is_trained_again(own_models, tomogram):
    positions = np.array([[8, 10, 12], [12, 24, 28]]) * 10.0
    picks = Picks(positions, ["ribosome", "other"], shape=tomogram.shape, voxel_size=10.0)
    vox.write_picks("a.csv", picks)
    arguments = {
        "examples": [["tomo 1.mrc", ["a.csv"]]],
        "classes": {"ribosome": 50.0},
        "network": "unet",
        "voxel_size": 10.0,
        "steps": 1,
        "device": "cpu",
    }
    run_script(Run("train_picker", "", {**arguments, "name": "by-script"}).as_script())
    run_command(Run("train_picker", "", {**arguments, "name": "by-command"}).as_command())
    by_script, by_command = (vox.load_model(f"by-{way}").card for way in ("script", "command"))
    assert by_script.sha256 == by_command.sha256
    assert [kind.name for kind in by_script.classes] == ["ribosome"]
    assert by_script.classes == by_command.classes
    folder = Run("train_picker", "", arguments).as_command(save_as="folder")
    assert "-o folder" in folder


def test_an_elf_model_is_trained_again(own_models, tmp_path):
    crystal = bulk("NaCl", "rocksalt", 5.64)
    vox.write_volume("a.ELFCAR", vox.predict_elf(crystal, "promolecule", spacing=0.5))
    arguments = {"elfs": ["a.ELFCAR"], "network": "flat-resnet", "steps": 1, "device": "cpu"}
    run_script(Run("train_elf", "", {**arguments, "name": "by-script"}).as_script())
    run_command(Run("train_elf", "", arguments).as_command(save_as="by-command"))
    assert vox.load_model("by-script").card.sha256 == vox.load_model("by-command").card.sha256


def test_batches_come_again(tomogram):
    arguments = {"tomograms": ["tomo 1.mrc"], "folder": "out", "threshold": 0.02,
                 "voxel_size": 10.0, "format": "csv"}  # fmt: skip
    run = Run("pick_files", "", arguments, model=vox.load_model(task="picking").card.name)
    run_script(run.as_script(save_as="by script"))
    run_command(run.as_command())
    assert_same_picks("out/tomo 1.csv", vox.read_picks("by script/tomo 1.csv"))


def test_batches_of_elfs_come_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bulk("Si").write("POSCAR", format="vasp")
    run = Run("predict_elf_files", "", {"sources": ["POSCAR"], "folder": "out", "spacing": 0.5,
              "overwrite": True}, model="promolecule")  # fmt: skip
    run_script(run.as_script(save_as="by script"))
    run_command(run.as_command())
    by_script, by_command = (
        vox.read_volume(f"{folder}/POSCAR.ELFCAR") for folder in ("by script", "out")
    )
    np.testing.assert_array_equal(by_script.values, by_command.values)
