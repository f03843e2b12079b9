"""The package as it is imported, built and installed."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import napari_vox3d

ROOT = Path(__file__).parents[1]


def modules_after(code):
    script = f"{code}\nimport sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_import_pulls_in_nothing_heavy():
    loaded = modules_after("import napari_vox3d")
    assert not loaded & {"torch", "napari", "qtpy", "numpy", "scipy", "ase"}


def test_every_public_name_exists():
    for name in napari_vox3d.__all__:
        assert getattr(napari_vox3d, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        napari_vox3d.no_such_name  # noqa: B018


@pytest.mark.parametrize("room", ["formats", "density"])
def test_reading_rooms_need_no_torch(room):
    loaded = modules_after(f"import napari_vox3d.{room}")
    assert not loaded & {"torch", "napari", "qtpy"}


def test_only_the_gui_knows_napari():
    source = ROOT / "src" / "napari_vox3d"
    for path in source.rglob("*.py"):
        if path.parent.name != "gui":
            imported = re.findall(r"^\s*(?:import|from)\s+(\w+)", path.read_text("utf-8"), re.M)
            assert not set(imported) & {"napari", "qtpy", "magicgui", "superqt"}, path


STOREYS = {
    "errors": 0, "progress": 0, "volume": 1, "provenance": 1, "picks": 2, "formats": 3,
    "networks": 3,
    "density": 4, "models": 4, "curation": 5, "inference": 5, "training": 6, "batch": 6, "gui": 7,
    "terminal": 7,
    "cli_training": 8, "cli_analysis": 8, "cli_samples": 8, "cli_models": 8, "cli_batch": 8,
    "cli_similar": 9, "cli": 10,
}  # fmt: skip


def test_imports_only_point_down():
    source = ROOT / "src" / "napari_vox3d"
    for path in source.rglob("*.py"):
        room = path.relative_to(source).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        text = path.read_text("utf-8")
        for name in re.findall(r"^\s*(?:from|import) napari_vox3d\.(\w+)", text, re.M):
            assert name == room or STOREYS[name] < STOREYS[room], f"{path} imports {name}"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """An sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
def test_wheel_holds_all_data_and_stays_small(distributions):
    _, wheel = distributions
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "src" / "napari_vox3d"
    wanted = {
        f"napari_vox3d/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= names
    assert wheel.stat().st_size < 60e6


@pytest.mark.slow
def test_sdist_keeps_the_manifest_beside_the_project_file(distributions):
    sdist, _ = distributions
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"napari.yaml", "src/napari_vox3d/napari.yaml", "tests/test_package.py"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sdist", "wheel", "editable"])
def test_installed_package_brings_manifest_and_weights(distributions, tmp_path, kind):
    source = {"sdist": [distributions[0]], "wheel": [distributions[1]], "editable": ["-e", ROOT]}
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    run = [*pip, "--target", tmp_path, *source[kind]]
    subprocess.run(list(map(str, run)), check=True, capture_output=True)
    # Editable installs work through a .pth file, which only a site folder obeys.
    code = f"""
import site, sys
sys.path[:] = [p for p in sys.path if p != {str(ROOT / "src")!r}]
site.addsitedir({str(tmp_path)!r})
sys.path.insert(0, {str(tmp_path)!r})
from importlib.metadata import distribution
from npe2 import PluginManifest
(entry,) = (e for e in distribution("napari-vox3d").entry_points if e.group == "napari.manifest")
manifest = PluginManifest.from_distribution("napari-vox3d")
assert manifest.contributions.readers and manifest.contributions.widgets
import napari_vox3d
assert napari_vox3d.list_models(), "no models"
print(napari_vox3d.__file__)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    place = ROOT / "src" if kind == "editable" else tmp_path
    assert Path(run.stdout.strip()).is_relative_to(place)
