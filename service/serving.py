"""The bundles in memory: the active one, and a few that requests named."""

from __future__ import annotations

import asyncio
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from models.bundle import POINTER, Bundle, bundles_at, load_bundle, read_manifest, verify
from models.errors import BundleError, StanceryError
from models.files import replacing
from service.observe import Metrics, log
from service.settings import Settings
from service.store import versions
from service.store.database import Database, StoreUnavailable
from service.store.migrate import upgrade

_NAMED = 2


def verified(path: Path, version: str | None = None, *, exact: bool = False) -> Bundle:
    """Load a bundle, and see that it is the version wanted and scores its canary paragraphs as its manifest says;
    from then on `exact` has a pair model asked for every topic.

    Raises
    ------
    BundleError
    """
    bundle = load_bundle(path)
    if version not in (None, bundle.manifest.version):
        raise BundleError(f"{path}: holds {bundle.manifest.version} now, not {version}")
    bundle.check_canaries()
    bundle.scorer.exact = exact
    return bundle


class Serving:
    """What scores now.

    Attributes
    ----------
    active : Bundle
        Whoever answers a request takes it once, so that one answer is one version's.
    changing : asyncio.Lock
        Whoever changes it holds this from before the store is read or written until afterwards.
    """

    def __init__(self, active: Bundle, settings: Settings, metrics: Metrics) -> None:
        self.active = active
        self.changing = asyncio.Lock()
        self._settings = settings
        self._metrics = metrics
        # The one that was named longest ago comes first.
        self._named: dict[str, Bundle] = {}
        self._loading, self._lock = threading.Lock(), threading.Lock()
        self._show()

    @property
    def version(self) -> str:
        return self.active.manifest.version

    def in_memory(self, version: str | None) -> Bundle | None:
        """Return the active bundle, or the one of that version if a request named it lately."""
        active = self.active
        if version is None or version == active.manifest.version:
            return active
        with self._lock:
            if (bundle := self._named.pop(version, None)) is not None:
                self._named[version] = bundle
            return bundle

    def load(self, version: str, path: Path) -> Bundle:
        """Load a bundle that a request names; the last few stay in memory.

        Raises
        ------
        BundleError
        """
        with self._loading:
            if (bundle := self.in_memory(version)) is None:
                bundle = verified(path, version, exact=self._settings.exact)
                with self._lock:
                    self._named[version] = bundle
                    while len(self._named) > _NAMED:
                        self._named.pop(next(iter(self._named)))
            return bundle

    def take_over(self, bundle: Bundle) -> None:
        """Make a verified bundle the one that scores."""
        self.active = bundle
        with self._lock:
            self._named.pop(bundle.manifest.version, None)
        self._show()
        log.info("active", extra={"fields": {"model": bundle.manifest.version}})

    def _show(self) -> None:
        self._metrics.model.clear()
        self._metrics.model.labels(self.version).set(1)
        remember(self._settings.home, self.active.path)


def remember(home: Path, bundle: Path) -> None:
    """Leave at home what serves, for a start while the database is away and for commands that need no store.

    Where the home is read-only there is nothing to remember it by, and nothing that could have changed it.
    """
    with suppress(OSError), replacing(home / POINTER) as file:
        file.write(str(bundle.absolute()).encode())


def first_bundle(settings: Settings, database: Database) -> Bundle:
    """Load what a start serves: the store's active version, or the nearest to it that can be had.

    While the store has no active version it is the bundle of the settings, or the newest at home, that becomes it.

    Raises
    ------
    StanceryError
        If no bundle at all can be loaded.
    """
    given = settings.bundle or next(iter(bundles_at(settings.home)), None)
    stored: list[tuple[Path, str | None]] = []
    try:
        prepare(database, settings, given)
        with database.reading() as connection:
            before = versions.served_before(connection)
            wanted = versions.wanted(connection)
        if wanted is not None:
            before.insert(0, (wanted.version, wanted.path))
            if given is not None:
                _pass_over(given, settings, wanted.version)
        stored = [(settings.home / path, version) for version, path in before]
    except StoreUnavailable as error:
        log.error("store", extra={"fields": {"reason": error.in_full}})
        with suppress(OSError):
            stored = [(Path((settings.home / POINTER).read_text()), None)]
    candidates = list(dict.fromkeys([*stored, *([(given, None)] if given else [])]))
    if not candidates:
        raise StanceryError(
            f"no bundle in {settings.bundles}; name one with --bundle, or make one with "
            "`stancery train EXAMPLES --taxonomy TAXONOMY`"
        )
    first: BundleError | None = None
    for path, version in candidates:
        try:
            return verified(path, version, exact=settings.exact)
        except BundleError as error:
            log.error("bundle", extra={"fields": {"reason": str(error)}})
            first = first or error
    assert first is not None
    raise first


def _pass_over(given: Path, settings: Settings, active: str) -> None:
    """Say so where a start is given another bundle than the active version, and bring it home to be chosen."""
    try:
        version = read_manifest(given).version
    except BundleError as error:
        log.warning("bundle", extra={"fields": {"reason": str(error)}})
        return
    if version != active:
        _brought_home(given, settings, version)
        told = f"{given} is not served: {active} is active; `stancery models activate {version}` would change that"
        log.warning("bundle", extra={"fields": {"reason": told}})


def _brought_home(given: Path, settings: Settings, version: str) -> Path:
    """Copy a bundle that lies elsewhere to home; return where it lies then.

    Elsewhere another may take its place, as when an image is upgraded. Where home cannot be written to it stays there.
    """
    target = settings.bundles / version
    if given.absolute().is_relative_to(settings.home.absolute()):
        return given
    if not target.exists():
        # Where another worker was faster, its copy is as good.
        with suppress(OSError):
            settings.bundles.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=".", dir=settings.bundles) as folder:
                shutil.copytree(given, Path(folder) / version).rename(target)
    return target if target.exists() else given


def prepare(database: Database, settings: Settings, given: Path | None) -> None:
    """Bring the store to the newest schema, and give it an active version where it has none.

    Raises
    ------
    StoreUnavailable
    """
    upgrade(database)
    with database.reading() as connection:
        if versions.wanted(connection) is not None or given is None:
            return
    manifest = verify(given)
    path = _brought_home(given, settings, manifest.version)
    with database.writing() as connection:
        if versions.wanted(connection) is None:
            versions.register(connection, manifest, path, settings.home)
            versions.activate(connection, manifest.version, "start")
