"""The one base error and the two shapes it takes: a single fault, or every fault of an input at once.

A message repeats no more of an input than `shorten` leaves.
"""

from __future__ import annotations

from collections.abc import Iterable

_ECHO_CHARS = 80
# The libraries that only some installs have, by the extra that brings them.
_EXTRAS = {
    "train": ("joblib", "matplotlib", "scipy", "sklearn"),
    "encoder": ("onnxruntime", "tokenizers"),
    "checkpoint": ("huggingface_hub", "onnx", "torch", "transformers"),
    "parquet": ("pyarrow",),
    "postgres": ("psycopg",),
}


class StanceryError(Exception):
    """Base of every error raised on purpose. Its message says what, where and what is allowed."""

    @property
    def in_full(self) -> str:
        """The message and its notes (PEP 678), which are for whoever runs the service, and for nobody who asks it."""
        return "; ".join([str(self), *getattr(self, "__notes__", [])])


class BundleError(StanceryError):
    """A bundle that is missing, damaged, of a newer format, or does not score its canary as promised."""


class InvalidParagraph(StanceryError):
    """A paragraph that cannot be scored.

    Parameters
    ----------
    field : str
        Where in the input, as a path such as ``paragraphs[3].text``.
    message : str
        What is wrong and what is allowed, without the input itself.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class InvalidCall(StanceryError):
    """A call that cannot be done as it was made: what it names is not there, or is another's."""


class InvalidData(StanceryError):
    """Every fault found in one pass over a file of examples or a taxonomy.

    Parameters
    ----------
    faults : iterable of str
        One ``file:line: where: what is wrong`` each.
    """

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Say what to install where a library is missing that only some installs have; None for any other module."""
    name = (error.name or "").partition(".")[0]
    extra = next((extra for extra, names in _EXTRAS.items() if name in names), None)
    return extra and f"this needs more packages: {to_install(extra)} ({error})"


def to_install(extra: str) -> str:
    """Say how to install an extra. The project is on no index, where its name could be anybody's."""
    return f"pip install '.[{extra}]' in the folder of Stancery's source"


def shorten(text: str) -> str:
    """Cut `text` to what a message may repeat of the input."""
    return text if len(text) <= _ECHO_CHARS else text[: _ECHO_CHARS - 1] + "…"
