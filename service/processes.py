"""What can be told of processes: which one this is, whether one still runs, how much memory a group takes."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GROUP, _STARTED = 2, 19
_UNTOLD = "-"


def identity() -> str:
    """Return a name for this process that no other process has, on any machine, before or after."""
    return f"{_machine()} {os.getpid()} {_started(os.getpid())}"


def is_dead(name: str) -> bool | None:
    """Tell whether the process of that name is gone; None where that cannot be seen, as on another machine."""
    machine, pid, started = name.rsplit(" ", 2)
    if machine != _machine() or started == _UNTOLD:
        return None
    return _started(int(pid)) != started


def group_memory(group: int) -> int:
    """Return the bytes of memory that the processes of a group have to themselves, 0 where that cannot be told."""
    total = 0
    for entry in _PROC.glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            if int(_fields(int(entry.name))[_GROUP]) == group:
                _, resident, shared, *_ = map(int, (entry / "statm").read_text().split())
                total += (resident - shared) * _PAGE
    return total


def _machine() -> str:
    boot = namespace = ""
    with suppress(OSError):
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        # Containers of one machine may share its name, and each has its own process 1.
        namespace = str((_PROC / "self/ns/pid").readlink())
    return f"{socket.gethostname()} {boot} {namespace}"


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since the machine did."""
    with suppress(OSError, IndexError):
        return _fields(pid)[_STARTED]
    return _UNTOLD


def _fields(pid: int) -> list[str]:
    # The second field, the name, may hold anything; what is told here comes after its closing bracket.
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
