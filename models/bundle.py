"""A fitted classifier as a folder on disk: written whole or not at all, verified before a byte of it is parsed.

========================  =============================================================================
``manifest.json``         what the bundle is, how it decides, how it was measured, SHA-256 of every file
``manifest.sha256``       SHA-256 of the manifest, in the format of ``sha256sum``
``weights.safetensors``   plain arrays
``vocabulary.json``       the n-grams, in column order
``taxonomy.json``         topics and propositions
``encoder.onnx``          of all but the linear family: the encoder, its weights as eight-bit integers
``tokenizer.json``        of all but the linear family: the tokenizer, as its checkpoint has it
``encoder.json``          of all but the linear family: where it came from, how it pools and is blended
``crossencoder.onnx``     of the crossencoder family, beside an encoder's files: the pair model
``crossencoder.json``     of the crossencoder family: where it came from, how it is blended with the heads
``holdout.jsonl``         the rows it was measured on, an examples file; absent where nothing was held out
``MODEL_CARD.md``         for people
``report.html``           for people who would rather look
========================  =============================================================================
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from models.errors import BundleError, StanceryError, to_install
from models.examples import Example
from models.features import Features, NgramFeatures
from models.figures import headline
from models.linear import LinearModel
from models.scorer import Rules, Scorer
from models.taxonomy import Taxonomy

if TYPE_CHECKING:
    from models.crossencoder import CrossEncoder
    from models.encoder import EncoderFeatures

FORMAT = 1
MANIFEST = "manifest.json"
DIGEST = "manifest.sha256"
WEIGHTS = "weights.safetensors"
VOCABULARY = "vocabulary.json"
TAXONOMY = "taxonomy.json"
HOLDOUT = "holdout.jsonl"
CARD = "MODEL_CARD.md"
REPORT = "report.html"
# In a home, the file that names the folder of the bundle that served last.
POINTER = "active"
GRAPH = "encoder.onnx"
TOKENIZER = "tokenizer.json"
ENCODER = "encoder.json"
CROSS_GRAPH = "crossencoder.onnx"
CROSS_ENCODER = "crossencoder.json"
# What a probability may differ from the manifest's. Products of eight-bit integers are rounded otherwise by processors
# that lack the instruction for them.
FAMILIES = {"linear": 1e-6, "encoder": 0.05, "tuned": 0.05, "crossencoder": 0.05}


class FileDigest(msgspec.Struct, frozen=True):
    """Size in bytes and SHA-256 of one file."""

    bytes: int
    sha256: str


class Canary(msgspec.Struct, frozen=True):
    """A paragraph and the probabilities that the model gave it when it was written, in taxonomy order."""

    text: str
    topics: list[float]
    stance_topic: str | None = None
    stance: list[float] | None = None


class Manifest(msgspec.Struct, frozen=True):
    """What a bundle says of itself.

    Counts are of paragraphs; metrics are as ``stancery evaluate --json`` has them. ``agreement`` tells for each topic
    which share of its labels a model that had not seen them confirmed, as :mod:`training.audit` has it.
    """

    format: int
    family: str
    version: str
    created: str
    parent: str | None
    taxonomy_hash: str
    examples_hash: str
    counts: dict[str, Any]
    settings: dict[str, Any]
    rules: Rules
    rule_statements: dict[str, str]
    calibration: dict[str, Any]
    metrics: dict[str, Any]
    libraries: dict[str, str]
    canaries: list[Canary]
    files: dict[str, FileDigest]
    agreement: dict[str, dict[str, Any]] = {}

    def headline(self) -> dict[str, str]:
        """Return the headline metrics, each as ``0.812 [0.790, 0.833]``."""
        return dict(headline(self.metrics)) if self.metrics else {}


class Bundle(NamedTuple):
    """A bundle in memory, ready to score."""

    path: Path
    manifest: Manifest
    scorer: Scorer
    card: str

    @property
    def taxonomy(self) -> Taxonomy:
        return self.scorer.taxonomy

    def check_canaries(self) -> None:
        """Score the canary paragraphs and raise BundleError when an answer differs from the manifest's by too much."""
        tolerance = FAMILIES[self.manifest.family]
        # The manifest's scores are those of the usual way.
        scorer = copy(self.scorer)
        scorer.exact = False
        for number, canary in enumerate(self.manifest.canaries, 1):
            got = scorer.topic_scores([canary.text])[0]
            expected = np.array(canary.topics)
            if canary.stance_topic is not None and canary.stance is not None:
                got = np.append(got, scorer.stance_scores([(canary.text, canary.stance_topic)])[0])
                expected = np.append(expected, canary.stance)
            if got.shape != expected.shape or not np.abs(got - expected).max() <= tolerance:
                raise BundleError(f"{self.path}: canary {number} does not get the scores that the manifest names")


def arrays_of(model: LinearModel) -> dict[str, NDArray[Any]]:
    """Return the arrays of a linear model under the names they have in ``weights.safetensors``."""
    arrays: dict[str, NDArray[Any]] = {
        "idf": model.features.ngrams.idf,
        "topic_weights": model.topic_weights,
        "topic_bias": model.topic_bias,
    }
    if model.stance_weights is not None and model.stance_bias is not None:
        arrays |= {"stance_weights": model.stance_weights, "stance_bias": model.stance_bias}
    return arrays


def content_files(taxonomy: Taxonomy, model: LinearModel, pairs: CrossEncoder | None) -> dict[str, bytes]:
    """Return the files of a model: weights, vocabulary, taxonomy, and its encoder and pair model if it has them."""
    ngrams, encoder = model.features.ngrams, model.features.encoder
    files = {
        WEIGHTS: save_arrays(arrays_of(model)),
        VOCABULARY: msgspec.json.encode({"words": list(ngrams.words), "chars": list(ngrams.chars)}),
        TAXONOMY: msgspec.json.encode(taxonomy),
    }
    if encoder is not None:
        files |= {GRAPH: encoder.graph, TOKENIZER: encoder.tokenizer, ENCODER: msgspec.json.encode(encoder.spec)}
    if pairs is not None:
        files |= {CROSS_GRAPH: pairs.graph, CROSS_ENCODER: msgspec.json.encode(pairs.spec)}
    return files


def write_bundle(directory: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write a bundle beside `directory`, flush it to disk and rename it into place.

    Raises
    ------
    BundleError
        If `directory` exists and is not empty: a bundle is never changed once written.
    """
    directory = directory.absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BundleError(f"{directory}: exists already, and a bundle is never changed once written; name a new folder")
    digests = {name: FileDigest(len(data), hashlib.sha256(data).hexdigest()) for name, data in sorted(files.items())}
    manifest = msgspec.structs.replace(manifest, files=digests)
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    sealed = {**files, MANIFEST: encoded, DIGEST: _digest_line(encoded)}
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        for name, data in sealed.items():
            with (temporary / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        temporary.chmod(0o755)
        fsync(temporary)
        temporary.rename(directory)
        fsync(directory.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_manifest(directory: str | Path) -> Manifest:
    """Read and verify the manifest alone.

    Raises
    ------
    BundleError
        If it is missing, damaged, or of another format number than this release reads.
    """
    path = Path(directory)
    data = _read(path, MANIFEST)
    if _read(path, DIGEST) != _digest_line(data):
        raise BundleError(f"{path / MANIFEST}: does not match its digest in {DIGEST}; the bundle is damaged")
    try:
        number = msgspec.json.decode(data, type=dict[str, Any]).get("format")
        if number != FORMAT:
            raise BundleError(f"{path}: bundle format {number}; this release reads format {FORMAT}")
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path / MANIFEST}: {error}") from error


def verify(directory: str | Path) -> Manifest:
    """Verify each file of a bundle against its digest, and return the manifest.

    Raises
    ------
    BundleError
        As :func:`load_bundle` does for what is missing or damaged.
    """
    manifest = read_manifest(directory)
    _files(Path(directory), manifest)
    return manifest


def load_bundle(directory: str | Path) -> Bundle:
    """Verify a bundle against its digests, then load it.

    Raises
    ------
    BundleError
        If a file is missing or any byte of it was changed, if the format is another than this release reads, or if
        the family is unknown. Nothing is parsed before its digest is verified, and nothing is ever unpickled.
    """
    path = Path(directory)
    manifest = read_manifest(path)
    if manifest.family not in FAMILIES:
        raise BundleError(f"{path}: family {manifest.family!r}; this release scores {', '.join(FAMILIES)}")
    files = _files(path, manifest)
    try:
        taxonomy = msgspec.json.decode(files[TAXONOMY], type=Taxonomy)
        vocabulary = msgspec.json.decode(files[VOCABULARY], type=dict[str, list[str]])
        arrays = load_arrays(files.pop(WEIGHTS))
        _check_arrays(arrays, len(taxonomy.ids))
        ngrams = NgramFeatures(vocabulary["words"], vocabulary["chars"], arrays["idf"])
        features: Features = _beside_encoder(ngrams, files) if ENCODER in files else ngrams
        model = LinearModel(
            features,
            arrays["topic_weights"],
            arrays["topic_bias"],
            arrays.get("stance_weights"),
            arrays.get("stance_bias"),
        )
        pairs = _pair_model(taxonomy, files) if CROSS_ENCODER in files else None
        scorer, card = Scorer(taxonomy, manifest.rules, model, pairs), files[CARD].decode()
    except StanceryError:
        raise
    except ImportError as error:
        raise BundleError(f"{path}: needs more packages: {to_install('encoder')} ({error})") from error
    except Exception as error:
        raise BundleError(f"{path}: its files do not fit together: {error}") from error
    return Bundle(path, manifest, scorer, card)


def _check_arrays(arrays: Mapping[str, NDArray[Any]], n_topics: int) -> None:
    """Raise ValueError where weights are not of so many topics, or are no numbers: scores would be nonsense quietly."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds what is no finite number")
    shapes = {
        "topic_weights": arrays["topic_weights"].shape[1:],
        "topic_bias": arrays["topic_bias"].shape,
    }
    if "stance_bias" in arrays:
        shapes["stance_bias"] = arrays["stance_bias"].shape[:1]
        shapes["stance_weights"] = (arrays["stance_weights"].shape[0] - 1,)
    for name, shape in shapes.items():
        if shape != (n_topics,):
            raise ValueError(f"{name} is not of the {n_topics} topics of the taxonomy")


def _files(path: Path, manifest: Manifest) -> dict[str, bytes]:
    if any(Path(name).name != name or "\0" in name for name in manifest.files):
        raise BundleError(f"{path}: the manifest names a file outside the bundle")
    return {name: _verified(path, name, digest) for name, digest in manifest.files.items()}


def _beside_encoder(ngrams: NgramFeatures, files: Mapping[str, bytes]) -> EncoderFeatures:
    # Only here, so that a linear model is served without the runtime.
    from models.encoder import Encoder, EncoderFeatures, EncoderSpec

    encoder = Encoder(files[GRAPH], files[TOKENIZER], msgspec.json.decode(files[ENCODER], type=EncoderSpec))
    return EncoderFeatures(ngrams, encoder, encoder.embed)


def _pair_model(taxonomy: Taxonomy, files: Mapping[str, bytes]) -> CrossEncoder:
    from models.crossencoder import CrossEncoder, CrossEncoderSpec

    spec = msgspec.json.decode(files[CROSS_ENCODER], type=CrossEncoderSpec)
    return CrossEncoder(files[CROSS_GRAPH], files[TOKENIZER], spec, taxonomy)


def read_card(directory: str | Path) -> str:
    """Read and verify the model card alone.

    Raises
    ------
    BundleError
        If it or the manifest is missing or damaged.
    """
    path = Path(directory)
    if (digest := read_manifest(path).files.get(CARD)) is None:
        raise BundleError(f"{path}: the manifest names no {CARD}")
    return _verified(path, CARD, digest).decode()


def read_holdout(directory: str | Path) -> list[Example]:
    """Read and verify the rows that a bundle was measured on, with the labels they had then.

    Returns
    -------
    list of Example
        Empty where nothing was held out, and for a bundle of a release that did not keep them.

    Raises
    ------
    BundleError
        If the manifest or the rows are missing or damaged.
    """
    path = Path(directory)
    digest = read_manifest(path).files.get(HOLDOUT)
    if digest is None:
        return []
    try:
        return msgspec.json.Decoder(Example).decode_lines(_verified(path, HOLDOUT, digest))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path / HOLDOUT}: {error}") from error


def bundles_at(home: Path) -> list[Path]:
    """Return the bundles at home, newest first."""
    found = [path.parent for path in (home / "bundles").glob(f"[!.]*/{MANIFEST}")]
    return sorted(found, key=lambda path: (path / MANIFEST).stat().st_mtime, reverse=True)


def current_bundle(home: Path) -> Path | None:
    """Return the bundle that served last, or the newest at home where none has served yet."""
    try:
        served = Path((home / POINTER).read_text())
    except OSError:
        served = None
    return served if served is not None and served.is_dir() else next(iter(bundles_at(home)), None)


def _read(directory: Path, name: str) -> bytes:
    try:
        return (directory / name).read_bytes()
    except OSError as error:
        raise BundleError(f"{directory / name}: cannot be read: {error.strerror}") from error


def _verified(directory: Path, name: str, digest: FileDigest) -> bytes:
    data = _read(directory, name)
    if len(data) != digest.bytes or hashlib.sha256(data).hexdigest() != digest.sha256:
        raise BundleError(f"{directory / name}: does not match its digest in the manifest; the bundle is damaged")
    return data


def _digest_line(data: bytes) -> bytes:
    return f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n".encode()


def fsync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
