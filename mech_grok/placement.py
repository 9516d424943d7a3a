"""Where normalisation sits: placements as values, with the names that the paper and its code give them."""

import difflib
import re
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Literal, get_args

Pathway = Literal["q", "k", "v", "mlp"]
Arrangement = Literal["pre", "post", "peri", "mlp-inpnorm"]
NormKind = Literal["ln", "rms"]

PATHWAYS: tuple[Pathway, ...] = get_args(Pathway)
ATTENTION_PATHWAYS: tuple[Pathway, ...] = ("q", "k", "v")

# Specifier and paper name (arXiv 2602.06702) of the pathway subsets that have one.
_NAMED_SUBSETS: dict[frozenset[Pathway], tuple[str, str]] = {
    frozenset(): ("off", "No LN"),
    frozenset("qkv"): ("attn-pre", "A*"),  # pyright: ignore[reportAssignmentType]
    frozenset(PATHWAYS): ("pre", "M+A*"),
    frozenset({"mlp"}): ("mlp-pre", "M"),
    frozenset({"q", "k"}): ("attn-pre-qk", "A^qk"),
    frozenset({"v"}): ("attn-pre-v", "A^v"),
    frozenset({"v", "mlp"}): ("pre-v", "M+A^v"),
}
_ARRANGEMENT_NAMES: dict[Arrangement, str] = {
    "post": "Post-LN",
    "peri": "Peri-LN",
    "mlp-inpnorm": "unit MLP input",
}


@dataclass(frozen=True)
class Placement:
    """The frozen set of normalised pathways of a model, and how its norms are arranged.

    Attributes:
        pathways: which of the inputs q, k, v, mlp are normalised before they are read.
        arrangement: `pre` norms the inputs in `pathways` only; `post` norms the residual stream after
            each sublayer; `peri` norms the input and the output of each sublayer; `mlp-inpnorm` divides
            the MLP's input by its L2 norm (no centring, no affine).
    """

    pathways: frozenset[Pathway]
    arrangement: Arrangement = "pre"

    @classmethod
    def of(cls, *pathways: Pathway) -> "Placement":
        """The placement that normalises exactly these pathways."""
        return cls(frozenset(pathways))

    @classmethod
    def parse(cls, name: str) -> "Placement":
        """The placement of a specifier (`mlp-pre`), a paper name (`M`) or a subset (`qk+mlp`).

        Raises:
            ValueError: for any other name; the message gives the nearest right one.
        """
        placement = _BY_NAME.get(_fold(name)) or _parse_subset(_fold(name))
        if placement is None:
            raise ValueError(_unknown(name))
        return placement

    @property
    def specifier(self) -> str:
        """The reference's name (`mlp-pre`), else the subset (`qk+mlp`); always parses back."""
        if self.arrangement != "pre":
            return self.arrangement
        named = _NAMED_SUBSETS.get(self.pathways)
        return named[0] if named else _subset_name(self.pathways)

    @property
    def paper_name(self) -> str | None:
        """The paper's name (`M`, `A^qk`, `No LN`), or None for a placement that the paper has no name for."""
        if self.arrangement != "pre":
            return _ARRANGEMENT_NAMES[self.arrangement]
        named = _NAMED_SUBSETS.get(self.pathways)
        return named[1] if named else None

    @property
    def label(self) -> str:
        """What a reader is shown: the paper's name, else the specifier."""
        return self.paper_name or self.specifier

    def __str__(self) -> str:
        return self.specifier


def _subset_name(pathways: frozenset[Pathway]) -> str:
    attention = "".join(x for x in ATTENTION_PATHWAYS if x in pathways)
    return "+".join(filter(None, [attention, "mlp" if "mlp" in pathways else ""]))


def _fold(name: str) -> str:
    return re.sub(r"[\s{}^$]", "", name.lower())


def _parse_subset(folded: str) -> Placement | None:
    """A subset in any order: `mlp+kq`, `v+q`."""
    parts = folded.split("+")
    letters = "".join(part for part in parts if part != "mlp")
    if (
        "" in parts
        or not letters
        or set(letters) - set(ATTENTION_PATHWAYS)
        or len(set(letters)) < len(letters)
    ):
        return None
    return Placement(frozenset(x for x in PATHWAYS if x in letters or (x == "mlp" and "mlp" in parts)))


@cache
def all_placements() -> tuple[Placement, ...]:
    """The sixteen pathway subsets, then `post`, `peri` and `mlp-inpnorm`."""
    subsets = (frozenset(c) for n in range(5) for c in combinations(PATHWAYS, n))
    return (
        *(Placement(s) for s in subsets),
        Placement(frozenset(), "post"),
        Placement(frozenset(PATHWAYS), "peri"),
        Placement(frozenset(), "mlp-inpnorm"),
    )


def _names(placement: Placement) -> list[str]:
    names = [placement.specifier, *filter(None, [placement.paper_name])]
    if placement.arrangement == "pre" and placement.pathways:
        subset = _subset_name(placement.pathways)
        names += [subset, "+".join(x for x in PATHWAYS if x in placement.pathways)]
    return names


_BY_NAME = {_fold(name): p for p in all_placements() for name in _names(p)}


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(_fold(name), _BY_NAME, n=1, cutoff=0.5)
    listed = {_fold(n): n for p in all_placements() for n in (p.specifier, p.paper_name) if n}
    hint = f"did you mean '{listed.get(near[0], _BY_NAME[near[0]].specifier)}'? " if near else ""
    allowed = ", ".join(
        f"{p.specifier} ({p.paper_name})" if p.paper_name else p.specifier for p in all_placements()
    )
    return f"unknown placement '{name}'; {hint}allowed: {allowed}"
