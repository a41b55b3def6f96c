"""MLServer with its adaptive batching."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    port = int(sys.argv[1])
    settings = {
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_port": port + 2,
        "parallel_workers": 0,
        "debug": False,
    }
    model = {
        "name": "label",
        "implementation": "mlserver_runtime.Label",
        "max_batch_size": 64,
        "max_batch_time": 0.001,
        "parameters": {"uri": sys.argv[2]},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    (folder / "mlserver_runtime.py").write_text((Path(__file__).parent / "mlserver_runtime.py").read_text())
    raise SystemExit(subprocess.call([str(Path(sys.executable).parent / "mlserver"), "start", "."], cwd=folder))
