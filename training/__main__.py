"""``python -m training``: one training as a process of its own, its progress one JSON object a line on stdout.

The last line has the phase ``done``, with the version, the bundle and the gate, or ``failed``, with the errors. Exit
codes: 0 done, 1 failed, 2 the input or the call is at fault.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training import process

if TYPE_CHECKING:
    from training.progress import Progress

_OPTIONS = {"family": str, "holdout": float, "seed": int, "jobs": int, "encoder": str, "cache": Path}


def main() -> int:
    """Run a training."""
    arguments = _arguments()
    scratch = _scratch(arguments.into)
    try:
        if arguments.attached:
            process.end_with_caller(*scratch)
        if arguments.nice:
            process.lower_priority(arguments.nice)
        if arguments.memory_mb:
            process.load_libraries()
            process.limit_memory(arguments.memory_mb)
        return _train(arguments)
    except Exception as error:
        _say({"phase": "failed", "errors": [process.explain(error)]})
        return 1
    finally:
        for folder in scratch:
            shutil.rmtree(folder, ignore_errors=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("examples", type=Path)
    parser.add_argument("--taxonomy", type=Path, required=True, help="TOML, or a bundle's taxonomy.json")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", "-o", type=Path, help="the bundle's folder")
    where.add_argument("--into", type=Path, help="the folder to put the bundle in, under its version")
    parser.add_argument("--champion", type=Path, help="the bundle to beat")
    parser.add_argument("--attached", action="store_true", help="end when standard input does")
    parser.add_argument("--nice", type=int, default=0, help="raise the niceness by so much; 19 yields to everybody")
    parser.add_argument("--memory-mb", type=int, default=0, help="what each process may allocate")
    parser.add_argument("--online", action="store_true", default=argparse.SUPPRESS, help="fetch the encoder if need be")
    for name, kind in _OPTIONS.items():
        # The defaults are those of training.run.Options, which is too large to load before the limits are set.
        parser.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS)
    return parser.parse_args()


def _scratch(into: Path | None) -> list[Path]:
    """Have the arrays that fitting processes share put beside the bundle, where a caller who kills us finds them."""
    if into is None or "JOBLIB_TEMP_FOLDER" in os.environ:
        return []
    into.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".training-", dir=into))
    os.environ["JOBLIB_TEMP_FOLDER"] = str(folder)
    return [folder]


def _train(arguments: argparse.Namespace) -> int:
    from models.errors import InvalidData, StanceryError
    from training.run import Options, run

    options = Options(**{name: value for name, value in vars(arguments).items() if name in {*_OPTIONS, "online"}})
    into = arguments.into
    output = arguments.output if into is None else lambda version: into / version
    try:
        run(arguments.examples, arguments.taxonomy, output, options, _tell, arguments.champion)
    except InvalidData as error:
        _say({"phase": "failed", "errors": error.faults})
        return 2
    except StanceryError as error:
        _say({"phase": "failed", "errors": [str(error)]})
        return 1
    return 0


def _tell(progress: Progress) -> None:
    shown = {name: getattr(progress, name) for name in ("phase", "fraction", "message", "seconds_left")}
    _say(shown | progress.details)


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
