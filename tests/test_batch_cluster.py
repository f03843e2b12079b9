import os
import shutil
import stat
import sys
import time

import numpy as np
import psutil
import pytest

import napari_vox3d as vox
from napari_vox3d.batch import cluster
from napari_vox3d.errors import Cancelled, Vox3dError
from napari_vox3d.formats import read_pick_collection

distributed = pytest.importorskip("distributed")

POSIX = os.name == "posix"
CRYSTAL = "Po\n 1.0\n 3.3 0.0 0.0\n 0.0 3.3 0.0\n 0.0 0.0 3.3\n Si\n 1\nDirect\n 0.5 0.5 0.5\n"


@pytest.fixture(scope="module")
def scheduler():
    """Address of a scheduler with two workers, each a process of its own."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as local:
        yield local.scheduler_address


@pytest.fixture
def crystals(tmp_path):
    paths = [tmp_path / "in" / f"{name}.vasp" for name in "abcd"]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_text(CRYSTAL)
    return paths


def write_tomogram(path, shape=(24, 32, 40), seed=0):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    vox.write_volume(path, vox.Volume(values, 10.0))
    return path


def elves(sources, folder, **options):
    return vox.predict_elf_files(sources, folder, "promolecule", spacing=0.5, **options)


def states(outcomes):
    return [outcome.state for outcome in outcomes]


@pytest.mark.slow
def test_twenty_tomograms_with_a_broken_one_and_a_lost_worker(scheduler, tmp_path):
    sources = [write_tomogram(tmp_path / f"TS_{n:02}.mrc", seed=n) for n in range(20)]
    sources[7].write_bytes(b"broken")
    whole = sources[8].read_bytes()
    told, killed = [], []

    def kill_one(outcome):
        told.append(outcome)
        if len(told) == 5:
            with distributed.Client(scheduler, set_as_default=False) as client:
                pids = client.run(os.getpid)
            killed.append(min(pids.values()))
            psutil.Process(killed[0]).kill()

    options = {"scheduler": scheduler, "threshold": 0.0, "one_file": True}
    out = tmp_path / "out"
    outcomes = vox.pick_files(sources, out, on_outcome=kill_one, **options)
    assert not psutil.pid_exists(killed[0])
    assert states(outcomes) == ["done"] * 7 + ["failed"] + ["done"] * 12
    assert [o.source for o in outcomes] == [str(source) for source in sources]
    assert len(told) == 20
    (problem,) = [outcome.problem for outcome in outcomes if outcome.problem]
    assert problem.startswith(str(sources[7]))
    assert "too short" in problem
    assert len(problem.splitlines()) == 1
    assert len(read_pick_collection(out / "all_tomograms.star")) == 19

    written = {path: path.stat().st_mtime_ns for path in out.glob("TS_*.star")}
    sources[7].write_bytes(whole)
    again = vox.pick_files(sources, out, **options)
    assert states(again) == ["skipped"] * 7 + ["done"] + ["skipped"] * 12
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert len(read_pick_collection(out / "all_tomograms.star")) == 20


def test_dask_workers_do_the_same_as_this_process(scheduler, crystals, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    crystals[1].write_text("nonsense")
    names = [path.relative_to(tmp_path) for path in crystals]
    here = elves(names, "here")
    seen = []
    there = elves(names, "there", scheduler=scheduler, progress=lambda *how: seen.append(how))
    assert states(here) == states(there) == ["done", "failed", "done", "done"]
    assert [o.source for o in there] == [str(name) for name in names]
    assert seen[-1] == (4000, 4000)
    for path in (tmp_path / "here").iterdir():
        other = vox.read_volume(tmp_path / "there" / path.name)
        np.testing.assert_array_equal(vox.read_volume(path).values, other.values)


def test_a_file_that_loses_each_worker_fails_and_the_rest_goes_on(
    scheduler, crystals, tmp_path, monkeypatch
):
    def deadly(index, task, topic):
        from napari_vox3d.batch.cluster import _carry_out_on_worker

        if "b.vasp" in task.source:
            worker = distributed.get_worker()
            worker.log_event(topic, ("start", index))
            time.sleep(0.3)
            os.kill(os.getpid(), 9)
        return _carry_out_on_worker(index, task, topic)

    monkeypatch.setattr(cluster, "_carry_out_on_worker", deadly)
    outcomes = elves(crystals, tmp_path / "out", scheduler=scheduler)
    assert states(outcomes) == ["done", "failed", "done", "done"]
    assert "b.vasp: each worker that was at it was lost" in outcomes[1].problem


def test_cancelling_ends_what_workers_are_at(scheduler, tmp_path):
    big = [write_tomogram(tmp_path / f"{n}.mrc", shape=(130, 200, 200), seed=n) for n in range(3)]

    def progress(done, total):
        if 0 < done < total:
            raise Cancelled("Enough.")

    with pytest.raises(Cancelled):
        vox.pick_files(big, tmp_path / "out", scheduler=scheduler, progress=progress)
    assert list((tmp_path / "out").iterdir()) == []
    with distributed.Client(scheduler, set_as_default=False) as client:
        for _ in range(100):
            if not any(client.processing().values()):
                break
            time.sleep(0.1)
        assert not any(client.processing().values())
        assert list((tmp_path / "out").iterdir()) == []


def test_a_scheduler_that_goes_away_is_said_of_each_file(crystals, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_ANSWER", 1)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None,
                                  processes=False) as local:  # fmt: skip

        def leave(_outcome):
            local.close()

        outcomes = elves(
            crystals, tmp_path / "out", scheduler=local.scheduler_address, on_outcome=leave
        )
    assert states(outcomes).count("failed") >= 2
    assert "went away" in outcomes[-1].problem


def test_nobody_at_the_address(crystals, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_ANSWER", 0.5)
    with pytest.raises(Vox3dError, match=r"No dask scheduler answers at tcp://127\.0\.0\.1:9 "):
        elves(crystals, tmp_path / "out", scheduler="tcp://127.0.0.1:9")


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A stand-in for SLURM: jobs are started at once on this machine."""
    pytest.importorskip("dask_jobqueue")
    commands = tmp_path / "bin"
    commands.mkdir()
    log = tmp_path / "jobs"
    log.mkdir()
    scripts = {
        "sbatch": f'cp "$1" {log}/$$.sh; setsid bash {log}/$$.sh > {log}/$$.log 2>&1 &\n'
        'echo "Submitted batch job $!"',
        "scancel": 'kill -- -"$1"',
        "bsub": "exit 1",
        "qsub": "exit 1",
    }
    for name, text in scripts.items():
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    return log


CONFIG = """
jobqueue:
  slurm:
    cores: 8
    processes: 2
    memory: 32GB
    queue: gpu
    walltime: "02:00:00"
    interface: null
    job-extra-directives: ["--gres=gpu:2"]
    job-script-prologue: ["module load cuda"]
    log-directory: null
"""


@pytest.mark.skipif(not POSIX, reason="queues are on POSIX systems")
@pytest.mark.parametrize("kind", ["slurm", "pbs", "lsf"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_job_scripts_say_what_the_settings_say(queue, tmp_path, kind, level):
    lines = CONFIG.replace("slurm", kind).splitlines()[1:][level:]
    config = tmp_path / "cluster.yaml"
    config.write_text("\n".join(line.removeprefix("  " * level) for line in lines))
    with cluster.queue_cluster(kind, config) as jobs:
        script = jobs.job_script()
    for words in ("gpu", "02:00", "--gres=gpu:2", "module load cuda", "--nthreads 4", "tcp://"):
        assert words in script
    if kind == "slurm":
        assert "#SBATCH -p gpu" in script
        assert "#SBATCH --cpus-per-task=8" in script


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("setsid"), reason="needs setsid")
def test_a_batch_over_jobs_of_a_queue(queue, crystals, tmp_path):
    config = tmp_path / "cluster.yaml"
    config.write_text('cores: 1\nmemory: 1GB\nname: vox3d\nwalltime: "00:10:00"\n')
    outcomes = elves(crystals, tmp_path / "out", scheduler="slurm", cluster_config=config, jobs=2)
    assert states(outcomes) == ["done"] * 4
    scripts = list(queue.glob("*.sh"))
    assert len(scripts) == 2
    assert "#SBATCH -J vox3d" in scripts[0].read_text()


def test_what_is_wrong_with_a_queue_is_one_sentence(tmp_path, monkeypatch, request):
    monkeypatch.setenv("PATH", str(tmp_path))
    pytest.importorskip("dask_jobqueue")
    with pytest.raises(Vox3dError, match="no sbatch on this machine"):
        cluster.queue_cluster("slurm").__enter__()
    request.getfixturevalue("queue")
    bad = tmp_path / "bad.yaml"
    for text, message in (
        ("[1, 2]", "has no settings"),
        ("a: b: c", "cannot be read"),
        ("memory: 1GB", "cannot be described"),
    ):
        bad.write_text(text)
        with pytest.raises(Vox3dError, match=message):
            cluster.queue_cluster("slurm", bad).__enter__()
    with pytest.raises(Vox3dError, match="cannot be read"):
        cluster.queue_cluster("slurm", tmp_path / "none.yaml").__enter__()
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(Vox3dError, match=r"pip install 'napari-vox3d\[cluster\]'"):
        cluster.queue_cluster("slurm").__enter__()
