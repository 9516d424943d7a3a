"""What workers need, imported by the forkserver, and by nothing else, before they are forked."""

import atexit
import gc
import os

try:
    import mech_grok.sweep.workers.local_worker
    import mech_grok.sweep.workers.work  # noqa: F401
except Exception as error:  # an ImportError is all that a forkserver survives; workers meet the cause again
    raise ImportError(f"workers will load by themselves: {error}") from error

gc.collect()
gc.freeze()  # workers' collections leave these objects alone, so that their memory stays shared
atexit.register(os._exit, 0)  # Python would take all of it down, at length, and call what is frozen leaked
