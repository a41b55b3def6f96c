"""Run ``python -m benchmarks.speed BUNDLE``: everything in one run on one machine, told as ratios with their spread.

Rounds are interleaved, so that a machine that slows down slows all alike. What is measured has one core; the load comes
from another. A peer that is not there is told of and left out: fastText needs ``--fasttext PYTHON``, an environment
with the package ``fasttext-wheel``; MLServer, BentoML and LitServe need ``--peers DIR``, a folder with an environment
of each, ``mlserver``, ``bentoml`` and ``litserve``, with scikit-learn of the release that is here; ``wrk`` sends the
load.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.speed import bulk, growth, http, in_process, overload
from models.bundle import load_bundle

PARTS = ("in-process", "http", "overload", "bulk", "growth")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a linear bundle")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load for each cell of the HTTP table")
    parser.add_argument("--fasttext", metavar="PYTHON")
    parser.add_argument("--peers", metavar="DIR", type=Path)
    parser.add_argument("--labels", type=int, default=150_000, help="most labelled paragraphs to fit")
    parser.add_argument("--paragraphs", type=int, default=1_000_000, help="through the stream and the command")
    parser.add_argument("--plots", metavar="DIR", type=Path, default=Path())
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.bundle)
    if "in-process" in arguments.parts:
        in_process.run(bundle, arguments.fasttext, arguments.rounds, arguments.plots)
    if "http" in arguments.parts:
        http.run(bundle, arguments.peers, arguments.rounds, arguments.seconds, arguments.plots)
    if "overload" in arguments.parts:
        overload.run(bundle, arguments.rounds, arguments.seconds)
    if "bulk" in arguments.parts:
        bulk.run(bundle, arguments.paragraphs, arguments.rounds, arguments.plots)
    if "growth" in arguments.parts:
        growth.run(bundle, arguments.labels, arguments.rounds, arguments.plots)
        http.run_workers(bundle, arguments.rounds, arguments.seconds, arguments.plots)


if __name__ == "__main__":
    main()
