"""What the linear service costs: start, memory, and the command line's own cost.

Run ``python -m benchmarks.resources``; it fits the seeds into a temporary folder first. Medians and ranges, since
machines are noisy.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEEDS, TAXONOMY = ROOT / "seeds" / "paragraphs.jsonl", ROOT / "seeds" / "taxonomy.toml"
STANCERY = [sys.executable, "-m", "stancery"]
PORT = 8907
RUNS = 5
MB = 1e6


def spread(values: list[float], unit: str) -> str:
    return f"{statistics.median(values):.3g} {unit}  ({min(values):.3g} to {max(values):.3g}, {len(values)} runs)"


def timed(command: list[str]) -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds and peak resident megabytes of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended in {process.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / MB


def resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0]) / MB


@contextmanager
def service(bundle: Path) -> Iterator[tuple[int, float]]:
    """Yield the process id of a running service and the seconds from its start to ready."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [*STANCERY, "serve", "--bundle", str(bundle), "--home", str(bundle.parent / "home"), "--port", str(PORT)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=2):
                    break
            except urllib.error.URLError:
                time.sleep(0.01)
        yield process.pid, time.perf_counter() - start
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = folder / "bundle"
        wall, cpu, memory = timed([*STANCERY, "train", str(SEEDS), "--taxonomy", str(TAXONOMY), "-o", str(bundle)])
        print(f"fitting the seeds           {wall:.1f} s wall, {cpu:.1f} s CPU, {memory:.0f} MB peak")
        size = sum(path.stat().st_size for path in bundle.iterdir()) / MB
        print(f"bundle                      {size:.1f} MB")
        print(f"stancery --help             {spread([timed([*STANCERY, '--help'])[1] for _ in range(RUNS)], 's CPU')}")
        starts, rests = [], []
        for _ in range(RUNS):
            with service(bundle) as (pid, seconds):
                starts.append(seconds)
                rests.append(resident(pid))
        print(f"start to ready              {spread(starts, 's')}")
        print(f"resident when ready         {spread(rests, 'MB')}")


if __name__ == "__main__":
    main()
