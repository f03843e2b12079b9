import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
from elf_models import model as tiny_elf_model

import napari_vox3d as vox
from napari_vox3d.batch import collection_path, gpus, local
from napari_vox3d.batch.names import target_names
from napari_vox3d.errors import Cancelled, Vox3dError
from napari_vox3d.formats import read_pick_collection

POSIX = os.name == "posix"
needs_dask = pytest.mark.skipif(find_spec("distributed") is None, reason="needs distributed")

CRYSTAL = """Po
 1.0
 {0} 0.0 0.0
 0.0 {0} 0.0
 0.0 0.0 {0}
 Si
 1
Direct
 0.00 0.00 0.00
"""


def write_tomogram(path, shape=(24, 32, 40), seed=0):
    path.parent.mkdir(exist_ok=True)
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    vox.write_volume(path, vox.Volume(values, 10.0))
    return path


def write_crystal(path, edge=3.3):
    path.parent.mkdir(exist_ok=True)
    path.write_text(CRYSTAL.format(edge))
    return path


@pytest.fixture
def tomograms(tmp_path):
    """Three tomograms; the second is broken."""
    paths = [write_tomogram(tmp_path / "in" / f"TS_{n}.mrc", seed=n) for n in range(3)]
    paths[1].write_bytes(b"broken")
    return paths


@pytest.fixture
def crystals(tmp_path):
    return [write_crystal(tmp_path / "in" / f"{name}.vasp") for name in "abcd"]


def states(outcomes):
    return [outcome.state for outcome in outcomes]


def elves(sources, folder, **options):
    return vox.predict_elf_files(sources, folder, "promolecule", spacing=0.5, **options)


def workers_of(parent=None):
    """Processes of local batches."""
    children = psutil.Process(parent).children()
    return [p for p in children if "napari_vox3d.batch.worker" in " ".join(words_of(p))]


def words_of(process):
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def test_each_tomogram_gets_its_picks_and_a_broken_one_stops_nothing(tomograms, tmp_path):
    told = []
    outcomes = vox.pick_files(tomograms, tmp_path / "out", threshold=0.0, on_outcome=told.append)
    assert states(outcomes) == ["done", "failed", "done"]
    assert told == outcomes
    assert "TS_1.mrc" in outcomes[1].problem
    assert "\n" not in outcomes[1].problem
    for outcome in (outcomes[0], outcomes[2]):
        own = vox.pick_particles(vox.read_volume(outcome.source), threshold=0.0)
        found = vox.read_picks(outcome.targets[0], vox.read_volume(outcome.source))
        np.testing.assert_allclose(found.positions, own.positions, atol=1e-3)
        assert outcome.count == len(own) > 0


def test_what_is_there_and_not_older_is_skipped(crystals, tmp_path):
    out = tmp_path / "out"
    assert states(elves(crystals[:2], out)) == ["done", "done"]
    before = (out / "a.vasp.ELFCAR").stat().st_mtime_ns
    assert states(elves(crystals, out)) == ["skipped", "skipped", "done", "done"]
    assert (out / "a.vasp.ELFCAR").stat().st_mtime_ns == before
    later = time.time() + 60
    os.utime(crystals[3], (later, later))
    assert states(elves(crystals, out)) == ["skipped"] * 3 + ["done"]
    assert states(elves(crystals, out, overwrite=True)) == ["done"] * 4


def reasons(outcomes):
    return [None if outcome.state == "skipped" else outcome.again for outcome in outcomes]


def test_a_result_of_other_settings_is_made_again_and_the_reason_told(tmp_path):
    source, out = [write_tomogram(tmp_path / "in" / "TS_1.mrc")], tmp_path / "out"
    name = vox.load_model("default", "picking").card.classes[0].name
    steps = [  # without a threshold nothing is found, and that is a result too
        ({}, ""),
        ({"device": "cpu"}, None),
        ({"threshold": 0.0}, "another threshold before"),
        ({"threshold": 0}, None),
        ({"threshold": 0.0, "min_distance": 80}, "another min distance before"),
        ({"threshold": 0.1, "contrast": "bright"},
         "another contrast, min distance, threshold before"),
        ({"classes": [name]}, "another choice of classes, contrast, threshold before"),
        ({"classes": [name], "flips": True}, "another choice of mirror images before"),
        ({"classes": [name], "flips": True}, None),
        ({"classes": [name], "flips": False}, "another choice of mirror images before"),
        ({}, "another choice of classes before"),
    ]  # fmt: skip
    for options, why in steps:
        assert reasons(vox.pick_files(source, out, **options)) == [why], options
    assert reasons(vox.pick_files(source, out, overwrite=True)) == [""]
    later = time.time() + 60
    os.utime(source[0], (later, later))
    assert reasons(vox.pick_files(source, out)) == ["source changed since"]


def test_picks_of_another_model_are_made_again_and_edited_ones_stay(tmp_path):
    source = write_tomogram(tmp_path / "in" / "TS_1.mrc")
    (outcome,) = vox.pick_files([source], tmp_path, format="copick", threshold=0.0)
    target = outcome.targets[0]
    picks = vox.read_picks(target)
    run = vox.Run.from_metadata(picks.metadata)

    def rerun(**changes):
        changed = replace(run, **changes).as_metadata()
        vox.write_picks(target, replace(picks, metadata=changed))
        return reasons(vox.pick_files([source], tmp_path, format="copick", threshold=0.0))

    assert rerun() == [None]
    assert rerun(model="another name of it") == [None]
    assert rerun(sha256="f" * 64) == ["another model before"]
    assert rerun(arguments={}, edited=True) == [None]


@pytest.mark.parametrize("format", ["ELFCAR", "cube", "xsf"])
def test_an_elf_of_another_model_or_spacing_is_made_again(tmp_path, format):
    crystal, out = [write_crystal(tmp_path / "in" / "a.vasp", 2.5)], tmp_path / "out"

    def why(model="promolecule", **options):
        return reasons(vox.predict_elf_files(crystal, out, model, format=format, **options))

    assert why(spacing=0.5) == [""]
    assert why(spacing=0.5) == [None]
    assert why() == ["another spacing before"]
    assert why() == [None]
    assert why(spacing=0.2) == [None]
    (made,) = out.iterdir()
    made.write_text(made.read_text().replace('"model":"promolecule"', '"model":"other"'))
    assert why() == ["another model before"]


@pytest.mark.parametrize("format", ["dynamo", "csv", "coords"])
def test_formats_that_keep_no_run_go_by_name_and_date(tmp_path, format):
    source = [write_tomogram(tmp_path / "TS_1.mrc")]
    assert reasons(vox.pick_files(source, tmp_path / "out", format=format)) == [""]
    assert reasons(vox.pick_files(source, tmp_path / "out", format=format, threshold=0)) == [None]


def test_tomograms_of_a_project_are_skipped_too(tmp_path, monkeypatch):
    """The file of an address is that of the project."""
    project = tmp_path / "config.json"
    project.write_text("{}")
    tomogram = write_tomogram(tmp_path / "in" / "wbp.mrc")
    read = vox.read_volume
    monkeypatch.setitem(vars(vox), "read_volume", lambda address: replace(
        read(tomogram), name="TS_1", source=address))  # fmt: skip
    address = f"{project}::TS_1::wbp@10"
    assert states(vox.pick_files([address], tmp_path / "out")) == ["done"]
    assert (tmp_path / "out" / "TS_1.star").is_file()
    assert states(vox.pick_files([address], tmp_path / "out")) == ["skipped"]
    assert reasons(vox.pick_files([address], tmp_path / "out", threshold=0)) == [
        "another threshold before"
    ]


def test_settings_reach_the_prediction(crystals, tmp_path):
    (outcome,) = elves(crystals[:1], tmp_path / "out", format="cube")
    assert outcome.targets == (str(tmp_path / "out" / "a.vasp.cube"),)
    whole = vox.predict_elf(crystals[0], "promolecule", spacing=0.5)
    np.testing.assert_allclose(vox.read_volume(outcome.targets[0]).values, whole.values, atol=1e-4)


def test_sources_of_one_name_do_not_overwrite_each_other(tmp_path):
    sources = [write_crystal(tmp_path / folder / "POSCAR", edge)
               for folder, edge in (("a", 3.0), ("b", 4.0))]  # fmt: skip
    elves(sources, tmp_path / "out")
    edges = {p.name: vox.read_volume(p).lattice[0, 0] for p in (tmp_path / "out").iterdir()}
    assert edges == {"a_POSCAR.ELFCAR": pytest.approx(3), "b_POSCAR.ELFCAR": pytest.approx(4)}


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["x/a.mrc", "x/b.mrc.gz"], ["a", "b"]),
        (["x/t.mrc", "y/t.mrc", "y/u.mrc"], ["x_t", "y_t", "u"]),
        (["p/x/t.mrc", "q/x/t.mrc"], ["p_x_t", "q_x_t"]),
        (["x/t.mrc", "y/T.mrc"], ["x_t", "y_T"]),
        (["p.json::TS_1::wbp@10", "p.json::TS_2::wbp@10"], ["TS_1", "TS_2"]),
        (["x/t.mrc", "y/t.mrc", "z/x_t.mrc"], ["w_x_t", "y_t", "w_z_x_t"]),
    ],
)
def test_names_are_told_apart_by_as_few_folders_as_it_takes(sources, names):
    found = target_names([Path("/w") / source for source in sources], ".star", stem=True)
    assert [name.own for name in found] == names


def test_sources_that_no_folder_tells_apart_are_refused(tmp_path):
    write_tomogram(tmp_path / "t.mrc")
    with pytest.raises(Vox3dError, match=r"t\.mrc and .*t\.rec would both become t\.star"):
        vox.pick_files([tmp_path / "t.mrc", tmp_path / "t.rec"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "none-such"}, "none-such"),
        ({"model": "promolecule"}, "not for picking"),
        ({"format": "nonsense"}, "no|No pick format .*relion5"),
        ({"format": "cbox", "one_file": True}, "one tomogram.*relion5"),
        ({"threshold": {"unicorn": 0.5}}, "unicorn"),
        ({"min_distance": {"unicorn": 50}}, "unicorn"),
        ({"jobs": 0}, "at least one"),
        ({"scheduler": "nonsense"}, "slurm, pbs, lsf, or an address"),
        ({"scheduler": "nonsense://a:1"}, "No dask scheduler answers at nonsense://a:1"),
    ],
)
def test_what_would_fail_with_every_file_is_said_at_once(tomograms, tmp_path, options, message):
    told = []
    with pytest.raises(Vox3dError, match=message):
        vox.pick_files(tomograms, tmp_path / "out", on_outcome=told.append, **options)
    assert told == []


def test_uncertainties_lie_beside_the_elfs(crystals, tmp_path):
    tiny_elf_model(head=True).save(tmp_path / "model")
    out = tmp_path / "out"

    def run(**options):
        return vox.predict_elf_files(crystals[:1], out, tmp_path / "model", spacing=0.5, **options)

    (alone,) = run()
    (both,) = run(uncertainty=True)  # the ELF is there, its uncertainty is not
    elf, band = both.targets
    assert (alone.state, both.state, alone.targets) == ("done", "done", (elf,))
    assert band == elf.removesuffix(".ELFCAR") + ".uncertainty.ELFCAR"
    assert vox.read_volume(band).quantity == "uncertainty"
    assert states(run(uncertainty=True)) == ["skipped"]
    Path(band).unlink()
    assert states(run(uncertainty=True)) == ["done"]


def test_an_elf_has_its_formats_and_a_folder(crystals, tmp_path):
    with pytest.raises(Vox3dError, match="ELFCAR, cube, xsf, not 'mrc'"):
        elves(crystals, tmp_path / "out", format="mrc")
    with pytest.raises(Vox3dError, match="is a file"):
        elves(crystals, crystals[0])


def test_one_file_has_the_picks_of_all(tmp_path):
    sources = [write_tomogram(tmp_path / folder / "TS_1.mrc", seed=seed, shape=(24 + seed, 32, 40))
               for seed, folder in enumerate(("one", "two"))]  # fmt: skip
    sources.append(write_tomogram(tmp_path / "broken.mrc"))
    sources[2].write_bytes(b"broken")
    out = tmp_path / "out"
    outcomes = vox.pick_files(sources, out, one_file=True, threshold=0.0)
    assert outcomes[0].targets == (str(out / "one_TS_1.star"), str(out / "all_tomograms.star"))
    assert outcomes[2].targets == ()
    first, second = read_pick_collection(out / "all_tomograms.star")
    assert [first.tomogram, second.tomogram] == ["one_TS_1", "two_TS_1"]
    for picks, outcome, source in zip((first, second), outcomes, sources, strict=False):
        own = vox.pick_particles(vox.read_volume(source), threshold=0.0)
        assert outcome.count == len(picks)
        np.testing.assert_allclose(picks.positions, own.positions, atol=1e-3)
    again = vox.pick_files(sources[:2], out, one_file=True, threshold=0.0)
    assert states(again) == ["skipped", "skipped"]
    assert sum(map(len, read_pick_collection(out / "all_tomograms.star"))) == len(first) + len(
        second
    )


def test_one_file_of_numbered_classes_keeps_classes_apart(tmp_path, monkeypatch):
    """Each tomogram has one class of two: their numbers must not both be 1."""
    sources = [write_tomogram(tmp_path / f"TS_{n}.mrc", seed=n) for n in range(2)]

    def pick(volume, *_args, **_options):
        label = {"TS_0": "apo", "TS_1": "ribosome"}[volume.name]
        return vox.Picks([[10.0, 20, 30]], label, voxel_size=10, shape=volume.shape,
                         tomogram=volume.name)  # fmt: skip

    monkeypatch.setitem(vars(vox), "pick_particles", pick)
    vox.pick_files(sources, tmp_path / "all.tbl", format="dynamo", one_file=True)
    assert (tmp_path / "all").is_dir()
    classes = [picks.classes for picks in read_pick_collection(tmp_path / "all.tbl")]
    assert len({name for names in classes for name in names}) == 2


def test_the_file_of_all_is_what_is_named(tmp_path):
    def place(name, kind):
        return [str(path.relative_to(tmp_path)) for path in collection_path(tmp_path / name, kind)]

    assert place("out", "csv") == ["out", "out/all_tomograms.csv"]
    assert place("all.star", "relion4") == ["all", "all.star"]
    assert place("a_config.json", "copick-project") == ["a", "a_config.json"]
    assert place("config.json", "copick-project") == ["config_picks", "config.json"]
    assert place("a.json", "copick-project") == ["a.json", "a.json/all_tomograms_config.json"]
    (tmp_path / "a.json").write_text('{"pickable_objects": []}')
    assert place("a.json", "copick-project") == ["a_picks", "a.json"]


def test_warnings_on_the_way_are_passed_on(tmp_path):
    values = np.random.default_rng(0).normal(size=(24, 32, 40)).astype(np.float32)
    path = tmp_path / "raw.mrc"
    vox.write_volume(path, vox.Volume(values, 1.0, calibrated=False))
    with pytest.warns(UserWarning, match="does not say how large its voxels are"):
        vox.pick_files([path], tmp_path / "out")


def test_something_unexpected_is_one_line_too(crystals, tmp_path, monkeypatch):
    def burst(*_args, **_options):
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setitem(vars(vox), "predict_elf", burst)
    outcomes = elves(crystals[:1], tmp_path / "out")
    assert "ZeroDivisionError: by zero" in outcomes[0].problem


@pytest.mark.parametrize("jobs", [1, 2])
def test_progress_is_over_all_files_and_may_cancel(tomograms, tmp_path, jobs):
    seen = []

    def progress(done, total):
        seen.append((done, total))
        if done >= 1000:
            raise Cancelled("Enough.")

    tomograms += [write_tomogram(tmp_path / "in" / f"more_{n}.mrc") for n in range(3)]
    out = tmp_path / "out"
    with pytest.raises(Cancelled):
        vox.pick_files(tomograms, out, jobs=jobs, progress=progress)
    assert {total for _, total in seen} == {6000}
    assert all(path.suffix == ".star" for path in out.iterdir())
    assert len(list(out.iterdir())) < 5
    assert workers_of() == []


@pytest.mark.slow
def test_cancelling_in_the_midst_of_a_file_leaves_nothing(tmp_path):
    big = [write_tomogram(tmp_path / f"{n}.mrc", shape=(130, 200, 200), seed=n) for n in range(2)]

    def progress(done, total):
        if 0 < done < total:
            raise Cancelled("Enough.")

    with pytest.raises(Cancelled):
        vox.pick_files(big, tmp_path / "out", jobs=2, progress=progress)
    assert list((tmp_path / "out").iterdir()) == []
    assert workers_of() == []


@pytest.mark.slow
def test_processes_do_the_same_as_this_one(tomograms, tmp_path):
    options = {"threshold": 0.0, "precision": "float32"}
    here = vox.pick_files(tomograms, tmp_path / "here", **options)
    there = vox.pick_files(tomograms, tmp_path / "there", **options, jobs=2)
    assert states(here) == states(there) == ["done", "failed", "done"]
    assert [o.count for o in here] == [o.count for o in there]
    assert here[1].problem == there[1].problem
    for name in ("TS_0.star", "TS_2.star"):
        picks = [vox.read_picks(tmp_path / place / name) for place in ("here", "there")]
        np.testing.assert_allclose(picks[0].positions, picks[1].positions, atol=0.1)


def test_a_killed_process_costs_its_file_one_more_attempt(crystals, tmp_path):
    killed = []

    def kill_one(_done, _total):
        if not killed and (workers := workers_of()):
            workers[0].kill()
            killed.append(workers[0])

    outcomes = elves(crystals, tmp_path / "out", jobs=2, progress=kill_one)
    assert len(killed) == 1
    assert states(outcomes) == ["done"] * 4


DIES_OF_A = """
import os
from napari_vox3d.batch import worker
attempt = worker.attempt
worker.attempt = lambda task, say: (
    os.kill(os.getpid(), 9) if "a.vasp" in task.source else attempt(task, say)
)
worker.main()
"""


@pytest.mark.slow
def test_a_file_that_kills_each_process_fails_and_the_rest_goes_on(crystals, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "WORKER", [sys.executable, "-c", DIES_OF_A])
    out = tmp_path / "out"
    out.mkdir()
    (out / ".a.vasp.ELFCAR.01234567.part").write_text("half of a file")
    outcomes = elves(crystals, out, jobs=2)
    assert states(outcomes) == ["failed", "done", "done", "done"]
    assert "a.vasp" in outcomes[0].problem
    if POSIX:
        assert "killed by signal 9 (is there enough memory?), 2 times" in outcomes[0].problem
    assert sorted(path.name[0] for path in out.iterdir()) == ["b", "c", "d"]


SCRIPT = """
import napari_vox3d as vox
def say(done, total):
    print(done, total, flush=True)
vox.pick_files({sources!r}, {out!r}, jobs=2, progress=say)
"""


@pytest.mark.slow
@pytest.mark.skipif(not POSIX, reason="needs signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them(tmp_path, how):
    """A script without a guard for its main part, stopped in the midst of its work."""
    sources = [str(write_tomogram(tmp_path / f"{n}.mrc", shape=(130, 200, 200))) for n in range(2)]
    (tmp_path / "script.py").write_text(SCRIPT.format(sources=sources, out=str(tmp_path / "out")))
    script = subprocess.Popen(
        [sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    for line in script.stdout:
        if not line.startswith("0 "):
            break
    workers = workers_of(script.pid)
    assert len(workers) == 2
    script.send_signal(how)
    words = script.stderr.read()
    assert script.wait(20) != 0
    assert words.count("Traceback") == (1 if how == signal.SIGINT else 0)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []
    assert list((tmp_path / "out").iterdir()) == []


def test_processes_share_the_cores(monkeypatch):
    started = []
    monkeypatch.setattr(local.subprocess, "Popen", lambda *_, env, **__: started.append(env))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for threads in (1, 8):
        local._start(threads)
    assert [env["OMP_NUM_THREADS"] for env in started] == ["1", "3"]


def test_gpus_are_shared_out_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "_held", [])
    two = ["cuda:0", "cuda:1"]
    mine = [gpus.claim(two, tmp_path) for _ in range(5)]
    assert mine == ["cuda:0", "cuda:1"] * 2 + ["cuda:0"]
    # Another process that sees the second of them alone, as its first.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpus.claim(["cuda:0"], tmp_path) == "cuda:0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    assert gpus.claim(two, tmp_path) == "cuda:1"


CLAIM = """
import sys, time
from pathlib import Path
from napari_vox3d.batch.gpus import claim
print(claim(["cuda:0", "cuda:1"], Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def test_a_gpu_is_free_again_when_its_process_is_killed(tmp_path):
    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", CLAIM, tmp_path], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return process, process.stdout.readline().strip()

    (first, one), (second, other) = start(), start()
    assert (one, other) == ("cuda:0", "cuda:1")
    first.kill()
    first.wait()
    third, again = start()
    assert again == "cuda:0"
    for process in (second, third):
        process.stdin.close()
        process.wait()


def test_a_process_keeps_to_its_own_gpu(tmp_path, monkeypatch):
    import torch

    from napari_vox3d.inference import device

    monkeypatch.setattr(gpus, "_held", [])
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(device, "available_devices", lambda: ["cpu", "cuda:0", "cuda:1"])
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    gpus._own_gpu.cache_clear()
    try:
        named = [gpus.own_device(name) for name in ("auto", "cuda", "auto", "cpu", "cuda:1")]
    finally:
        gpus._own_gpu.cache_clear()
    assert named == ["cuda:0", "cuda:0", "cuda:0", "cpu", "cuda:1"]
    assert chosen == ["cuda:0"]


def test_without_gpus_each_process_keeps_the_word():
    assert gpus.own_device("cpu") == "cpu"


@needs_dask
def test_dask_missing_is_said_in_a_sentence(crystals, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(Vox3dError, match=r"need dask: pip install 'napari-vox3d\[cluster\]'"):
        elves(crystals, tmp_path / "out", scheduler="tcp://127.0.0.1:1")
