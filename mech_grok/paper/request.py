"""What a user asks for: figures, and overrides of the cells' common settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mech_grok.config import CellConfig
from mech_grok.config_file import override_key, override_study
from mech_grok.errors import UserError
from mech_grok.paper.figures import FIGURES
from mech_grok.paper.study import SEED_GROUPS, PaperRun, paper_runs, paper_study
from mech_grok.study_config import StudyConfig

_GIVEN = ("grid", "cells", "stages", "probes")
"""What the figures say of their study, and nobody else."""


@dataclass(frozen=True)
class Request:
    """What is to be reproduced.

    Attributes:
        figures: their names, in the order in which they are asked for.
        seeds: groups that train as one run each.
        runs: all that they take.
        study: the same as a study.
    """

    figures: tuple[str, ...]
    seeds: tuple[tuple[int, ...], ...]
    runs: tuple[PaperRun, ...]
    study: StudyConfig

    @property
    def configs(self) -> Mapping[str, CellConfig]:
        """Name of each run -> its config."""
        return self.study.all_cells()


def request(tokens: Sequence[str], two_seeds: bool = False) -> Request:
    """What some words of a command line ask for: names of figures, and overrides `key=value`.

    Args:
        tokens: no figure named: all of them.
        two_seeds: only the first two of the published seeds.

    Raises:
        UserError: a figure or a key is unknown, a value is not allowed, or an override would change nothing.
    """
    named = tuple(dict.fromkeys(token for token in tokens if "=" not in token))
    overrides = [token for token in tokens if "=" in token]
    seeds = SEED_GROUPS[:1] if two_seeds else SEED_GROUPS
    study = paper_study(named, seeds)
    for override in overrides:
        _check_override(override, study)
    figures = named or tuple(figure.name for figure in FIGURES)
    return Request(figures, seeds, paper_runs(named, seeds), override_study(study, overrides))


def _check_override(override: str, study: StudyConfig) -> None:
    key = override_key(override)
    own = key.partition(".")[0] in _GIVEN or any(key in settings for settings in study.cells.values())
    if own:
        raise UserError(
            f"override '{override}': the figures' cells say themselves what {key} is; allowed: settings that "
            "all of them share, such as training.device=cuda"
        )
