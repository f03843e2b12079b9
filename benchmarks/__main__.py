"""Run benchmarks, keep what they gave, and put the table and the plot together.

    python -m benchmarks [NAME...] [--quick] [--table]

Each leaves its rows in ``build/bench/NAME.json``; the table is made of all that lie there, and so
is ``docs/performance.md`` once none is missing. ``--table`` runs nothing; ``--quick`` takes small
sizes, to see that all works, and leaves the documents alone.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from importlib import import_module

from rich.console import Console

from benchmarks import report
from benchmarks.harness import ROOT

NAMES = (
    "vasp_files",
    "open_mrc",
    "superposition",
    "elf_networks",
    "tomograms",
    "graphics_card",
    "window",
    "growth",
)
FOLDER = ROOT / "build" / "bench"


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes; documents stay")
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    folder = FOLDER / "quick" if options.quick else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    for name in [] if options.table else options.names or NAMES:
        module, start = import_module(f"benchmarks.{name}"), time.perf_counter()
        with console.status(name):
            kept = {"machine": report.machine(), "date": time.strftime("%Y-%m-%d")}
            kept["load before"] = round(os.getloadavg()[0], 1)
            if hasattr(module, "measure"):
                kept["rows"] = [asdict(row) for row in module.measure(options.quick)]
            else:
                kept["curves"] = list(module.curves(options.quick))
        kept["took"] = round(time.perf_counter() - start)
        (folder / f"{name}.json").write_text(json.dumps(kept, indent=1))
        console.print(f"{name}: {kept['took']} s")
    found = [json.loads(file.read_text()) for name in NAMES
             if (file := folder / f"{name}.json").exists()]  # fmt: skip
    report.print_table(found, console)
    if not options.quick and len(found) == len(NAMES):
        report.write_documents(found)


if __name__ == "__main__":
    main()
