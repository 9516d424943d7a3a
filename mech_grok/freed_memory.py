"""Memory that is freed stays with the process, for what is allocated next."""

import ctypes
import platform
from functools import cache

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2
_SETTINGS = {
    _MMAP_THRESHOLD: 2**25,  # as high as glibc itself would raise it
    _TRIM_THRESHOLD: 2**30,
    _TOP_PAD: 2**26,  # the size of a heap: those of threads are then never unmapped
}


@cache
def keep_freed_memory() -> None:
    """Have glibc keep freed blocks of up to 32 MiB, as many as 1 GiB; nothing under another libc.

    It returns large blocks to the system, and a thread's heap once it is empty. The activations of a pass
    would then come back a page at a time, each page zeroed first: at p = 509 up to 110,000 times a step.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _SETTINGS.items():
            mallopt(parameter, value)
