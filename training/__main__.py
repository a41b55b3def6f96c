"""``python -m training``: one training as a process of its own, its progress one JSON object a line on stdout."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from models.errors import InvalidData, StanceryError
from training.run import Options, Progress, train


def main() -> int:
    """Run a training. Exit codes: 0 done, 1 failed, 2 the input is at fault."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("examples", type=Path)
    parser.add_argument("--taxonomy", type=Path, required=True)
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--holdout", type=float, default=Options.holdout)
    parser.add_argument("--seed", type=int, default=Options.seed)
    arguments = parser.parse_args()
    options = Options(holdout=arguments.holdout, seed=arguments.seed)
    try:
        train(arguments.examples, arguments.taxonomy, arguments.output, options, _print)
    except StanceryError as error:
        faults = error.faults if isinstance(error, InvalidData) else (str(error),)
        print(json.dumps({"phase": "failed", "errors": faults}), flush=True)
        return 2 if isinstance(error, InvalidData) else 1
    return 0


def _print(progress: Progress) -> None:
    print(json.dumps(dataclasses.asdict(progress)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
