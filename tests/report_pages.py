"""What the tests in a browser share: a browser, a small report of made-up runs, and the committed one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import Opened, chromium, opened
from fake_maps import with_maps
from fake_probes import add_probes
from fake_runs import FakeRun, fake_run

from mech_grok.report import study_report

COMMITTED = Path(__file__).parents[1] / "reports" / "quickstart" / "index.html"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def runs() -> list[FakeRun]:
    made = (fake_run("mlp-pre", "mlp", late=600), fake_run("off", "", late=9000))
    return [_restless(with_maps(add_probes(run), 113)) for run in made]


def _restless(run: FakeRun) -> FakeRun:
    """The run with maps that change from one checkpoint to the next by more than a factor."""
    rng = np.random.default_rng(0)
    for probe in ("fourier2d", "embedding_circles"):
        data = run.probes[probe]
        maps = [str(name) for name in data if name not in _OF_CIRCLES]
        run.probes[probe] = data.assign({n: data[n] * rng.uniform(0.2, 1, data[n].shape) for n in maps})
    return run


_OF_CIRCLES = ("embedding_circle_frequency", "embedding_circle_share")


@pytest.fixture(scope="session")
def report(runs: list[FakeRun], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study_report(runs, tmp_path_factory.mktemp("report"), "Norms & <grokking>", "Two cells.")


@pytest.fixture(scope="session")
def quickstart() -> Path:
    if "data-choose-theme" not in COMMITTED.read_text("utf-8"):
        pytest.skip("the committed report was written by an older version")
    return COMMITTED


@pytest.fixture(params=["report", "quickstart"])
def path(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Opened]:
    with opened(browser, report) as page:
        page.settle()
        yield page
        assert page.errors == []
