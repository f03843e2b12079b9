"""Small files that claim a great deal, or unpack to it: what is refused before memory is taken.

`HOSTILE` are functions that make a file in an empty folder and give its name, by what it does.
"""

import gzip
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
from samples import MOLECULE, SAMPLES, SHAPE, elf_model, mrc, values

HOSTILE = {}
MILLION = 10**6
BOMB = 2 << 30
CHGCAR = "x\n1\n3 0 0\n0 4 0\n0 0 5\nMg\n1\nDirect\n0 0 0\n\n"


def hostile(*arguments):
    """Register a function `make(folder, *arguments)` under its name and argument."""

    def register(make):
        for argument in arguments or ((),):
            more = argument if isinstance(argument, tuple) else (argument,)
            name = " ".join([make.__name__, *map(str, more)])
            HOSTILE[name] = lambda folder, more=more: make(folder, *more)
        return make

    return register


def bomb(path, beginning, filler=b" "):
    """Write gzip data that unpack to 2 GB, one member many times over."""
    block = gzip.compress(filler * (1 << 24))
    with Path(path).open("wb") as file:
        file.write(gzip.compress(beginning))
        file.write(block * (BOMB >> 24))
    return Path(path).name


@hostile("map.mrc", "map.mrc.gz")
def mrc_of_a_million_voxels_a_side(folder, name):
    mrc(folder, "f4")
    content = bytearray((folder / "map.mrc").read_bytes()[:1100])
    content[:12] = struct.pack("<3i", *[MILLION] * 3)
    (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return name


@hostile("map.mrc", "map.mrc.gz")
def mrc_with_half_a_gigabyte_of_extended_header(folder, name):
    mrc(folder, "f4")
    content = bytearray((folder / "map.mrc").read_bytes())
    content[92:96] = struct.pack("<i", 2**29)
    if name.endswith(".gz"):
        return bomb(folder / name, content, b"\0")
    (folder / name).write_bytes(content)
    return name


@hostile("CHGCAR", "CHGCAR.gz", "x.vasp")
def grid_of_a_million_points_a_side(folder, name):
    text = f"{CHGCAR} 1000000 1000000 1000000\n 1 2 3 4 5\n".encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    return name


@hostile("POSCAR", "CHGCAR", "x.vasp")
def structure_of_a_quadrillion_atoms(folder, name):
    (folder / name).write_text(CHGCAR.replace("Mg\n1\n", "Mg\n999999999999999\n"))
    return name


@hostile("CHGCAR.gz", "x.cif.gz")
def two_gigabytes_in_two_megabytes(folder, name):
    beginning = {
        "CHGCAR.gz": CHGCAR.encode() + b"1 1 2\n 1 2\n",
        "x.cif.gz": b"data_x\n",
    }[name]
    return bomb(folder / name, beginning)


@hostile("1000000 1 0 0", "2 1 0 0")
def cube_of_a_million_points_or_atoms(folder, axis):
    atoms = 10**15 if axis.startswith("2") else 0
    rows = "\n".join([axis] * 3)
    (folder / "x.cube").write_text(f"a\nb\n{atoms} 0 0 0\n{rows}\n 1 2 3\n")
    return "x.cube"


@hostile()
def xsf_of_a_million_points_a_side(folder):
    (folder / "x.xsf").write_text(
        "BEGIN_BLOCK_DATAGRID_3D\nx\nBEGIN_DATAGRID_3D\n1000000 1000000 1000000\n0 0 0\n1 0 0\n"
        "0 1 0\n0 0 1\n1 2 3\nEND_DATAGRID_3D\nEND_BLOCK_DATAGRID_3D\n"
    )
    return "x.xsf"


@hostile("unwritten", "elsewhere", "linked")
def hdf5_of_values_that_are_not_there(folder, kind):
    import h5py

    SAMPLES["VASP HDF5"][0](folder)
    with h5py.File(folder / "vaspwave.h5", "r+") as file:
        del file["charge/charge"]
        if kind == "unwritten":
            shape = (1, 3000, 3000, 3000)
            file.create_dataset("charge/charge", shape, "f8", chunks=(1, 64, 64, 64))
        elif kind == "elsewhere":
            (folder / "secret").write_bytes(bytes(8 * 60))
            external = [(str(folder / "secret"), 0, 480)]
            file.create_dataset("charge/charge", (1, 3, 4, 5), "f8", external=external)
        else:
            with h5py.File(folder / "other.h5", "w") as other:
                other["secret"] = np.ones((1, 3, 4, 5))
            file["charge/charge"] = h5py.ExternalLink(str(folder / "other.h5"), "secret")
    return "vaspwave.h5"


@hostile("SizeZ", "SizeX", "elsewhere")
def tiff_of_other_planes_than_its_own(folder, kind):
    """A billion planes, or planes a billion voxels wide, or those of another folder."""
    import tifffile

    sizes = {"X": SHAPE[2], "Y": SHAPE[1], "Z": SHAPE[0], "C": 1, "T": 1}
    if kind != "elsewhere":
        sizes[kind[-1]] = 999_999_999
    written = " ".join(f'Size{axis}="{size}"' for axis, size in sizes.items())
    planes = '<TiffData IFD="0" PlaneCount="6"/>'
    if kind == "elsewhere":
        planes = "".join(f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1">'
                         f'<UUID FileName="../../../../etc/passwd">urn:uuid:{z}</UUID></TiffData>'
                         for z in range(6))  # fmt: skip
    xml = ('<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
           'UUID="urn:uuid:own"><Image ID="Image:0"><Pixels ID="Pixels:0" Type="uint8" '
           f'DimensionOrder="XYZCT" {written}>{planes}</Pixels></Image></OME>')  # fmt: skip
    pages = values("u1")
    with tifffile.TiffWriter(folder / "x.ome.tif") as file:
        for n, page in enumerate(pages):
            file.write(page, description=None if n else xml, metadata=None,
                       contiguous=False)  # fmt: skip
    return "x.ome.tif"


@hostile("../../elsewhere", "/etc")
def zarr_that_points_out_of_its_folder(folder, place):
    name = SAMPLES["OME-Zarr"][0](folder)
    about = json.loads((folder / name / ".zattrs").read_text())
    about["multiscales"][0]["datasets"][0]["path"] = place
    (folder / name / ".zattrs").write_text(json.dumps(about))
    return name


@hostile()
def zarr_of_a_chunk_of_a_million_voxels_a_side(folder):
    name = SAMPLES["OME-Zarr"][0](folder)
    array = folder / name / "1" / ".zarray"
    about = json.loads(array.read_text()) | {"shape": [MILLION] * 3, "chunks": [MILLION] * 3}
    array.write_text(json.dumps(about))
    return name


@hostile("/etc/passwd", "../../../../../../../../etc/passwd", "../elsewhere/particles.star")
def relion_set_that_points_out_of_its_project(folder, place):
    project = folder / "a" / "b" / "c" / "d"
    project.mkdir(parents=True)
    (folder / "elsewhere").mkdir()
    SAMPLES["STAR"][0](folder / "elsewhere")
    (folder / "elsewhere" / "p.star").rename(folder / "elsewhere" / "particles.star")
    if place.startswith("../elsewhere"):
        place = f"../../../../{place[3:]}"
    (project / "optimisation_set.star").write_text(
        f"data_\n\n_rlnTomoParticlesFile {place}\n_rlnTomoTomogramsFile {place}\n"
    )
    return "a/b/c/d/optimisation_set.star"


@hostile(1_000_000_000, -1)
def imod_model_of_a_billion_points(folder, count):
    SAMPLES["IMOD .mod"][0](folder)
    content = (folder / "p.mod").read_bytes()
    at = content.index(b"CONT") + 4
    (folder / "p.mod").write_bytes(content[:at] + struct.pack(">i", count) + content[at + 4 :])
    return "p.mod"


@hostile("p.json", "p_info.json", "p.ndjson")
def json_nested_too_deep(folder, name):
    (folder / name).write_text('{"points": ' + "[" * 100_000 + "]" * 100_000 + "}")
    return name


@hostile(("base", MILLION), ("blocks", 10**9), ("base", 4096), ("kernel", 4095))
def card_of_a_vast_network(folder, name, value):
    elf_model().save(folder / "model")
    card = json.loads((folder / "model" / "card.json").read_text())
    card["network"]["arguments"][name] = value
    (folder / "model" / "card.json").write_text(json.dumps(card))
    return "model"


@hostile()
def factors_of_a_vast_matrix(folder):
    """Two megabytes that stand for a matrix of 10¹² numbers."""
    import torch

    from napari_vox3d.models import Model

    model = elf_model()
    state = dict(model.network().state_dict())
    name = next(name for name in state if name.endswith("weight"))
    del state[name]
    state |= {f"{name}.left": torch.ones(MILLION, 1), f"{name}.right": torch.ones(1, MILLION)}
    Model(model.card, state).save(folder / "model")
    return "model"


@hostile(2**60, 10**8)
def safetensors_header_that_claims_all(folder, size):
    import hashlib

    elf_model().save(folder / "model")
    content = struct.pack("<Q", size) + b'{"a": {"dtype": "F32", "shape": [1000000, 1000000]}}'
    (folder / "model" / "weights.safetensors").write_bytes(content)
    card = json.loads((folder / "model" / "card.json").read_text())
    card["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "model" / "card.json").write_text(json.dumps(card))
    return "model"


def _doubled(times):
    numbers = [1.0]
    for _ in range(times):
        numbers = [numbers, numbers]
    return pickle.dumps({"r_grid_bohr": numbers, "rho_neutral": numbers})


# Memo entry 2³¹ - 1, a byte array of 2⁴⁰ bytes, and lists in lists that double thirty times.
_GREEDY = (
    b"\x80\x02}r\xff\xff\xff\x7f.",
    b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    _doubled(30),
)


@hostile(0, 1, 2)
def pickle_that_asks_for_memory(folder, number):
    (folder / "H.pkl").write_bytes(_GREEDY[number])
    return "."


@hostile(0, 1)
def checkpoint_that_asks_for_memory(folder, number):
    with zipfile.ZipFile(folder / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", _GREEDY[number])
    return "x.pt"


@hostile()
def shard_of_little_that_unpacks_to_much(folder):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<i2", "fortran_order": False, "shape": (BOMB >> 1,)}
    )
    record = {"symbols": ["H"], "positions": [[0, 0, 0]], "cell": [1, 1, 1], "shape": [1, 1, 1]}
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("crystals.json", json.dumps([record]))
        archive.writestr("change.npy", header.getvalue())
        with archive.open("elf.npy", "w") as file:
            file.write(header.getvalue())
            for _ in range(40):
                file.write(bytes(1 << 24))
    return "x.zip"


@hostile()
def array_of_pickled_objects(folder):
    """NumPy's own format can hold a pickle, which shall not be opened."""
    stored = io.BytesIO()
    np.save(stored, np.array([MOLECULE], object), allow_pickle=True)
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.writestr("crystals.json", "[]")
        for name in ("elf", "change"):
            archive.writestr(f"{name}.npy", stored.getvalue())
    return "x.zip"
