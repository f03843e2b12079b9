"""Names of files that go with a result."""

from __future__ import annotations

from pathlib import PurePath

_COMPRESSED = (".gz", ".bz2", ".xz")


def uncertainty_file(elf: str) -> str:
    """Name for the uncertainty beside that of its ELF: ``a.uncertainty.cube`` for ``a.cube``."""
    path = PurePath(elf)
    packed = path.suffix if path.suffix.lower() in _COMPRESSED else ""
    plain = path.with_suffix("") if packed else path
    return str(plain.with_name(f"{plain.stem}.uncertainty{plain.suffix}{packed}"))
