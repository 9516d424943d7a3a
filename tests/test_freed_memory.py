"""What a step allocates is memory that the one before it has freed."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from mech_grok.config import CellConfig
from mech_grok.training.parameters import ParameterStack
from mech_grok.training.trainer import Trainer

config = CellConfig.model_validate({"task": {"p": 257}, "training": {"seeds": [1], "evaluate_every": 10**9}})
trainer = Trainer(config, ParameterStack.initial(config))
trainer.advance(6)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
trainer.advance(4)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 4)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is set up, no other")
def test_a_step_of_large_passes_takes_hardly_a_page_from_the_system():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000, "2,000 to 18,000 where freed blocks go back"
