import json

import pytest

from napari_vox3d.curation.clicks import ClickedTomogram, Clicks, forget_clicks, kept_clicks


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_vox3d.curation.clicks.data_folder", lambda: tmp_path)
    return tmp_path / "trainings"


def clicks(name="mine", labels=("a", "b")):
    example = ClickedTomogram(
        tomogram="tomo", source="/data/tomo.mrc", shape=[4, 5, 6], voxel_size=[10.0] * 3,
        points="clicks", positions=[[1.0, 2, 3], [4, 5, 6]],
        labels=None if labels is None else list(labels), diameters=[150.0, 150],
    )  # fmt: skip
    return Clicks(name, [example], {"minutes": 2.0, "radii": {"a": 75.0}})


@pytest.mark.parametrize("labels", [("a", "b"), None])
def test_clicks_come_back_as_they_were(labels):
    clicks(labels=labels).keep()
    assert kept_clicks() == [clicks(labels=labels)]
    assert kept_clicks()[0].count == 2


def test_the_last_ones_come_first_and_can_be_forgotten(folder):
    import os

    for n, name in enumerate(("one", "two", "three")):
        clicks(name).keep()
        os.utime(folder / f"{name}.json", (n, n))
    assert [kept.name for kept in kept_clicks()] == ["three", "two", "one"]
    forget_clicks("two")
    forget_clicks("two")
    assert [kept.name for kept in kept_clicks()] == ["three", "one"]


def test_nothing_is_kept_at_first():
    assert kept_clicks() == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda held: "{",
        lambda held: "[]",
        lambda held: json.dumps({"version": 1}),
        lambda held: json.dumps({**held, "examples": [{}]}),
        lambda held: json.dumps({**held, "more": 1}),
        lambda held: json.dumps({**held, "settings": 3}),
        lambda held: json.dumps(
            {**held, "examples": [{**held["examples"][0], "positions": [[1, 2]]}]}
        ),
        lambda held: json.dumps({**held, "examples": [{**held["examples"][0], "labels": ["a"]}]}),
        lambda held: json.dumps({**held, "examples": [{**held["examples"][0], "labels": 3}]}),
    ],
)
def test_damaged_files_are_left_out(folder, damage):
    clicks().keep()
    clicks("whole").keep()
    file = folder / "mine.json"
    file.write_text(damage(json.loads(file.read_text())))
    assert [kept.name for kept in kept_clicks()] == ["whole"]
