import json
from math import prod
from pathlib import Path

import pytest
import reference
import torch
from safetensors import safe_open
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from napari_vox3d.errors import ModelError
from napari_vox3d.networks import build
from napari_vox3d.networks.attention import (
    GridAttention,
    SwinAttention,
    TemporalAttention,
    attend,
)
from napari_vox3d.networks.cell_options import CellOptions
from napari_vox3d.networks.cells import Block, kept_window, parse_cells
from napari_vox3d.networks.layers import NORMS, ReflectConv3d, activation
from napari_vox3d.networks.resampling import DownSample2x, UpSample2x
from napari_vox3d.networks.tokens import Cutting, Grid, from_tokens, to_tokens

KINDS = ["T1", "L1", "L3", "G1", "G3", "V2", "V3", "S3", "Sh", "C2", "C3", "T0", "L0", "G0"]
ATTENTION = [kind for kind in KINDS if kind[0] != "C"]
SHAPE = (4, 8, 8)
SMALL = {"window": (2, 4, 4), "patch": (1, 2, 2), "heads": 4}
VECTORS = sorted(
    path
    for kind in ("block", "cell", "down", "up")
    for path in (Path(__file__).parent / "data" / "vectors").glob(f"snr_{kind}*.safetensors")
)


def block(cells, shape=SHAPE, **arguments):
    torch.manual_seed(0)
    return Block(3, 8, cells, shape, **{**SMALL, **arguments})


def volume(*shape, channels=3):
    return torch.randn(2, channels, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_numbers_of_the_original(path):
    with safe_open(path, "pt") as vector:
        config = json.loads(vector.metadata()["config"])
        tensors = {key: vector.get_tensor(key) for key in vector.keys()}  # noqa: SIM118

    def part(start):
        return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}

    module = reference.build(config, part("state/"))
    results = reference.run(module, config, part("in/"))
    assert len(results) == len(part("out/"))
    for number, result in enumerate(results):
        torch.testing.assert_close(result, tensors[f"out/y{number}"], rtol=0, atol=5e-6)


def test_there_are_vectors_of_every_sound_kind():
    assert len(VECTORS) == 22


@pytest.mark.parametrize("made_by", ["conv", "lin"])
@pytest.mark.parametrize("cell", ["sequential", "parallel"])
@pytest.mark.parametrize("cells", KINDS)
def test_gradient_reaches_every_parameter(cells, cell, made_by):
    options = {"attention": made_by, "mixer": made_by, "cosine": False, "drop_path": 0.0}
    module = block(cells, cell=cell, **options)
    y = module(volume(*SHAPE))
    assert y.shape == (2, 8, *SHAPE)
    (y * torch.randn_like(y)).sum().backward()
    silent = [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert silent == []


@pytest.mark.parametrize("dense", [False, True])
def test_cells_are_chained(dense):
    module = block("T1C3L1", dense=dense).eval()
    x = volume(*SHAPE)
    first, second, third = module.cells
    a = first(x)
    b = second(a)
    torch.testing.assert_close(module(x), third(a + b if dense else b))


@pytest.mark.parametrize("letter", ["T", "L", "G"])
def test_digit_zero_has_no_mixer(letter):
    for digit in "01":
        names = [name for name, _ in block(letter + digit).named_parameters()]
        assert any("mixer" in name for name in names) == (digit == "1")


def test_a_linear_mixer_stands_alone():
    module = block("L1", mixer="lin", activation="relu").eval()
    for parameter in module.cells[0].mixer.parameters():
        torch.nn.init.zeros_(parameter)
    assert not module(volume(*SHAPE)).any()


@pytest.mark.parametrize(
    ("cells", "kind", "words"),
    [
        ("", AssertionError, "pairs"),
        ("T1L", AssertionError, "pairs"),
        ("X1", ValueError, "Unknown cell 'X1'"),
        ("S2", ValueError, "Unknown cell 'S2'"),
        ("V1", ValueError, "Unknown cell 'V1'"),
        ("T1C0", ValueError, "Unknown cell 'C0'"),
        (["T1"], ModelError, "string"),
    ],
)
def test_block_strings_that_are_wrong(cells, kind, words):
    with pytest.raises(kind, match=words) as caught:
        parse_cells(cells)
    assert isinstance(caught.value, ModelError)


def test_block_strings_that_are_right():
    kinds = parse_cells("TxL3L2G3GaV2V3S3shShC2C3T0")
    assert [k.attention for k in kinds] == [
        *["temporal", "local", "local", "global", "global", "vit", "vit"],
        *["swin", "swin", "swin", "conv", "conv", "temporal"],
    ]
    flat_or_deep = [False, True, False, True, False, False, True, True, True, True, False, True]
    assert [k.depth for k in kinds] == [*flat_or_deep, False]
    assert [k.shifted for k in kinds] == [False] * 9 + [True] + [False] * 3
    assert [k.mixer for k in kinds] == [True] * 12 + [False]


@pytest.mark.parametrize("cells", KINDS)
@pytest.mark.parametrize("declared", [True, False])
def test_a_single_plane(cells, declared):
    shape = (1, 8, 8)
    if not declared and cells[0] in "GV":
        pytest.skip("needs a shape")
    module = block(cells, shape if declared else None)
    assert module(volume(*shape)).isfinite().all()
    depths = [m.kernel_size[0] for m in module.modules() if isinstance(m, ReflectConv3d)]
    assert max(depths) == (3 if cells in ("L3", "S3", "Sh", "C3") and not declared else 1)


def test_borders_are_mirrored():
    conv = ReflectConv3d(1, 1, depth=True)
    x = torch.randn(1, 1, 4, 5, 6)
    padded = F.pad(x, [1] * 6, mode="reflect")
    torch.testing.assert_close(conv(x), F.conv3d(padded, conv.weight, conv.bias))


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_fused_attention_is_the_plain_formula(cosine, normalise, masked):
    query, key, value = torch.randn(3, 2, 4, 6, 5).unbind()
    bias, mask = torch.randn(4, 6, 6), None
    if masked:
        mask = torch.eye(6, dtype=torch.bool) | (torch.rand(6, 6) > 0.5)
        bias = bias * mask
    options = CellOptions(cosine=cosine, normalise_qk=normalise)
    q, k = query, key
    if cosine:
        q, k = (t / t.norm(dim=-1, keepdim=True) for t in (q, k))
        scores = q @ k.mT
    else:
        if normalise:
            q, k = ((t - t.mean(-1, True)) / t.std(-1, keepdim=True) for t in (q, k))
        scores = q @ k.mT / 5**0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    wanted = (scores.softmax(-1) + bias) @ value
    result = attend(query, key, value, options, bias=bias, mask=mask)
    torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("across", [True, False])
def test_cut_maps_are_put_together_again(across):
    grid = Grid((1, 2, 3), (3, 2, 1), (2, 1, 2))
    x = torch.randn(2, 5, 6, 4, 6)
    tokens = to_tokens(x, grid, across)
    assert tokens.shape == (12, 6, 20)
    assert torch.equal(from_tokens(tokens, grid, across), x)


@pytest.mark.parametrize(("cells", "depth"), [("G1", 3), ("G3", 4)])
def test_global_attention_joins_equal_places_of_all_windows_of_any_plane(cells, depth):
    shape = (depth, 16, 32)
    attention = block(cells, shape, window=(2, 8, 8), heads=1, output_projection=False).cells[0]
    attention = attention.attention.eval()
    x = volume(*shape)
    half = 1 if cells == "G3" else 2  # windows in planes have half the size
    deep = 2 if cells == "G3" else depth
    step = (deep, 8 // half, 8 // half)
    q, k, v = (made(x)[0] for made in (attention.query, attention.key, attention.value))

    def tokens(t, at):  # patch of one voxel along D, two along H and W
        d, h, w = at
        corners = t[:, d :: step[0]]
        patches = torch.stack(
            [corners[:, :, h + i :: step[1], w + j :: step[2]] for i in (0, 1) for j in (0, 1)]
        )
        return patches.permute(2, 3, 4, 0, 1).flatten(0, 2).flatten(1)

    at = (depth - 1) % deep, 2, 0
    query, key, value = tokens(q, at), tokens(k, at), tokens(v, at)
    weights = (F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).T).softmax(-1)
    weights = weights + attention.bias(len(query))[0]
    torch.testing.assert_close(tokens(attention.mix(x)[0], at), weights @ value)


def test_swin_attention_uses_its_own_values():
    attention = block("S3", output_projection=False).cells[0].attention
    torch.nn.init.zeros_(attention.value.weight)
    torch.nn.init.ones_(attention.value.bias)
    attention.bias = None
    torch.testing.assert_close(attention(volume(*SHAPE)), torch.ones(2, 8, *SHAPE))


def test_shifted_windows_do_not_look_around_the_border():
    options = CellOptions(window=(1, 4, 4), heads=2)
    attention = SwinAttention(3, 4, options, shifted=True, convolve_depth=False)
    x = volume(1, 4, 8)
    other = x.clone()
    other[..., 0] += 1
    changed = (attention(x) - attention(other)).abs().amax((0, 1, 2, 3)) > 1e-6
    # The window of columns 6, 7 | 0, 1 wraps around; convolutions reach one column further.
    assert changed.tolist() == [True] * 3 + [False] * 5


def test_windows_are_shifted_only_where_there_is_more_than_one():
    plain = block("S3", (2, 4, 4)).eval()
    shifted = block("Sh", (2, 4, 4)).eval()
    x = volume(2, 4, 4)
    torch.testing.assert_close(plain(x), shifted(x))
    assert not torch.allclose(
        block("S3").eval()(volume(*SHAPE)), block("Sh").eval()(volume(*SHAPE))
    )


def test_swin_windows_are_padded_and_the_padding_is_not_seen():
    options = CellOptions(window=(1, 1, 4), heads=1, output_projection=False, position_bias=False)
    attention = SwinAttention(3, 4, options, shifted=False, convolve_depth=False)
    x = volume(1, 2, 6)
    result = attention(x)
    made = (attention.query, attention.key, attention.value)
    q, k, v = (projection(x)[0, :, 0, 1, 4:].T for projection in made)
    weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).T).softmax(-1)
    torch.testing.assert_close(result[0, :, 0, 1, 4:].T, weights @ v)


@pytest.mark.parametrize("shape", [(3, 7, 9), (5, 8, 6)])
@pytest.mark.parametrize("cells", ["S3", "Sh", "T1", "C3"])
def test_cells_that_take_maps_of_any_size(cells, shape):
    assert block(cells, None)(volume(*shape)).shape == (2, 8, *shape)


@pytest.mark.parametrize("cells", ["L1", "L3", "G1", "G3", "V2", "V3"])
def test_maps_that_cannot_be_cut_are_refused(cells):
    with pytest.raises(ModelError, match=r"\(4, 8, 11\) voxels \(D, H, W\) cannot be cut"):
        block(cells)(volume(4, 8, 11))
    with pytest.raises(ModelError, match="cannot be cut"):
        block(cells, (4, 8, 11))


def test_windows_are_stretched_over_a_declared_map():
    cutting = Cutting.of("local", False, (1, 8, 8), (1, 2, 2), (3, 20, 16))
    assert cutting.grid((3, 20, 16)) == ((3, 2, 2), (1, 5, 4), (1, 2, 2))
    halved = Cutting.of("global", False, (1, 8, 8), (1, 2, 2), (3, 16, 32))
    assert halved.grid((3, 16, 32)) == ((1, 4, 8), (3, 2, 2), (1, 2, 2))


def test_local_windows_keep_their_size_and_others_their_number():
    assert block("L1").eval()(volume(4, 16, 24)).shape == (2, 8, 4, 16, 24)
    grid = block("V2").cells[0].attention.cutting.grid((5, 16, 12))
    assert grid.windows == (1, 2, 2)
    assert grid.patch == (1, 8, 6)


@pytest.mark.parametrize("cells", ["G1", "G3", "V2", "V3"])
def test_cells_with_a_number_of_windows_need_a_shape(cells):
    with pytest.raises(ModelError, match="shape=\\(D, H, W\\)"):
        block(cells, None)


@pytest.mark.parametrize("cells", ATTENTION)
def test_the_number_of_heads_is_obeyed(cells):
    attention = block(cells, heads=2, output_projection=False).cells[0].attention
    seen = []
    wrapped = F.scaled_dot_product_attention

    def spy(query, *others, **options):
        seen.append(query.shape[1])
        return wrapped(query, *others, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", spy)
        attention(volume(*SHAPE))
    assert set(seen) == {2}
    if not isinstance(attention, TemporalAttention):
        assert attention.bias.table.shape[1] == 2
    with pytest.raises(ModelError, match="7 attention heads do not divide"):
        block(cells, heads=7)


def test_causal_planes_do_not_look_ahead():
    module = block("T1", causal=True, norm="instance2d").eval()
    x = volume(*SHAPE)
    later = x.clone()
    later[:, :, 2] += 1 + torch.rand(8, 8)
    same = torch.isclose(module(x), module(later), atol=1e-6).flatten(3).all(-1).all(1).all(0)
    assert same.tolist() == [True, True, False, False]


def test_position_bias_is_optional():
    module = block("L1V3S3", position_bias=False)
    assert not any("bias.table" in name for name, _ in module.named_parameters())
    assert module(volume(*SHAPE)).isfinite().all()


def test_more_tokens_than_the_position_bias_knows_are_refused():
    attention = block("L1").cells[0].attention
    with pytest.raises(ModelError, match="made for 4 tokens"):
        attention.bias(5)


@pytest.mark.parametrize("cells", ["T1", "C3"])
def test_branches_are_left_out_in_training_only(cells):
    module = block(cells, drop_path=1.0)
    x = volume(*SHAPE)
    assert torch.equal(module(x), module.cells[0].project(x))
    module.eval()
    assert torch.equal(module(x), module(x))
    assert not torch.allclose(module(x), module.cells[0].project(x))


def test_dropped_weights_in_training_only():
    module = block("L1", attention_dropout=0.5, drop_path=0.0)
    x = volume(*SHAPE)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


@pytest.mark.parametrize("norm", NORMS)
def test_norms(norm):
    y = block("C3", norm=norm).cells[0].norm1(5 + 3 * volume(*SHAPE))
    axes = {
        "instance2d": (3, 4),
        "instance3d": (2, 3, 4),
        "batch2d": (0, 2, 3, 4),
        "batch3d": (0, 2, 3, 4),
        "layer": (1, 3, 4),
        "layer3d": (1, 2, 3, 4),
    }[norm]
    assert y.mean(axes).abs().max() < 1e-5
    assert (y.var(axes, correction=0) - 1).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("prelu", [-0.25, 3, 9]),
        ("relu", [0.0, 3, 9]),
        ("relu6", [0.0, 3, 6]),
        ("leakyrelu", [-0.1, 3, 9]),
        ("elu", [-0.6321, 3, 9]),
        ("celu", [-0.6321, 3, 9]),
    ],
)
def test_activations(name, expected):
    y = activation(name)(torch.tensor([-1.0, 3.0, 9.0]))
    torch.testing.assert_close(y, torch.tensor(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"norm": "group"}, "Unknown norm"),
        ({"activation": "tan"}, "Unknown activation"),
        ({"mixer": "mlp"}, "mixer is 'conv' or 'lin'"),
        ({"attention": "mlp"}, "attention is 'conv' or 'lin'"),
        ({"window": (8, 8)}, "window is"),
        ({"patch": (0, 2, 2)}, "patch is"),
        ({"drop_path": 1.5}, "probability"),
        ({"heads": 0}, "at least one head"),
        ({"cell": "serial"}, "'sequential' or 'parallel'"),
        ({"shape": (8, 8)}, "shape is"),
        ({"norm": "layer", "shape": None}, "give shape"),
        ({"widnow": (1, 8, 8)}, "no option widnow"),
        ({"options": CellOptions()}, "not both"),
    ],
)
def test_options_that_are_wrong(arguments, words):
    with pytest.raises(ModelError, match=words):
        build("Block", **{"in_channels": 3, "out_channels": 8, "cells": "L1", **SMALL, **arguments})


def test_a_block_is_built_by_name_from_json():
    options = json.loads('{"cells": "L1C3", "window": [1, 4, 4], "patch": [1, 2, 2], "heads": 2}')
    module = build("Block", in_channels=1, out_channels=4, **options)
    assert module(torch.randn(1, 1, 2, 8, 8)).shape == (1, 4, 2, 8, 8)


def test_linear_layers_need_patches_of_the_size_they_were_made_for():
    module = Block(3, 8, "L1", None, attention="lin", window=(1, 4, 4), patch=(1, 4, 4), heads=4)
    with pytest.raises(ModelError, match="patches of 16 voxels"):
        module(volume(2, 2, 4))


def test_the_window_is_kept_while_a_plane_holds_two():
    assert kept_window((4, 8, 8), (2, 2, 2), (4, 16, 16)) == ((4, 8, 8), (2, 2, 2))
    assert kept_window((4, 8, 8), (2, 2, 2), (4, 8, 16)) == ((4, 4, 8), (2, 2, 2))
    assert kept_window((4, 4, 4), (2, 2, 2), (4, 4, 1)) == ((4, 2, 1), (2, 1, 1))


@pytest.mark.parametrize("channels", [4, 24])
@pytest.mark.parametrize("cells", ["T1", "L1", "G3", "V3", "Sh"])
def test_the_memory_estimate_is_near_what_is_allocated(cells, channels):
    shape = (8, 32, 32)
    module = Block(channels, channels, cells, shape, **{**SMALL, "heads": 2}).eval()
    x = torch.randn(1, channels, *shape)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        module.cells[0].attention(x)
    now = peak = x.nbytes
    for event in run.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    assert 0.5 < module.attention_bytes((1, *shape)) / peak < 2


def test_the_memory_estimate_is_that_of_the_largest_step():
    def size(cells):
        return block(cells).attention_bytes((1, *SHAPE))

    assert size("T1S3L1") >= max(size("S3"), size("L1"))
    assert size("C2C3") == 0


def test_grids_of_every_kind_are_the_size_of_the_map():
    for reach in ("local", "global", "vit"):
        for depth in (True, False):
            grid = Cutting.of(reach, depth, (2, 4, 4), (2, 2, 2), (4, 16, 32)).grid((4, 16, 32))
            assert prod(map(prod, grid)) == 4 * 16 * 32
    assert isinstance(block("L1").cells[0].attention, GridAttention)


@pytest.mark.parametrize("method", ["interpolate", "patch_merge"])
@pytest.mark.parametrize("depth", [False, True])
def test_halving(method, depth):
    module = DownSample2x(3, 5, 2, method, depth)
    assert module(torch.randn(1, 3, 8, 12, 16)).shape == (1, 5, 2 if depth else 8, 3, 4)
    with pytest.raises(ModelError, match="cannot be halved"):
        module(torch.randn(1, 3, 8, 6, 8))


def test_halving_by_interpolation_is_linear_interpolation_and_a_convolution():
    module = DownSample2x(2, 3, depth=True)
    x = torch.randn(1, 2, 4, 6, 8)
    half = F.interpolate(x, scale_factor=0.5, mode="trilinear")
    torch.testing.assert_close(module(x), F.conv3d(half, module.convs[0].weight))


@pytest.mark.parametrize("method", ["linear", "nearest"])
@pytest.mark.parametrize("depth", [False, True])
def test_doubling(method, depth):
    module = UpSample2x(3, 5, 2, method, depth)
    assert module(torch.randn(1, 3, 2, 3, 4)).shape == (1, 5, 8 if depth else 2, 12, 16)


def test_doubling_in_planes_does_not_mix_them():
    module = UpSample2x(1, 1)
    x = torch.randn(1, 1, 3, 4, 5)
    torch.testing.assert_close(module(x)[:, :, 1:2], module(x[:, :, 1:2]))


def test_samplers_refuse_unknown_methods():
    with pytest.raises(ModelError, match="'interpolate' or 'patch_merge'"):
        DownSample2x(1, 1, method="max")
    with pytest.raises(ModelError, match="'linear' or 'nearest'"):
        UpSample2x(1, 1, method="cubic")
