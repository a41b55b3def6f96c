"""BentoML with its adaptive batching."""

import os
import subprocess
import sys
from pathlib import Path

import bentoml
import joblib


@bentoml.service(workers=1, traffic={"timeout": 60})
class Label:
    """Label what came in together."""

    def __init__(self) -> None:
        self.model = joblib.load(os.environ["SPEED_MODEL"])

    @bentoml.api(batchable=True, max_batch_size=1024, max_latency_ms=10_000, route="/label")
    def label(self, paragraphs: list[str]) -> list[list[float]]:
        return self.model(paragraphs).tolist()


if __name__ == "__main__":
    command = [sys.executable, "-m", "bentoml", "serve", "bentoml_peer:Label", "--port", sys.argv[1]]
    here = Path(__file__).parent
    environment = {**os.environ, "SPEED_MODEL": sys.argv[2], "BENTOML_DO_NOT_TRACK": "1"}
    raise SystemExit(subprocess.call(command, cwd=here, env=environment))
