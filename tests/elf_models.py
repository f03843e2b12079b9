"""Tiny ELF models of every kind, and densities for them."""

import torch
from ase.build import bulk

import napari_vox3d as vox
from napari_vox3d.models import ELFInput, ErrorBand, Model, ModelCard, NetworkSpec
from napari_vox3d.networks import build

SILICON = bulk("Si")
SHAPE = (16, 16, 16)
CHANNELS = {"invariants": 24, "owners": 20, "sad": 1}


def model(name="test", default=False, head=False, known=None, source="superposed atoms",
          channels=("invariants",), elfnet=False):  # fmt: skip
    inputs = sum(map(CHANNELS.get, channels))
    arguments = {"in_ch": inputs, "base": 8, "blocks": 1, "kernel": 1, "attention_every": 0,
                 "error_head": head}  # fmt: skip
    card = ModelCard(
        name=name, title=name, task="elf", training="none", licence="none", version="1",
        default=default, known=known, input=ELFInput(channels=list(channels), source=source,
                       density="elfnet" if elfnet else "promolecular"),
        network=NetworkSpec(name="ELFPredictor", arguments=arguments),
        uncertainty=ErrorBand(factor=0.5, mean_error=0.25, data="test") if head else None,
    )  # fmt: skip
    torch.manual_seed(0)
    return Model(card, build("ELFPredictor", **arguments).state_dict())


def density(atoms=SILICON, scale=1.0, shape=(48, 48, 48), **changes):
    """A superposed density that calls itself the real one."""
    sad = vox.superpose_atoms(atoms, shape)
    return vox.Volume.on_lattice(
        scale * sad.values, sad.lattice,
        **{"quantity": "electron density", "unit": "e/Å³", "atoms": atoms} | changes,
    )  # fmt: skip
