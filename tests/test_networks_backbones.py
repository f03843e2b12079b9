import json
import math
from pathlib import Path

import pytest
import torch
from reference import build, run
from safetensors import safe_open
from torch.nn import functional as F

import napari_vox3d
import napari_vox3d.networks.memory
from napari_vox3d import networks
from napari_vox3d.errors import ModelError, NotEnoughMemory
from napari_vox3d.formats import read_volume
from napari_vox3d.networks import HRNet, SOANet, UNet

VECTORS = sorted((Path(__file__).parent / "data" / "vectors").glob("snr_bb_*.safetensors"))
TOMOGRAM = Path(napari_vox3d.__file__).parent / "gui" / "sample_data" / "microtubule.mrc"
SMALL = {"channels": 4, "heads": 4, "window": (2, 4, 4), "patch": (1, 2, 2), "drop_path": 0.0}


@pytest.fixture(autouse=True)
def _same_chance():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def crop():
    """Odd-shaped piece of a real tomogram, (1, 1, 7, 21, 27)."""
    values = torch.from_numpy(read_volume(TOMOGRAM).values[5:12, 9:30, 11:38].copy()).float()
    return ((values - values.mean()) / values.std())[None, None]


def padded(x, multiple):
    missing = [-n % m for n, m in zip(x.shape[2:], multiple, strict=True)]
    return F.pad(x, [side for n in reversed(missing) for side in (0, n)])


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def read(path):
    with safe_open(path, "pt") as file:
        tensors = {"state": {}, "in": {}, "out": {}}
        for key in file.keys():  # noqa: SIM118
            group, name = key.split("/", 1)
            tensors[group][name] = file.get_tensor(key)
        return json.loads(file.metadata()["config"]), tensors


@pytest.mark.parametrize("path", VECTORS, ids=[path.stem for path in VECTORS])
def test_numbers_of_the_original(path):
    config, tensors = read(path)
    module = build(config, tensors["state"])
    outputs = run(module, config, tensors["in"])
    assert len(outputs) == len(tensors["out"])
    for index, output in enumerate(outputs):
        torch.testing.assert_close(output, tensors["out"][f"y{index}"], atol=1e-4, rtol=1e-4)
    assert parameters(module) == config["n_params"]


def test_there_are_vectors_of_every_backbone():
    assert {read(path)[0]["cls"] for path in VECTORS} == {"Unet", "HRnet", "SOAnet"}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("UNet", {"blocks": ["C3"]}),
        ("UNet", {"blocks": ["T1L1"], "attention_gates": False}),
        ("UNet", {"blocks": ["L3C2"], "downsample_depth": True}),
        ("HRNet", {"blocks": ["C3", "T1"]}),
        ("HRNet", {"blocks": ["L1"], "levels": 3, "downsampler": "patch_merge"}),
        ("HRNet", {"blocks": ["C3"], "downsample_depth": True, "upsampler": "nearest"}),
        ("SOANet", {"blocks": ["S3Sh"]}),
        ("SOANet", {"blocks": ["C3"], "stages": 3, "downsample_depth": True}),
        ("SOANet", {"blocks": ["L1C3"], "downsample": False}),
    ],
)
def test_forward_and_backward_on_an_odd_crop_reach_every_parameter(crop, name, arguments):
    network = networks.build(name, in_channels=1, **{**SMALL, **arguments})
    x = padded(crop, network.multiple).requires_grad_()
    outputs = network(x)
    assert [y.shape[1] for y in outputs] == network.out_channels
    assert outputs[0].shape[2:] == x.shape[2:]
    sum((y * torch.randn_like(y)).sum() for y in outputs).backward()
    untouched = [
        key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert not untouched
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("make", [UNet, HRNet, SOANet])
@pytest.mark.parametrize("depth", [False, True])
def test_depth_is_halved_only_if_asked(make, depth):
    network = make(1, blocks=["C3"], downsample_depth=depth, **SMALL).eval()
    coarsest = 2 if make is UNet else 1
    assert network.multiple == (2**coarsest if depth else 1, 2**coarsest, 2**coarsest)
    seen = []
    for block in network.blocks.values():
        block.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[2:]))
    with torch.no_grad():
        network(torch.randn(1, 1, 8, 16, 16))
    assert min(shape[0] for shape in seen) == (8 >> coarsest if depth else 8)
    assert min(shape[1] for shape in seen) == 16 >> coarsest


@pytest.mark.parametrize(
    ("make", "count"), [(UNet, 3_859_919), (HRNet, 3_731_183), (SOANet, 1_654_790)]
)
def test_default_networks_have_as_many_parameters_as_the_original(make, count):
    assert parameters(make(1, (2, 64, 64), downsampler="patch_merge")) == count


def test_unet_gives_one_map():
    (y,) = UNet(2, blocks=["C3"], **SMALL)(torch.randn(2, 2, 4, 16, 16))
    assert y.shape == (2, 4, 4, 16, 16)


def test_a_closed_gate_hides_the_skip_connection():
    network = UNet(1, levels=1, blocks=["C3"], **SMALL).eval()
    gate = network.gates["attention_0"]
    with torch.no_grad():
        gate.query.weight.fill_(0.0)
        gate.skip.weight.fill_(0.0)
        skip, query = torch.randn(2, 1, 4, 2, 4, 4)
        torch.testing.assert_close(gate(query, skip), skip / 2)


def test_hrnet_gives_every_level_and_all_together():
    outputs = HRNet(1, levels=3, blocks=["C3"], **SMALL)(torch.randn(1, 1, 2, 16, 24))
    assert [tuple(y.shape[1:]) for y in outputs] == [
        (4, 2, 16, 24),
        (8, 2, 8, 12),
        (16, 2, 4, 6),
        (28, 2, 16, 24),
    ]
    torch.testing.assert_close(outputs[-1][:, :4], outputs[0])


def test_soanet_gives_one_map_per_stage():
    network = SOANet(1, stages=3, blocks=["C3"], **SMALL)
    shapes = [tuple(y.shape[1:]) for y in network(torch.randn(1, 1, 2, 16, 16))]
    assert shapes == [(4, 2, 16, 16), (8, 2, 8, 8), (16, 2, 4, 4)]
    assert not [key for key in network.state_dict() if "layers" in key or "downsample" in key]


@pytest.mark.parametrize(
    "blocks",
    [
        ["S3ShS3Sh", "S3ShS3Sh", "S3ShS3ShS3ShS3ShS3ShS3Sh", "S3ShS3Sh"],
        ["V2V2V2V2V2V2V2V2V2V2V2V2"],
        ["V3V3V3", "V3V3V3V3V3V3", "V3V3V3V3V3V3V3V3V3V3V3V3"],
    ],
)
def test_swin_and_vit_of_the_specification(blocks):
    shape = (4, 32, 32)
    network = SOANet(
        1, shape, stages=len(blocks), blocks=blocks, **{**SMALL, "window": (2, 8, 8)}
    ).eval()
    with torch.no_grad():
        outputs = network(torch.randn(1, 1, *shape))
    assert len(outputs) == len(blocks)
    assert all(y.isfinite().all() for y in outputs)


def test_windows_keep_their_size_until_a_map_holds_fewer_than_two():
    options = {"channels": 4, "heads": 4, "window": (1, 8, 8), "patch": (1, 2, 2)}
    network = UNet(1, (2, 32, 32), levels=3, blocks=["L1"], **options)
    tables = {
        place: block.state_dict()[key].shape[0]
        for place, block in network.blocks.items()
        for key in block.state_dict()
        if key.endswith("table")
    }
    per_edge = {place: (math.isqrt(rows) + 1) // 2 for place, rows in tables.items()}
    assert per_edge == {"D0": 4, "D1": 4, "D2": 2, "bridge": 2, "U2": 2, "U1": 4, "U0": 4}


def test_windows_can_be_given_for_a_place():
    given = {"Stage1": [[1, 2, 2], [1, 1, 1]]}
    network = SOANet(1, blocks=["L1"], windows=given, **SMALL).eval()
    plain = SOANet(1, blocks=["L1"], **SMALL).eval()
    plain.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 2, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(x)[0], plain(x)[0])
        assert not torch.allclose(network(x)[1], plain(x)[1])


@pytest.mark.parametrize(
    ("make", "bad"),
    [(UNet, {"levels": 0}), (UNet, {"levels": 6}), (HRNet, {"levels": 1}), (HRNet, {"levels": 6})],
)
def test_number_of_levels_is_limited(make, bad):
    with pytest.raises(
        ValueError, match=rf"{make.__name__} has \d to 5 levels, not {bad['levels']}"
    ):
        make(1, **bad)


@pytest.mark.parametrize("blocks", ["C3", [], ["C3", "C3", "C3", "C3"]])
def test_blocks_are_a_list_that_fits(blocks):
    with pytest.raises(ValueError, match="block"):
        UNet(1, levels=2, blocks=blocks)


def test_windows_of_unknown_places_are_refused():
    with pytest.raises(ValueError, match="there is no place 'D7'; there is D0, D1, bridge, U1, U0"):
        UNet(1, blocks=["C3"], windows={"D7": [[1, 2, 2], [1, 1, 1]]})


def test_unknown_options_are_refused():
    with pytest.raises(ModelError, match="colour"):
        networks.build("UNet", in_channels=1, colour="red")


@pytest.mark.parametrize("make", [UNet, HRNet, SOANet])
def test_sizes_that_cannot_be_halved_are_refused(make):
    network = make(1, blocks=["C3"], **SMALL)
    with pytest.raises(ModelError, match=r"multiples of 1×\d×\d, not 4×15×16; pad the volume"):
        network(torch.randn(1, 1, 4, 15, 16))


def test_maps_that_become_too_small_are_refused():
    network = UNet(1, levels=3, blocks=["C3"], **SMALL)
    with pytest.raises(ModelError, match="become 4×1×1 on the coarsest level of this UNet"):
        network(torch.randn(1, 1, 4, 8, 8))


@pytest.mark.parametrize("make", [UNet, HRNet, SOANet])
def test_what_does_not_fit_is_refused_before_it_begins(monkeypatch, make):
    monkeypatch.setattr(napari_vox3d.networks.memory, "available_memory", lambda device: 2 * 2**20)
    shape = (128, 128, 128)
    network = make(
        1, shape, channels=8, blocks=["T1L1G1"], heads=8, window=(1, 8, 8), patch=(1, 2, 2)
    )
    assert network.peak_bytes(shape) > 5 * 10**8
    with pytest.raises(NotEnoughMemory, match=f"{make.__name__} on 128×128×128 voxels needs about"):
        network(torch.empty(1, 1, *shape))


def test_more_voxels_and_channels_take_more_memory():
    def peak(channels, *shape):
        return UNet(1, channels=channels, blocks=["C3"]).peak_bytes(shape)

    assert peak(8, 64, 64, 64) == pytest.approx(8 * peak(8, 32, 32, 32))
    assert peak(8, 2, 64, 64, 64) == pytest.approx(2 * peak(8, 64, 64, 64))
    assert peak(16, 64, 64, 64) > 1.5 * peak(8, 64, 64, 64)
