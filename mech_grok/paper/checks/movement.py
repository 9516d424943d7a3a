"""How far training moves a network: the claims on updates and on the tangent kernel."""

from itertools import combinations

from mech_grok.paper.cells import learning_rates, readout_scales
from mech_grok.paper.checks.evidence import Need, Part, by_majority, finding, listed
from mech_grok.paper.checks.levels import is_below, labelled, levels, of_whole
from mech_grok.paper.checks.marks import typical
from mech_grok.paper.checks.speed import by_alpha, by_lr
from mech_grok.paper.claims import Finding
from mech_grok.paper.measures import Measured, means

FAR = 10.0
"""A kernel has left its initial value when it is ten times its norm away; lazy training stays far below 1."""
EARLY = 200
"""The step at which the published drift begins."""


def larger_updates(measured: Measured) -> Finding:
    """The median update over training grows with the learning rate, by majority of pairs."""
    cells = learning_rates()
    medians = levels(cells, "update_norm", of_whole(typical), measured)
    grows = by_majority([is_below(medians[one], medians[other]) for one, other in combinations(cells, 2)])
    text = listed("Median norm of an update", labelled(medians, by_lr))
    return finding(measured, [Need(cells, "update_norm")], [Part(grows, text)])


def kernel_leaves(measured: Measured) -> Finding:
    """At step 200 the tangent kernel is more than ten times its initial norm away, at every readout scale."""
    cells = tuple(dict.fromkeys((*readout_scales(False), *readout_scales(True))))
    drift = levels(cells, "kernel_drift", lambda curve: means(curve).get(EARLY), measured)
    left = by_majority([is_below(FAR, value) for value in drift.values()])
    held = [(by_alpha(cell), drift[cell]) for cell in readout_scales(False)]
    falling = [(by_alpha(cell), drift[cell]) for cell in readout_scales(True)]
    text = [
        listed(f"Drift at step {EARLY}, learning rate held", held),
        listed("Learning rate falling", falling),
    ]
    return finding(measured, [Need(cells, "kernel_drift")], [Part(left, " ".join(filter(None, text)))])
