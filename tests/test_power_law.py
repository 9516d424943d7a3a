import contextlib
import io
import math

import numpy as np
import powerlaw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mech_grok.probes.power_law import fit_power_law


def pareto_quantiles(alpha, n):
    """The n midpoint quantiles of the density `x^-alpha` on x >= 1."""
    return (1 - (np.arange(n) + 0.5) / n) ** (-1 / (alpha - 1))


def by_loops(x):
    """(distance, alpha, tail, xmin) of the best xmin, one candidate and one value at a time."""
    values = sorted(v for v in x.tolist() if v > 0)
    fits = []
    for xmin in sorted(set(values))[:-1]:
        tail = [v for v in values if v >= xmin]
        alpha = 1 + len(tail) / math.fsum(math.log(v / xmin) for v in tail)
        gaps = [
            abs(1 - (v / xmin) ** (1 - alpha) - sum(other < v for other in tail) / len(tail)) for v in tail
        ]
        fits.append((max(gaps), alpha, len(tail), xmin))
    return min(fits)


def test_quantiles_of_a_pareto_distribution():
    x = pareto_quantiles(2.5, 2000)
    fit = fit_power_law(x)
    assert (fit.tail, fit.xmin) == (2000, x[0])
    # The mean of -ln(1 - u) over the midpoints is 1 - ln 2 / 2n up to 1 / n^2; that of ln xmin is known.
    mean_log = (1 - math.log(2) / 4000) / 1.5
    assert fit.alpha == pytest.approx(1 + 1 / (mean_log - math.log(x[0])), rel=1e-7)
    # Had the tail been known to begin at 1:
    assert 1 + 1 / (1 / (fit.alpha - 1) + math.log(fit.xmin)) == pytest.approx(2.50026, abs=5e-6)


@pytest.mark.parametrize("alpha", [1.3, 3.0, 8.0])
def test_finds_where_the_tail_begins(alpha):
    """A bulk between 0 and 1, and a power law above 1."""
    rng = np.random.default_rng(0)
    fit = fit_power_law(np.concatenate([rng.uniform(0, 1, 200), pareto_quantiles(alpha, 400)]))
    assert fit.alpha == pytest.approx(alpha, rel=0.05)
    assert fit.xmin == pytest.approx(1, abs=0.1)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(-1, 1e3) | st.integers(1, 4).map(float), min_size=2, max_size=25).filter(
        lambda x: len({v for v in x if v > 0}) > 1
    )
)
def test_against_loops(x):
    # Neighbouring floats have no exponent that means anything.
    x = np.round(np.array(x), 6)
    if len(set(x[x > 0])) < 2:
        return
    fit, (distance, *_) = fit_power_law(x), by_loops(x)
    assert fit.distance == pytest.approx(distance, rel=1e-9, abs=1e-12)
    tail = x[x >= fit.xmin]
    assert fit.tail == len(tail)
    assert fit.alpha == pytest.approx(1 + len(tail) / np.log(tail / fit.xmin).sum(), rel=1e-9)


def spectra():
    rng = np.random.default_rng(1)
    yield "gaussian", np.linalg.svd(rng.normal(size=(400, 64)), compute_uv=False) ** 2
    yield "heavy", np.linalg.svd(rng.standard_t(2, size=(200, 64)), compute_uv=False) ** 2
    yield "decaying", 2.0 ** -np.arange(40) * rng.uniform(0.5, 1, 40)
    yield "pareto", rng.pareto(1.5, 150) + 1
    yield "ties", np.round(rng.pareto(1.5, 150) + 1, 1)
    yield "zeros", np.append(rng.pareto(1.5, 60) + 1, np.zeros(5))


@pytest.mark.parametrize(("name", "x"), list(spectra()))
def test_the_package_finds_the_same(name, x):
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress, verbose or not
        theirs = powerlaw.Fit(x, discrete=False, verbose=False)
    ours = fit_power_law(x)
    assert ours.alpha == pytest.approx(theirs.alpha, rel=1e-10)
    assert ours.xmin == theirs.xmin
    assert ours.tail == theirs.n_tail
    assert ours.distance == pytest.approx(theirs.D, rel=1e-10)


@given(st.floats(1e-6, 1e6), st.permutations(range(60)))
def test_invariance_to_scale_and_order(scale, order):
    x = np.random.default_rng(2).pareto(2, 60) + 1
    fit, other = fit_power_law(x), fit_power_law(scale * x[np.array(order)])
    assert other.alpha == pytest.approx(fit.alpha, rel=1e-10)
    assert other.xmin == pytest.approx(scale * fit.xmin, rel=1e-10)
    assert other.tail == fit.tail


@pytest.mark.parametrize(
    "x",
    [[], [0.0, 0.0], [2.0], [2.0, 2.0, 2.0], [-1.0, 3.0], [1.0, math.inf, 2.0], [math.nan]],
    ids=str,
)
def test_nothing_to_fit(x):
    fit = fit_power_law(np.array(x))
    assert math.isnan(fit.alpha)
    assert fit.tail == 0


def test_neighbouring_floats():
    """Their ratio may round to 1, so that no exponent follows from them."""
    fit = fit_power_law(np.array([1 - 2**-53, 1.0]))
    assert math.isnan(fit.alpha) or fit.alpha > 1e15
    x = np.array([0.1, 0.3, 0.9, np.nextafter(0.9, 1), 2.0])
    assert fit_power_law(x).distance == pytest.approx(by_loops(x)[0], rel=1e-9)
