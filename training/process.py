"""What a training does to its own process, so that it neither outlives its caller nor starves anybody.

Nothing here may import more than the standard library at its top: some of it comes before anything large is loaded.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import threading
import traceback
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

_NICEST = 19
_STATUS = Path("/proc/self/status")
# Products of matrices smaller than this need no buffer.
_LARGE = 256


def end_with_caller(*leftovers: Path) -> None:
    """Kill this process and every one it started as soon as standard input ends, since its caller is gone then.

    The fitting processes are in this process's group, so the group is what is killed. `leftovers` are folders that
    would stay behind.
    """
    # A group of its own to be ended by, in the session of the caller: schedulers that group by session would make its
    # niceness count for nothing against a service.
    os.setpgid(0, 0)

    def watch() -> None:
        # Not through sys.stdin, whose lock a thread in the middle of a read would hold when the interpreter ends.
        while os.read(0, 4096):
            pass
        for folder in leftovers:
            shutil.rmtree(folder, ignore_errors=True)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def lower_priority(nice: int) -> None:
    """Raise the niceness; at 19 run only while nothing else wants to, where the system can do that."""
    os.nice(nice)
    policy = getattr(os, "SCHED_IDLE", None) or getattr(os, "SCHED_BATCH", None)
    if nice >= _NICEST and policy is not None:
        # Some containers forbid it; the niceness holds.
        with suppress(OSError):
            os.sched_setscheduler(0, policy, os.sched_param(0))


def load_libraries() -> None:
    """Load what a training needs, and have it take the memory that it cannot do without.

    For use before :func:`limit_memory`. A library that is loaded into too little memory fails in words of its own, and
    OpenBLAS tries for ever to get the buffer that each of its threads needs for the first product of matrices.
    """
    # Each thread takes another buffer, on as many cores as there are, whatever number of processes may fit.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import numpy as np
    from scipy.linalg import blas

    import training.run  # noqa: F401

    square = np.ones((_LARGE, _LARGE))
    blas.dgemm(1.0, square @ square, square)


def limit_memory(megabytes: int) -> None:
    """Limit what this process, and each one that it starts, may allocate for itself.

    Raises
    ------
    MemoryError
        If it has allocated more already.
    """
    import resource

    asked = megabytes * 1_000_000
    if (taken := _allocated()) > asked:
        raise MemoryError(f"to begin with, a training takes {taken / 1e6:.0f} MB, and {megabytes} MB are allowed")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = asked if hard == resource.RLIM_INFINITY else min(asked, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _allocated() -> int:
    """Return the bytes that a limit of memory counts, 0 where that cannot be told."""
    with suppress(OSError, IndexError):
        return 1024 * int(_STATUS.read_text().split("VmData:")[1].split()[0])
    return 0


def explain(error: Exception) -> str:
    """Say why a training failed, and put the traceback of what is our own error on standard error."""
    from models.errors import missing_extra

    text = str(error) or type(error).__name__
    if _is_out_of_memory(error):
        return f"out of memory: {text}"
    if isinstance(error, ModuleNotFoundError) and (told := missing_extra(error)):
        return told
    if isinstance(error, OSError):
        return f"{error.filename or ''}: {error.strerror or text}".removeprefix(": ")
    traceback.print_exception(error, file=sys.stderr)
    return f"an error of ours: {type(error).__name__}: {text}"


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, ImportError | RuntimeError) and not isinstance(error, BrokenProcessPool):
        # A library that finds no room to be loaded into, and a thread that finds none for its stack.
        return "Cannot allocate memory" in str(error) or "can't start new thread" in str(error)
    # liblinear does not look whether it got the memory it asked for, so a fitting process may break instead.
    return isinstance(error, MemoryError | BrokenProcessPool)
