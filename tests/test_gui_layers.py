import itertools
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import zarr
from ase import Atoms
from ase.build import bulk
from ase.geometry import cellpar_to_cell
from napari.components import ViewerModel
from napari.layers import Image, Layer, Points

from napari_vox3d import Picks, Volume, Vox3dError
from napari_vox3d.gui.appearance import class_colours
from napari_vox3d.gui.layers import (
    atoms_from_layer,
    atoms_layer,
    cell_layer,
    score_layer,
    structure_layers,
    volume_from_layer,
    volume_layer,
    volume_layers,
)
from napari_vox3d.gui.pick_layers import picks_from_layer, picks_layer, show_whole_spheres
from napari_vox3d.inference.tiles import NetworkView, Normalisation

LEFT_HANDED = cellpar_to_cell([4, 4.5, 5, 85, 100, 95])[[1, 0, 2]]
CELLS = {
    "hexagonal": cellpar_to_cell([3.1, 3.1, 5.2, 90, 90, 120]),
    "rhombohedral": cellpar_to_cell([6.5, 6.5, 6.5, 30.9, 30.9, 30.9]),
    "triclinic": cellpar_to_cell([4, 5, 6, 72, 81, 64]),
    "left-handed": LEFT_HANDED,
    "downwards": cellpar_to_cell([2.5, 2.5, 7, 90, 90, 120]) * [1, 1, -1],
    "orthorhombic": np.diag([3.0, 4.0, 5.0]),
}


def field(volume, index):
    """Gaussians around the atoms and their images, at fractional indices (..., 3)."""
    fractions = np.asarray(index) / volume.shape
    total = np.zeros(fractions.shape[:-1])
    for atom in volume.atoms.get_scaled_positions()[:, ::-1]:
        for image in itertools.product((-2, -1, 0, 1, 2), repeat=3):
            distance = (fractions % 1 - atom + image) @ volume.cell
            total += np.exp(-(distance**2).sum(-1) / 0.5)
    return total


def crystal(lattice):
    """Crystal of two atoms, one of them given in another cell."""
    atoms = Atoms("OC", scaled_positions=[(0.9, 0.97, -0.7), (0.4, 0.55, 0.7)], cell=lattice, pbc=1)
    shape = np.ceil(np.linalg.norm(lattice, axis=1)[::-1] / 0.17).astype(int)
    volume = Volume.on_lattice(np.zeros(shape), lattice, atoms=atoms, quantity="electron density")
    return volume.with_values(field(volume, np.moveaxis(np.indices(shape), 0, -1)))


@pytest.fixture(scope="module", params=CELLS)
def shown(request):
    volume = crystal(CELLS[request.param])
    viewer = ViewerModel()
    for data in volume_layers([volume]):
        viewer.add_layer(Layer.create(*data))
    image, _, atoms = viewer.layers
    return volume, viewer, image, atoms


@pytest.fixture
def tomogram():
    values = np.random.default_rng(0).normal(size=(12, 20, 30)).astype(np.float32)
    return Volume(values, 10.0, origin=(5, 6, 7), name="tomogram", source="tomogram.mrc")


@pytest.fixture
def picks():
    positions = [(10, 20, 30), (50, 60, 70), (90, 10, 20)]
    return Picks(np.array(positions), ["ribosome", "apo", "ribosome"], [0.9, 0.5, 0.7],
                 radii=[150, 60, 150], voxel_size=10, tomogram="tomogram")  # fmt: skip


def layer_of(data) -> Layer:
    return Layer.create(*data)


def positions_of(layer):
    return np.array([layer.data_to_world(point) for point in layer.data])


def test_atoms_lie_where_the_file_puts_them_up_to_whole_cells(shown):
    volume, _, _, points = shown
    world = positions_of(points)
    apart = np.linalg.solve(volume.lattice.T, (world[:, ::-1] - volume.atoms.positions).T)
    np.testing.assert_allclose(apart, np.round(apart), atol=1e-9)
    index = volume.to_index(world)
    assert (index >= -0.5 - 1e-9).all()
    assert (index < np.array(volume.shape) - 0.5).all()


def test_in_3d_every_atom_sits_on_a_local_maximum(shown):
    _, _, image, points = shown
    for world in positions_of(points):
        index = np.array(image.world_to_data(world))
        centre = np.round(index).astype(int)
        low = np.maximum(centre - 3, 0)
        block = image.data[tuple(slice(a, b) for a, b in zip(low, centre + 4, strict=True))]
        top = low + np.unravel_index(block.argmax(), block.shape)
        assert np.abs(top - index).max() < 1.1
        assert block.max() > 0.9


def test_in_2d_the_slice_through_an_atom_has_its_maximum_at_the_atom(shown):
    _, viewer, image, points = shown
    viewer.dims.ndisplay = 2
    for world in positions_of(points):
        viewer.dims.set_point(0, world[0])

        def value(dy, dx, world=world):
            # napari reads this value from the slice that it draws
            here = image.get_value((viewer.dims.point[0], world[1] + dy, world[2] + dx), world=True)
            return -1 if here is None else here

        around = [value(0.6 * np.sin(t), 0.6 * np.cos(t)) for t in np.linspace(0, 6, 9)]
        assert value(0, 0) > 0.9
        assert value(0, 0) > 1.3 * max(around)


def test_slices_show_the_field_of_the_crystal_everywhere(shown):
    volume, viewer, image, _ = shown
    for index in np.random.default_rng(0).integers(0, image.data.shape, (50, 3)):
        world = np.array(image.data_to_world(index))
        viewer.dims.set_point(0, world[0])
        expected = field(volume, volume.to_index(world))
        assert image.get_value(world, world=True) == pytest.approx(expected, abs=0.06)


def test_the_cell_and_the_atoms_show_in_slices_of_every_axis(shown):
    volume, viewer, _, points = shown
    cell = viewer.layers[1]
    low, high = cell.extent.world
    corners = np.array(list(itertools.product((0, 1), repeat=3))) @ volume.cell
    np.testing.assert_allclose([low, high], [corners.min(0), corners.max(0)], atol=0.2)
    everything = len(cell.data[1])
    for order in [(0, 1, 2), (1, 0, 2), (2, 0, 1)]:
        viewer.dims.order = order
        for fraction in (0.05, 0.5, 0.95):
            viewer.dims.set_point(order[0], (low + fraction * (high - low))[order[0]])
            assert len(cell._view_faces) == everything
        viewer.dims.set_point(order[0], positions_of(points)[0, order[0]])
        assert 0 in points._view_indices
    viewer.dims.order = (0, 1, 2)


def test_all_layers_share_units_and_axes(shown, tomogram, picks):
    _, viewer, _, _ = shown
    score = Volume(tomogram.values, tomogram.step, quantity="score", name="apo")
    layers = [*viewer.layers, *map(layer_of, (picks_layer(picks, tomogram), score_layer(score)))]
    for layer in layers:
        assert [str(unit) for unit in layer.units] == ["angstrom"] * 3
        assert layer.axis_labels == ("z", "y", "x")


def test_the_native_volume_comes_back(shown):
    volume, _, image, _ = shown
    assert volume_from_layer(image) is volume
    assert atoms_from_layer(image) is volume.atoms


def test_a_copied_layer_gives_the_native_volume_or_its_equal(shown):
    volume, _, image, _ = shown
    data, meta, kind = image.as_layer_data_tuple()
    copied = volume_from_layer(Layer.create(data.copy(), meta, kind))
    np.testing.assert_array_equal(copied.values, volume.values)
    np.testing.assert_allclose(copied.step, volume.step)
    assert copied.periodic


def test_a_tomogram_is_shown_as_it_is(tomogram):
    layer = layer_of(volume_layer(tomogram))
    assert layer.data is tomogram.values
    np.testing.assert_allclose(layer.data_to_world((1, 2, 3)), tomogram.to_world((1, 2, 3)))
    assert layer.metadata["provenance"]["source"] == "tomogram.mrc"
    assert volume_from_layer(layer) is tomogram


def test_what_the_user_did_to_a_layer_counts(tomogram):
    layer = layer_of(volume_layer(tomogram))
    layer.scale = (5, 5, 5)
    changed = volume_from_layer(layer)
    np.testing.assert_allclose(changed.voxel_size, 5)
    assert changed.values is tomogram.values
    layer.data = tomogram.values[:6] * 2
    cropped = volume_from_layer(layer)
    assert cropped.shape == (6, 20, 30)
    np.testing.assert_allclose(cropped.values, tomogram.values[:6] * 2)


def test_new_values_on_a_crystal_keep_atoms_only_on_the_native_grid():
    orthogonal, skewed = crystal(CELLS["orthorhombic"]), crystal(CELLS["hexagonal"])
    layer = layer_of(volume_layer(orthogonal))
    layer.data = layer.data**2
    squared = volume_from_layer(layer)
    assert squared.periodic
    assert squared.atoms is orthogonal.atoms
    layer = layer_of(volume_layer(skewed))
    layer.data = layer.data**2
    boxed = volume_from_layer(layer)
    assert not boxed.periodic
    assert boxed.atoms is None
    assert boxed.is_orthogonal


def test_setting_the_scale_calibrates_a_volume():
    layer = layer_of(volume_layer(Volume(np.ones((3, 4, 5)), 1.0, name="raw", calibrated=False)))
    assert "voxel size unknown" in layer.name
    assert not volume_from_layer(layer).calibrated
    layer.scale = (7, 7, 7)
    assert volume_from_layer(layer).calibrated


def test_layers_of_others_are_converted_to_angstrom():
    data = np.arange(60.0).reshape(3, 4, 5)
    nanometres = Image(data, scale=(1, 2, 2), translate=(0, 1, 0), units="nm")
    volume = volume_from_layer(nanometres)
    np.testing.assert_allclose(volume.voxel_size, (10, 20, 20))
    np.testing.assert_allclose(volume.origin, (0, 10, 0))
    assert volume.calibrated
    assert volume.values is data
    assert not volume_from_layer(Image(data)).calibrated
    sheared = Image(data, affine=[[1, 0, 0.5, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(volume_from_layer(sheared).to_world((0, 0, 2)), (4, 0, 2))


def test_multiscale_layers_give_the_finest_level_and_nothing_is_computed():
    def fail(block):
        raise AssertionError("the array was computed")

    lazy = da.ones((8, 8, 8)).map_blocks(fail, meta=np.zeros((0, 0, 0)))
    pyramid = [np.ones((8, 8, 8)), np.ones((4, 4, 4))]
    assert volume_from_layer(Image(pyramid, multiscale=True)).values is pyramid[0]
    with pytest.raises(AssertionError, match="computed"):
        Image(lazy, contrast_limits=(0, 1))  # napari itself computes the slice it shows
    shown = Image(da.ones((8, 8, 8)), contrast_limits=(0, 1))
    shown._data = lazy
    assert volume_from_layer(shown).values is lazy


def pyramid(kind):
    """Three levels, each the mean of 2³ voxels of the one before: 5, 10 and 20 Å."""
    finest = np.zeros((24, 32, 40), np.float32)
    finest[8:12, 16:20, 4:8] = 1
    levels = [finest]
    for _ in range(2):
        blocks = levels[-1].reshape([m for n in levels[-1].shape for m in (n // 2, 2)])
        levels.append(blocks.mean(axis=(1, 3, 5)))
    if kind == "dask":
        return [da.from_array(level, chunks=4) for level in levels]
    if kind == "zarr":
        return [zarr.array(level, chunks=(4, 4, 4)) for level in levels]
    return levels


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
def test_levels_of_a_multiscale_layer_lie_in_one_place(make_napari_viewer, kind):
    levels = pyramid(kind)
    viewer = make_napari_viewer()
    layer = viewer.add_image(
        levels, multiscale=True, scale=[0.5] * 3, translate=[1, 2, 3], units="nm", name="pyramid"
    )
    whole = volume_from_layer(layer)
    assert whole.values is levels[0]
    for level, wanted in ((0, 4), (1, 10), (2, 19), (2, 100)):
        volume = whole.level_for(wanted)
        assert volume.values is levels[level]
        np.testing.assert_allclose(volume.voxel_size, 5 * 2**level)
        inside = np.argwhere(np.asarray(volume.values[...]))
        centre = volume.to_world(inside).mean(axis=0)
        np.testing.assert_allclose(centre, np.array([9.5, 17.5, 5.5]) * 5 + [10, 20, 30])
    layer.units = "pixel"
    assert volume_from_layer(layer).level_for(10).values is levels[0]  # sizes are unknown


def test_odd_sizes_are_halved_all_the_same():
    levels = [np.zeros((25, 41, 30)), np.zeros((12, 20, 15)), np.zeros((7, 11, 8))]
    layer = Image(levels, multiscale=True, scale=[5] * 3, units="angstrom")
    for wanted, size in ((10, 10), (20, 20)):
        volume = volume_from_layer(layer).level_for(wanted)
        np.testing.assert_allclose(volume.voxel_size, size)
        np.testing.assert_allclose(volume.origin, (size - 5) / 2)
    third = Image([np.zeros((15, 15, 15)), np.zeros((10, 10, 10))], multiscale=True)
    assert volume_from_layer(third).shape == (15, 15, 15)


@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_only_the_box_that_is_asked_for_is_read(make_napari_viewer, kind, monkeypatch):
    data = pyramid(kind)[0]
    layer = make_napari_viewer().add_image(data, scale=[10] * 3, units="angstrom")
    volume = volume_from_layer(layer)
    assert volume.values is data
    view = NetworkView(volume.values, (1, 1, 1), Normalisation(0, 1, np.inf))
    read = []
    if kind == "dask":
        counted = data.map_blocks(lambda block: read.append(block.size) or block, dtype=data.dtype)
        view = replace(view, values=counted)
    else:
        plain = type(data).__getitem__
        monkeypatch.setattr(
            type(data), "__getitem__",
            lambda self, where: read.append(plain(self, where).size) or plain(self, where),
        )  # fmt: skip
    box = view.read((6, 14, 2), (14, 22, 10))
    assert box.sum() == 64
    assert 0 < sum(read) <= 12**3


def test_what_is_no_volume_is_refused():
    with pytest.raises(Vox3dError, match="'flat' has 2 axes"):
        volume_from_layer(Image(np.zeros((4, 4)), name="flat"))
    with pytest.raises(Vox3dError, match=r"'both' holds several volumes \(2 × 4 × 4 × 4\)"):
        volume_from_layer(Image(np.zeros((2, 4, 4, 4)), name="both"))


def test_colour_images_and_other_layers_are_refused(picks):
    with pytest.raises(Vox3dError, match="colour"):
        volume_from_layer(Image(np.zeros((4, 4, 4, 3)), rgb=True))
    points = layer_of(picks_layer(picks))
    with pytest.raises(Vox3dError, match="not an image"):
        volume_from_layer(points)
    with pytest.raises(Vox3dError, match="not a points"):
        picks_from_layer(Image(np.zeros((4, 4, 4))))
    with pytest.raises(Vox3dError, match="2 axes"):
        picks_from_layer(Points(np.zeros((3, 2))))
    with pytest.raises(Vox3dError, match="no atoms"):
        atoms_from_layer(points)
    with pytest.raises(Vox3dError, match="no atoms"):
        atoms_layer(Volume(np.zeros((2, 2, 2)), 1.0))


def test_contrast_is_sampled_and_not_led_by_outliers(tmp_path):
    values = np.memmap(tmp_path / "big", np.float32, "w+", shape=(64, 300, 300))
    values[:] = np.random.default_rng(0).normal(size=values.shape[1:])
    values[:, 0, :3] = 1e6
    low, high = volume_layer(Volume(values, 10.0))[1]["contrast_limits"]
    assert -4 < low < -2
    assert 2 < high < 4


def test_vacuum_does_not_change_the_look_of_a_molecule():
    def density(edge):
        return field(Volume.on_lattice(np.zeros((40,) * 3), np.eye(3) * edge,
                                       atoms=Atoms("N", cell=[edge] * 3)),
                     np.moveaxis(np.indices((40,) * 3), 0, -1))  # fmt: skip

    looks = [
        volume_layer(Volume.on_lattice(density(a), np.eye(3) * a, quantity="electron density"))[1]
        for a in (4, 10)
    ]
    near, far = [look["iso_threshold"] for look in looks]
    assert far == pytest.approx(near, rel=0.2)
    assert all(look["contrast_limits"][1] > 0.3 for look in looks)


def test_each_quantity_has_its_look():
    values = np.random.default_rng(0).normal(size=(8, 8, 8))
    spin = volume_layer(Volume(values, 1.0, quantity="spin density", periodic=True))[1]
    assert spin["contrast_limits"][0] == -spin["contrast_limits"][1]
    elf = volume_layer(Volume(values, 1.0, quantity="elf", periodic=True))[1]
    assert elf["contrast_limits"] == (0, 1)
    assert elf["iso_threshold"] <= 0.7
    for strange in (np.zeros((3, 3, 3)), np.full((3, 3, 3), np.nan), np.ones((1, 1, 1), bool)):
        low, high = volume_layer(Volume(strange, 1.0))[1]["contrast_limits"]
        assert high > low


@pytest.mark.parametrize("dtype", [">f4", "f2", "i1", ">i2", "u2", "c8"])
def test_values_of_every_mode_are_drawn(dtype):
    values = np.arange(120).reshape(4, 5, 6).astype(dtype)
    volume = Volume(values, 2.0)
    viewer = ViewerModel()
    viewer.add_layer(layer_of(volume_layer(volume)))
    viewer.dims.set_point(0, 4)
    assert viewer.layers[0].get_value((4, 4, 4), world=True) == values[2, 2, 2].real
    assert volume_from_layer(viewer.layers[0]) is volume


def test_spin_channels_are_further_hidden_layers():
    total = crystal(CELLS["orthorhombic"])
    spin = total.with_values(total.values / 2, quantity="spin density", name="spin")
    layers = [layer_of(data) for data in volume_layers([total, spin])]
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Image", "Image", "Surface", "Points"]
    assert [layer.visible for layer in layers] == [True, False, True, True]


def test_structures_are_atoms_in_their_cell():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    cell, points = map(layer_of, structure_layers(atoms, name="NaCl", source="POSCAR"))
    assert points.features["element"].tolist() == ["Na", "Cl"]
    assert not np.allclose(points.face_color[0], points.face_color[1])
    assert atoms_from_layer(points) is atoms
    assert cell.ndim == 3
    molecule = Atoms("H2", [(0, 0, 0), (0, 0, 0.7)])
    (points,) = map(layer_of, structure_layers(molecule))
    np.testing.assert_allclose(positions_of(points)[1], (0.7, 0, 0))


def test_atom_spheres_have_sizes_in_angstrom():
    points = layer_of(atoms_layer(Atoms("HCs", [(0, 0, 0), (0, 0, 3)])))
    diameters = points.size * points.scale[-1]
    np.testing.assert_allclose(diameters, 0.7 * np.array([0.31, 2.44]))


def test_cell_edges_run_along_the_lattice():
    cell = layer_of(cell_layer(crystal(CELLS["triclinic"])))
    vertices = positions_of(Points(cell.data[0], scale=cell.scale, translate=cell.translate))
    tubes = vertices.reshape(12, 2, 6, 3).mean(axis=2)
    edges = np.sort(np.linalg.norm(tubes[:, 1] - tubes[:, 0], axis=1))
    np.testing.assert_allclose(edges, np.repeat([4, 5, 6], 4), atol=1e-6)


def test_picks_lie_on_their_tomogram(tomogram, picks):
    image, points = layer_of(volume_layer(tomogram)), layer_of(picks_layer(picks, tomogram))
    np.testing.assert_allclose(points.scale, image.scale)
    np.testing.assert_allclose(points.translate, image.translate)
    np.testing.assert_allclose(points.data, picks.indices)
    np.testing.assert_allclose(points.size * points.scale[-1], 2 * picks.radii)
    assert points.features["class"].tolist() == picks.labels.tolist()
    np.testing.assert_allclose(points.features["score"], picks.scores)


def test_classes_keep_their_colours(tomogram, picks):
    classes = ["apo", "ribosome", "vlp"]
    every = layer_of(picks_layer(picks, tomogram, classes=classes))
    one = layer_of(picks_layer(picks.select([0, 2]), tomogram, classes=classes))
    np.testing.assert_allclose(every.face_color[0], one.face_color[0])
    assert not np.allclose(every.face_color[0], every.face_color[1])
    score = Volume(np.zeros((2, 2, 2)), 10.0, quantity="score", name="ribosome")
    layer = layer_of(score_layer(score, classes=classes))
    np.testing.assert_allclose(layer.colormap.colors[-1], every.face_color[0], atol=1e-6)
    assert not layer.visible
    assert len(set(class_colours("abcdefghij").values())) == 10


def test_picks_come_back_as_the_user_left_them(tomogram, picks):
    image, layer = layer_of(volume_layer(tomogram)), layer_of(picks_layer(picks, tomogram))
    same = picks_from_layer(layer, image)
    np.testing.assert_allclose(same.positions, picks.positions)
    np.testing.assert_allclose(same.radii, picks.radii)
    assert same.labels.tolist() == picks.labels.tolist()
    assert same.shape == tomogram.shape
    layer.selected_data = {1}
    layer.remove_selected()
    layer.data = layer.data + np.array([1, 0, 0])
    layer.add([3, 4, 5])
    edited = picks_from_layer(layer, image)
    np.testing.assert_allclose(edited.positions, [(20, 20, 30), (100, 10, 20), (30, 40, 50)])
    assert edited.labels.tolist()[:2] == ["ribosome", "ribosome"]
    np.testing.assert_allclose(edited.scores[:2], [0.9, 0.7])


def test_points_of_others_become_picks_of_a_tomogram(tomogram):
    image = layer_of(volume_layer(tomogram))
    nanometres = Points([(0.5, 0.6, 0.7)], size=2, units="nm", features={"label": ["apo"]})
    picks = picks_from_layer(nanometres, image)
    np.testing.assert_allclose(picks.positions, [(0, 0, 0)], atol=1e-9)
    assert picks.labels.tolist() == ["apo"]
    np.testing.assert_allclose(picks.radii, [10])
    np.testing.assert_allclose(picks.voxel_size, 10)


def test_an_unknown_voxel_size_is_not_made_up(picks):
    nowhere = Picks(picks.positions, picks.labels)
    assert picks_from_layer(layer_of(picks_layer(nowhere))).voxel_size is None


def test_angles_survive(picks):
    angles = np.arange(9.0).reshape(3, 3)
    turned = Picks(picks.positions, picks.labels, angles=angles, voxel_size=10)
    np.testing.assert_allclose(picks_from_layer(layer_of(picks_layer(turned))).angles, angles)


def test_no_picks_are_picks_too(tomogram, picks):
    layer = layer_of(picks_layer(picks.select([]), tomogram))
    assert len(picks_from_layer(layer)) == 0
    layer.add([1, 1, 1])
    assert picks_from_layer(layer).labels.tolist() == ["particle"]


def test_skewed_volumes_take_no_picks(picks):
    with pytest.raises(Vox3dError, match="skewed"):
        picks_layer(picks, crystal(CELLS["hexagonal"]))


def test_slices_show_the_discs_in_which_they_cut_particles(tomogram, picks):
    viewer = ViewerModel()
    for data in (volume_layer(tomogram), picks_layer(picks, tomogram)):
        viewer.add_layer(layer_of(data))
    image, points = viewer.layers
    show_whole_spheres(viewer, picks)
    viewer.dims.set_point(0, 5 + 90)  # cuts the last pick, and the second 40 Å off its centre
    assert sorted(points._view_indices) == [0, 1, 2]
    sizes = dict(zip(points._view_indices, points._view_size * 10, strict=True))
    assert sizes[2] == pytest.approx(300)
    assert sizes[1] == pytest.approx(2 * np.sqrt(60**2 - 40**2), rel=1e-3)
    expected = tomogram.values[9, 3, 4]
    assert image.get_value((95, 36, 47), world=True) == expected
