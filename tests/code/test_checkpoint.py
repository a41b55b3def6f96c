"""What is taken for an encoder and what is refused, with the real MiniLM weights."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models.encoder import Encoder
from models.errors import InvalidData
from training.checkpoint import check, load_encoder

WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"


class Trap:
    """Leaves a file behind where it is run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return self.mark.write_text, ("sprung",)


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    (folder / "model.safetensors").symlink_to(checkpoint / "model.safetensors")
    return folder


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_checkpoint_is_taken_as_its_own_files_say(encoder: Encoder) -> None:
    spec = encoder.spec
    assert (spec.architecture, spec.pooling, spec.max_length, spec.dimension) == ("bert", "mean", 256, 384)
    assert spec.digests["model.safetensors"] == WEIGHTS
    assert len(encoder.graph) < 30_000_000


def test_embeddings_are_those_of_the_checkpoint(encoder: Encoder, checkpoint: Path) -> None:
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(checkpoint), device="cpu")
    texts = [
        "Yes.",
        "Direct flights should be resumed.",
        "Прямые рейсы.",
        "The treaty was signed in the spring. " * 120,
    ]
    theirs = peer.encode(texts, batch_size=1, normalize_embeddings=True)
    ours = np.array([encoder.embed(text) for text in texts])
    assert np.linalg.norm(ours, axis=1) == pytest.approx(1)
    # What eight bits change.
    assert ((ours * theirs).sum(axis=1) > 0.97).all()


def test_nothing_of_a_pickle_or_of_code_runs(copy: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(mark)))
    (copy / "modeling_trap.py").write_text(f"open({str(mark)!r}, 'w').write('sprung')\n")
    change(copy / "config.json", auto_map={"AutoModel": "modeling_trap.TrapModel"})
    with pytest.raises(InvalidData) as refused:
        load_encoder(str(copy))
    told = "\n".join(refused.value.faults)
    assert "pytorch_model.bin: may be a pickle" in told and "modeling_trap.py: code" in told
    assert "auto_map asks for code" in told and not mark.exists()


def test_weights_in_another_format_are_not_read(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(InvalidData, match=r"no \*\.safetensors"):
        check(copy)


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("config.json", {"model_type": "llama"}, "model_type 'llama' is not one of bert"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": "t.T"}}, "auto_map asks for code"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        ("config.json", {"transformers_weights": "other.safetensors"}, "transformers_weights names weights"),
        ("config.json", {"hidden_size": "wide"}, "config.json: invalid literal"),
        ("sentence_bert_config.json", {"max_seq_length": "long"}, "sentence_bert_config.json: invalid literal"),
    ],
)
def test_what_is_not_known_is_refused(copy: Path, name: str, values: dict[str, object], reason: str) -> None:
    change(copy / name, **values)
    with pytest.raises(InvalidData) as refused:
        check(copy)
    assert any(reason in fault for fault in refused.value.faults), refused.value.faults


def test_a_module_of_its_own_is_refused(copy: Path) -> None:
    modules = json.loads((copy / "modules.json").read_text())
    (copy / "modules.json").write_text(json.dumps([*modules, {"idx": 3, "path": "3_Dense", "type": "custom.Dense"}]))
    with pytest.raises(InvalidData, match="Dense is not one of"):
        check(copy)


@pytest.mark.parametrize("weights", [{"a": "../elsewhere/pytorch_model.bin"}, {"a": "weights"}, "weights", [["a"]]])
def test_an_index_leads_to_no_other_weights(copy: Path, weights: object) -> None:
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(InvalidData, match="names weights that are no"):
        check(copy)
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    assert check(copy)["model_type"] == "bert"


def test_an_adapter_is_refused(copy: Path) -> None:
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(InvalidData, match="merge it into them"):
        check(copy)


@pytest.mark.parametrize("held", ["[]", "{}", "3", "[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "1_Pooling/config.json", "modules.json", "sentence_bert_config.json"])
def test_settings_of_any_shape_are_refused_or_taken(copy: Path, name: str, held: str) -> None:
    (copy / name).write_text(held)
    try:
        assert check(copy)["model_type"] == "bert"
    except InvalidData as error:
        assert name.rpartition("/")[2] in str(error)
    else:
        assert name != "config.json"


def test_weights_of_half_precision_are_read_in_full(checkpoint: Path, copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = {name: weight.half() for name, weight in load_file(checkpoint / "model.safetensors").items()}
    (copy / "model.safetensors").unlink()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    change(copy / "config.json", torch_dtype="float16", dtype="float16")
    found = load_encoder(str(copy)).embed("Direct flights should be resumed.")
    assert found @ load_encoder(str(checkpoint)).embed("Direct flights should be resumed.") > 0.99


def test_damaged_settings_are_told(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    (copy / "tokenizer.json").unlink()
    with pytest.raises(InvalidData) as refused:
        check(copy)
    told = "\n".join(refused.value.faults)
    assert "config.json: not JSON" in told and "tokenizer.json: missing" in told


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "neither a folder nor"),
        ("owner/name", "40 hex digits"),
        ("owner/name@main", "40 hex digits"),
        (f"owner/name@{REVISION}", "--online lets it be fetched"),
    ],
)
def test_a_name_of_the_hub_is_pinned_and_not_asked_for_unless_told(name: str, reason: str) -> None:
    with pytest.raises(InvalidData, match=reason):
        load_encoder(name)


def test_weights_that_are_not_there_are_not_made_up(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    # As a checkpoint has them that was saved from within something else.
    save_file({f"0.auto_model.{name}": value for name, value in weights.items()}, copy / "model.safetensors")
    with pytest.raises(InvalidData, match=r"the weights lack .* and \d+ more, which would be random"):
        load_encoder(str(copy))
