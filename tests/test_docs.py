"""The documents build without a warning, and what they tell people to type works."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
import zarr
from ase.build import bulk
from typer.testing import CliRunner

import napari_vox3d as vox
import napari_vox3d.terminal
from napari_vox3d.cli import app
from napari_vox3d.formats import PICK_FORMATS
from napari_vox3d.models import ModelCard
from napari_vox3d.models.registry import SHIPPED

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SAMPLES = Path(vox.__file__).parent / "gui" / "sample_data"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# As in ```sh title="…". Blocks in lists and tabs are indented.
FENCE = re.compile(r'^( *)```(\w+)(?: title="(.*?)")?\n(.*?)^\1```$', re.M | re.S)
NOT_RUN = "not run by the tests: "
PRINTS = "prints"
TRAININGS = {"train", "train-elf"}


@dataclass
class Block:
    """A fenced block of a page."""

    language: str
    title: str
    text: str
    line: int


def blocks(page):
    text = page.read_text("utf-8")
    for found in FENCE.finditer(text):
        indent, language, title, body = found.groups()
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        yield Block(language, title or "", "\n".join(lines), text.count("\n", 0, found.start()) + 1)


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """What a page may take for granted: a crystal, small tomograms, and true picks in them."""
    folder = tmp_path_factory.mktemp("things")
    for name in ("tomograms", "structures"):
        (folder / name).mkdir()
    whole = vox.read_volume(SAMPLES / "simulated_tomogram.mrc")
    truth = vox.read_picks(SAMPLES / "simulated_tomogram_truth.star", whole)
    crop = whole.values[:48, :64, :64]
    for name in ("tomogram.mrc", "tomograms/a.mrc", "tomograms/b.mrc"):
        vox.write_volume(folder / name, vox.Volume(crop, whole.voxel_size))
    write_ome_zarr(folder / "tomogram.zarr", crop, whole.voxel_size)
    truth = truth.select((truth.indices < crop.shape).all(axis=1))
    truth = replace(truth, shape=crop.shape, tomogram="tomogram")
    for name in ("picks.star", "truth.star"):
        vox.write_picks(folder / name, truth)
    for name in ("POSCAR", "structures/POSCAR"):
        bulk("Si").write(folder / name, format="vasp")
    vox.write_volume(folder / "CHGCAR", vox.superpose_atoms(folder / "POSCAR", spacing=0.4))
    return folder


def write_ome_zarr(path, values, voxel_size):
    scale = {"type": "scale", "scale": voxel_size.tolist()}
    level = {"path": "0", "coordinateTransformations": [scale]}
    axes = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [level]}]
    group.create_array("0", data=values, chunks=(32, 32, 32))


@pytest.fixture
def folder(things, tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(napari_vox3d.terminal.out, "width", 200)
    shutil.copytree(things, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")


WITH_CODE = [page for page in PAGES if any(block.language in {"sh", "python"}
             for block in blocks(page))]  # fmt: skip


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_tells_people_to_type_works(page):
    """Each page is one session: names, files and models stay from block to block."""
    names, said = {"__name__": "__main__"}, ""
    for block in blocks(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.title.startswith(NOT_RUN) or block.language in {"yaml", "json"}:
            check_syntax(block, where)
        elif block.title == PRINTS:
            for line in filter(str.strip, block.text.splitlines()):
                assert re.search(loosely(line), said), f"{where}: {line!r} is not printed:\n{said}"
        elif block.language == "python":
            exec(compile(block.text, where, "exec"), names)
        elif block.language == "sh":
            said = "".join(run_line(line, where) for line in lines_of(block.text))
        elif block.title:
            Path(block.title).write_text(block.text + "\n", "utf-8")


def lines_of(text):
    """Commands of a shell block, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def run_line(line, where):
    """Run a command; `vox3d` in this process, which saves the seconds of importing torch.

    People are told to train for half an hour; here two steps must do.
    """
    words = shlex.split(line, comments=True)
    if words[0] != "vox3d" or set(words) & {"|", "&&", ">"}:
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{where}: {line}\n{done.stderr}"
        return done.stdout
    words = [name for word in words[1:] for name in matching(word)]
    words += ["--steps", "2"] if words[0] in TRAININGS else []
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, f"{where}: {line}\n{result.output}\n{result.exception!r}"
    return result.output


def matching(word):
    """Files that a shell would put in the place of a word, or the word."""
    found = sorted(map(str, Path().glob(word))) if "*" in word else []
    return found or [word]


def loosely(line):
    """Pattern for a printed line: any white space, … for anything, no frames of tables."""
    words = re.split(r"[\s│┃]+", line.strip("│┃ "))
    return r"[\s│┃]+".join(re.escape(word).replace("…", ".*?") for word in words)


def check_syntax(block, where):
    if block.language == "python":
        compile(block.text, where, "exec")
    elif block.language in {"sh", "bash"} and os.name == "posix":
        done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True,
                              check=False)  # fmt: skip
        assert done.returncode == 0, f"{where}: {done.stderr}"
    elif block.language in {"yaml", "json"}:
        yaml.safe_load(block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_is_marked_with_its_language(page):
    """A bare ``` would be neither run nor shown as not run."""
    text = page.read_text("utf-8")
    fences = re.findall(r"^ *```(.*)$", text, re.M)
    assert all(fences[::2]), page
    known = {"python", "sh", "bash", "text", "yaml", "toml", "json", "bibtex", "console"}
    assert {fence.split()[0] for fence in fences[::2]} <= known, page
    assert len(fences) == 2 * len(list(blocks(page))), f"{page}: a fence is not understood"


# Italics in tutorials and how-tos are what a reader sees on the screen; these napari itself says.
NAPARI_SAYS = {
    "File", "Open Sample", "Open File(s)…", "Save Selected Layers…", "Plugins", "vox3d",
    "Add points", "Select points", "2D/3D", "iso threshold",
}  # fmt: skip


def test_what_a_reader_is_told_to_click_is_on_the_screen():
    package = Path(vox.__file__).parent
    sources = [*package.glob("gui/*.py"), package / "napari.yaml",
               package / "networks" / "catalogue.py", *SHIPPED.glob("*.json")]  # fmt: skip
    screen = "".join(path.read_text("utf-8") for path in sources)
    screen += "".join(f"{known.title} (*{known.suffix})" for known in PICK_FORMATS.values())
    for page in [*DOCS.glob("tutorials/*.md"), *DOCS.glob("howto/*.md")]:
        text = FENCE.sub("", page.read_text("utf-8")).replace("\\*", "∗")
        for phrase in re.findall(r"(?<![*\w])\*([^*\s][^*]*?)\*(?!\*)", text):
            for part in " ".join(phrase.split()).replace("∗", "*").split(" › "):
                known = part in NAPARI_SAYS or part in screen or part.removeprefix("New ") in screen
                assert known, f"{page.name}: {part!r} is nowhere on the screen"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; building fails at the first warning."""
    pytest.importorskip("material", reason="the docs group is not installed")
    target = tmp_path_factory.mktemp("site")
    done = subprocess.run(  # with --quiet, warnings would not count
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", target],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return target


def test_the_site_needs_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        fetched = re.findall(r'<(?:link|script|img)[^>]+(?:href|src)="?(https?:[^"> ]+)',
                             page.read_text("utf-8"))  # fmt: skip
        assert not fetched, page


def test_every_public_name_has_an_entry(site):
    reference = (site / "reference" / "api" / "index.html").read_text("utf-8")
    for name in set(vox.__all__) - {"__version__"}:
        assert f'id="napari_vox3d.{name}"' in reference, name


def test_every_command_and_model_has_an_entry(site):
    commands = (site / "reference" / "cli" / "index.html").read_text("utf-8")
    for name in ("pick", "elf", "train", "train-elf", "convert", "models"):
        assert f'id="vox3d-{name}"' in commands, name
    models = (site / "models" / "index.html").read_text("utf-8")
    for path in SHIPPED.glob("*.json"):
        assert f'id="{ModelCard.read(path).name}"' in models, path


def test_every_picture_is_shown_and_every_one_shown_is_made():
    texts = "".join(page.read_text("utf-8") for page in PAGES)
    shown = set(re.findall(r"images/(\w+)\.png", texts))
    made = (ROOT / "scripts" / "pictures.py").read_text("utf-8")
    made += '"elf_models"'  # by recipes/elf/gallery.py
    made += '"performance"'  # by make bench
    made += '"microtubules"'  # from crops that are not part of the package
    kept = {path.stem for path in (DOCS / "images").glob("*.png")}
    assert shown == kept
    assert not [name for name in kept if f'"{name}"' not in made]


def test_every_extra_is_told():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    told = (DOCS / "install.md").read_text("utf-8")
    assert not [extra for extra in project["optional-dependencies"] if f"`{extra}`" not in told]


def test_citation_and_version_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert citation["version"] == project["version"] == vox.__version__
    assert citation["license"] == project["license"]


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("vendor.citation-file-format", "CITATION.cff"),
        ("vendor.github-workflows", ".github/workflows/ci.yml"),
        ("vendor.github-workflows", ".github/workflows/release.yml"),
    ],
)
def test_files_for_others_follow_their_schema(schema, path):
    if not (ROOT / path).exists():
        pytest.skip("not a checkout")
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, ROOT / path]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_windows_and_macs_need_neither_make_nor_apt():
    if not (ROOT / ".github").exists():
        pytest.skip("not a checkout")
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    tests = workflow["jobs"]["tests"]
    matrix = tests["strategy"]["matrix"]
    assert len(matrix["os"]) * len(matrix["python"]) == 9
    for step in tests["steps"]:
        if "scripts/" in step.get("run", "") or "apt" in step.get("run", ""):
            assert step["if"] == "runner.os == 'Linux'"
        assert "make" not in step.get("run", "")


def test_figures_in_the_readme_are_those_of_the_cards():
    cards = map(ModelCard.read, SHIPPED.glob("*.json"))
    rows = [row for card in cards for table in card.metrics for row in table.rows]
    figures = [value for row in rows for value in row.values() if isinstance(value, float)]
    measured = {f"{value:.{digits}f}" for value in figures for digits in (2, 3)}
    readme = (ROOT / "README.md").read_text("utf-8")
    tables = "".join(line for line in readme.splitlines(True) if line.startswith("|"))
    told = set(re.findall(r"(?<!SNR )\b\d\.\d{2,3}\b", tables))
    assert told
    assert told <= measured
