"""Bring in a checkpoint that somebody else made: nothing of it may run, and what it is gets written down.

Weights are read from safetensors alone. A folder that holds code, or files that may be pickles, is refused whole, and
so is a configuration that asks for code of its own. Out of the weights an ONNX graph with eight-bit weights is made;
from then on neither torch nor transformers is needed, to serve or to fit again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.encoder import Encoder, EncoderSpec
from models.errors import InvalidData, to_install

# Their states can be pooled into an embedding; by ``model_type`` of config.json.
ARCHITECTURES = ("bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
_HUB = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>.*))?")
_REVISION = re.compile(r"[0-9a-f]{40}")
_WANTED = ("*.json", "*.safetensors", "*.txt", "1_Pooling/*.json")
_PICKLES = (".bin", ".ckpt", ".h5", ".joblib", ".msgpack", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth")
_CODE = (".dll", ".dylib", ".ipynb", ".js", ".pyc", ".py", ".pyd", ".sh", ".so")
# Of settings; the vocabulary of a large tokenizer takes some twenty.
_MOST_JSON = 64_000_000
# They ask for weights from elsewhere, or for more than those of the body.
_ASKS = {
    "auto_map": "asks for code of its own, which is never run",
    "transformers_weights": "names weights by itself, which are not looked for",
}
_PLAIN_MODULES = ("Transformer", "Pooling", "Normalize")
_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_LONGEST = 512


def load_encoder(name: str, *, online: bool = False, threads: int = 1) -> Encoder:
    """Make an encoder of a checkpoint.

    Parameters
    ----------
    name : str
        A local folder, or ``owner/name@revision`` of the model hub, the revision being a commit of 40 hex digits.
    online : bool
        Whether the hub may be asked; otherwise only what lies in its local cache is taken.
    threads : int

    Raises
    ------
    InvalidData
        With every reason why the checkpoint is refused; nothing of it was loaded then.
    """
    folder, spec = described(name, online=online)
    return Encoder(graph_of(load_body(folder)), tokenizer_of(folder), spec, threads=threads)


def described(name: str, *, online: bool = False) -> tuple[Path, EncoderSpec]:
    """Return the folder of a checkpoint and what it says of itself; arguments and errors as of :func:`load_encoder`."""
    folder, revision = folder_of(name, online)
    config = check(folder)
    spec = EncoderSpec(
        source=name.partition("@")[0] if revision else folder.name,
        revision=revision,
        architecture=config["model_type"],
        pooling=_pooling(folder),
        max_length=_max_length(folder, config),
        dimension=_dimension(config),
        digests={
            path.name: _digest(path) for path in (*_weights(folder), folder / "config.json", folder / "tokenizer.json")
        },
    )
    return folder, spec


def tokenizer_of(folder: Path) -> bytes:
    return (folder / "tokenizer.json").read_bytes()


def folder_of(name: str, online: bool) -> tuple[Path, str | None]:
    """Return where a checkpoint lies, and its revision where it is of the model hub."""
    if Path(name).is_dir():
        return Path(name), None
    found = _HUB.fullmatch(name)
    if not found:
        raise InvalidData([f"encoder: {name!r} is neither a folder nor owner/name@revision of the model hub"])
    revision = found["revision"] or ""
    if not _REVISION.fullmatch(revision):
        raise InvalidData(
            [f"encoder: {found['id']}: a revision of 40 hex digits is needed, owner/name@REVISION: a name may move"]
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            found["id"], revision=revision, allow_patterns=list(_WANTED), local_files_only=not online
        )
    except (LocalEntryNotFoundError, OSError) as error:
        hint = "" if online else "; --online lets it be fetched"
        raise InvalidData([f"encoder: {name}: not in the local cache of the model hub{hint} ({error})"]) from None
    return Path(folder), revision


def check(folder: Path) -> dict[str, Any]:
    """See that a checkpoint is weights and settings and nothing else; return its config.json.

    Raises
    ------
    InvalidData
        With every reason why it is refused.
    """
    faults = [fault for path in sorted(folder.rglob("*")) if (fault := _file_fault(path))]
    if not any(_weights(folder)):
        faults.append("no *.safetensors: weights in another format are not read")
    faults += [f"{name}: missing" for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    config: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.json")):
        try:
            held = _read_json(path)
        except (ValueError, OSError, RecursionError) as error:
            faults.append(f"{path.name}: not JSON that can be read: {error}")
            continue
        if path == folder / "config.json" and isinstance(held, dict):
            config = held
        if isinstance(held, dict):
            faults += [f"{path.name}: {name} {reason}" for name, reason in _ASKS.items() if name in held]
            faults += _index_faults(path, held.get("weight_map"), folder)
    if config.get("model_type") not in ARCHITECTURES:
        faults.append(f"config.json: model_type {config.get('model_type')!r} is not one of {', '.join(ARCHITECTURES)}")
    faults += _settings_faults(folder, config)
    if faults:
        raise InvalidData([f"encoder: {folder.name}: {fault}" for fault in faults])
    return config


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> Any:
    if (size := path.stat().st_size) > _MOST_JSON:
        raise ValueError(f"{size:,} bytes; at most {_MOST_JSON:,} are read")
    return json.loads(path.read_text())


def _index_faults(path: Path, weight_map: Any, folder: Path) -> Iterator[str]:
    """Say where an index of weights leads out of the files that were checked."""
    if weight_map is None:
        return
    named = {str(name) for name in (weight_map.values() if isinstance(weight_map, dict) else [weight_map])}
    if strange := sorted(named - {each.name for each in _weights(folder)}):
        yield f"{path.name}: names weights that are no *.safetensors of the folder: {', '.join(strange[:3])}"


def _file_fault(path: Path) -> str | None:
    if path.name == "adapter_config.json":
        return f"{path.name}: an adapter changes the weights; merge it into them first"
    if path.suffix.lower() in _PICKLES:
        return f"{path.name}: may be a pickle, which can run code; safetensors are needed, and nothing beside them"
    if path.suffix.lower() in _CODE:
        return f"{path.name}: code; a checkpoint holds weights and settings alone"
    return None


def _modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    return list(_read_json(path)) if path.is_file() else []


def _settings_faults(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    try:
        for module in _modules(folder):
            kind = str(module["type"]).rpartition(".")[2]
            if kind not in _PLAIN_MODULES:
                yield f"modules.json: {kind} is not one of {', '.join(_PLAIN_MODULES)}"
    except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
        yield f"modules.json: {error}"
    for name, read in (
        ("1_Pooling/config.json", lambda: _pooling(folder)),
        ("sentence_bert_config.json", lambda: _max_length(folder, config)),
        ("config.json", lambda: _dimension(config)),
    ):
        try:
            read()
        except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError) as error:
            yield f"{name}: {error}"


def _pooling(folder: Path) -> Any:
    """Return how the checkpoint's own files pool; ``mean`` where they say nothing."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    asked = [name for name, on in _read_json(path).items() if name.startswith("pooling_mode_") and on]
    if len(asked) != 1 or asked[0] not in _POOLINGS:
        raise ValueError(f"pooling {', '.join(asked) or 'unknown'}; allowed is one of {', '.join(_POOLINGS)}")
    return _POOLINGS[asked[0]]


def _max_length(folder: Path, config: dict[str, Any]) -> int:
    path = folder / "sentence_bert_config.json"
    own = _read_json(path).get("max_seq_length") if path.is_file() else None
    return min(int(own or _LONGEST), positions(config))


def positions(config: dict[str, Any]) -> int:
    """Return how many tokens a body of that configuration can read, at most 512."""
    # Those of RoBERTa's kind count their positions from after that of the padding.
    offset = 2 if config.get("model_type") in ("camembert", "mpnet", "roberta", "xlm-roberta") else 0
    return min(int(config.get("max_position_embeddings", _LONGEST)) - offset, _LONGEST)


def _dimension(config: dict[str, Any]) -> int:
    return int(config.get("hidden_size") or config["dim"])


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def load_body(folder: Path) -> Any:
    """Load the transformer of a checkpoint that was checked, as a torch module.

    Raises
    ------
    InvalidData
        If torch or transformers are not installed, or the checkpoint lacks weights, which would be random.
    """
    require()
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]  # it has no types
    body, found = AutoModel.from_pretrained(
        folder,
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        attn_implementation="eager",
        output_loading_info=True,
    )
    # Nothing here asks the pooler, which many checkpoints lack.
    if missing := sorted(name for name in found["missing_keys"] if not name.startswith("pooler.")):
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise InvalidData([f"{folder}: the weights lack {missing[0]}{more}, which would be random"])
    return body.float()


def require() -> None:
    """Raise InvalidData if torch, transformers or onnx are not installed."""
    try:
        import onnx  # noqa: F401  the exporter needs it only at the end, after hours maybe
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise InvalidData(
            [
                "encoder: to bring in a checkpoint takes more packages: torch in the build for this machine, then "
                f"{to_install('checkpoint')} ({error})"
            ]
        ) from error


def exported(module: Any, inputs: tuple[str, ...]) -> bytes:
    """Export a torch module to ONNX, its weights as eight-bit integers with a scale for each channel.

    Parameters
    ----------
    module : torch.nn.Module
    inputs : tuple of str
        Names of its inputs, each int64 of shape (1, n_tokens); the output is float32 of shape (1, n_tokens, n).
    """
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # The exporter warns of each shape that it takes for fixed; that the graph takes any length is tested.
        warnings.simplefilter("ignore")
        whole, small = Path(scratch) / "whole.onnx", Path(scratch) / "small.onnx"
        torch.onnx.export(
            module.eval(),
            tuple(torch.ones(1, 7, dtype=torch.long) for _ in inputs),
            str(whole),
            input_names=list(inputs),
            output_names=["states"],
            dynamic_axes={name: {1: "tokens"} for name in (*inputs, "states")},
            dynamo=False,
        )
        # It warns at the root logger that a graph might be smaller still.
        logging.disable(logging.WARNING)
        try:
            quantize_dynamic(whole, small, weight_type=QuantType.QInt8, per_channel=True)
        finally:
            logging.disable(logging.NOTSET)
        return small.read_bytes()


def graph_of(body: Any) -> bytes:
    """Export what gives the states of the tokens, from :func:`load_body`, as :func:`exported` has it."""
    import torch

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, ids: torch.Tensor) -> Any:
            return self.body(input_ids=ids).last_hidden_state

    return exported(States(), ("ids",))
