import bz2
import gzip
import lzma
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from pymatgen.io.vasp.outputs import Chgcar, Elfcar, Locpot

from napari_vox3d import Volume
from napari_vox3d.errors import FormatError
from napari_vox3d.formats import vasp
from napari_vox3d.formats.fortran_fields import Fields
from napari_vox3d.formats.vasp_numbers import BadNumberError, format_numbers, read_numbers

DATA = Path(__file__).parent / "data" / "vasp"
HEAD = """Fe O cell
   1.0
     3.0 0.0 0.0
     0.5 4.0 0.0
     0.1 0.2 5.0
   Fe O
     1 2
Direct
  0.0 0.0 0.0
  0.5 0.5 0.5
  0.25 0.5 0.75

"""
SHAPE = (3, 4, 5)  # a, b, c
CELL_VOLUME = 60.0


def numbers_text(values, columns, digits):
    return b"".join(map(bytes, format_numbers(values, columns, digits)))


def block(values, columns=5, digits=11):
    return numbers_text(np.asarray(values, float).ravel(), columns, digits).decode()


def grid(shape=SHAPE):
    return "".join(f"{n:5d}" for n in shape) + "\n"


def numbers(seed=0):
    return np.random.default_rng(seed).normal(size=SHAPE[::-1])


def saved(folder, text, name="CHGCAR"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def crystal(quantity="electron density", shape=(5, 4, 3), **fields):
    lattice = [[3, 0, 0], [0.5, 4, 0], [0.1, 0.2, 5]]
    atoms = Atoms("FeO2", scaled_positions=np.eye(3) * 0.3, cell=lattice, pbc=True)
    values = np.random.default_rng(1).normal(size=shape)
    return Volume.on_lattice(values, lattice, quantity=quantity, **{"atoms": atoms, **fields})


@pytest.mark.parametrize(
    ("name", "reader", "quantities"),
    [
        ("CHG.gz", Chgcar, ["electron density"]),
        ("CHGCAR.nospin.gz", Chgcar, ["electron density"]),
        ("CHGCAR_slash.gz", Chgcar, ["electron density"]),
        ("CHGCAR_water", Chgcar, ["electron density"]),
        ("AECCAR0.gz", Chgcar, ["electron density"]),
        ("ELFCAR.gz", Elfcar, ["elf", "elf"]),
        ("LOCPOT.vasp642.gz", Locpot, ["potential"]),
    ],
)
def test_equals_pymatgen(name, reader, quantities):
    volumes = vasp.read(DATA / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = reader.from_file(str(DATA / name))
    assert [v.quantity for v in volumes] == quantities
    factor = volumes[0].volume if reader is Chgcar else 1.0
    for volume, values in zip(volumes, theirs.data.values(), strict=False):
        np.testing.assert_array_equal(volume.values, values.T / factor)
        structure = theirs.structure
        np.testing.assert_allclose(volume.lattice, structure.lattice.matrix, atol=1e-12)
        np.testing.assert_allclose(volume.atoms.positions, structure.cart_coords, atol=1e-12)
        assert volume.atoms.get_chemical_symbols() == [s.symbol for s in structure.species]
        assert volume.atoms.pbc.all()
        assert volume.periodic
        assert volume.unit == {"elf": "", "potential": "eV"}.get(volume.quantity, "e/Å³")


def test_number_of_electrons_is_that_of_the_valence():
    (volume,) = vasp.read(DATA / "CHGCAR_slash.gz")
    assert volume.values.mean() * volume.volume == pytest.approx(8, abs=1e-4)
    assert volume.name == "Fe CHGCAR"


def test_negative_c_axis_is_kept():
    up, down = vasp.read(DATA / "ELFCAR.gz")
    assert up.shape == (70, 18, 18)
    assert up.lattice[2, 2] == -8.685038
    assert up.volume > 0
    assert (up.name, down.name) == ("C4 ELFCAR up", "C4 ELFCAR down")
    assert not np.array_equal(up.values, down.values)


@pytest.mark.parametrize(("name", "count"), [("dummy", 1), ("dummy_spin", 2), ("dummy_ncl", 4)])
def test_bare_augmentation_lines(name, count):
    volumes = vasp.read(DATA / f"CHGCAR.{name}")
    assert len(volumes) == count
    for volume in volumes:
        assert volume.volume == pytest.approx(0.25 * 3.5**3)
        np.testing.assert_allclose(volume.values.ravel() * volume.volume, np.arange(1, 61))
    names = {1: [""], 2: ["total", "difference"], 4: ["total", "mx", "my", "mz"]}[count]
    assert [v.name for v in volumes] == [f"Ni CHGCAR {n}".strip() for n in names]
    assert [v.quantity for v in volumes[1:]] == ["spin density"] * (count - 1)


def test_x_runs_fastest(tmp_path):
    path = saved(tmp_path, HEAD + grid() + block(np.arange(60)), "ELFCAR")
    (volume,) = vasp.read(path)
    assert volume.values[0, 0].tolist() == [0, 1, 2]
    assert volume.values[1, 0, 0] == 12
    np.testing.assert_allclose(volume.step[0], np.array([5, 0.2, 0.1]) / 5)


@pytest.mark.parametrize("pack", [gzip, bz2, lzma])
def test_compression_is_told_by_content(tmp_path, pack):
    text = (HEAD + grid() + block(numbers())).encode()
    plain, packed = saved(tmp_path, text), saved(tmp_path, pack.compress(text), "CHGCAR.packed")
    np.testing.assert_array_equal(vasp.read(plain)[0].values, vasp.read(packed)[0].values)


@pytest.mark.parametrize(
    ("name", "quantity", "scaled"),
    [
        ("CHG", "electron density", True),
        ("PARCHG.0001.ALLK", "electron density", True),
        ("AECCAR1", "superposed atomic density", True),
        ("SAD.vasp", "superposed atomic density", True),
        ("SADDLE.vasp", "electron density", True),
        ("mp-1_ELFCAR.vasp", "elf", False),
        ("LOCPOT.static", "potential", False),
        ("anything.vasp", "electron density", True),
    ],
)
def test_the_name_says_what_it_is(tmp_path, name, quantity, scaled):
    values = numbers()
    (volume,) = vasp.read(saved(tmp_path, HEAD + grid() + block(values), name))
    assert volume.quantity == quantity
    expected = values / CELL_VOLUME if scaled else values
    np.testing.assert_allclose(volume.values, expected, rtol=1e-10)
    assert volume.metadata["vasp"]["stored as"].endswith("volume") == scaled


@pytest.mark.parametrize("name", ["ELFCAR", "LOCPOT"])
def test_spins_without_augmentation_are_up_and_down(tmp_path, name):
    up, down = numbers(1), numbers(2)
    moments = "  0.6E+00  0.1E+00  0.0E+00\n" if name == "LOCPOT" else ""
    text = HEAD + grid() + block(up) + moments + grid() + block(down)
    first, second = vasp.read(saved(tmp_path, text, name))
    np.testing.assert_allclose(first.values, up, rtol=1e-10)
    np.testing.assert_allclose(second.values, down, rtol=1e-10)
    assert [v.metadata["vasp"]["channel"] for v in (first, second)] == ["up", "down"]


def test_augmentation_and_moments_come_back_verbatim(tmp_path):
    kept = (
        "augmentation occupancies   1   4\n  0.2753636E+00 -0.3331354E-01  0.0E+00  0.1E+00\n"
        "augmentation occupancies (imaginary part)   1   1\n  0.1000000E+00\n"
        "  0.600000000000E+00  0.0E+00  0.0E+00\n"
    )
    last = "augmentation occupancies   1   1\n  0.5E+00"
    text = HEAD + grid() + block(numbers()) + kept + grid() + block(numbers(1)) + last
    volumes = vasp.read(saved(tmp_path, text))
    copy = tmp_path / "CHGCAR_copy.gz"
    vasp.write(copy, volumes)
    written = gzip.decompress(copy.read_bytes()).decode()
    assert written[written.index(grid()) :] == text[text.index(grid()) :]
    for mine, again in zip(volumes, vasp.read(copy), strict=True):
        np.testing.assert_array_equal(mine.values, again.values)
        assert mine.metadata == again.metadata


def test_augmentation_of_a_density_does_not_follow_its_elf(tmp_path):
    text = HEAD + grid() + block(numbers()) + "augmentation occupancies 1 1\n 0.5\n"
    (volume,) = vasp.read(saved(tmp_path, text))
    elf = volume.with_values(np.full(volume.shape, 0.5), quantity="elf", unit="")
    vasp.write(tmp_path / "ELFCAR", elf)
    assert "augmentation" not in (tmp_path / "ELFCAR").read_text()


def test_first_of_several_images_with_a_warning(tmp_path):
    moved = HEAD.replace("0.25 0.5 0.75", "0.20 0.5 0.75")
    first, second = HEAD + grid() + block(numbers()), moved + grid() + block(numbers(5))
    path = saved(tmp_path, first + second, "CHG")
    with pytest.warns(UserWarning, match="several images"):
        (volume,) = vasp.read(path)
    np.testing.assert_allclose(volume.values * CELL_VOLUME, numbers(), rtol=1e-10)
    assert volume.atoms.get_scaled_positions()[2, 0] == pytest.approx(0.25)


@pytest.mark.parametrize("columns", [5, 7, 10])
def test_short_last_line_without_a_newline(tmp_path, columns):
    text = (HEAD + grid() + block(numbers(), columns)).rstrip("\n")
    (volume,) = vasp.read(saved(tmp_path, text))
    np.testing.assert_allclose(volume.values * CELL_VOLUME, numbers(), rtol=1e-10)


def test_windows_line_ends(tmp_path):
    text = (HEAD + grid() + block(numbers()) + grid() + block(numbers(1))).replace("\n", "\r\n")
    assert len(vasp.read(saved(tmp_path, text))) == 2


def test_fortran_oddities():
    text = b" 0.123-101 -0.63-0.11 ***** 1.D-2\n NaN +Infinity .5 1 0.5+102-0.25E+01\n"
    values, end = read_numbers(text, 0, 11)
    expected = [1.23e-102, -0.63, -0.11, np.nan, 0.01, np.nan, np.nan, 0.5, 1, 5e101, -2.5]
    np.testing.assert_array_equal(values, expected)
    assert end == len(text)


def test_asterisks_become_nan_with_their_number_in_the_warning(tmp_path):
    text = block(numbers())
    text = text[:18] + " " + "*" * 17 + text[36:54] + " 0.12345678901-101" + text[72:]
    with pytest.warns(UserWarning, match=r"1 values are no numbers"):
        (volume,) = vasp.read(saved(tmp_path, HEAD + grid() + text))
    flat = volume.values.ravel() * CELL_VOLUME
    assert np.isnan(flat[1])
    assert flat[3] == pytest.approx(0.12345678901e-101, rel=1e-9, abs=0)
    np.testing.assert_allclose(flat[4:], numbers().ravel()[4:], rtol=1e-10)


@pytest.mark.parametrize(("columns", "digits"), [(5, 11), (10, 5)])
def test_fixed_columns_decode_like_strtod(columns, digits):
    random = np.random.default_rng(3)
    size = 100_003
    values = random.normal(size=size) * 10.0 ** random.integers(-60, 60, size)
    values[::97] = 0
    text = numbers_text(values, columns, digits)
    read, end = read_numbers(text, 0, size)
    np.testing.assert_array_equal(read, np.array([float(token) for token in text.split()]))
    assert end == len(text)
    np.testing.assert_allclose(read, values, rtol=0.50001 * 10 ** (1 - digits))


def test_an_oddity_within_fixed_columns_leaves_the_rest_exact():
    values = np.random.default_rng(0).normal(size=200_000)
    text = bytearray(numbers_text(values, 5, 11))
    at = 91 * 20_000
    text[at : at + 18] = b" 0.12345678901-101"
    read, _ = read_numbers(bytes(text), 0, len(values))
    assert read[100_000] == 0.12345678901e-101
    np.testing.assert_allclose(np.delete(read, 100_000), np.delete(values, 100_000), rtol=1e-10)


@pytest.mark.parametrize(
    "field",
    [
        b" 0.1234567890:E+02",
        b" 0.1234567890/E+02",
        b" 0,12345678901E+02",
        b" 0.12345678901F+02",
        b" 0.12345678901E)02",
        b" 0.12345678901E*02",
        b" 0.12345678901E/02",
        b" 0.12345678901E+0:",
        b" 1.12345678901E+02",
        b"-0.12345678901E+02",
        b" 0.12345\xb078901E+02",
    ],
)
def test_no_other_character_passes_for_a_digit_or_sign(field):
    fields = Fields(1, 2, 18)
    rows = np.frombuffer(b" 0.12345678901E+02" + field + b"\n", np.uint8)[None]
    assert not fields.decode(rows, np.empty(2))


def test_numbers_are_written_as_python_does_in_every_binade():
    values = np.concatenate([2.0 ** np.arange(-320, 320), 10.0 ** np.arange(-20, 21)])
    text = numbers_text(values, 5, 11)
    for value, token in zip(values.tolist(), text.split(), strict=True):
        mantissa, exponent = f"{value:.10e}".split("e")
        digits = mantissa.replace(".", "")
        assert token.decode() == f"0.{digits}E{int(exponent) + 1:+03d}"


def test_numbers_are_written_as_fortran_does():
    text = numbers_text(np.array([99.973464305, -0.538801914994, 0, 1, -1e-12, 1e-120]), 5, 11)
    assert text.decode().splitlines() == [
        " 0.99973464305E+02 -.53880191499E+00 0.00000000000E+00 0.10000000000E+01"
        " -.10000000000E-11",
        " 0.00000000000E+00",
    ]
    assert numbers_text(np.array([0.999999, 9.99999e9]), 10, 5) == b" 0.10000E+01 0.10000E+11\n"
    assert numbers_text(np.array([np.nan, 1]), 2, 5) == b"         NaN 0.10000E+01\n"


def test_values_without_room_are_refused(tmp_path):
    volume = crystal()
    volume.values[0, 0, 0] = 1e99
    with pytest.raises(FormatError, match="1e99"):
        vasp.write(tmp_path / "CHGCAR", volume)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "quantity", "reader"),
    [
        ("CHGCAR", "electron density", Chgcar),
        ("AECCAR2", "electron density", Chgcar),
        ("SAD.vasp", "superposed atomic density", Chgcar),
        ("ELFCAR", "elf", Elfcar),
        ("LOCPOT", "potential", Locpot),
    ],
)
def test_pymatgen_reads_what_is_written(tmp_path, name, quantity, reader):
    volume = crystal(quantity)
    vasp.write(tmp_path / name, volume)
    theirs = reader.from_file(str(tmp_path / name))
    factor = volume.volume if reader is Chgcar else 1
    rtol = 1e-4 if reader is Elfcar else 1e-10
    np.testing.assert_allclose(theirs.data["total"].T / factor, volume.values, rtol=rtol)
    np.testing.assert_array_equal(theirs.structure.lattice.matrix, volume.lattice)
    np.testing.assert_allclose(theirs.structure.cart_coords, volume.atoms.positions, atol=1e-14)
    assert theirs.structure.formula == "Fe1 O2"
    (again,) = vasp.read(tmp_path / name)
    np.testing.assert_allclose(again.values, volume.values, rtol=rtol)
    assert again.quantity == quantity


@pytest.mark.parametrize("name", ["CHGCAR.xz", "CHGCAR.bz2"])
def test_spin_pair_written_compressed(tmp_path, name):
    pair = [crystal(), crystal("spin density")]
    vasp.write(tmp_path / name, pair)
    again = vasp.read(tmp_path / name)
    assert [v.quantity for v in again] == ["electron density", "spin density"]
    for mine, other in zip(pair, again, strict=True):
        np.testing.assert_allclose(other.values, mine.values, rtol=1e-10)


def test_ase_reads_a_written_density(tmp_path):
    from ase.calculators.vasp import VaspChargeDensity

    volume = crystal()
    vasp.write(tmp_path / "CHGCAR", volume)
    theirs = VaspChargeDensity(str(tmp_path / "CHGCAR"))
    np.testing.assert_allclose(theirs.chg[0].T, volume.values, rtol=1e-10)


def test_atoms_are_written_relative_to_the_grid(tmp_path):
    volume = crystal(origin=[1.0, 0.5, 0.25])
    vasp.write(tmp_path / "CHGCAR", volume)
    (again,) = vasp.read(tmp_path / "CHGCAR")
    shift = again.atoms.positions - (volume.atoms.positions - [0.25, 0.5, 1.0])
    np.testing.assert_allclose(shift, 0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "volumes", "reason"),
    [
        ("CHGCAR", lambda: crystal("elf"), "ELFCAR"),
        ("ELFCAR", lambda: crystal(), "CHGCAR"),
        ("some.vasp", lambda: crystal("score"), "cube"),
        ("CHGCAR", lambda: crystal("spin density"), "cube"),
        ("CHGCAR", lambda: crystal(atoms=None), "needs atoms"),
        ("CHGCAR", lambda: crystal(periodic=False), "periodic"),
        ("CHGCAR", lambda: [crystal()] * 3, "not 3"),
        ("ELFCAR", lambda: [crystal("elf"), crystal("elf", (4, 4, 4))], "different grids"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, volumes, reason):
    with pytest.raises(FormatError, match=reason):
        vasp.write(tmp_path / name, volumes())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (HEAD, "structure without a grid"),
        (HEAD.rstrip("\n"), "structure without a grid"),
        (HEAD + grid(), "ends before its 60"),
        (HEAD + grid() + block(np.ones(50)), "line 23.*ends after 50 of 60"),
        (HEAD + grid() + block(np.ones(58)) + "augmentation occupancies 1 1\n 0.5\n", "augment"),
        (HEAD + grid() + block(np.ones(75)), "line 26.*more values"),
        (HEAD + grid() + block(np.ones(62), 7), "more"),
        (HEAD + "  3 4 x\n" + block(np.ones(60)), "line 13.*grid sizes"),
        (HEAD + "  3 4 0\n" + block(np.ones(60)), "line 13.*grid sizes"),
        (HEAD + grid() + block(np.ones(60)) + grid() + block(np.ones(20)), "ends after 20"),
        (HEAD + (grid() + block(np.ones(60))) * 3, "3 blocks"),
        (HEAD + grid() + block(np.ones(60)).replace("+", "?", 1), "line 14.*expected a number"),
        ("nothing\nof the kind\n", "line 2.*scale"),
        ("", "ends before"),
    ],
)
def test_damaged_files_give_one_clear_error(tmp_path, text, reason):
    with pytest.raises(FormatError, match=reason):
        vasp.read(saved(tmp_path, text))


def test_lines_broken_into_characters_behind_the_block_do_no_harm(tmp_path):
    junk = "\n".join("augmentation occupancies 1 15")
    (volume,) = vasp.read(saved(tmp_path, HEAD + grid() + block(numbers()) + junk, "ELFCAR"))
    np.testing.assert_allclose(volume.values, numbers(), rtol=1e-10)


def test_bad_number_tells_its_place():
    with pytest.raises(BadNumberError) as caught:
        read_numbers(b" 1.0 2.0\n 3.0 oops\n", 0, 4)
    assert caught.value.offset == 14


def test_zeros_that_fill_up_the_last_line_are_no_values():
    values, end = read_numbers(b" 1.0 2.0 3.0\n 4.0 0.0 0.0\nafter", 0, 4)
    assert values.tolist() == [1, 2, 3, 4]
    assert end == 26
    with pytest.raises(BadNumberError, match="more than the 4 values"):
        read_numbers(b" 1.0 2.0 3.0\n 4.0 0.0 5.0\n", 0, 4)
