"""When structure has appeared: the rules, on curves whose steps are known."""

import numpy as np
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from mech_grok.structure import by_seed, concentrated_step, halved_step


def curve(values: list[float], first: int = 0) -> xr.DataArray:
    return xr.DataArray(values, {"step": first + 10 * np.arange(len(values))}, ("step",))


def test_an_untrained_model_has_no_structure_yet() -> None:
    assert concentrated_step(curve([0.9, 0.1, 0.5, 0.2])) == 20
    assert concentrated_step(curve([0.9, 0.1])) is None
    assert halved_step(curve([99, 2, 8, 4.1, 4])) == 40
    assert halved_step(curve([8, 4], first=10)) == 20  # forked: its first checkpoint is a trained model


def test_what_is_not_finite_is_no_structure() -> None:
    assert halved_step(curve([0, np.inf, 8, 5, np.nan, -np.inf, 4])) == 60
    assert concentrated_step(curve([0, np.nan, np.inf, 0.6])) == 30
    assert halved_step(curve([])) is None


def test_each_seed_has_its_own_onset_and_one_without_values_none() -> None:
    both = xr.concat([curve([0, 8, 4, 4]), curve([0, 8, 8, 3]), curve([np.nan] * 4)], "seed")
    assert by_seed(both.assign_coords(seed=[5, 6, 7]), halved_step) == {5: 20, 6: 30}


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=20), st.sampled_from([0.25, 2.0, 1024.0]))
def test_a_halving_is_the_first_of_all_and_does_not_depend_on_units(values: list[float], unit: float) -> None:
    expected = [
        10 * (i + 1) for i, value in enumerate(values) if any(2 * value <= before for before in values[:i])
    ]
    found = halved_step(curve(values, first=10))
    assert found == (expected[0] if expected else None)
    assert halved_step(curve([unit * value for value in values], first=10)) == found
