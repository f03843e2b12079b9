"""Make the data set: ``python -m recipes.elf_data OUTPUT``; stop and start it as you like."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from recipes.elf_data.elements import VALENCE
from recipes.elf_data.espresso import CalculationError, calculate
from recipes.elf_data.gth import read_gth
from recipes.elf_data.pseudo_atom import solve_atom
from recipes.elf_data.shards import pack
from recipes.elf_data.structures import (
    Structure,
    effort,
    from_record,
    k_points,
    list_structures,
    to_record,
)
from recipes.elf_data.upf import upf_text

from napari_vox3d.formats import write_aside

GTH_FILE = Path("/usr/share/cp2k/POTENTIAL_UZH")


def main() -> None:
    """Make what is missing: pseudopotentials, the list of structures, results."""
    parser = argparse.ArgumentParser(prog="python -m recipes.elf_data", description=__doc__)
    parser.add_argument("output", type=Path, help="folder for everything that is made")
    parser.add_argument("--reserved", type=Path, help="formulas to leave out, one a line")
    parser.add_argument("--workers", type=int, default=1, help="structures at a time")
    parser.add_argument("--cpu-limit", type=float, default=900, help="seconds for one program")
    parser.add_argument(
        "--most", type=int, help="only so many structures, from the front of the list"
    )
    parser.add_argument("--seed", type=int, default=0, help="another one lists other structures")
    parser.add_argument(
        "--effort", type=float, help="only what takes less; 100,000 is a few seconds of one core"
    )
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="write shards of what is done")
    parser.add_argument("--gth", type=Path, default=GTH_FILE, help="CP2K's POTENTIAL_UZH")
    options = parser.parse_args()

    for name in ("results", "failures", "potentials"):
        (options.output / name).mkdir(parents=True, exist_ok=True)
    if options.pack:
        pack(sorted((options.output / "results").glob("*.npz")), options.pack)
    else:
        path = options.output / f"structures-{options.seed}.json"
        structures = stored_list(path, options.reserved, options.seed)
        if options.effort is not None:
            structures = [one for one in structures if effort(one) < options.effort]
        structures = structures[: options.most]
        write_potentials(options.gth, options.output / "potentials")
        calculate_all(structures, options.output, options.workers, options.cpu_limit)


def calculate_all(
    structures: Sequence[Structure], output: Path, workers: int, cpu_limit: float
) -> None:
    """Calculate what has neither a result nor a failure yet."""
    missing = [structure for structure in structures if not _is_done(output, structure)]
    print(f"{len(structures) - len(missing)} of {len(structures)} structures are done", flush=True)
    work = partial(make, output=output, cpu_limit=cpu_limit)
    with multiprocessing.Pool(workers) as pool:
        for done, line in enumerate(pool.imap_unordered(work, missing), 1):
            print(time.strftime("%d %H:%M:%S"), f"{done}/{len(missing)}", line, flush=True)


def write_potentials(gth: Path, folder: Path) -> None:
    """Write ``El.upf`` for every element that has none yet."""
    text = gth.read_text()
    for element, charge in VALENCE.items():
        path = folder / f"{element}.upf"
        if not path.exists():
            potential = read_gth(text, element, f"GTH-PBE-q{charge}")
            with write_aside(path) as aside:
                aside.write_text(upf_text(potential, solve_atom(potential)))


def stored_list(path: Path, reserved: Path | None, seed: int) -> list[Structure]:
    """Read the list of structures, or make and keep it if there is none."""
    if not path.exists():
        lines = reserved.read_text().splitlines() if reserved else []
        formulas = [line for line in lines if line and not line.startswith("#")]
        records = [to_record(structure) for structure in list_structures(formulas, seed)]
        with write_aside(path) as aside:
            aside.write_text(json.dumps(records))
    return [from_record(record) for record in json.loads(path.read_text())]


def _is_done(output: Path, structure: Structure) -> bool:
    return any(path.exists() for path in _targets(output, structure))


def _targets(output: Path, structure: Structure) -> tuple[Path, Path]:
    """Where the result goes, and where the reason goes if there is none."""
    return (
        output / "results" / f"{structure.name}.npz",
        output / "failures" / f"{structure.name}.txt",
    )


def make(structure: Structure, output: Path, cpu_limit: float) -> str:
    """Calculate one structure, keep the result or the reason of its failure, and say so."""
    while (output / "PAUSE").exists():
        time.sleep(5)
    result_path, failure_path = _targets(output, structure)
    start = time.monotonic()
    try:
        result = calculate(structure.atoms, k_points(structure), output / "potentials", cpu_limit)
    except CalculationError as error:
        reason = str(error)
    except Exception:  # one structure must not end the run
        reason = traceback.format_exc()
    else:
        with write_aside(result_path) as aside, aside.open("wb") as file:
            np.savez_compressed(
                file,
                record=json.dumps(to_record(structure)),
                cutoff=result.cutoff,
                k_points=k_points(structure),
                rho=result.rho.astype(np.float32),
                elf=np.rint(result.elf.clip(0, 1) * 65535).astype(np.uint16),
            )
        reason = ""
    if reason:
        with write_aside(failure_path) as aside:
            aside.write_text(reason)
    seconds = time.monotonic() - start
    kind = f"{structure.family}, {structure.prototype}, {structure.variant}"
    return f"{structure.name} ({kind}) {seconds:.0f} s {reason.splitlines()[-1] if reason else ''}"


if __name__ == "__main__":
    main()
