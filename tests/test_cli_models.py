import json

import pytest
from typer.testing import CliRunner

from napari_vox3d.cli import app
from napari_vox3d.models import Model, ModelCard, list_models

CARD = ModelCard(
    name="mine", title="My formula", task="elf", input={}, training="None.", licence="MIT",
    version="1",
)  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_VOX3D_MODELS", str(tmp_path / "models"))

    def invoke(*words, answer=None):
        return CliRunner().invoke(app, [str(word) for word in words], input=answer)

    return invoke


@pytest.fixture
def folder(tmp_path):
    Model(CARD).save(tmp_path / "given")
    return tmp_path / "given"


def test_models_are_listed_and_shown(run):
    result = run("models")
    assert result.exit_code == 0
    assert "promolecule" in result.output
    assert "shipped" in result.output
    assert "yours " not in result.output
    assert json.loads(run("models", "promolecule").output)["name"] == "promolecule"
    assert run("models", "nonsense").exit_code == 2


def test_a_model_comes_and_goes(run, folder):
    result = run("models-add", folder)
    assert result.exit_code == 0, result.output
    assert "vox3d elf --model mine" in result.output
    assert "yours " in run("models").output
    assert json.loads(run("models", "mine").output)["title"] == "My formula"
    assert run("models-remove", "mine", answer="n\n").exit_code == 1
    assert "mine" in [card.name for card in list_models()]
    assert run("models-remove", "mine", answer="y\n").exit_code == 0
    assert "mine" not in [card.name for card in list_models()]


def test_problems_are_one_line(run, folder, tmp_path):
    result = run("models-add", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "no such file" in result.stderr
    result = run("models-remove", "promolecule", "--yes")
    assert result.exit_code == 2
    assert "part of napari-vox3d" in result.stderr.replace("\n", " ")
