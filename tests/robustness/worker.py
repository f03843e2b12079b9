"""Reads damaged files and says of each what became of it; `soak` runs it as a process of its own.

Its input is a line ``FORMAT<tab>SEED`` or ``hostile<tab>NAME`` for each file, its output a JSON
line. Its arguments are the formats to read; none are all.
"""

import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from hostile import HOSTILE
from mutations import damaged
from samples import SAMPLES, TABLE_ATOMS, TOMOGRAM

from napari_vox3d.errors import Vox3dError
from napari_vox3d.formats import (
    kind_of,
    read_atoms,
    read_pick_collection,
    read_picks,
    read_volumes,
)

GIGABYTE = 1 << 30
LONGEST = 1010  # characters that a sentence may have besides the names of files
STATUS = Path("/proc/self/status")
_GENERAL = re.compile(r"cannot be understood")


class Wrong(Exception):
    """What was read, or the sentence that refused it, is not as it should be."""


def main():
    known = {}
    with tempfile.TemporaryDirectory() as place:
        makes = [(f, make) for f in sys.argv[1:] or SAMPLES for make in SAMPLES[f]]
        for number, (format, make) in enumerate(makes):
            folder = Path(place, "sound", str(number))
            folder.mkdir(parents=True)
            known.setdefault(format, []).append((folder, make(folder)))
        # All are read once, so that imports do not count as memory or time of a file.
        tried = [
            (name, *judged(folder, name)) for cases in known.values() for folder, name in cases
        ]
        unsound = [one for one in tried if one[1] != "read"]
        assert not unsound, unsound
        limit_memory()
        print(json.dumps({"ready": sorted(known)}), flush=True)
        for line in sys.stdin:
            format, seed = line.rstrip("\n").split("\t")
            folder = Path(place, "damaged")
            shutil.rmtree(folder, ignore_errors=True)
            if format == "hostile":
                folder.mkdir()
                name = HOSTILE[seed](folder)
                # The structure before a grid may well be sound.
                reads = [read for read in readers(folder / name) if read is not atoms]
            else:
                name, reads = prepare(known[format], folder, format, int(seed)), None
            answer = {"format": format, "seed": seed, **read_damaged(folder, name, reads)}
            print(json.dumps(answer), flush=True)


def read_damaged(folder, name, reads):
    """What became of a file, in how many seconds of work and with how many bytes of memory."""
    before = reset_peak()
    start = time.process_time()
    outcome, said = judged(folder, name, reads)
    return {
        "outcome": outcome, "said": said,
        "seconds": time.process_time() - start, "memory": peak() - before,
    }  # fmt: skip


def prepare(cases, folder, format, seed):
    """Lay a damaged copy of a sample into the folder; gives the name of the file to open."""
    rng = random.Random(f"{format} {seed}")
    source, name = rng.choice(cases)
    shutil.copytree(source, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    victim = folder / name if (folder / name).is_file() else None
    if victim is None or rng.random() < 0.25:
        victim = rng.choice(files)
    if len(files) > 1 and rng.random() < 0.05:
        victim.unlink()
    else:
        victim.write_bytes(damaged(rng, victim.read_bytes()))
    return name


def judged(folder, name, reads=None):
    """Whether a file was read, refused, or neither, and what was said."""
    path = folder / name
    said, outcome = "", "refused"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for read in reads or readers(path):
            try:
                read(path)
                outcome = outcome if read is kind_of else "read"
            except Vox3dError as error:
                said = str(error)
                if problem := of_sentence(said, folder):
                    return "wrong", f"{problem}: {said[:2000]}"
            except BaseException as error:
                return "wrong", f"{type(error).__name__}: {str(error)[:300]} {_place(error)}"
    for warning in caught:
        if not issubclass(warning.category, UserWarning):
            return "wrong", f"{warning.category.__name__}: {warning.message} ({warning.filename}:" \
                            f"{warning.lineno})"  # fmt: skip
    if outcome == "refused" and _GENERAL.search(said):
        outcome = "refused in general words"
    return outcome, said.replace(str(folder), "")


def _place(error):
    trace, places = error.__traceback__, []
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{Path(code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(places[-4:])


def of_sentence(said, folder):
    """What is wrong with what a person is told; nothing if it is one sentence about a file."""
    plain = said.replace(str(folder), "")
    if not any(path.name in said for path in folder.rglob("*")) and str(folder) not in said:
        return "names no file"
    if "\n" in said or "\0" in said or not said.rstrip("\"'’”)").endswith((".", "?")):
        return "is no sentence"
    return "is too long" if len(plain) > LONGEST else ""


def readers(path):
    """Functions that a program would open this file with."""
    name = path.name
    if path.is_dir() and not name.endswith(".zarr"):
        return [table] if (path / "H.pkl").exists() or not list(path.iterdir()) else [model]
    special = {".pt": model, ".ckpt": model, ".safetensors": checkpoint, ".zip": shard,
               ".yaml": queue}  # fmt: skip
    if path.suffix in special:
        return [special[path.suffix]]
    if name == "review.json":
        return [review]
    pick_files = (".star", ".json", ".tbl", ".mod", ".txt", ".cbox", ".coords", ".csv", ".ndjson")
    if path.suffix in pick_files:
        return [kind_of, picks, picks_alone, collection]
    if path.suffix in (".mrc", ".tif", ".zarr"):
        return [kind_of, volumes]
    if path.name.split(".")[-1 - name.endswith(".gz")] in ("cif", "xyz", "pdb", "res"):
        return [kind_of, structure]
    return [kind_of, volumes, atoms]


def volumes(path):
    for volume in read_volumes(path):
        for level in (volume, *volume.coarser):
            shape = level.values.shape
            check(len(shape) == 3 and min(shape) > 0, f"shape {shape}")
            check(np.isfinite(level.step).all() and np.isfinite(level.origin).all(), "geometry")
            check((level.voxel_size > 0).all(), f"voxel size {level.voxel_size}")
            for plane in {0, shape[0] // 2, shape[0] - 1}:
                found = np.asarray(level.values[plane, : 1 << 10, : 1 << 10])
                check(found.shape == tuple(min(n, 1 << 10) for n in shape[1:]), "another shape")
                check(found.dtype.kind in "iufcb", f"numbers of type {found.dtype}")


def atoms(path):
    found = read_atoms(path)
    check(len(found) > 0 and np.isfinite(found.cell.array).all(), "cell")
    check(np.isfinite(found.positions).all(), "positions")


def structure(path):
    atoms(path)


def picks(path):
    check_picks(read_picks(path, TOMOGRAM))


def picks_alone(path):
    check_picks(read_picks(path))


def collection(path):
    for one in read_pick_collection(path):
        check_picks(one)


def check_picks(found):
    check(np.isfinite(found.positions).all(), "positions")
    check(found.angles is None or np.isfinite(found.angles).all(), "angles")
    check(found.radii is None or np.isfinite(found.radii).all(), "radii")
    size = found.voxel_size
    check(size is None or (np.isfinite(size).all() and (size > 0).all()), f"voxel size {size}")
    check(found.shape is None or min(found.shape) > 0, f"shape {found.shape}")
    check(isinstance(found.tomogram, str), f"tomogram {found.tomogram!r}")


def model(path):
    from napari_vox3d.models import load_model

    load_model(path).network()


def table(path):
    from napari_vox3d.density.elfnet_tables import superpose_elfnet_tables

    check(np.isfinite(superpose_elfnet_tables(TABLE_ATOMS, (4, 4, 4), path).values).all(), "values")


def checkpoint(path):
    import torch

    from napari_vox3d.training.checkpoints import resume_checkpoint

    network = torch.nn.Linear(2, 2)
    resume_checkpoint(path, network, torch.optim.Adam(network.parameters()), 1)


def shard(path):
    from napari_vox3d.training.elf_shards import shard_elfs

    for volume in shard_elfs(path):
        check(min(volume.shape) > 0, "shape")


def queue(path):
    from napari_vox3d.batch.cluster import _settings

    _settings(path, "slurm")


def review(path):
    from napari_vox3d.curation import Review
    from napari_vox3d.curation.saved import kept_rows
    from napari_vox3d.picks import Picks

    again = Review(Picks([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]], "a"))
    again.resume(kept_rows(path))
    check_picks(again.picks)


def check(holds, what):
    if not holds:
        raise Wrong(what)


def limit_memory():
    """Let this process have a gigabyte more than it has now."""
    try:
        import resource
    except ImportError:  # Windows
        return
    if STATUS.exists():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + GIGABYTE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def reset_peak():
    """Begin to measure anew; gives the bytes held now, or 0 where the system does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return peak()


def peak():
    if not STATUS.exists():
        return 0
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", STATUS.read_text())[1])


if __name__ == "__main__":
    main()
