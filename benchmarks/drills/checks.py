"""What must hold of a service's store and home, whatever happened to it. Every count here should be nought."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from sqlalchemy import text

from benchmarks.drills.harness import Service
from benchmarks.drills.load import Ledger
from models.bundle import load_bundle
from models.errors import StanceryError
from service.store.database import Database

_STORED = """SELECT p.text AS text, count(a.number) AS events
             FROM paragraphs p LEFT JOIN annotations a ON a.paragraph = p.number GROUP BY p.number, p.text"""


def label_faults(service: Service, ledger: Ledger) -> Counter[str]:
    """Hold the export and the tables against what was promised: everything acknowledged is there, once."""
    exported = Counter(json.loads(line)["text"] for line in service.once("GET", "/v1/annotations").body.splitlines())
    database = Database(service.database_url, service.home)
    with database.reading() as connection:
        rows = connection.execute(text(_STORED)).all()
    database.close()
    stored = Counter(row.text for row in rows)
    events = Counter({row.text: row.events for row in rows})
    return Counter(
        {
            "acknowledged annotations lost": sum(exported[each] == 0 for each in ledger.acknowledged),
            "annotations doubled": sum(max(stored[each], events[each], exported[each]) > 1 for each in ledger.sent),
            "annotations stored by halves": sum(stored[each] > 0 and events[each] == 0 for each in ledger.sent),
            "annotations refused": sum(ledger.refused.values()),
        }
    )


def store_faults(service: Service) -> Counter[str]:
    """See that the database is whole: SQLite by its own check, either by what the schema promises."""
    found: Counter[str] = Counter()
    database = Database(service.database_url, service.home)
    with database.reading() as connection:
        if not database.is_postgres:
            told = connection.execute(text("PRAGMA integrity_check")).scalars().all()
            found["faults by PRAGMA integrity_check"] = sum(each != "ok" for each in told)
            found["broken references"] = len(connection.execute(text("PRAGMA foreign_key_check")).all())
        active = connection.execute(text("SELECT count(*) FROM model_versions WHERE state = 'active'")).scalar_one()
        found["stores without just one active version"] = active != 1
        running = "SELECT count(*) FROM trainings WHERE state IN ('queued', 'running')"
        found["trainings that never ended"] = connection.execute(text(running)).scalar_one()
    database.close()
    return found


def home_faults(service: Service) -> Counter[str]:
    """See that a home holds nothing by halves: every bundle loads, and no training left anything behind."""
    return Counter(
        {
            "bundles at home that do not load": sum(_broken(path) for path in (service.home / "bundles").glob("*")),
            "folders of trainings left": len(list((service.home / "trainings").glob("*"))),
            "trainers left": sum(each.is_trainer for each in service.processes()),
            "files begun and left at home": len(list(service.home.glob(".*"))),
        }
    )


def _broken(path: Path) -> bool:
    try:
        load_bundle(path).check_canaries()
    except StanceryError:
        return True
    return False
