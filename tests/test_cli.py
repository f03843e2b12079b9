import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import napari_vox3d as vox
from napari_vox3d import cli_training
from napari_vox3d.cli import app
from napari_vox3d.formats import read_atoms
from napari_vox3d.models import Model, ModelCard

SILICON = """Si2
 1.0
 0.000 2.715 2.715
 2.715 0.000 2.715
 2.715 2.715 0.000
 Si
 2
Direct
 0.00 0.00 0.00
 0.25 0.25 0.25
"""


@pytest.fixture
def run():
    def invoke(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    return invoke


@pytest.fixture
def poscar(tmp_path):
    path = tmp_path / "POSCAR"
    path.write_text(SILICON)
    return path


@pytest.fixture
def tomogram(tmp_path):
    path = tmp_path / "tomo.mrc"
    values = np.random.default_rng(0).normal(size=(40, 48, 56)).astype(np.float32)
    vox.write_volume(path, vox.Volume(values, 10.0))
    return path


def test_info_of_every_kind_of_file(run, poscar, tomogram, tmp_path):
    vox.write_volume(tmp_path / "CHGCAR", vox.superpose_atoms(poscar, spacing=0.4))
    picks = vox.Picks([[10, 20, 30]], "ribosome", 0.5, voxel_size=10, shape=(40, 48, 56))
    vox.write_picks(tmp_path / "picks.csv", picks)
    result = run("info", poscar, tomogram, tmp_path / "CHGCAR", tmp_path / "picks.csv")
    assert result.exit_code == 0, result.output
    for words in ("Si2", "40×48×56", "10, 10, 10 Å", "8.0000", "ribosome"):
        assert words in result.output


def test_bad_file_is_one_line_the_others_go_on_and_the_status_is_2(run, tomogram, tmp_path):
    bad = tmp_path / "bad.mrc"
    bad.write_bytes(b"not a map")
    result = run("info", bad, tomogram)
    assert result.exit_code == 2
    assert "bad.mrc" in result.stderr
    assert "Traceback" not in result.output + result.stderr
    assert "40×48×56" in result.stdout


def test_elf_writes_an_elfcar_on_the_structure(run, poscar, tmp_path):
    target = tmp_path / "ELFCAR"
    result = run("elf", poscar, "-o", target, "--spacing", "0.4", "--model", "promolecule")
    assert result.exit_code == 0, result.output + result.stderr
    elf = vox.read_volume(target)
    assert elf.quantity == "elf"
    assert 0 <= elf.values.min() < elf.values.max() <= 1
    np.testing.assert_allclose(elf.lattice, read_atoms(poscar).cell.array, atol=1e-5)


def test_sad_of_several_structures_goes_to_a_folder(run, poscar, tmp_path):
    other = tmp_path / "POSCAR.second"
    other.write_text(SILICON)
    folder = tmp_path / "out"
    result = run("sad", poscar, other, "-o", folder, "--spacing", "0.4")
    assert result.exit_code == 0, result.output + result.stderr
    assert len(list(folder.iterdir())) == 2
    for path in folder.iterdir():
        density = vox.read_volume(path)
        assert density.values.mean() * density.volume == pytest.approx(8, abs=1e-4)


def test_several_inputs_do_not_overwrite_one_file(run, poscar, tmp_path):
    target = tmp_path / "ELFCAR"
    target.write_text("precious")
    result = run("sad", poscar, poscar, "-o", target)
    assert result.exit_code == 2
    assert target.read_text() == "precious"


@pytest.mark.parametrize("suffix", [".star", ".json", ".csv", ".coords", ".mod"])
def test_pick_writes_each_format(run, tomogram, tmp_path, suffix):
    target = tmp_path / f"picks{suffix}"
    result = run("pick", tomogram, "-o", target, "--threshold", "0.0")
    assert result.exit_code == 0, result.output + result.stderr
    assert target.exists()


def test_pick_over_mirror_images(run, tomogram, tmp_path):
    scores = {}
    for name, more in (("plain", ()), ("flips", ("--flips",))):
        target = tmp_path / f"{name}.star"
        result = run("pick", tomogram, "-o", target, "--threshold", "0.0", *more)
        assert result.exit_code == 0, result.output + result.stderr
        picks = vox.read_picks(target)
        assert picks.metadata["run"]["arguments"].get("flips", False) is bool(more)
        scores[name] = picks.scores.tolist()
    assert scores["plain"] != scores["flips"]


def test_pick_into_a_folder_names_files_after_format_and_tomogram(run, tomogram, tmp_path):
    folder = tmp_path / "picks"
    result = run("pick", tomogram, "-o", folder, "--format", "csv", "--contrast", "bright")
    assert result.exit_code == 0, result.output + result.stderr
    assert [path.name for path in folder.iterdir()] == ["tomo.csv"]


def test_unknown_format_is_refused_before_anything_runs(run, tomogram, tmp_path):
    result = run("pick", tomogram, "-o", tmp_path / "a.star", "--format", "nonsense")
    assert result.exit_code == 2
    assert "relion4" in result.stderr


def test_formats_say_what_they_hold(run):
    result = run("formats")
    assert result.exit_code == 0
    for name in ("relion5", "imod-points", "*.tbl", "numbers"):
        assert name in result.output


def test_convert_between_pick_formats_keeps_positions(run, tomogram, tmp_path):
    picks = vox.Picks([[105, 203, 307], [11, 22, 33]], "ribosome", [0.5, 0.25], voxel_size=10,
                      shape=(40, 48, 56), tomogram="tomo")  # fmt: skip
    vox.write_picks(tmp_path / "a.csv", picks)
    result = run("convert", tmp_path / "a.csv", tmp_path / "b.star", "--volume", tomogram)
    assert result.exit_code == 0, result.output + result.stderr
    again = vox.read_picks(tmp_path / "b.star", vox.read_volume(tomogram))
    np.testing.assert_allclose(again.positions, picks.positions, atol=1e-2)


def test_convert_and_info_of_several_tomograms(run, tomogram, tmp_path):
    frame = {"voxel_size": 10, "shape": (40, 48, 56)}
    parts = [
        vox.Picks.from_indices([[n, 2, 3]] * n, "1", tomogram=f"TS_0{n}", **frame) for n in (1, 2)
    ]
    vox.write_pick_collection(tmp_path / "all.star", parts)
    result = run("info", tmp_path / "all.star")
    assert "TS_01" in result.output
    assert "TS_02" in result.output
    result = run("convert", tmp_path / "all.star", tmp_path / "all.tbl")
    assert "3 picks of 2 tomograms" in result.output, result.output
    _, second = vox.read_pick_collection(tmp_path / "all.tbl")
    np.testing.assert_allclose(second.indices, [[2, 2, 3]] * 2, atol=1e-4)
    result = run("convert", f"{tmp_path}/all.star::TS_02", tmp_path / "one.csv")
    assert vox.read_picks(tmp_path / "one.csv").tomogram == "TS_02"
    result = run("convert", tmp_path / "all.star", tmp_path / "all.coords")
    assert result.exit_code == 2
    assert "holds picks of one tomogram, and there are 2" in result.stderr.replace("\n", " ")


@pytest.mark.parametrize(("keep", "expected"), [("angstrom", 2), ("voxels", 1)])
def test_convert_says_what_stays_of_picks_from_another_grid(
    run, tomogram, tmp_path, keep, expected
):
    picks = vox.Picks.from_indices([[1, 1, 1]], "1", voxel_size=20.0, shape=(40, 48, 56))
    vox.write_picks(tmp_path / "p.star", picks)
    words = (
        "convert",
        tmp_path / "p.star",
        tmp_path / "p.csv",
        "--volume",
        tomogram,
        "--keep",
        keep,
    )
    with pytest.warns(UserWarning, match="made on 40 × 48 × 56 voxels of 20 Å"):
        assert run(*words).exit_code == 0
    moved = vox.read_picks(tmp_path / "p.csv", vox.read_volume(tomogram))
    np.testing.assert_allclose(moved.indices, [[expected] * 3], atol=1e-4)


def test_convert_keeps_spin_channels_and_augmentation(run, tmp_path):
    source = Path(__file__).parent / "data" / "vasp" / "CHGCAR.dummy_spin"
    result = run("convert", source, tmp_path / "CHGCAR")
    assert result.exit_code == 0, result.output
    before, after = vox.read_volumes(source), vox.read_volumes(tmp_path / "CHGCAR")
    assert [volume.quantity for volume in after] == ["electron density", "spin density"]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(other.values, one.values)
        assert other.metadata["vasp"]["after"] == one.metadata["vasp"]["after"]
    with pytest.warns(UserWarning, match="holds one grid; left out: .* difference"):
        vox.write_volume(tmp_path / "density.cube", before)


def test_convert_volume(run, tomogram, tmp_path):
    result = run("convert", tomogram, tmp_path / "copy.rec")
    assert result.exit_code == 0, result.output + result.stderr
    np.testing.assert_array_equal(
        vox.read_volume(tmp_path / "copy.rec").values, vox.read_volume(tomogram).values
    )


def test_models_are_listed_and_shown(run):
    result = run("models")
    assert result.exit_code == 0
    assert "promolecule" in result.output
    card = json.loads(run("models", "promolecule").output)
    assert card["name"] == "promolecule"


@pytest.mark.parametrize("model", ["no-such-model", "/no/such/folder"])
def test_unknown_model_is_one_line(run, poscar, model):
    result = run("elf", poscar, "--model", model)
    assert result.exit_code == 2
    assert model in result.stderr.replace("\n", "")


def test_unreadable_threshold_says_how(run, tomogram):
    result = run("pick", tomogram, "--threshold", "ribosome:0.5")
    assert result.exit_code == 2
    assert "CLASS=NUMBER" in result.stderr


def test_sample_tomogram_from_shell_to_picks(run, tmp_path):
    sample = files("napari_vox3d.gui") / "sample_data" / "simulated_tomogram.mrc"
    result = run("pick", sample, "-o", tmp_path / "picks.star")
    assert result.exit_code == 0, result.output + result.stderr
    assert len(vox.read_picks(tmp_path / "picks.star", vox.read_volume(str(sample)))) > 5


@pytest.fixture
def own_models(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def picks(tmp_path):
    """Picks of the tomogram: two classes, no radius."""
    path = tmp_path / "picks.csv"
    some = vox.Picks([[100, 200, 300], [50, 60, 70]], ["ribosome", "new"], voxel_size=10,
                     shape=(40, 48, 56), tomogram="tomo")  # fmt: skip
    vox.write_picks(path, some)
    return path


@pytest.fixture
def trained(monkeypatch, own_models):
    """Stands in for both trainings: remembers the arguments, or is interrupted."""
    state = {"interrupted": False, "runs": []}

    def train(examples, *, checkpoint, name, progress, on_step, classes=(), **options):
        state["runs"].append({"examples": examples, "classes": classes, "name": name,
                              "resumed": checkpoint.exists(), **options})  # fmt: skip
        progress(1, 10)
        on_step(1, 0.5)
        checkpoint.write_bytes(b"half")
        if state["interrupted"]:
            raise KeyboardInterrupt
        about = {"input": {"voxel_size": 10.0}, "classes": classes} if classes else {"input": {}}
        return Model(
            ModelCard(name=name, title=name, task="picking" if classes else "elf",
                      training="One step.", licence="BSD-3-Clause", version="1",
                      metrics=[{"data": "Held out", "rows": [{"predictor": name, "all": 0.1234}]}],
                      **about)
        )  # fmt: skip

    monkeypatch.setitem(vars(vox), "train_picker", train)
    monkeypatch.setitem(vars(vox), "train_elf", train)
    monkeypatch.setattr(cli_training, "out", Console(width=120))
    return state


def test_train_makes_a_model_that_is_listed(run, tomogram, picks, trained):
    result = run("train", tomogram, "--picks", picks, "--network", "hrnet", "--size", "large",
                 "--radius", "new=80", "--radius", "ribosome=120", "--minutes", 2,
                 "--labels", "some")  # fmt: skip
    assert result.exit_code == 0, result.output + result.stderr
    (call,) = trained["runs"]
    assert (call["network"], call["size"], call["minutes"]) == ("hrnet", "large", 2)
    assert call["labels"] == "some"
    assert "base" not in call
    assert {kind.name: kind.radius for kind in call["classes"]} == {"new": 80, "ribosome": 120}
    for words in ("ribosome", "0.5", "0.123", "One step.", "vox3d pick --model my-picker"):
        assert words in result.output
    assert "my-picker" in run("models").output


def test_train_starts_from_a_model_that_knows_radii(run, tomogram, picks, trained, tmp_path):
    target = tmp_path / "mine"
    result = run("train", tomogram, "--picks", picks, "--radius", 80, "-o", target)
    assert result.exit_code == 0, result.output + result.stderr
    (call,) = trained["runs"]
    assert (call["base"], call["name"]) == ("default", "mine")
    assert {kind.name: kind.radius for kind in call["classes"]} == {"new": 80, "ribosome": 150}
    assert vox.load_model(target).card.name == "mine"
    assert f"--model {target}" in result.output


def test_an_interrupted_training_goes_on_with_the_same_command(run, tomogram, picks, trained):
    words = ("train", tomogram, "--picks", picks, "--radius", 80)
    trained["interrupted"] = True
    result = run(*words)
    assert result.exit_code == 130
    assert "give the same command to go on" in result.stderr
    assert "Traceback" not in result.stderr
    trained["interrupted"] = False
    result = run(*words)
    assert result.exit_code == 0
    assert "Going on from" in result.stderr
    assert [call["resumed"] for call in trained["runs"]] == [False, True]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "How large is 'new'?"),
        (("--radius", "capsid=80"), "no picks of capsid; the classes are new, ribosome"),
        (("--base", "none-such", "--radius", 80), "none-such"),
        (("--name", "promolecule", "--radius", 80), "'promolecule' already"),
        (("--name", "a/b", "--radius", 80), "cannot be the name"),
        (("--network", "unet", "--base", "default"), "give one of them"),
        (("--network", "none-such"), "choose unet, hrnet"),
        (("--network", "unet", "--size", "huge"), "'small' or 'large', not 'huge'"),
    ],
)
def test_what_cannot_be_trained_is_said_in_a_line(run, tomogram, picks, trained, words, message):
    result = run("train", tomogram, "--picks", picks, *words)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output + result.stderr
    assert trained["runs"] == []


def test_train_elf(run, trained, poscar, tmp_path):
    elf = vox.superpose_atoms(poscar, spacing=0.5)
    elf = vox.Volume(elf.values / elf.values.max(), elf.step, quantity="elf", periodic=True,
                     atoms=elf.atoms)  # fmt: skip
    vox.write_volume(tmp_path / "ELFCAR", elf)
    result = run("train-elf", tmp_path / "ELFCAR", "--network", "ckconv", "--name", "mine",
                 "--losses", "voxel", "--losses", "peak=2")  # fmt: skip
    assert result.exit_code == 0, result.output + result.stderr
    (call,) = trained["runs"]
    assert (call["network"], call["size"], call["name"]) == ("ckconv", "small", "mine")
    assert call["losses"] == {"voxel": 1.0, "peak": 2.0}
    assert call["examples"][0].quantity == "elf"
    assert "vox3d elf --model mine" in result.output
    vox.write_volume(tmp_path / "CHGCAR", vox.superpose_atoms(poscar, spacing=0.5))
    result = run("train-elf", tmp_path / "CHGCAR")
    assert result.exit_code == 2
    assert "not an ELF" in result.stderr


def test_a_real_training_from_shell_to_picks(run, own_models, tmp_path):
    sample = files("napari_vox3d.gui") / "sample_data" / "simulated_tomogram.mrc"
    truth = files("napari_vox3d.gui") / "sample_data" / "simulated_tomogram_truth.star"
    result = run("train", sample, "--picks", truth, "--network", "encodernet", "--minutes", 0.1)
    assert result.exit_code == 0, result.output + result.stderr
    assert "virus-like-particle" in result.output
    result = run("pick", sample, "-o", tmp_path / "picks.star", "--model", "my-picker")
    assert result.exit_code == 0, result.output + result.stderr


def test_evaluate_counts_by_class(run, tmp_path):
    def write(name, places, labels):
        some = vox.Picks(places, labels, radii=100.0, voxel_size=10, shape=(90, 90, 90))
        vox.write_picks(tmp_path / name, some)
        return tmp_path / name

    truth = write("truth.csv", [[0, 0, 0], [0, 0, 500], [500, 0, 0]], ["ribosome"] * 3)
    found = write("found.csv", [[0, 0, 40], [0, 0, 460], [0, 700, 0]], ["ribosome"] * 2 + ["new"])
    result = run("evaluate", found, truth)
    assert result.exit_code == 0, result.output + result.stderr
    rows = {line.split()[1]: line.split()[3::2] for line in result.output.splitlines()
            if line.startswith("│")}  # fmt: skip
    assert rows["ribosome"] == ["1.000", "0.667", "0.800", "2", "1", "0"]
    assert rows["new"] == ["0.000", "0.000", "0.000", "0", "0", "1"]
    assert "CZII" not in result.output
    narrow = run("evaluate", found, truth, "--radius", 30, "--beta", 4)
    assert "F4" in narrow.output
    assert "0.000" in narrow.output
    wide = run(
        "evaluate", found, truth, "--radius", "ribosome=50", "--radius", "new=1", "--beta", 4
    )
    f = 17 * 2 / 3 / (16 + 2 / 3)
    assert f"CZII score {f / 7:.3f}" in wide.output
    vox.write_picks(found, vox.read_picks(found).select([0, 1]))
    theirs = run("evaluate", found, truth, "--czii", "-o", tmp_path / "scores.csv")
    assert f"CZII score {f / 7:.3f}" in theirs.output
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].endswith(",2,1,0")
    assert run("evaluate", found, truth, "--czii", "--radius", 3).exit_code == 2


def test_evaluate_sums_over_tomograms_of_files_and_folders(run, tmp_path):
    def some(name, *places):
        return vox.Picks([[0, 0, x] for x in places], "a", radii=60.0, tomogram=name)

    parts = [some("A", 0, 500), some("B", 100)]
    vox.write_pick_collection(tmp_path / "truth.csv", parts)
    (tmp_path / "found").mkdir()
    vox.write_picks(tmp_path / "found" / "b.csv", some("B", 110, 900))
    result = run("evaluate", tmp_path / "found", tmp_path / "truth.csv")
    assert result.exit_code == 0, result.output + result.stderr
    row = next(line.split()[3::2] for line in result.output.splitlines() if "│ a" in line)
    assert row == ["0.500", "0.333", "0.400", "1", "2", "1"]
    (tmp_path / "empty").mkdir()
    assert "no pick files" in run("evaluate", tmp_path / "empty", tmp_path / "truth.csv").stderr
    vox.write_picks(tmp_path / "found" / "b.csv", some("C", 110))
    vox.write_picks(tmp_path / "found" / "d.csv", some("D", 110))
    refused = run("evaluate", tmp_path / "found", tmp_path / "truth.csv")
    assert refused.exit_code == 2
    assert "no tomogram is in both" in refused.stderr


def test_evaluate_without_a_radius_is_one_line(run, tomogram, picks):
    result = run("evaluate", picks, picks)
    assert result.exit_code == 2
    assert "no radius" in result.stderr
    assert run("evaluate", picks, picks, "--radius", "x").exit_code == 2


def test_networks_are_listed(run):
    result = run("networks")
    assert result.exit_code == 0
    for name in ("unet", "hrnet", "soanet", "encodernet", "cryoet3dcnn", "flat-resnet", "ckconv"):
        assert name in result.output
