"""A packed volume is read as it is unpacked, with the same result as the plain file."""

import gzip
import lzma
import re
import warnings

import numpy as np
import pytest
from ase import Atoms

from napari_vox3d import Volume
from napari_vox3d.errors import FormatError
from napari_vox3d.formats import compression, read_volumes, vasp, vasp_numbers, vasp_text

SHAPE = (6, 8, 7)  # c, b, a
GRID = b"    7    8    6\n"


def made(folder, channels=1, name="CHGCAR"):
    """Text of a file; of several channels, with occupancies between."""
    lattice = [[3, 0, 0], [0.5, 4, 0], [0.1, 0.2, 5]]
    atoms = Atoms("FeO2", scaled_positions=np.eye(3) * 0.3, cell=lattice, pbc=True)
    random = np.random.default_rng(0)
    after = "".join(f"augmentation occupancies {n} 4\n  0.1E+00 0.2E+00 0.3E+00 0.4E+00\n"
                    for n in (1, 2, 3)).encode()  # fmt: skip
    volumes = []
    for number in range(channels):
        quantity = "spin density" if number else "electron density"
        kept = {"vasp": {"after": {"quantity": quantity, "text": after}}}
        values = random.normal(size=SHAPE) * 10.0 ** random.integers(-8, 8, SHAPE)
        volumes.append(Volume.on_lattice(values, lattice, quantity=quantity, unit="e/Å³",
                                         atoms=atoms, metadata=kept))  # fmt: skip
    vasp.write(folder / name, volumes)
    return (folder / name).read_bytes()


@pytest.fixture(params=[64, 1 << 21], ids=["small parts", "usual parts"])
def parts(request, monkeypatch):
    """Parts in which files are unpacked, and numbers decoded."""
    monkeypatch.setattr(vasp_text, "_PART", request.param)
    monkeypatch.setattr(vasp_text, "_TAIL", request.param)
    if request.param == 64:
        monkeypatch.setattr(vasp_numbers, "_CHUNK", 50)


def outcome(folder, text, pack=None):
    """Values and texts of a file, or what it is refused for."""
    path = folder / ("CHGCAR" if pack is None else "CHGCAR.packed")
    path.write_bytes(text if pack is None else pack.compress(text))
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            volumes = read_volumes(path)
    except FormatError as error:
        said = str(error).replace(".packed", "")
        return re.sub(r"ends (before its|after \d+ of)", "ends after some of", said)
    texts = [volume.metadata["vasp"]["after"]["text"] for volume in volumes]
    told = [str(one.message).replace(".packed", "") for one in said]
    return [volume.values.tobytes() for volume in volumes], texts, told


def in_numbers(old, new, count=1):
    """A change of the first block."""
    return lambda text: b"".join([*text.partition(GRID)[:2],
                                  text.partition(GRID)[2].replace(old, new, count)])  # fmt: skip


CHANGES = {
    "nothing": lambda text: text,
    "no newline at the end": lambda text: text.rstrip(),
    "Windows": lambda text: text.replace(b"\n", b"\r\n"),
    "asterisks": lambda text: re.sub(rb"0\.\d{11}E\+03", 16 * b"*", text, count=2),
    "values more": in_numbers(b" 0.", b"***** 0.", 3),
    "a letter": in_numbers(b"E-05", b"E-O5"),
    "a dropped E": in_numbers(b"E-03", b"-101", 2),
    "a longer line": in_numbers(b"E+02", b"E+0002"),
    "a value cut in two": in_numbers(b" 0.", b" 0. "),
    "cut in the numbers": lambda text: text[: text.index(GRID) + 2000],
    "cut in the first line": lambda text: text[: text.index(GRID) + 40],
    "no numbers": lambda text: text[: text.index(GRID) + len(GRID)],
    "another line of numbers": lambda text: text.replace(b"augm", b" 1 2 3 4 5\naugm", 1),
    "a grid that is too large": lambda text: text.replace(GRID, b" 9999 9999 9999\n", 1),
    "two images": lambda text: text[: text.index(b"augm")] + b"\n" + text,
}  # fmt: skip


REFUSED = (
    "a letter", "a value cut in two", "values more", "cut in the numbers", "cut in the first line",
    "no numbers", "another line of numbers", "a grid that is too large",
)  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("change", CHANGES)
def test_packed_and_plain_are_read_alike(tmp_path, parts, change, channels):
    text = CHANGES[change](made(tmp_path, channels))
    plain = outcome(tmp_path, text)
    assert outcome(tmp_path, text, gzip) == plain
    assert isinstance(plain, str) == (change in REFUSED)


def test_other_compressions_and_gzip_of_several_members(tmp_path, parts):
    text = made(tmp_path, 2)
    plain = outcome(tmp_path, text)
    assert outcome(tmp_path, text, lzma) == plain
    path = tmp_path / "CHGCAR.gz"
    path.write_bytes(gzip.compress(text[:1500]) + gzip.compress(text[1500:]))
    assert [volume.values.tobytes() for volume in read_volumes(path)] == plain[0]


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("where", [0.3, 0.9, "end"])
def test_damage_of_the_archive_is_told(tmp_path, parts, where, images):
    text = made(tmp_path)
    text = text if images == 1 else text[: text.index(b"augm")] + b"\n" + text
    packed = gzip.compress(text)
    size = len(packed)
    place = size - 8 if where == "end" else int(where * size)  # the checksum
    path = tmp_path / "CHGCAR.gz"
    for damaged in (packed[:place], packed[:place] + b"\0\xff\0" + packed[place + 3 :]):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"compressed data|CRC|cannot be read"):
            read_volumes(path)


def test_an_archive_that_unpacks_without_end_is_refused(tmp_path, parts, monkeypatch):
    monkeypatch.setattr(compression, "PLENTY", 10_000)
    head = made(tmp_path).partition(GRID)[0]
    zeros = (b" 0.00000000000E+00" * 5 + b"\n") * 99_999
    path = tmp_path / "CHGCAR.gz"
    path.write_bytes(gzip.compress(head + b" 999 999 999\n" + zeros))
    with pytest.raises(FormatError, match="unpacks to more than 100 times its size"):
        read_volumes(path)
