from importlib import import_module, metadata
from pathlib import Path

import pytest
from npe2 import PluginManifest

import napari_vox3d

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def manifest():
    return PluginManifest.from_distribution("napari-vox3d")


def test_the_entry_point_leads_to_a_valid_manifest(manifest):
    (entry,) = metadata.entry_points(group="napari.manifest", name="napari-vox3d")
    assert entry.value == "napari_vox3d:napari.yaml"
    manifest.validate_imports()
    assert (Path(napari_vox3d.__file__).parent / "napari.yaml").is_file()


def test_every_command_can_be_imported(manifest):
    for command in manifest.contributions.commands:
        module, name = command.python_name.split(":")
        assert callable(getattr(import_module(module), name))


def test_every_contribution_names_a_command(manifest):
    contributions = manifest.contributions
    known = {command.id for command in contributions.commands}
    used = [
        *contributions.readers,
        *contributions.writers,
        *contributions.widgets,
        *contributions.sample_data,
        *(item for items in contributions.menus.values() for item in items),
    ]
    assert {contribution.command for contribution in used} == known


def test_the_window_offers_widgets_samples_and_menus(make_napari_viewer):
    viewer = make_napari_viewer()
    from napari._app_model import get_app_model

    items = {}
    for menu in ("napari/plugins", "napari/file/samples", "napari/layers/segment"):
        for item in _flat(get_app_model().menus, menu):
            items.setdefault(menu, set()).add(item)
    assert viewer.window is not None
    assert any("vox3d" in item for item in items["napari/file/samples"])
    assert any("pick" in item.lower() for item in items["napari/layers/segment"])


def _flat(menus, menu):
    for item in menus.get_menu(menu):
        if hasattr(item, "submenu"):
            yield str(item.submenu)
            yield from _flat(menus, item.submenu)
        else:
            yield str(item.command.title)


def test_the_manifest_at_the_top_is_the_one_in_the_package():
    top = ROOT / "napari.yaml"
    if not top.exists():
        pytest.skip("not a checkout")
    assert top.resolve() == (ROOT / "src" / "napari_vox3d" / "napari.yaml").resolve()
