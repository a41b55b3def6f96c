"""Over HTTP, the server on one core and the load on another: ours, the same pipeline as others serve it, no work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
from tqdm import tqdm

from benchmarks.speed.servers.pipeline import Pipeline
from benchmarks.speed.table import on_core, paragraphs, plot, show
from models.bundle import Bundle
from training.export import pipelines

SERVERS = Path(__file__).parent / "servers"
CONNECTIONS = (1, 16, 64)
MANY, AT_ONCE = 64, 16
WORKERS = (1, 2)
PORT = 8951
_REQUESTS = """
local file = io.open("{bodies}")
local bodies, at = {{}}, 0
for line in file:lines() do bodies[#bodies + 1] = line end
request = function()
  at = at % #bodies + 1
  return wrk.format("POST", "{path}", {{["Content-Type"] = "application/json"}}, bodies[at])
end
"""
_RATES = """
done = function(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format("{\\"rate\\": %f, \\"p99\\": %f, \\"failed\\": %d}\\n",
    summary.requests / summary.duration * 1e6, latency:percentile(99) / 1000, failed))
end
"""


class Server(NamedTuple):
    """How a server is started: `python` of the environment that it has, `path` that it labels at, the cores it has."""

    name: str
    python: str
    file: str
    path: str = "/label"
    options: tuple[str, ...] = ()
    cores: tuple[int, ...] = (0,)


def run(bundle: Bundle, peers: Path | None, rounds: int, seconds: float, plots: Path) -> None:
    """Measure, print and draw."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk sends the load: apt-get install wrk")
    servers = _servers(peers)
    columns = [f"{count} connections" for count in CONNECTIONS] + [f"{MANY} a request, paragraphs"]
    rates: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    waits: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    costs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _write_model(bundle, work / "model.joblib")
        for server in tqdm(servers * rounds, desc="HTTP", disable=None):
            with started(server, bundle, work) as (process, ready):
                costs[server.name]["ready, s"].append(ready)
                for count, column in zip(CONNECTIONS, columns, strict=False):
                    rate, wait = loaded(server, work, count, 1, seconds)
                    rates[server.name][column].append(rate)
                    waits[server.name][column].append(wait)
                rate, wait = loaded(server, work, AT_ONCE, MANY, seconds)
                rates[server.name][columns[-1]].append(rate * MANY)
                waits[server.name][columns[-1]].append(wait)
                costs[server.name]["resident, MB"].append(resident(process.pid))
    show("Over HTTP, a server on one core, one paragraph of 80 words a request", "requests/s", columns, rates)
    show("The same, 99th percentile", "ms", columns, waits)
    show("What a server costs", "seconds, megabytes", ["ready, s", "resident, MB"], costs)
    plot(plots / "http.png", "requests or paragraphs/s", columns, rates)


def run_workers(bundle: Bundle, rounds: int, seconds: float, plots: Path) -> None:
    """Measure, print and draw workers, as many as cores, which the load takes its part of."""
    cores = tuple(range(max(WORKERS)))
    servers = [
        Server(f"{count} workers", sys.executable, "", "/v1/classify", ("--workers", str(count)), cores)
        for count in WORKERS
    ]
    columns = ["requests/s", "99th percentile, ms", f"{MANY} a request, paragraphs/s"]
    rates: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for server in servers * rounds:
            with started(server, bundle, work):
                found = *loaded(server, work, AT_ONCE, 1, seconds), loaded(server, work, AT_ONCE, MANY, seconds)[0]
                for column, value in zip(columns, (*found[:2], found[2] * MANY), strict=True):
                    rates[server.name][column].append(value)
    ordered = dict(reversed(rates.items()))
    show(f"As workers grow, on {len(cores)} cores with the load, {AT_ONCE} connections", "", columns, ordered)
    plot(plots / "workers.png", "", columns, ordered)


def _servers(peers: Path | None) -> list[Server]:
    here = sys.executable
    found = [
        Server("Starlette + msgspec, no work", here, "starlette_floor.py"),
        Server("FastAPI, no work", here, "fastapi_floor.py"),
        Server("Stancery", here, "", "/v1/classify"),
    ]
    for name, file, path in (
        ("MLServer", "mlserver_peer.py", "/v2/models/label/infer"),
        ("BentoML", "bentoml_peer.py", "/label"),
        ("LitServe", "litserve_peer.py", "/label"),
    ):
        python = peers / name.lower() / "bin" / "python" if peers else None
        if python is not None and python.exists():
            found.append(Server(name, str(python), file, path))
        else:
            print(f"{name}: not measured, no environment of its own")
    return [*found, Server("FastAPI + scikit-learn", here, "fastapi_plain.py")]


def _write_model(bundle: Bundle, path: Path) -> None:
    vectorizer = next(iter(pipelines(bundle)["topics"].values()))[:-1]
    model = bundle.scorer.model
    joblib.dump(Pipeline(vectorizer, model.topic_weights.astype(np.float64), model.topic_bias), path)


def _body(server: Server, texts: list[str]) -> str:
    if server.name == "MLServer":
        given = {"name": "texts", "shape": [len(texts), 1], "datatype": "BYTES", "data": texts}
        return json.dumps({"inputs": [given]})
    return json.dumps({"paragraphs": texts})


@contextmanager
def started(server: Server, bundle: Bundle, work: Path) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Yield a server's process once it labels, and the seconds that took; end it with its children."""
    command = [server.python, str(SERVERS / server.file), str(PORT), str(work / "model.joblib")]
    if not server.file:
        home = tempfile.mkdtemp(dir=work)
        command = [server.python, "-m", "stancery", "serve", "--bundle", str(bundle.path), "--home", home]
        command += ["--port", str(PORT), *server.options]
    # Where the peers find the class of the model, and ours is run from.
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}"}
    with on_core(*server.cores), (work / "log").open("wb") as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        asked = urllib.request.Request(
            f"http://127.0.0.1:{PORT}{server.path}",
            _body(server, ["Some text."]).encode(),
            {"Content-Type": "application/json"},
        )
        while True:
            try:
                urllib.request.urlopen(asked, timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
                if process.poll() is not None or time.perf_counter() > start + 90:
                    told = (work / "log").read_text(errors="replace")[-2000:]
                    raise SystemExit(f"{server.name} did not come up: {error}\n{told}") from error
                time.sleep(0.01)
        yield process, time.perf_counter() - start
    finally:
        for pid in _family(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _family(pid: int) -> list[int]:
    """Return a process and all that it started, whatever session they are in."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parent_of = {int(line.split()[0]): int(line.split()[1]) for line in listed.splitlines()}
    found = [pid]
    for member in found:
        found += [each for each, parent in parent_of.items() if parent == member]
    return found


def resident(pid: int) -> float:
    """Return the megabytes of a process and all that it started."""
    command = ["ps", "-o", "rss=", "-p", ",".join(map(str, _family(pid)))]
    return sum(map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())) / 1e3


def loaded(server: Server, work: Path, connections: int, size: int, seconds: float) -> tuple[float, float]:
    """Return requests a second and the 99th percentile in milliseconds; a request that failed ends the run."""
    wrk(server, work, connections, size, 1)
    found = wrk(server, work, connections, size, seconds)
    if found["failed"]:
        raise SystemExit(f"{server.name}: {found['failed']} requests failed at {connections} connections")
    return found["rate"], found["p99"]


def wrk(
    server: Server, work: Path, connections: int, size: int, seconds: float, ending: str = _RATES
) -> dict[str, Any]:
    """Load a server from another core, `size` paragraphs a request, and return what the Lua of `ending` prints."""
    texts = paragraphs(2048, 80)
    bodies, script = work / "bodies", work / "load.lua"
    bodies.write_text("\n".join(_body(server, texts[at : at + size]) for at in range(0, len(texts), size)))
    script.write_text(_REQUESTS.format(bodies=bodies, path=server.path) + ending)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "20s", "-s", str(script)]
    with on_core(1):
        done = subprocess.run([*command, f"http://127.0.0.1:{PORT}"], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
