"""Too little memory, several jobs at a time, volumes of 20 GB, and hundreds of rounds."""

import json
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from nursery import Life
from samples import elf_model
from scipy.spatial import cKDTree
from test_robustness_interrupted import contents, crystals
from test_robustness_vanishing import small_picker
from test_robustness_writing import done

import napari_vox3d as vox
from napari_vox3d.errors import Cancelled, InferenceError, as_sentence
from napari_vox3d.volume import Volume

sys.path.insert(0, str(Path(__file__).parents[1]))
from elf_models import SILICON, model

MEGABYTE = 1 << 20
SAMPLE = Path(vox.__file__).parent / "gui/sample_data/simulated_tomogram.mrc"
CYCLES = Path(__file__).with_name("cycles.py")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")


def warm():
    """Compute all once, so that no child imports."""
    for kind in WORK:
        WORK[kind](small=True)()


# --- memory --------------------------------------------------------------------------------------


def tomogram(shape=(64, 112, 112)):
    values = np.random.default_rng(0).normal(size=shape).astype("f4")
    return Volume(values, 10.0, name="t")


def picking(small=False):
    volume, picker = tomogram((16, 20, 24) if small else (64, 112, 112)), small_picker()
    picker.network("cpu")
    return lambda: vox.pick_particles(volume, picker, device="cpu").positions


def elf(small=False):
    network = model()
    network.network("cpu")
    edge = 8 if small else 56
    return lambda: vox.predict_elf(SILICON, network, shape=(edge,) * 3, device="cpu").values


def superposition(small=False):
    return lambda: vox.superpose_atoms(SILICON, (8,) * 3 if small else (120,) * 3).values


def crystal(small=False):
    edge = 8 if small else 80
    grid = np.indices((edge,) * 3) * 2 * np.pi / edge
    values = np.cos(grid).prod(0) / 2 + 0.5
    return Volume.on_lattice(values, SILICON.cell.array, quantity="elf", atoms=SILICON)


def maxima(small=False):
    volume = crystal(small)
    return lambda: vox.find_maxima(volume).positions


def statistics(small=False):
    volume = crystal(small)
    return lambda: vox.volume_statistics(volume).counts


def comparison(small=False):
    volume = crystal(small)
    return lambda: vox.compare_volumes(volume, volume).difference.values


def training(small=False):
    from napari_vox3d.training.elf_examples import prepare_example
    from napari_vox3d.training.elf_fit import fit_elf

    example = prepare_example(crystal(small), ["sad"], 0.4 if small else 0.05)
    arguments = {"base": 8, "blocks": 1, "kernel": 1, "attention_every": 0}

    def fit():
        network, _ = fit_elf([example], arguments=arguments, steps=1, device="cpu")
        return network.get_parameter("net.stem.0.weight").detach().numpy()

    return fit


WORK = {
    "picking": picking, "ELF": elf, "superposition": superposition, "maxima": maxima,
    "statistics": statistics, "comparison": comparison, "training": training,
}  # fmt: skip


def work_with(kind, megabytes):
    """Do some work with so much memory more than is held already; gives a digest of the result."""
    import resource

    work = WORK[kind]()
    if megabytes is not None:
        status = Path("/proc/self/status").read_text()
        data = next(line for line in status.splitlines() if line.startswith("VmData"))
        limit = 1024 * int(data.split()[1]) + int(megabytes * MEGABYTE)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        found = work()
    except Exception as error:
        raise as_sentence(error) or error from error
    return [list(found.shape), float(np.abs(found, dtype=float).mean().round(4))]


@forks
@pytest.mark.parametrize("kind", WORK)
def test_too_little_memory_is_a_sentence_or_does(nursery, long, linux, cases, kind):
    enough = nursery.do(work_with, kind, None)
    expected = done(enough)
    cases(enough)
    # MKL, which computes products, ends the program if its own memory is what is refused: at one
    # limit of a training, within a megabyte, and far above this one.
    limits = (
        [2 ** (n / 2) for n in range(-2, 21)] if long else (0.5, 4 if kind == "training" else 24)
    )
    answered = 0
    for megabytes in limits:
        life = nursery.do(work_with, kind, megabytes)
        assert life.ended_well, life.error or f"signal {life.signal} at {megabytes} MB"
        assert life.refused or life.answer == expected
        answered += not life.refused
        cases(life)
    assert not long or 0 < answered < len(limits)


def out_of_memory_beyond(network, monkeypatch, voxels):
    """Let a network raise what CUDA raises, for inputs of more than so many voxels."""
    import torch

    forward = type(network).forward
    refused = []

    def limited(self, values, *arguments, **options):
        if values.numel() > voxels:
            refused.append(values.shape)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, values, *arguments, **options)

    monkeypatch.setattr(type(network), "forward", limited)
    return refused


def test_a_full_graphics_card_gets_smaller_tiles(monkeypatch):
    volume, picker = tomogram((32, 400, 32)), small_picker()
    whole = vox.pick_particles(volume, picker, device="cpu")
    refused = out_of_memory_beyond(picker.network("cpu"), monkeypatch, 250_000)
    tiled = vox.pick_particles(volume, picker, device="cpu")
    assert refused
    assert len(tiled) == len(whole)  # those of one score in any order
    assert cKDTree(whole.positions).query(tiled.positions)[0].max() < 0.1
    out_of_memory_beyond(picker.network("cpu"), monkeypatch, 0)
    with pytest.raises(InferenceError, match="too little memory left even for tiles"):
        vox.pick_particles(volume, picker, device="cpu")


def test_a_full_graphics_card_leaves_an_elf_to_files_or_refuses_it(monkeypatch):
    import torch

    known, asked = model(), {"shape": (8, 8, 8), "device": "cpu"}
    plain = vox.predict_elf(SILICON, known, **asked)
    network = known.network("cpu")
    refused = out_of_memory_beyond(network, monkeypatch, 0)
    np.testing.assert_allclose(
        vox.predict_elf(SILICON, known, **asked).values, plain.values, atol=1e-5
    )
    assert refused

    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(type(network), "answer", full)
    with pytest.raises(InferenceError, match="would fit"):
        vox.predict_elf(SILICON, known, **asked)


def volume_of_twenty_gigabytes(path):
    """An MRC file of 20 GB, with the sample in the middle and, elsewhere, in the sampled planes."""
    from mrcfile.dtypes import HEADER_DTYPE

    shape, size, finer = (1000, 2236, 2236), 2.5, 4
    vox.write_volume(path, Volume(np.zeros((1, 1, 1), "f4"), size))
    header = np.frombuffer(path.read_bytes()[:1024], HEADER_DTYPE).reshape(()).copy()
    for names in (("nx", "ny", "nz"), ("mx", "my", "mz")):
        for name, n in zip(names, shape[::-1], strict=True):
            header[name] = n
    header["cella"] = tuple(size * n for n in shape[::-1])
    sample = np.asarray(vox.read_volume(SAMPLE).values, "f4")
    depth, *edges = (finer * n for n in sample.shape)
    first = (shape[0] - depth) // 2
    top, left = ((n - edge) // 2 for n, edge in zip(shape[1:], edges, strict=True))
    with path.open("wb") as file:
        file.write(header.tobytes())
        for z in range(shape[0]):
            row, inside = 1024 + 4 * z * shape[1] * shape[2], 0 <= z - first < depth
            if not inside and z % 22 != 11:
                continue
            plane = sample[(z - first) // finer % len(sample)].repeat(finer, 0).repeat(finer, 1)
            if z % 22 == 11:
                around = [
                    (a, n - a - e) for a, n, e in zip((top, left), shape[1:], edges, strict=True)
                ]
                file.seek(row)
                file.write(np.pad(plane, around, mode="wrap").data)
                continue
            for y, line in enumerate(plane, top):
                file.seek(row + 4 * (y * shape[2] + left))
                file.write(line.data)
        file.truncate(1024 + 4 * np.prod(shape, dtype=int))


def pick_a_large_one(path):
    """Pick in a part and in the whole of it with 2 GB; gives counts and the peak of memory."""
    import resource

    import torch

    torch.set_num_threads(2)
    resource.setrlimit(resource.RLIMIT_CPU, (3600, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_DATA, (2000 * MEGABYTE, 2000 * MEGABYTE))
    peaks, over = [0], threading.Event()

    def watch():
        while not over.wait(0.1):
            lines = Path("/proc/self/status").read_text().splitlines()
            peaks.append(int(next(line for line in lines if line.startswith("VmRSS")).split()[1]))

    threading.Thread(target=watch, daemon=True).start()
    volume = vox.read_volume(path)
    assert volume.values.nbytes > 19.9e9
    depth, height, width = volume.shape
    middle = [(n // 2 - 200, n // 2 + 200) for n in (depth, height, width)]
    options = {"device": "cpu", "precision": "float32"}
    part = vox.pick_particles(volume, region=middle, **options)
    whole = vox.pick_particles(volume, **options)
    over.set()
    low, high = np.array(middle).T - 0.5
    inside = ((whole.indices >= low) & (whole.indices < high)).all(1)
    return {"part": len(part), "whole": len(whole), "inside": int(inside.sum()),
            "peak": 1024 * max(peaks)}  # fmt: skip


@forks
def test_a_volume_of_twenty_gigabytes_is_picked_with_two(nursery, long, linux, cases, tmp_path):
    if not long:
        pytest.skip("only in the long form")
    path = tmp_path / "large.mrc"
    volume_of_twenty_gigabytes(path)
    life = nursery.do(pick_a_large_one, path)
    path.unlink()
    found = done(life)
    assert found["peak"] < 2e9, found
    assert found["inside"] > 10, found
    assert abs(found["part"] - found["inside"]) <= 0.1 * found["inside"] + 3, found
    cases(Life(0, seconds=life.seconds, memory=found["peak"]))


# --- at the same time ----------------------------------------------------------------------------


def test_jobs_at_the_same_time_do_not_disturb_each_other():
    """As in threads of napari: two pickings, an ELF, and one that is cancelled."""
    first, second = small_picker(), small_picker("zscore")
    volume, network = tomogram((32, 48, 48)), elf_model()
    jobs = {
        "first": lambda: vox.pick_particles(volume, first, device="cpu").positions,
        "second": lambda: vox.pick_particles(volume, second, device="cpu").positions,
        "ELF": lambda: vox.predict_elf(SILICON, network, shape=(24,) * 3, device="cpu").values,
    }
    alone = {name: job() for name, job in jobs.items()}

    def cancelled():
        def progress(done, _total):
            if done:
                raise Cancelled("Enough.")

        with pytest.raises(Cancelled):
            vox.score_particles(volume, first, device="cpu", progress=progress)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ThreadPoolExecutor(4) as pool:
            others = [pool.submit(cancelled) for _ in range(2)]
            together = [(name, pool.submit(jobs[name])) for name in [*jobs, *jobs]]
    for name, one in together:
        np.testing.assert_allclose(one.result(), alone[name], atol=1e-4)
    for one in others:
        one.result()


def two_batches(sources, folder):
    """Two processes carry out the same batch in the same folder at the same time."""
    children = []
    for _ in range(2):
        children.append(os.fork())
        if not children[-1]:
            outcomes = vox.predict_elf_files(sources, folder, "promolecule", spacing=0.5)
            os._exit(any(outcome.state == "failed" for outcome in outcomes))
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@forks
def test_two_batches_in_one_folder(nursery, cases, tmp_path):
    sources = crystals(tmp_path)
    vox.predict_elf_files(sources, tmp_path / "alone", "promolecule", spacing=0.5)
    life = nursery.do(two_batches, sources, tmp_path / "out")
    assert done(life) == [0, 0]
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    assert len(list((tmp_path / "out").iterdir())) == 4
    cases(life)


# --- again and again -----------------------------------------------------------------------------


@pytest.mark.skipif(not os.environ.get("DISPLAY"), reason="needs a display")
def test_opening_running_and_closing_leaves_nothing_behind(long, linux, cases):
    rounds, first = (200, 40) if long else (6, 2)
    ran = subprocess.run(
        [sys.executable, CYCLES, str(rounds)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    held = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert len(held) == rounds
    before, after = held[first], held[-2]  # rounds of one kind
    for what in ("threads", "tasks", "handles", "widgets"):
        assert after[what] <= before[what] + (4 if long else 0), (what, before, after)
    grown = after["memory"] - before["memory"]
    for one in held:
        cases(Life(0, memory=one["memory"]))
    assert grown < 100 * MEGABYTE, (before, after)
