"""`ModelCard`: what a model is, what it eats, and how good it was found to be."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from napari_vox3d.errors import ModelError

Task = Literal["elf", "picking", "embedding"]
Source = Literal["superposed atoms", "electron density"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_LARGEST = 4096  # number of channels, blocks or voxels of a kernel
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkSpec(_Entry):
    """The network, as `napari_vox3d.networks.build` takes it."""

    name: str = Field(description="Name of the network class.")
    arguments: dict[str, Any] = Field(default={}, description="Its arguments.")

    @model_validator(mode="after")
    def _of_a_size_to_build(self) -> NetworkSpec:
        for name, value in self.arguments.items():
            numbers = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(n, int) and abs(n) > _LARGEST for n in numbers):
                raise ValueError(f"{name} is beyond {_LARGEST}, too large for any network")
        return self


class ELFInput(_Entry):
    """What an ELF model is given."""

    spacing: Positive | None = Field(
        default=None, description="Å of the grid it was trained on; None: any grid will do."
    )
    channels: list[str] = Field(
        default=["sad"],
        min_length=1,
        description='Input channels in order, such as "sad", "log_sad" or "promolecular_elf".',
    )
    source: Source = Field(
        default="superposed atoms",
        description="What the channels are computed from: the superposed densities of the atoms, "
        "or the valence electron density itself, which a calculation has to supply.",
    )
    density: Literal["promolecular", "elfnet"] = Field(
        default="promolecular",
        description="Atomic densities of the SAD: this package's own tables, or those of ELFNet, "
        "which only their owner can supply; a model works with the ones it was trained on.",
    )


class KnownRange(_Entry):
    """What an ELF model has seen, so that anything else can be announced."""

    elements: list[str] = Field(min_length=1, description="Symbols, by atomic number.")
    lowest: list[float] = Field(description="Of each input channel.")
    highest: list[float]


class ErrorBand(_Entry):
    """What the error head of an ELF model is worth: its outputs are errors after scaling."""

    share: float = Field(default=0.9, gt=0, lt=1, description="Of the points within the band.")
    factor: Positive = Field(description="Half-width of the band over the output of the head.")
    mean_error: Positive = Field(description="Mean absolute error over the output of the head.")
    data: str = Field(min_length=1, description="What it was calibrated on, and its coverage.")


class _TomogramInput(_Entry):
    voxel_size: Positive = Field(description="Å of the tomograms it was trained on.")
    normalisation: Literal["zscore", "robust", "none"] = Field(
        default="zscore",
        description="Of the whole tomogram: mean and deviation, median and quartiles, or none.",
    )
    contrast: Literal["dark", "bright"] = Field(
        default="dark", description="Whether particles are darker or brighter than the solvent."
    )


class PickingInput(_TomogramInput):
    """What a picking model is given."""


class EmbeddingInput(_TomogramInput):
    """What a model that tells particles apart is given: a cube around each."""

    edge: int = Field(ge=8, le=128, description="Voxels along an edge of the cube.")


def _kind_of_input(given: Any) -> str:
    names = given if isinstance(given, dict) else getattr(type(given), "model_fields", ())
    if "edge" in names:
        return "embedding"
    return "picking" if "voxel_size" in names else "elf"


class ParticleClass(_Entry):
    """One kind of particle a picking model knows."""

    name: str = Field(min_length=1)
    radius: Positive = Field(description="Å.")
    colour: str = Field(pattern=r"^#[0-9a-fA-F]{6}$", description="Like #1f77b4.")
    threshold: float = Field(default=0.5, ge=0, le=1, description="Score a pick needs.")
    min_distance: Positive | None = Field(
        default=None, description="Å between two picks; None: the radius."
    )
    outputs: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None,
        min_length=1,
        description="Of the network, whose probabilities add up to its own; None: the one in its "
        "place. What no class has is background.",
    )


class MetricTable(_Entry):
    """Measured figures, baselines beside them, and the data they were measured on."""

    data: str = Field(min_length=1, description="Which data, and how it was held out.")
    rows: list[dict[str, str | int | float | None]] = Field(min_length=1)


class ModelCard(_Entry):
    """Everything about a model but its weights.

    A weight-free model such as ``"promolecule"`` has neither `network` nor `sha256`; its card is
    a JSON file alone, for example::

        {"name": "promolecule", "title": "Promolecular ELF", "task": "elf",
         "input": {"channels": ["sad"], "density": "promolecular"},
         "training": "None: computed from the superposed density by Tsirelson and Stash (2002).",
         "licence": "BSD-3-Clause", "version": "1", "description": "..."}

    Raises
    ------
    pydantic.ValidationError
        If a field is unknown, missing or out of range, or the fields contradict each other;
        `ModelCard.read` turns it into a `ModelError`.
    """

    name: str = Field(pattern=NAME, description="For scripts and files.")
    title: str = Field(min_length=1, description="For menus and tables.")
    task: Task
    default: bool = Field(default=False, description="Taken when a user names no model.")
    network: NetworkSpec | None = Field(default=None, description="None: needs no weights.")
    input: Annotated[
        Annotated[ELFInput, Tag("elf")]
        | Annotated[PickingInput, Tag("picking")]
        | Annotated[EmbeddingInput, Tag("embedding")],
        Discriminator(_kind_of_input),
    ]
    classes: list[ParticleClass] = Field(
        default=[], description="In the order of the network's outputs, background left out."
    )
    background: int | None = Field(
        default=None, ge=0, description="Index of the background among the network's outputs."
    )
    known: KnownRange | None = Field(default=None, description="Of an ELF model.")
    uncertainty: ErrorBand | None = Field(
        default=None, description="Of an ELF model whose network has an error head."
    )
    training: str = Field(min_length=1, description="What it was trained on, honestly.")
    metrics: list[MetricTable] = []
    licence: str = Field(min_length=1, description="Of the weights, as an SPDX name if there is.")
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="Of the weights file."
    )
    version: str = Field(min_length=1)
    description: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> ModelCard:
        if not isinstance(self.input, _INPUTS[self.task]):
            raise ValueError(f"the input does not describe a model for {self.task}")
        if self.network is None and self.sha256 is not None:
            raise ValueError("there are weights (sha256) but no network")
        if (self.task == "picking") != bool(self.classes):
            raise ValueError("classes belong to picking models, which need at least one")
        names = [kind.name for kind in self.classes]
        if len(set(names)) < len(names):
            raise ValueError("two classes have the same name")
        if self.background is not None and self.background > len(names):
            raise ValueError(f"background {self.background} is not one of {len(names) + 1} outputs")
        taken = [output for outputs in self.outputs for output in outputs]
        if len(set(taken)) < len(taken):
            raise ValueError("two classes have an output of the network in common")
        return self

    @property
    def outputs(self) -> list[list[int]]:
        """Outputs of the network that make up each class."""
        places = (n for n in count() if n != self.background)
        return [kind.outputs or [place] for kind, place in zip(self.classes, places, strict=False)]

    def with_thresholds(self, thresholds: Mapping[str, float]) -> ModelCard:
        """Give the card with other thresholds of its classes, by name."""
        classes = [k.model_copy(update={"threshold": thresholds[k.name]}) for k in self.classes]
        return self.model_copy(update={"classes": classes})

    @property
    def needs_density(self) -> bool:
        """Whether it predicts from an electron density, which a structure alone does not tell."""
        return isinstance(self.input, ELFInput) and self.input.source == "electron density"

    @classmethod
    def read(cls, path: str | Path) -> ModelCard:
        """Read a card from a JSON file.

        Raises
        ------
        ModelError
            If the file cannot be read or is not a card; it names the file and the field.
        """
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror}).") from error
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            raise ModelError(f"{path}: {_first_problem(error)}. Mend the card.") from error

    def to_json(self) -> str:
        """Text of the card file."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"


_INPUTS = {"elf": ELFInput, "picking": PickingInput, "embedding": EmbeddingInput}


def _first_problem(error: ValidationError) -> str:
    problem, *others = error.errors(include_url=False)
    place = ".".join(str(part) for part in problem["loc"] if part not in _INPUTS)
    more = f" (and {len(others)} more)" if others else ""
    message = problem["msg"].removeprefix("Value error, ")
    return (f"field {place}: " if place else "") + message + more
