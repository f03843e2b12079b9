from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from napari_vox3d import read_picks, read_volume, write_volume
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


@pytest.mark.parametrize("command", ["compare", "maxima"])
def test_help_says_what_they_do(command):
    assert run(command, "--help").exit_code == 0
