"""The page on adding a probe: its code is run as it stands."""

import re
from pathlib import Path

import pytest
import torch
from oracles import random_model

import mech_grok
from mech_grok.probes import PROBES, Probe
from mech_grok.task import Task

PAGE = (Path(__file__).parents[1] / "docs" / "adding-a-probe.md").read_text()


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Probe:
    """The probe of the page, registered."""
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    scope: dict[str, Probe] = {}
    exec(compile(code[1], "adding-a-probe.md", "exec"), scope)
    monkeypatch.setitem(PROBES, "firing", scope["PROBE"])
    return scope["PROBE"]


def test_the_example_measures_what_it_says(example: Probe) -> None:
    task = Task("add", 5, 0.6)
    tokens = torch.as_tensor(task.tokens(task.pairs()))
    model = random_model(5)
    seen = mech_grok.probe(model, "firing", tokens_train=tokens[:7], tokens_test=tokens[7:])
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    fires = (cache["blocks.0.mlp.hook_post"][:, -1] > 0).double()
    assert 0 < fires.mean() < 1
    assert seen["firing_share"].sel(split="all").item() == pytest.approx(fires.mean().item())
    assert seen["firing_share"].sel(split="train").item() == pytest.approx(fires[:7].mean().item())


def test_the_example_is_as_short_as_promised() -> None:
    body = PAGE.partition("def _compute")[2].partition("```")[0]
    assert len([line for line in body.splitlines() if line.strip()]) <= 20
