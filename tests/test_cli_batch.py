import numpy as np
import pytest
from elf_models import model as tiny_elf_model
from rich.console import Console
from typer.testing import CliRunner

import napari_vox3d as vox
from napari_vox3d import cli_batch
from napari_vox3d.batch import Outcome
from napari_vox3d.cli import app
from napari_vox3d.formats import read_pick_collection

CRYSTAL = "Po\n 1.0\n 3.3 0.0 0.0\n 0.0 3.3 0.0\n 0.0 0.0 3.3\n Si\n 1\nDirect\n 0.5 0.5 0.5\n"


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(cli_batch, "out", Console(width=120))

    def invoke(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    return invoke


@pytest.fixture
def tomograms(tmp_path):
    values = np.random.default_rng(0).normal(size=(24, 32, 40)).astype(np.float32)
    paths = [tmp_path / f"TS_{n}.mrc" for n in range(3)]
    for path in paths:
        vox.write_volume(path, vox.Volume(values, 10.0))
    return paths


@pytest.fixture
def crystals(tmp_path):
    paths = [tmp_path / folder / "POSCAR" for folder in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_text(CRYSTAL)
    return paths


@pytest.fixture
def calls(monkeypatch):
    """Keyword arguments that the batches are called with; nothing is done."""
    made = []

    def batch(sources, folder, model, **options):
        made.append({"sources": sources, "folder": folder, "model": model, **options})
        return [Outcome(str(source), (), 0.0, None, "skipped") for source in sources]

    monkeypatch.setitem(vars(vox), "pick_files", batch)
    monkeypatch.setitem(vars(vox), "predict_elf_files", batch)
    return made


def rows(result):
    """First cells of the table at the end."""
    cells = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines()
    ]
    return {row[0]: row[1:3] for row in cells if row}


def test_batch_of_tomograms_goes_on_where_it_ended(run, tomograms, tmp_path):
    whole = tomograms[1].read_bytes()
    tomograms[1].write_bytes(b"broken")
    words = ("pick", *tomograms, "--out", tmp_path / "picks", "--threshold", 0)
    result = run(*words)
    assert result.exit_code == 2
    assert [line.split(":")[0] for line in result.stderr.split("\n") if line] == ["error"]
    assert "TS_1.mrc" in result.stderr
    assert "Traceback" not in result.output + result.stderr
    found = rows(result)
    assert (found["done"][0], found["failed"]) == ("2", ["1", ""])
    count = sum(len(vox.read_picks(path)) for path in (tmp_path / "picks").iterdir())
    assert found["done"][1] == str(count)
    tomograms[1].write_bytes(whole)
    result = run(*words)
    assert result.exit_code == 0
    assert {state: row[0] for state, row in rows(result).items()} == {"done": "1", "skipped": "2"}
    result = run(*words, "--min-distance", 90)
    assert rows(result)["done"][0] == "3"
    assert "3 again: another min distance before" in result.stdout
    result = run(*words, "--overwrite")
    assert rows(result)["done"][0] == "3"
    assert "again" not in result.stdout


def test_one_file_for_all_tomograms(run, tomograms, tmp_path):
    target = tmp_path / "all.star"
    result = run("pick", *tomograms, "--one-file", "-o", target, "--threshold", 0)
    assert result.exit_code == 0, result.output + result.stderr
    assert f"{target}: the picks of all" in result.stdout
    collection = read_pick_collection(target)
    assert [picks.tomogram for picks in collection] == ["TS_0", "TS_1", "TS_2"]


def test_one_name_for_several_tomograms_is_refused(run, tomograms, tmp_path):
    result = run("pick", *tomograms, "-o", tmp_path / "all.star")
    assert result.exit_code == 2
    assert "--one-file" in result.stderr
    assert not (tmp_path / "all.star").exists()


def test_one_tomogram_is_picked_again_each_time(run, tomograms, tmp_path):
    target = tmp_path / "picks.star"
    target.write_text("old")
    result = run("pick", tomograms[0], "-o", target, "--threshold", 0)
    assert result.exit_code == 0
    assert len(vox.read_picks(target)) > 0


def test_batch_of_structures_of_one_name(run, crystals, tmp_path):
    words = ("elf", *crystals, "-o", tmp_path / "elf", "-m", "promolecule", "--spacing", 0.5)
    result = run(*words, "--format", "xsf")
    assert result.exit_code == 0, result.output + result.stderr
    names = sorted(path.name for path in (tmp_path / "elf").iterdir())
    assert names == ["a_POSCAR.xsf", "b_POSCAR.xsf"]
    assert rows(result)["done"] == ["2", ""]


@pytest.mark.parametrize("command", ["pick", "elf"])
def test_options_reach_the_batch(run, calls, tmp_path, command):
    result = run(
        command, "a", "--jobs", 3, "--scheduler", "slurm", "--cluster-config", "c.yaml",
        "--overwrite", "--device", "cuda", "--precision", "float32", "-o", tmp_path, "-m", "mine",
    )  # fmt: skip
    assert result.exit_code == 0, result.output + result.stderr
    (call,) = calls
    assert (call["jobs"], call["scheduler"], str(call["cluster_config"])) == (3, "slurm", "c.yaml")
    assert (call["overwrite"], call["device"], call["precision"]) == (True, "cuda", "float32")
    assert (call["model"], call["folder"]) == ("mine", tmp_path)


def test_settings_of_picking_reach_the_batch(run, calls):
    result = run("pick", "a", "b", "--threshold", "x=0.5", "--min-distance", 90, "--contrast",
                 "bright", "--flips", "--format", "dynamo", "--one-file")  # fmt: skip
    assert result.exit_code == 0
    (call,) = calls
    assert (call["threshold"], call["min_distance"]) == ({"x": 0.5}, 90)
    assert (call["contrast"], call["flips"]) == ("bright", True)
    assert (call["format"], call["one_file"]) == ("dynamo", True)


def test_interrupted_batch_says_how_to_go_on(run, monkeypatch):
    def batch(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setitem(vars(vox), "pick_files", batch)
    result = run("pick", "a", "b")
    assert result.exit_code == 130
    assert "give the same command to go on" in result.stderr


def test_a_batch_that_cannot_begin_is_one_line(run, tomograms, tmp_path):
    result = run("pick", *tomograms, "-o", tmp_path / "p", "--scheduler", "nonsense")
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert run("pick", *tomograms, "--jobs", 0).exit_code == 2


def test_elf_with_uncertainty_writes_it_beside_and_says_a_number(run, crystals, tmp_path):
    tiny_elf_model(head=True).save(tmp_path / "model")
    for name, beside in (("ELFCAR", "ELFCAR.uncertainty"), ("a.cube.gz", "a.uncertainty.cube.gz")):
        result = run("elf", crystals[0], "-o", tmp_path / name, "--spacing", "0.4", "--uncertainty",
                     "--model", tmp_path / "model")  # fmt: skip
        assert result.exit_code == 0, result.output + result.stderr
        elf, band = (vox.read_volume(tmp_path / each) for each in (name, beside))
        assert (elf.quantity, band.quantity) == ("elf", "uncertainty")
        assert 0 < band.values.mean() < 1
        assert f"90 % band ±{band.values.mean():.3f}, means over the cell" in result.output
        assert elf.metadata["run"]["arguments"]["uncertainty"] is True
    refused = run(
        "elf", crystals[0], "-o", tmp_path / "b.cube", "--uncertainty", "-m", "promolecule"
    )
    assert refused.exit_code == 2
    assert "cannot say how far off it may be" in refused.stderr
    assert not (tmp_path / "b.cube").exists()


def test_elfnet_models_take_their_tables(run, crystals, tmp_path):
    tiny_elf_model(channels=("sad",), elfnet=True).save(tmp_path / "model")
    words = ("elf", crystals[0], "-o", tmp_path / "ELFCAR", "-m", tmp_path / "model")
    assert "neutral_densities" in run(*words).stderr
    (tmp_path / "tables").mkdir()
    assert "Si.pkl: cannot be read" in run(*words, "--tables", tmp_path / "tables").stderr
