"""Beginning a run from a checkpoint of another one, under another placement."""

from mech_grok.surgery.fork import Fork, fork
from mech_grok.surgery.parent import check_surgery

__all__ = ["Fork", "check_surgery", "fork"]
