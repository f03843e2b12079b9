from typer.testing import CliRunner

import napari_vox3d as vox
from napari_vox3d.cli import app


def test_the_sample_files_can_be_read_where_they_are_put(tmp_path):
    result = CliRunner().invoke(app, ["samples", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert {"Fe_CHGCAR.gz", "graphite_ELFCAR.gz", "simulated_tomogram.mrc"} <= names
    assert not any(name.startswith(("README", "LICENSE", ".")) for name in names)
    assert len(vox.read_volumes(tmp_path / "new" / "graphite_ELFCAR.gz")) == 2


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["samples", str(tmp_path / "file" / "samples")])
    assert result.exit_code == 2
