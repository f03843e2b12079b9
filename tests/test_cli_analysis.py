from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from napari_vox3d import read_picks, read_volume, read_volumes, write_volume
from napari_vox3d.cli import app

SILICON = Path(__file__).parent / "data" / "elf" / "Si_ELFCAR.gz"


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_compare_prints_figures_and_writes_the_difference(tmp_path):
    elf = read_volume(SILICON)
    write_volume(tmp_path / "ELFCAR", elf.with_values(elf.values + 0.25))
    result = run("compare", tmp_path / "ELFCAR", SILICON, "-o", tmp_path / "difference.cube")
    assert result.exit_code == 0, result.output
    assert "MAE 0.25, RMSE 0.25, largest 0.25" in result.output
    difference = read_volume(tmp_path / "difference.cube")
    np.testing.assert_allclose(difference.values, 0.25, atol=1e-4)


def test_compare_of_two_quantities_is_one_line(tmp_path):
    write_volume(
        tmp_path / "x.cube",
        read_volume(SILICON).with_values(np.ones((24, 24, 24)), quantity="potential"),
    )
    result = run("compare", tmp_path / "x.cube", SILICON)
    assert result.exit_code == 2
    assert "cannot be compared" in result.stderr


def test_maxima_are_listed_and_written(tmp_path):
    result = run("maxima", SILICON, "-o", tmp_path / "maxima.csv")
    assert result.exit_code == 0, result.output
    assert "4 bond" in result.output
    assert "0.625" in result.output
    assert read_picks(tmp_path / "maxima.csv").counts() == {"bond": 4}


def test_no_maxima_and_no_elf(tmp_path):
    assert "No maxima above 0.99" in run("maxima", SILICON, "--least", 0.99).output
    elf = read_volume(SILICON)
    write_volume(tmp_path / "CHGCAR", elf.with_values(elf.values, quantity="electron density"))
    result = run("maxima", tmp_path / "CHGCAR")
    assert result.exit_code == 2
    assert "Maxima are found in the ELF" in result.stderr


def test_maxima_that_hardly_stand_out_are_counted(tmp_path):
    result = run("maxima", SILICON, "--prominence", 0.5)
    assert "No maxima above 0.5; 4 more stand out by less than 0.5." in result.output
    run("maxima", SILICON, "-o", tmp_path / "maxima.csv")
    header, *rows = (tmp_path / "maxima.csv").read_text().splitlines()
    assert header == "class,score,prominence,a,b,c,z_angstrom,y_angstrom,x_angstrom"
    assert all(float(row.split(",")[2]) == pytest.approx(0.29, abs=0.01) for row in rows)
    result = run("maxima", SILICON, "-o", tmp_path / "maxima.txt")
    assert result.exit_code == 2
    assert "Call it .csv" in result.stderr


def test_a_profile_from_atom_to_atom_has_the_bond_in_the_middle(tmp_path):
    result = run("profile", SILICON, 0, 1, "-o", tmp_path / "profile.csv", "--samples", 101)
    assert result.exit_code == 0, result.output
    assert "101 points over 2.352 Å" in result.output
    header, *rows = (tmp_path / "profile.csv").read_text().splitlines()
    assert header == "distance_angstrom,x_angstrom,y_angstrom,z_angstrom,value"
    values = np.array([[float(cell) for cell in row.split(",")] for row in rows])
    assert values[:, 4].argmax() == 50
    printed = run("profile", SILICON, "0 0 0", "0.25,0.25,0.25", "--samples", 101).stdout
    assert len(printed.splitlines()) == 102
    assert printed.splitlines()[51] == rows[50]


def test_a_slice_is_a_picture_or_a_volume_in_place(tmp_path):
    from PIL import Image

    result = run("slice", SILICON, "--hkl", "1 -1 0", "-o", tmp_path / "cut.png")
    assert result.exit_code == 0, result.output
    picture = np.asarray(Image.open(tmp_path / "cut.png"))
    assert picture.min() == 0
    assert picture.max() == 255
    assert f"{picture.shape[1]}×{picture.shape[0]} points" in result.output
    run("slice", SILICON, "--hkl", "1 -1 0", "--through", 1, "-o", tmp_path / "cut.cube")
    cut = read_volume(tmp_path / "cut.cube")
    assert cut.shape == (1, *picture.shape)
    middle = cut.to_world([0, cut.shape[1] // 2, cut.shape[2] // 2])
    np.testing.assert_allclose(middle, cut.atoms.positions[1, ::-1], atol=1e-4)


def test_a_supercell_keeps_the_spin_channels(tmp_path):
    graphite = files("napari_vox3d.gui") / "sample_data" / "graphite_ELFCAR.gz"
    result = run("supercell", graphite, 2, 1, 1, "-o", tmp_path / "ELFCAR")
    assert result.exit_code == 0, result.output
    up, down = read_volumes(tmp_path / "ELFCAR")
    assert up.shape == down.shape == (70, 18, 36)
    assert len(up.atoms) == 8


def test_statistics_count_the_electrons(tmp_path):
    iron = files("napari_vox3d.gui") / "sample_data" / "Fe_CHGCAR.gz"
    result = run("statistics", iron, "-o", tmp_path / "histogram.csv", "--bins", 10)
    assert result.exit_code == 0, result.output
    (row,) = [line for line in result.output.splitlines() if "electrons" in line]
    assert float(row.split("│")[2]) == pytest.approx(8)
    rows = (tmp_path / "histogram.csv").read_text().splitlines()
    assert rows[0] == "from,to,voxels"
    assert sum(int(row.split(",")[2]) for row in rows[1:]) == read_volume(iron).values.size


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["profile", SILICON, 0, 7], "There is no atom 7"),
        (["profile", SILICON, "0 0", "1 1 1"], "three fractions"),
        (["slice", SILICON, "--hkl", "1 1", "-o", "x.png"], "three integers"),
        (["slice", SILICON, "--hkl", "1 1 0.5", "-o", "x.png"], "three integers"),
        (["slice", SILICON, "--through", 9, "-o", "x.png"], "no atom 9"),
        (["slice", SILICON, "-o", "x.doc"], "name of a volume file"),
        (["supercell", SILICON, 90, 90, 90, "-o", "ELFCAR"], "take fewer"),
        (["statistics", SILICON, "--bins", 0], "at least one bin"),
    ],
)
def test_errors_are_one_line(words, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert reason in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command", ["compare", "maxima", "profile", "slice", "supercell", "statistics"]
)
def test_help_says_what_they_do(command):
    assert run(command, "--help").exit_code == 0
