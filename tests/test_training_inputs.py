import numpy as np
import pytest
from ase.build import bulk

import napari_vox3d as vox
from napari_vox3d.errors import FormatError, Vox3dError
from napari_vox3d.models import ParticleClass
from napari_vox3d.training.inputs import (
    known_radii,
    particle_classes,
    read_examples,
    read_true_elf,
    read_true_elfs,
)

SHAPE = (10, 12, 14)
RIBOSOME = ParticleClass(name="ribosome", radius=150.0, colour="#009e73")


@pytest.fixture
def tomograms(tmp_path):
    paths = []
    for name in ("TS_1", "TS_2"):
        paths.append(tmp_path / f"{name}.mrc")
        vox.write_volume(paths[-1], vox.Volume(np.zeros(SHAPE, np.float32), 10.0))
    return paths


def picks(place, label="ribosome", **fields):
    return vox.Picks([place], label, voxel_size=10, shape=SHAPE, **fields)


def written(path, some):
    vox.write_picks(path, some)
    return path


def positions(examples):
    return [part.positions.round(3).tolist() for _, part in examples]


def test_picks_go_with_tomograms_in_order(tomograms, tmp_path):
    files = [written(tmp_path / f"{n}.csv", picks((10, 20, 10 * n))) for n in (1, 2)]
    assert positions(read_examples(tomograms, files)) == [[[10, 20, 10]], [[10, 20, 20]]]
    assert positions(read_examples(tomograms, files[::-1])) == [[[10, 20, 20]], [[10, 20, 10]]]


@pytest.mark.parametrize("name", ["all.star", "all.csv"])
def test_one_file_may_hold_the_picks_of_all(tomograms, tmp_path, name):
    if name == "all.star":
        head = "data_\nloop_\n_rlnTomoName\n_rlnCoordinateZ\n_rlnCoordinateY\n_rlnCoordinateX\n"
        (tmp_path / name).write_text(head + "TS_1 1 2 1\nTS_2 1 2 2\n")
    else:
        (tmp_path / name).write_text("tomogram,z_px,y_px,x_px\nTS_1,1,2,1\nTS_2,1,2,2\n")
    examples = read_examples(tomograms, [tmp_path / name])
    assert positions(examples) == [[[10, 20, 10]], [[10, 20, 20]]]


def test_one_tomogram_may_have_a_file_for_each_class(tomograms, tmp_path):
    files = [written(tmp_path / f"{label}.json", picks((10, 20, 30), label)) for label in "ab"]
    ((_, both),) = read_examples(tomograms[:1], files)
    assert both.labels.tolist() == ["a", "b"]


def test_what_does_not_fit_is_said(tomograms, tmp_path):
    file = written(tmp_path / "a.csv", picks((10, 20, 30)))
    with pytest.raises(Vox3dError, match="3 pick files for 2 tomograms"):
        read_examples(tomograms, [file] * 3)
    far = written(tmp_path / "far.csv", picks((1000, 20, 30)))
    with pytest.raises(Vox3dError, match="None of the picks lies in TS_1"):
        read_examples(tomograms[:1], [far])
    none = written(tmp_path / "none.csv", picks((1, 2, 3)).select([]))
    with pytest.raises(Vox3dError, match="no picks to learn from"):
        read_examples(tomograms[:1], [none])


def test_an_unknown_voxel_size_is_an_error(tmp_path):
    path = tmp_path / "bare.mrc"
    volume = vox.Volume(np.zeros(SHAPE, np.float32), 1.0, calibrated=False)
    vox.write_volume(path, volume)
    file = written(tmp_path / "a.csv", picks((1, 2, 3)))
    with (
        pytest.warns(UserWarning, match="voxel"),
        pytest.raises(Vox3dError, match="voxel size of bare"),
    ):
        read_examples([path], [file])


def test_radii_are_those_of_the_base_then_of_the_picks():
    parts = [picks((1, 2, 3), radii=90.0), picks((1, 2, 3), "ferritin", radii=[60.0]),
             picks((1, 2, 3), "ferritin", radii=70.0), picks((1, 2, 3), "new")]  # fmt: skip
    assert known_radii(parts) == {"ferritin": 65.0, "new": None, "ribosome": 90.0}
    assert known_radii(parts, [RIBOSOME])["ribosome"] == 150.0


def test_classes_keep_the_colours_of_the_base_and_differ():
    radii = {"ferritin": 60.0, "new": 40.0, "ribosome": 120.0}
    kinds = particle_classes(radii, [RIBOSOME])
    assert {kind.name: kind.radius for kind in kinds} == radii
    assert kinds[2].colour == RIBOSOME.colour
    assert len({kind.colour for kind in kinds}) == 3
    known = RIBOSOME.model_copy(update={"threshold": 0.3, "min_distance": 90.0})
    (kind,) = particle_classes({"ribosome": 120.0}, [known])
    assert (kind.radius, kind.threshold, kind.min_distance) == (120, 0.3, 90)
    with pytest.raises(Vox3dError, match="How large is 'new'"):
        particle_classes({"new": None})


def elf(values, **fields):
    atoms = bulk("Si")
    return vox.Volume.on_lattice(values, atoms.cell.array, quantity="elf", atoms=atoms, **fields)


def test_a_true_elf_is_read_from_elfcar_and_from_cube(tmp_path):
    values = np.random.default_rng(0).random((4, 4, 4))
    for name in ("ELFCAR", "si.cube"):
        vox.write_volume(tmp_path / name, elf(values))
        assert np.allclose(read_true_elf(tmp_path / name).values, values, atol=1e-4)


def test_what_is_no_elf_is_refused(tmp_path, tomograms):
    vox.write_volume(tmp_path / "CHGCAR", vox.superpose_atoms(bulk("Si"), spacing=0.5))
    with pytest.raises(FormatError, match="not an ELF"):
        read_true_elf(tmp_path / "CHGCAR")
    with pytest.raises(FormatError, match="carries no atoms"):
        read_true_elf(tomograms[0])
    vox.write_volume(tmp_path / "ELFCAR", elf(np.full((4, 4, 4), 3.0)))
    with pytest.raises(FormatError, match="between 0 and 1"):
        read_true_elf(tmp_path / "ELFCAR")


def test_true_elfs_of_folders_and_shards(tmp_path):
    from recipes.elf_data.shards import sample, write_shard
    from recipes.elf_data.structures import Structure

    atoms = bulk("Si")
    elf = vox.predict_elf(atoms, "promolecule", shape=(16, 16, 16))
    (tmp_path / "some" / "deep").mkdir(parents=True)
    vox.write_volume(tmp_path / "some" / "deep" / "ELFCAR", elf)
    values = elf.values.T
    structure = Structure("Si-0", "covalent", "diamond", "known", "plain", atoms)
    write_shard(tmp_path / "some" / "shard.zip", [sample(structure, 0 * values, values)])
    file, shard = read_true_elfs([tmp_path / "some"])
    assert shard.name == "Si-0"
    assert shard.atoms.get_chemical_symbols() == ["Si", "Si"]
    assert file.shape == (16, 16, 16)
    assert abs(shard.values.mean() - file.values.mean()) < 0.01
    assert len(read_true_elfs([tmp_path / "some" / "shard.zip", tmp_path / "some"])) == 3


@pytest.mark.parametrize("name", ["empty", "broken.zip"])
def test_folders_without_elfs_and_broken_shards_are_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_text("nothing")
    with pytest.raises(FormatError, match=rf"{name}.*(holds no file like|is no shard)"):
        read_true_elfs([tmp_path / name])
