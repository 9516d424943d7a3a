"""What the paper claims, and how far what was measured bears it out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mech_grok.paper.measures import Measured

Verdict = Literal["confirmed", "confirmed in part", "not confirmed", "not known", "answered"]
"""`not known`: what it takes to say was not measured, or not for long enough. `answered`: what is asked is a
question, and everything that it takes was measured."""


@dataclass(frozen=True)
class Finding:
    """What was found about a claim.

    Attributes:
        verdict: in a word.
        text: in sentences with the numbers that it rests on, and how it differs; plain text.
        seeds: over how many seeds, the least of the cells that it takes; 0 if one of them is lacking.
    """

    verdict: Verdict
    text: str
    seeds: int


@dataclass(frozen=True)
class Claim:
    """A sentence that the paper reads off a figure; or, of our own figure, a question.

    Attributes:
        text: plain text.
        check: what the measured curves say about it.
    """

    text: str
    check: Callable[[Measured], Finding]
