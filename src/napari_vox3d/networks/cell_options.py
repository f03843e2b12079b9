"""The options that the cells of a block share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from napari_vox3d.errors import ModelError
from napari_vox3d.networks.tokens import Size


@dataclass(frozen=True)
class CellOptions:
    """How the cells of a block are built; every value can come from JSON.

    Parameters
    ----------
    window, patch
        (D, H, W) in voxels. T and V cells use no patch, T and C cells no window.
    heads
        Attention heads.
    mixer_ratio
        Hidden width of a mixer, times its output width.
    mixer
        ``"conv"``, or ``"lin"``: linear layers on flattened patches (not in T and C cells).
    attention
        How queries, keys and values are made: ``"conv"``, or ``"lin"`` on flattened patches (L and
        G cells only).
    cosine
        Scores are cosines of queries and keys, instead of scaled products.
    normalise_qk
        Standardise queries and keys along their features before a scaled product.
    position_bias
        Learn a bias per relative position (not in T cells).
    attention_dropout
        Probability of dropping an attention weight in training.
    drop_path
        Probability of leaving out a branch of a sample in training.
    output_projection
        Convolve the result of the attention.
    norm, activation
        See `layers.normalisation` and `layers.activation`.
    causal
        In T cells, a plane attends to itself and the planes before it.
    """

    window: Size = (1, 16, 16)
    patch: Size = (1, 2, 2)
    heads: int = 16
    mixer_ratio: float = 4.0
    mixer: str = "conv"
    attention: str = "conv"
    cosine: bool = True
    normalise_qk: bool = True
    position_bias: bool = True
    attention_dropout: float = 0.0
    drop_path: float = 0.1
    output_projection: bool = True
    norm: str = "instance2d"
    activation: str = "prelu"
    causal: bool = False

    def __post_init__(self) -> None:
        for name in ("window", "patch"):
            size = tuple(getattr(self, name))
            if len(size) != 3 or min(size) < 1:
                raise ModelError(f"A {name} is (D, H, W) in voxels, not {size}.")
            object.__setattr__(self, name, size)
        for name in ("mixer", "attention"):
            if getattr(self, name) not in ("conv", "lin"):
                raise ModelError(f"{name} is 'conv' or 'lin', not {getattr(self, name)!r}.")
        for name in ("attention_dropout", "drop_path"):
            if not 0 <= getattr(self, name) <= 1:
                raise ModelError(f"{name} is a probability, not {getattr(self, name)}.")
        if self.heads < 1:
            raise ModelError(f"Attention needs at least one head, not {self.heads}.")

    @classmethod
    def of(cls, **options: Any) -> CellOptions:
        """Options by name.

        Raises
        ------
        ModelError
            If there is no such option or a value is not possible.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ModelError(
                f"Cells have no option {', '.join(unknown)}; they take {', '.join(known)}."
            )
        return cls(**options)
