"""Placements: sixteen subsets and three arrangements, their names, and what a wrong name is told."""

import re
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mech_grok.placement import PATHWAYS, Placement, all_placements

# Specifier (github.com/jaisidhsingh/layernorm-grok) and name (arXiv 2602.06702), copied by hand.
NAMED = [
    ("", "off", "No LN"),
    ("q k v", "attn-pre", "A*"),
    ("q k v mlp", "pre", "M+A*"),
    ("mlp", "mlp-pre", "M"),
    ("q k", "attn-pre-qk", "A^qk"),
    ("v", "attn-pre-v", "A^v"),
    ("v mlp", "pre-v", "M+A^v"),
]
UNNAMED = ["q", "k", "qv", "kv", "q+mlp", "k+mlp", "qk+mlp", "qv+mlp", "kv+mlp"]


@pytest.mark.parametrize(("pathways", "specifier", "paper_name"), NAMED)
def test_names_of_the_paper_and_of_its_code(pathways: str, specifier: str, paper_name: str):
    placement = Placement(frozenset(pathways.split()))  # pyright: ignore[reportArgumentType]
    assert (placement.specifier, placement.paper_name) == (specifier, paper_name)
    assert str(placement) == specifier
    assert placement.label == paper_name
    assert Placement.parse(specifier) == Placement.parse(paper_name) == placement


@pytest.mark.parametrize("name", UNNAMED)
def test_subsets_without_a_name_are_written_as_subsets(name: str):
    placement = Placement.parse(name)
    assert placement.pathways == set(name.removesuffix("+mlp").replace("mlp", "")) | (
        {"mlp"} if "mlp" in name else set()
    )
    assert placement.specifier == placement.label == name
    assert placement.paper_name is None


@pytest.mark.parametrize(
    ("name", "specifier"),
    [
        ("q+k", "attn-pre-qk"),
        ("q+k+v+mlp", "pre"),
        ("qkv+mlp", "pre"),
        (" M+A^{v} ", "pre-v"),
        ("$A^{qk}$", "attn-pre-qk"),
        ("no ln", "off"),
        ("Post-LN", "post"),
        ("Peri-LN", "peri"),
    ],
)
def test_other_spellings(name: str, specifier: str):
    assert Placement.parse(name).specifier == specifier


def test_nineteen_placements_all_different():
    placements = all_placements()
    assert len(placements) == len(set(placements)) == 19
    assert len({p.specifier for p in placements}) == 19
    assert len({p.label for p in placements}) == 19
    assert {p.pathways for p in placements[:16]} == {
        frozenset(c) for n in range(5) for c in combinations(PATHWAYS, n)
    }
    assert [p.specifier for p in placements[16:]] == ["post", "peri", "mlp-inpnorm"]


@settings(deadline=None)
@given(st.sampled_from(all_placements()), st.randoms(use_true_random=False))
def test_every_name_parses_back_in_any_case(placement: Placement, random):
    for name in filter(None, [placement.specifier, placement.paper_name, placement.label]):
        folded = "".join(random.choice([c.upper(), c.lower()]) for c in name)
        assert Placement.parse(folded) == placement


@settings(deadline=None)
@given(st.sets(st.sampled_from(PATHWAYS)))
def test_of_takes_exactly_these_pathways(pathways: set):
    assert Placement.of(*pathways) == Placement(frozenset(pathways))
    assert Placement.parse(Placement.of(*pathways).specifier).pathways == pathways


def test_peri_normalises_all_inputs_and_post_none():
    assert Placement.parse("peri").pathways == set(PATHWAYS)
    assert Placement.parse("post").pathways == frozenset()


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("mlp-per", "mlp-pre"),
        ("attn-pre-kq", "attn-pre-qk"),
        ("pre-w", "pre-v"),
        ("pery", "peri"),
        ("mpl", "mlp-pre"),
        ("M+A^w", "M+A^v"),
        ("v+mpl", "pre-v"),
        ("A^w", "A^v"),
    ],
)
def test_a_wrong_name_is_told_the_nearest_right_one(wrong: str, nearest: str):
    with pytest.raises(ValueError, match="unknown placement") as error:
        Placement.parse(wrong)
    assert str(error.value).startswith(f"unknown placement '{wrong}'; did you mean '{nearest}'? allowed: off")
    assert "\n" not in str(error.value)
    for placement in all_placements():
        assert placement.specifier in str(error.value)


@given(st.text("xqkvmlp+-^A preoffst", max_size=10))
def test_what_is_suggested_is_listed(wrong: str):
    try:
        Placement.parse(wrong)
    except ValueError as error:
        said, _, allowed = str(error).partition("allowed: ")
        suggested = re.search("did you mean '(.*)'", said)
        assert suggested is None or suggested[1] in re.split(r", | \(|\)", allowed)


@pytest.mark.parametrize("wrong", ["", "xyz", "qq", "false", "q,k", "mlp+q+"])
def test_nonsense_is_refused(wrong: str):
    with pytest.raises(ValueError, match="unknown placement"):
        Placement.parse(wrong)
