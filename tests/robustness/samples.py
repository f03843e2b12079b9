"""Sound files of every format that is read, small, each as the content of its files by name.

`SAMPLES[format]` are functions that make the files of one sample in an empty folder and give the
name of the one to open.
"""

import gzip
import pickle
import shutil
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
from ase import Atoms

from napari_vox3d.formats import write_picks, write_volume
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

DATA = Path(__file__).parents[1] / "data"
SHAPE = (6, 5, 4)
TOMOGRAM = Volume(np.zeros((44, 136, 84), "f4"), 10.0, name="TS_01")
MOLECULE = Atoms("MgO2", [[0, 0, 0], [1, 1, 1], [2, 1, 1]], cell=[3, 4, 5], pbc=True)
TABLE_ATOMS = Atoms("H", [[0, 0, 0]], cell=[2, 2, 2], pbc=True)

SAMPLES = defaultdict(list)


def sample(format, *arguments):
    """Register a function `make(folder, *arguments) -> name of the file`."""

    def register(make):
        for argument in arguments or (None,):
            more = () if argument is None else (argument,)
            SAMPLES[format].append(lambda folder, more=more: make(folder, *more))
        return make

    return register


def values(dtype="f8", shape=SHAPE):
    return (np.random.default_rng(0).random(shape) * 100).astype(dtype)


def copied(*parts, name=None):
    def make(folder):
        source = DATA.joinpath(*parts)
        shutil.copy(source, folder / (name or source.name))
        return name or source.name

    return make


def with_picks(name, format=None, classes=("a", "a", "b"), **fields):
    def make(folder):
        frame = {"voxel_size": 10, "shape": TOMOGRAM.shape, "tomogram": "TS_01",
                 "scores": [0.5, np.nan, 1], "radii": [50, 60, 70],
                 "angles": [[0, 0, 0], [10, 20, 30], [90, 0, 45]]} | fields  # fmt: skip
        indices = [[0, 0, 0], [43.25, 135, 83], [1.25, 100.5, 7.75]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write_picks(folder / name, Picks.from_indices(indices, classes, **frame), format)
        return name

    return make


def with_volume(name, volume):
    def make(folder):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write_volume(folder / name, volume)
        return name

    return make


def crystal(quantity="electron density", unit="e/Å³"):
    return Volume.on_lattice(
        values(), MOLECULE.cell.array, quantity=quantity, unit=unit, atoms=MOLECULE
    )


# Volumes


@sample("MRC", "i1", "i2", "f4", "c8", "u2", "f2", "u1")
def mrc(folder, dtype):
    return with_volume("map.mrc", Volume(values(dtype), 10.0))(folder)


@sample("MRC", "big-endian", "extended", "stack", "oblique")
def odd_mrc(folder, kind):
    from mrcfile.dtypes import HEADER_DTYPE

    mrc(folder, "f4")
    content = (folder / "map.mrc").read_bytes()
    header = np.frombuffer(content[:1024], HEADER_DTYPE).reshape(()).copy()
    data, more = np.frombuffer(content[1024:], "<f4"), b""
    if kind == "big-endian":
        header, data = header.astype(HEADER_DTYPE.newbyteorder(">")), data.astype(">f4")
        header["machst"] = (0x11, 0x11, 0, 0)
    elif kind == "extended":
        header["nsymbt"], header["exttyp"], more = 160, b"SERI", bytes(160)
    elif kind == "stack":
        header["ispg"], header["mz"] = 401, 3
    else:
        header["cellb"] = (80, 95, 110)
    (folder / "map.mrc").write_bytes(header.tobytes() + more + data.tobytes())
    return "map.mrc"


SAMPLES["MRC"] += [
    with_volume("map.mrc.gz", Volume(values("f4"), 10.0)),
    copied("mrc", "tomo_int16.mrc"),
]

SAMPLES["VASP"] += [
    with_volume("CHGCAR", crystal()),
    with_volume("CHGCAR.gz", crystal()),
    with_volume("CHGCAR.xz", crystal()),
    with_volume("ELFCAR", crystal("elf", "")),
    with_volume("LOCPOT", crystal("potential", "eV")),
    copied("vasp", "CHGCAR.dummy_spin"),
    copied("vasp", "CHGCAR.dummy_ncl"),
]


@sample("VASP")
def spins(folder):
    two = [crystal(), crystal("spin density")]
    for volume in two:
        after = b"augmentation occupancies   1   4\n  0.1E+00  0.2E+00  0.3E+00  0.4E+00\n"
        volume.metadata["vasp"] = {"after": {"quantity": volume.quantity, "text": after}}
    return with_volume("CHGCAR", two)(folder)


_POSCAR = """Mg O2
 {scale}
 3.0 0.0 0.0
 0.0 4.0 0.0
 0.0 0.0 5.0
{elements} 1 2
Selective dynamics
{mode}
 0.0 0.0 0.0 T T T
 0.1 0.2 0.3 T F T
 0.4 0.5 0.6 F F F
"""


@sample("VASP", ("1.0", " Mg O\n", "Direct"), ("-60.0", "", "Cartesian"),
        ("1 1 1", " Mg_pv O/a\n", "d"))  # fmt: skip
def poscar(folder, parts):
    text = _POSCAR.format(**dict(zip(("scale", "elements", "mode"), parts, strict=True)))
    (folder / "POSCAR").write_text(text)
    return "POSCAR"


@sample("VASP HDF5", "vaspwave.h5", "vaspout.h5", "vaspwave.h5.gz")
def hdf5(folder, name):
    import h5py

    wave = name.startswith("vaspwave")
    plain = folder / name.removesuffix(".gz")
    with h5py.File(plain, "w") as file:
        place = "structure/positions" if wave else "results/positions"
        if wave:
            file["charge/charge"] = values(shape=(2, *SHAPE))
        else:
            file["results/potential/total"] = values(shape=(1, *SHAPE))
            file["results/partial_charges/parchg"] = values(shape=(1, 1, 1, *SHAPE))
            file["results/partial_charges/kpoints"] = [0]
            file["results/partial_charges/bands"] = [0]
        file[f"{place}/scale"] = 1.0
        file[f"{place}/lattice_vectors"] = MOLECULE.cell.array
        file[f"{place}/position_ions"] = MOLECULE.get_scaled_positions()
        file[f"{place}/direct_coordinates"] = 1
        file[f"{place}/ion_types"] = np.array([b"Mg_pv", b"O "])
        file[f"{place}/number_ion_types"] = np.array([1, 2])
    if name.endswith(".gz"):
        (folder / name).write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return name


SAMPLES["cube"] += [
    with_volume("x.cube", crystal()),
    with_volume("x.cube.gz", crystal()),
    with_volume("elf.cub", crystal("elf", "")),
]


@sample("cube")
def orbitals(folder):
    rows = [f"{n:13.5E}" * 2 for n in range(8)]
    lines = ["orbitals", "two of them", "-1 0.0 0.0 0.0", *(f"2 {row}" for row in
             ("1.0 0.0 0.0", "0.0 1.0 0.0", "0.0 0.0 1.0")), "1 1.0 0.5 0.5 0.5", "2 7 8",
             *rows]  # fmt: skip
    (folder / "mo.cube").write_text("\n".join(lines) + "\n")
    return "mo.cube"


SAMPLES["XSF"] += [
    with_volume("x.xsf", crystal()),
    with_volume("x.xsf.bz2", crystal()),
    with_volume("box.xsf", Volume(values(), 0.5)),
]

_IMAGE = Volume(values("u1"), 10.0)
SAMPLES["TIFF"] += [
    with_volume("x.tif", _IMAGE),
    with_volume("x.ome.tif", _IMAGE),
    with_volume("f.tif", Volume(values("f4"), 10.0)),
]


@sample("TIFF", "zlib", "channels")
def packed_tiff(folder, kind):
    import tifffile

    if kind == "zlib":
        tifffile.imwrite(folder / "x.tif", values("u2"), compression="zlib",
                         photometric="minisblack")  # fmt: skip
    else:
        tifffile.imwrite(folder / "x.tif", values("u1", (2, 6, 7, 8)), ome=True,
                         photometric="minisblack", metadata={"axes": "CZYX"})  # fmt: skip
    return "x.tif"


@sample("OME-Zarr", "0.4", "0.5", "packed", "array")
def ome_zarr(folder, version):
    import zarr

    path = folder / "TS_01.zarr"
    zarr_format = 3 if version == "0.5" else 2
    compressors = "auto" if version == "packed" else None
    if version == "array":
        array = zarr.create_array(path, shape=SHAPE, chunks=(4, 4, 4), dtype="f4", zarr_format=2)
        array[...] = values("f4")
        return path.name
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    datasets = []
    for level in (1, 2):
        shape = tuple(n // level for n in (8, 8, 8))
        array = group.create_array(str(level), shape=shape, chunks=(4, 4, 4), dtype="u2",
                                   compressors=compressors)  # fmt: skip
        array[...] = values("u2", shape)
        scale = {"type": "scale", "scale": [10.0 * level] * 3}
        datasets.append({"path": str(level), "coordinateTransformations": [scale]})
    axes = [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "zyx"]
    images = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    if version == "0.5":
        group.attrs["ome"] = {"version": "0.5", "multiscales": images}
    else:
        group.attrs["multiscales"] = images
    return path.name


# Structures


@sample("CIF, XYZ", "cif", "xyz", "pdb", "res")
def structure(folder, suffix):
    import ase.io

    kept = {"format": "extxyz"} if suffix == "xyz" else {"format": "proteindatabank"} \
        if suffix == "pdb" else {}  # fmt: skip
    ase.io.write(folder / f"x.{suffix}", MOLECULE, **kept)
    return f"x.{suffix}"


# Picks

SAMPLES["STAR"] += [
    with_picks("p.star"),
    with_picks("p.star", "relion4"),
    copied("picks", "relion5_refine3d.star"),
    copied("picks", "tomoslice_points.star"),
    copied("picks", "portal", "relion_3_star.star"),
    copied("picks", "portal", "tomoman_relion_star.star"),
]


@sample("STAR")
def relion_project(folder):
    shutil.copytree(DATA / "picks" / "relion5_project", folder, dirs_exist_ok=True)
    return "Picks/job_picks/optimisation_set.star"


SAMPLES["copick"] += [with_picks("p.json"), with_picks("p.json", classes="a")]
SAMPLES["Dynamo .tbl"] += [with_picks("p.tbl", classes="a"), with_picks("p.tbl")]


@sample("Dynamo .tbl", "doc", "vll")
def dynamo(folder, kind):
    shutil.copy(DATA / "picks" / "dynamo" / "t_complex.tbl", folder / "t.tbl")
    if kind == "doc":
        (folder / "t.doc").write_text("1 TS_01.mrc\n2 rec_TS_02.mrc\n")
    else:
        (folder / "t.vll").write_text("/x/TS_01.mrc\n* index = 1\n/x/TS_02.mrc\n* index = 2\n")
    return "t.tbl"


SAMPLES["IMOD .mod"] += [
    with_picks("p.mod"),
    copied("picks", "imod", "two_contour_example.mod"),
    copied("picks", "imod", "point_sizes_example.mod"),
]
SAMPLES["IMOD points"] += [with_picks("p.txt"), with_picks("p.txt", classes="a")]
SAMPLES["EMAN2"] += [with_picks("p_info.json")]
SAMPLES[".cbox"] += [with_picks("p.cbox")]
SAMPLES[".coords"] += [with_picks("p.coords")]
SAMPLES["CSV"] += [with_picks("p.csv"), with_picks("p.csv", classes="a", radii=None)]
SAMPLES["ndjson"] += [with_picks("p.ndjson")]


@sample("CSV", "index,axis-0,axis-1,axis-2\n0,1,2,3\n1,4.5,5,6\n",
        "id,experiment,particle_type,x,y,z\n0,TS_01,ribosome,10,20,30\n")  # fmt: skip
def tables(folder, text):
    (folder / "p.csv").write_text(text)
    return "p.csv"


# Models


def elf_model(seed=0):
    import torch

    from napari_vox3d.models import ELFInput, Model, ModelCard, NetworkSpec
    from napari_vox3d.networks import build

    arguments = {"in_ch": 1, "base": 8, "blocks": 1, "kernel": 1, "attention_every": 0}
    card = ModelCard(
        name="test", title="test", task="elf", training="none", licence="none", version="1",
        input=ELFInput(channels=["sad"]), network=NetworkSpec(name="ELFPredictor",
                                                              arguments=arguments),
    )  # fmt: skip
    torch.manual_seed(seed)
    return Model(card, build("ELFPredictor", **arguments).state_dict())


@sample("model folder")
def model_folder(folder):
    elf_model().save(folder / "model")
    return "model"


@sample("PyTorch checkpoint", "x.pt", "x.ckpt")
def checkpoint(folder, name):
    import torch

    state = elf_model().network().state_dict()
    content = {"epoch": 3, "state_dict": state, "hyper_parameters": {"lr": 0.1}}
    if name == "x.ckpt":
        halves = {key: value.half() for key, value in state.items()}
        content = {"model_state_dict": halves, "callbacks": {Path("x"): [MOLECULE.cell.array]}}
    torch.save(content, folder / name)
    return name


@sample("ELFNet table")
def elfnet(folder):
    grid = 0.16 * 1.05 ** np.arange(100)
    content = {"r_grid_bohr": grid.tolist(), "rho_neutral": np.exp(-grid).tolist(), "z_valence": 1}
    (folder / "H.pkl").write_bytes(pickle.dumps(content))
    return "."


@sample("training checkpoint")
def training_checkpoint(folder):
    import torch

    from napari_vox3d.training.checkpoints import save_checkpoint

    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save_checkpoint(folder / "x.safetensors", network, optimizer, 1, 10, 2.0)
    return "x.safetensors"


@sample("training shard")
def shard(folder):
    import io
    import json
    import zipfile

    record = {"symbols": ["Mg", "O", "O"], "cell": MOLECULE.cell.array.tolist(), "name": "MgO2",
              "positions": MOLECULE.positions.tolist(), "shape": list(SHAPE)}  # fmt: skip
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.writestr("crystals.json", json.dumps([record]))
        for name in ("elf", "change"):
            stored = io.BytesIO()
            np.save(stored, np.ones(int(np.prod(SHAPE)), np.int16))
            archive.writestr(f"{name}.npy", stored.getvalue())
    return "x.zip"


@sample("settings of a queue")
def queue_settings(folder):
    (folder / "queue.yaml").write_text(
        "jobqueue:\n  slurm:\n    cores: 4\n    memory: 16GB\n    walltime: '02:00:00'\n"
        "    job_extra_directives: ['--gres=gpu:1', &a x, *a]\n"
    )
    return "queue.yaml"


@sample("kept review")
def review(folder):
    from napari_vox3d.curation import Review
    from napari_vox3d.curation.saved import keep

    found = Review(Picks([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]], "a", [0.1, 0.5, np.nan]))
    found.decide(0, "accepted")
    keep(folder / "review.json", found)
    return "review.json"
