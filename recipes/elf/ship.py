"""Put a model that was trained and measured into the package.

python -m recipes.elf.ship MODEL --title TITLE --description SENTENCES --version 1

from the root of the repository, when everything else is done.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_vox3d.models import ModelCard, load_model
from napari_vox3d.models.registry import SHIPPED


def main() -> None:
    """Write card and weights where the package looks for them."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("model", type=Path, help="folder that recipes.elf.train wrote")
    options.add_argument("--title", required=True, help="for menus")
    options.add_argument("--description", required=True, help="what it fails at")
    options.add_argument("--version", required=True)
    given = options.parse_args()
    model = load_model(given.model, "elf")
    words = {"title": given.title, "description": given.description, "version": given.version}
    model.with_card(model.card.model_copy(update=words)).save(given.model)
    name = ModelCard.read(given.model / "card.json").name
    for file, suffix in (("card.json", "json"), ("weights.safetensors", "safetensors")):
        (SHIPPED / f"{name}.{suffix}").write_bytes((given.model / file).read_bytes())


if __name__ == "__main__":
    main()
