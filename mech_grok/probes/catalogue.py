"""The probes as text: what each measures, in what shape, at what cost, and where it is defined."""

import textwrap
from collections.abc import Sequence

from mech_grok.probes.probe import Probe, Quantity
from mech_grok.probes.registry import PROBES, find_probe

_WIDTH = 100


def catalogue(names: Sequence[str] = ()) -> str:
    """Every probe and its quantities; of the named ones also the definitions.

    Raises:
        UserError: there is no probe of that name.
    """
    probes = [find_probe(name) for name in names] or list(PROBES.values())
    head = (
        "Seconds: per checkpoint and seed at p = 113 on one thread, beyond the forward pass that all share."
    )
    return "\n\n".join([head, *(_entry(probe, with_definitions=bool(names)) for probe in probes)])


def _entry(probe: Probe, with_definitions: bool) -> str:
    head = f"{probe.name}: {probe.title} ({probe.seconds:.2f} s; {probe.source})"
    lines = [_wrapped(head, "")]
    for name, quantity in probe.quantities.items():
        lines.append(f"  {_shape(name, quantity):<58} {quantity.long_name}")
        if with_definitions:
            lines.append(_wrapped(_definition(quantity), " " * 6))
    return "\n".join(lines)


def _shape(name: str, quantity: Quantity) -> str:
    return f"{name} ({', '.join(quantity.dims)})" if quantity.dims else name


def _definition(quantity: Quantity) -> str:
    unit = "" if quantity.units == "1" else f" In {quantity.units}."
    nan = f" nan where {quantity.nan}." if quantity.nan else ""
    source = f" Source: {quantity.source}." if quantity.source else ""
    return quantity.definition + unit + nan + source


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent or "  ")
