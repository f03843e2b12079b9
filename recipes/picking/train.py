"""Make the shipped particle pickers, from density templates to weights, cards and sample.

    python recipes/picking/train.py TEMPLATES RUN --network unet --minutes 50 [--ship]
    python recipes/picking/train.py TEMPLATES RUN --network cryoet3dcnn --minutes 58 [--ship]
    python recipes/picking/train.py TEMPLATES RUN --minutes 50 --base FOLDER --seed 1 [--ship]

TEMPLATES and the tomograms to learn from, kept in RUN/tomograms, are those of `tomograms.py`.
A U-Net learns to tell eleven proteins and the background apart. Two models are made of it:
``unet-simulated`` shows the five of the CZII challenge and counts all else as background,
``any-particle-simulated`` shows what is no background. `CryoET3DCNN` learns the five; it goes on
from ``cryoet3dcnn-simulated`` as it is in the package.

Version 2 of ``unet-simulated`` (with version 1 of ``any-particle-simulated``) learnt for 50 minutes
from random weights, version 2 of ``cryoet3dcnn-simulated`` for 58 from its version 1, which had
learnt for an hour. The versions in the package went on from these with ``--base``, which may have
fewer cells than the network has now: the new ones change nothing at first. Versions 3 and 4 learnt
for 52 and 66 minutes more as in fine tuning, and so did those of `CryoET3DCNN`, for 46 and 66.
Version 5 (and 4) of the U-Net got a second cell on each level but the finest, and 85 minutes
at a higher rate. Three went on from it with other seeds, for 50 minutes each in bfloat16; version 6
(and 5) is the one that did best on held-out tomograms. (The mean of their parameters did not do
better.) `CryoET3DCNN` got new thresholds when classes came to compete otherwise. All trainings but
that of version 5 were begun as longer ones and shortened on the way, which made the rate of
learning fall faster. What one network learns, RUN/unet-0-trained, is the base of the next.

RUN keeps checkpoints, so that an interrupted run goes on where it was, and the models. Minutes are
those of one processor core. With --ship models and sample tomogram are put into the package.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from figures import PLAIN, STRANGE, Tests, as_particles, tables, unseen
from tomograms import CLASSES, COUNT, Example, all_classes, templates, tomograms

import napari_vox3d as vox
from napari_vox3d.inference.tiles import NetworkView
from napari_vox3d.models import Model, ModelCard, ParticleClass
from napari_vox3d.networks import build
from napari_vox3d.networks.catalogue import find_architecture
from napari_vox3d.networks.cells import Cell
from napari_vox3d.training.simulation import simulate_tomogram
from napari_vox3d.training.thresholds import estimate_thresholds

VERSIONS = {
    "unet-simulated": "6",
    "any-particle-simulated": "5",
    "cryoet3dcnn-simulated": "5",
}
RECALL = 3.0  # weight of recall in F when thresholds are chosen: false picks are sorted out later
ANY = ParticleClass(name="particle", radius=100, colour="#e69f00")
PACKAGE = Path(vox.__file__).parent


def main() -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("templates", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--network", default="unet", help="as `vox3d networks` lists them")
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--base", type=Path, help="folder of a model to go on from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ship", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cache = options.run / "tomograms"
    cache.mkdir(parents=True, exist_ok=True)
    examples = tomograms(options.templates, cache)
    if options.network == "cryoet3dcnn":
        kinds, base = list(CLASSES.values()), options.base or "cryoet3dcnn-simulated"
    else:
        kinds = all_classes(options.templates)
        base = options.base and grown(vox.load_model(options.base), options.network)
    model = fit(options, examples, kinds, base)
    made = list(models_of(model, options.network, examples[4::5]))
    plain = unseen(options.templates, cache, **PLAIN)
    strange = unseen(options.templates, cache, 6100, **STRANGE)
    for model, title in made:
        described = with_figures(model, title, plain, strange, went_on=base is not None)
        described.save(options.run / f"{model.card.name}-{options.seed}")
        for table in described.card.metrics:
            print(table.data, *table.rows, sep="\n", flush=True)
        if options.ship:
            ship(options.run / f"{model.card.name}-{options.seed}")
    if options.ship:
        make_sample(options.templates)


def fit(
    options: argparse.Namespace,
    examples: Sequence[Example],
    kinds: Sequence[ParticleClass],
    base: str | Path | Model | None,
) -> Model:
    """Train, or take what was trained before."""
    name = f"{options.network}-{options.seed}"
    folder = options.run / f"{name}-trained"
    if (folder / "card.json").exists():
        return vox.load_model(folder)
    losses: list[float] = []
    began = time.monotonic()

    def note(step: int, loss: float) -> None:
        losses.append(loss)
        if step % 100 == 0:
            print(f"{name}: step {step}, loss {np.mean(losses[-100:]):.4f}, "
                  f"{time.monotonic() - began:.0f} s", flush=True)  # fmt: skip

    model = vox.train_picker(
        examples,
        base=base,
        network=options.network if base is None else None,
        fine_tune=False,
        classes=kinds,
        minutes=options.minutes,
        clock=time.process_time,
        device="cpu",
        seed=options.seed,
        on_step=note,
        checkpoint=options.run / f"{name}.safetensors",
        name=name,
    )
    model.save(folder)
    return vox.load_model(folder)


def grown(model: Model, network: str) -> Model:
    """Model that computes the same with all the cells that its kind of network has now."""
    arguments = find_architecture(network, "picking").arguments("small")
    spec = model.card.network
    spec = spec.model_copy(update={"arguments": {**spec.arguments, **arguments}})
    known = model.network().state_dict()
    deeper = build(spec.name, **spec.arguments)
    deeper.load_state_dict(known, strict=False)
    with torch.no_grad():
        for name, cell in deeper.named_modules():
            if isinstance(cell, Cell) and f"{name}.norm1.weight" not in known:
                for layer in (cell.norm1, cell.attention.norm, list(cell.mixer.children())[-1]):
                    layer.weight.zero_()
                    layer.bias.zero_()
    return Model(model.card.model_copy(update={"network": spec}), deeper.state_dict())


def models_of(
    model: Model, network: str, held_out: Sequence[Example]
) -> Iterator[tuple[Model, str]]:
    """Models to ship that are made of one network, and their titles."""
    title = find_architecture(network, "picking").title
    kinds = model.card.classes
    known = {kind.name: outputs for kind, outputs in zip(kinds, model.card.outputs, strict=True)}
    five = [kind.model_copy(update={"outputs": known[kind.name]}) for kind in CLASSES.values()]
    yield shown(model, f"{network}-simulated", five, held_out, RECALL), title
    if len(known) == len(five):
        return
    together = sorted(output for outputs in known.values() for output in outputs)
    alike = [as_particles(example, ANY.name, ANY.radius) for example in held_out]
    any_ = ANY.model_copy(update={"outputs": together})
    yield shown(model, "any-particle-simulated", [any_], alike, 1.0), "Any particle"


def shown(
    model: Model,
    name: str,
    kinds: Sequence[ParticleClass],
    held_out: Sequence[Example],
    recall: float,
) -> Model:
    """Model of the same network that shows certain classes, with the thresholds that suit them."""
    card = model.card.model_copy(update={"name": name, "classes": list(kinds), "background": None})
    found = estimate_thresholds(model.with_card(card), held_out, device="cpu", beta=recall)
    return model.with_card(card.with_thresholds(found))


def with_figures(model: Model, title: str, plain: Tests, strange: Tests, *, went_on: bool) -> Model:
    """Model whose card tells what it is and how it does on tomograms it never saw."""
    kinds = model.card.classes
    best = f"the best F{RECALL:g}, which weighs recall {RECALL:g} times as much as precision,"
    if len(kinds) == 1:
        best = "the best F1"
        plain, strange = (
            {name: [as_particles(each, ANY.name, ANY.radius) for each in found]
             for name, found in tests_.items()}
            for tests_ in (plain, strange)
        )  # fmt: skip
        about = (
            "Particles of any kind, as a start for a class of one's own. In the tests only five "
            "kinds are told: picks of the others that are there count as false."
        )
    else:
        about = "Five particles of the CZII challenge."
    card = model.card.model_copy(
        update={
            "title": f"{title}, simulated data",
            "default": title == "U-Net",
            "version": VERSIONS[model.card.name],
            "training": f"{COUNT} simulated tomograms, every fifth of them for the thresholds, "
            "from rigid polnet 10 Å templates (Apache-2.0): 6pxm, 1f4a, 6qzp, 7n4y, 8tux and nine "
            "other proteins, vesicles, gold and carbon; tilts to 48–66° in 2 or 3° steps, CTF "
            "(300 kV, 2–6 µm) corrected in two of five, dose, misalignment, thickness, blur and "
            "voxel size varied, white noise (projection SNR 0.014–1.3), weighted back-projection. "
            + "It goes on from the version before, which saw the same tomograms: " * went_on
            + model.card.training,
            "metrics": tables(model, plain, strange),
            "licence": "BSD-3-Clause",
            "description": f"{about} It has seen no real tomogram. Thresholds are those of "
            f"{best} on held-out simulated tomograms.",
        }
    )
    return model.with_card(card)


def ship(folder: Path) -> None:
    """Put the model of a folder into the package."""
    weights = PACKAGE / "models" / "weights"
    name = ModelCard.read(folder / "card.json").name
    shutil.copy(folder / "card.json", weights / f"{name}.json")
    shutil.copy(folder / "weights.safetensors", weights / f"{name}.safetensors")


def make_sample(folder: Path) -> None:
    """Write the sample: an unseen seed, in bytes."""
    samples = PACKAGE / "gui" / "sample_data"
    volume, truth = simulate_tomogram(
        templates(folder), shape=(96, 192, 192), seed=4000, snr=0.2, crowding=0.35
    )
    box = NetworkView.of(volume, 10, "robust").read((0, 0, 0), volume.shape)
    stored = volume.with_values(np.rint(25 * box).astype(np.int8), name="simulated_tomogram")
    vox.write_volume(samples / "simulated_tomogram.mrc", stored)
    vox.write_picks(samples / "simulated_tomogram_truth.star", replace(truth, tomogram=stored.name))


if __name__ == "__main__":
    main()
