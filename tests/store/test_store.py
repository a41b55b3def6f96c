"""What is kept, over SQLite and PostgreSQL."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError, ProgrammingError

from models.errors import StanceryError
from models.examples import Example
from service.store import corpus, keys, requests, trainings, versions
from service.store.corpus import Incoming
from service.store.database import Database, StoreFull, StoreSilent, StoreUnavailable, wal_is_safe
from service.store.migrate import newest, upgrade
from service.store.schema import api_keys, events, metadata, model_versions

TEA = "Tea should be free of tax, the minister said."


def says(topics: dict[str, str | None], text: str = TEA, by: str = "ann", **more: str) -> Incoming:
    return Incoming(text=text, topics=topics, annotator=by, **more)


def add(database: Database, *batch: Incoming) -> corpus.Added:
    with database.writing() as connection:
        return corpus.add(connection, batch, "test")


def export(database: Database) -> list[Example]:
    with database.reading() as connection:
        up_to = corpus.last_number(connection)
    return list(corpus.examples(database, up_to))


def export_after(database: Database, *batch: Incoming) -> list[Example]:
    add(database, *batch)
    return export(database)


def counts(added: corpus.Added) -> tuple[int, int, int, int]:
    return added.new, added.changed, added.duplicate, added.conflicting


def test_the_migrations_make_the_schema(database: Database) -> None:
    with database.reading() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == newest()
        assert compare_metadata(context, metadata) == []


def test_services_that_start_at_once_migrate_once(connect: Callable[[], Database]) -> None:
    together = threading.Barrier(4)

    def start() -> None:
        database = connect()
        together.wait()
        upgrade(database)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(start) for _ in range(4)]:
            done.result()
    with connect().reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1


def test_a_newer_schema_is_refused(database: Database) -> None:
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StanceryError, match="newer release"):
        upgrade(database)


def test_the_latest_annotation_wins_and_nothing_is_forgotten(database: Database) -> None:
    assert counts(add(database, says({"tea": "favor"}))) == (1, 0, 0, 0)
    assert counts(add(database, says({"tea": "favor"}))) == (0, 0, 1, 0)
    assert counts(add(database, says({"tea": "against"}))) == (0, 1, 0, 0)
    assert [example.topics for example in export(database)] == [{"tea": "against"}]
    assert counts(add(database, says({}, by="bob"))) == (1, 0, 0, 1)
    assert [example.topics for example in export(database)] == [{}]
    with database.reading() as connection:
        assert connection.execute(select(func.count()).select_from(events)).scalar() == 3
        _, count, (conflict,) = corpus.disagreements(connection, 10)
    assert (count, conflict.annotations) == (1, {"ann": {"tea": "against"}, "bob": {}})


def test_annotators_who_agree_again_do_not_disagree(database: Database) -> None:
    add(database, says({"tea": "favor"}), says({"tea": "against"}, by="bob"))
    add(database, says({"tea": "favor"}, by="bob"))
    with database.reading() as connection:
        assert corpus.disagreements(connection, 10) == (1, 0, [])


def test_a_batch_that_contradicts_itself_is_told(database: Database) -> None:
    added = add(database, says({"tea": "favor"}), says({"tea": "against"}), says({"tea": "against"}))
    assert counts(added) == (1, 1, 1, 1)
    assert export(database)[0].topics == {"tea": "against"}


def test_a_paragraph_is_known_by_its_text_however_it_is_spaced(database: Database) -> None:
    add(database, says({"tea": "favor"}, id="mine", document_id="d1", source="paper"))
    add(database, says({"tea": "against"}, text=f"  {TEA.replace(' ', chr(10), 1)}", by="bob", document_id="d2"))
    (example,) = export(database)
    assert (example.id, example.document_id, example.source, example.text) == ("mine", "d1", "paper", TEA)


def test_an_id_that_another_text_has_is_told_apart(database: Database) -> None:
    add(database, says({}, id="p1"))
    add(database, says({}, text="Another paragraph.", id="p1"), says({}, text="A third.", id="p1"))
    first, second, third = (example.id for example in export(database))
    assert first == "p1" and second.startswith("p1-") and third.startswith("p1-") and second != third


def test_an_id_that_was_made_of_a_text_is_taken_too(database: Database) -> None:
    made = export_after(database, says({}))[0].id
    other = says({}, text="Tea should be taxed.")
    assert [example.id for example in export_after(database, other, says({}, text="Tea!", id=made))][:1] == [made]
    fresh = corpus.digest_of("Coffee")[:16]
    found = export_after(database, says({}, text="Milk", id=fresh), says({}, text="Coffee"))
    assert len({example.id for example in found}) == len(found) == 5


def test_ids_made_to_be_in_the_way_are_told_apart_too(database: Database) -> None:
    digest = corpus.digest_of(TEA)
    taken = [digest[:16], f"{digest[:16]}-{digest[:16]}", f"{digest[:16]}-{digest}"]
    add(database, *(says({}, text=f"Milk {place}.", id=id) for place, id in enumerate(taken)))
    found = export_after(database, says({}))
    assert [example.id for example in found][:3] == taken and found[3].id not in taken


def test_who_says_it_again_after_a_contradiction_is_heard(database: Database) -> None:
    for who, stance in (("ann", "favor"), ("bob", "against")):
        add(database, says({"tea": stance}, by=who))
    again = says({"tea": "favor"}, by="ann")
    assert counts(add(database, again))[2] == 1 and export(database)[0].topics == {"tea": "against"}
    with database.writing() as connection:
        assert corpus.add(connection, [again], "test", restate=True).changed == 1
    assert export(database)[0].topics == {"tea": "favor"}
    with database.writing() as connection:
        assert corpus.add(connection, [again], "test", restate=True).duplicate == 1


def test_many_pages_come_out_in_the_order_they_came_in(database: Database) -> None:
    batch = [says({}, text=f"Paragraph number {number}.", id=f"n{number}") for number in range(2500)]
    add(database, *batch)
    assert [example.id for example in export(database)] == [item.id for item in batch]


def test_an_export_shows_one_moment(database: Database) -> None:
    add(database, says({"tea": "favor"}))
    with database.reading() as connection:
        moment = corpus.last_number(connection)
    add(database, says({"tea": "against"}), says({}, text="Later."))
    assert [example.topics for example in corpus.examples(database, moment)] == [{"tea": "favor"}]


def test_a_long_transaction_locks_nobody_out_who_reads(database: Database) -> None:
    add(database, says({"tea": "favor"}))
    with database.writing() as connection:
        corpus.add(connection, [says({}, text=f"{number} {'x' * 2_000}") for number in range(3_000)], "test")
        assert [example.topics for example in export(database)] == [{"tea": "favor"}]


def test_disagreements_are_looked_for_page_by_page(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_PAGE", 2)
    for number in range(5):
        add(
            database,
            says({}, text=f"{number}"),
            says({"tea": None}, text=f"{number}", by="bob" if number % 2 else "ann"),
        )
    found, after = [], 0
    with database.reading() as connection:
        while (page := corpus.disagreements(connection, 10, after)).last is not None:
            found.append((page.disputed, [conflict.text for conflict in page.listed]))
            after = page.last
    assert found == [(1, ["1"]), (1, ["3"]), (0, [])]


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError), database.writing() as connection:
        corpus.add(connection, [says({})], "test")
        raise RuntimeError
    assert export(database) == []


def test_of_a_commit_that_broke_off_nobody_says_that_nothing_was_stored(
    new_postgres: Callable[[], str], tmp_path: Path
) -> None:
    database = Database(new_postgres(), tmp_path / "home")
    # The connection ends while it commits, not before.
    end = "CREATE FUNCTION end_it() RETURNS trigger AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid());"
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE fragile (n int)"))
        connection.execute(text(f"{end} PERFORM pg_sleep(1); RETURN NULL; END $$ LANGUAGE plpgsql"))
        connection.execute(
            text(
                "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON fragile DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION end_it()"
            )
        )
    with pytest.raises(StoreSilent), database.writing() as connection:
        connection.execute(text("INSERT INTO fragile VALUES (1)"))
    with pytest.raises(StoreUnavailable) as caught, database.writing() as connection:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(1)"))
    assert not isinstance(caught.value, StoreSilent)
    database.close()


def test_a_store_whose_tables_are_gone_is_away(database: Database) -> None:
    with database.writing() as connection:
        connection.execute(text("DROP TABLE api_keys"))
    with pytest.raises(StoreUnavailable), database.reading() as connection:
        keys.every(connection)
    if database.is_postgres:
        # What nobody should have asked is an error of ours.
        with pytest.raises(ProgrammingError), database.reading() as connection:
            connection.execute(text("SELEC 1"))


def test_whoever_runs_the_service_hears_why_it_cannot_connect(tmp_path: Path) -> None:
    database = Database("postgresql://ann:secret@127.0.0.1:1/labels", tmp_path)
    with pytest.raises(StoreUnavailable) as caught, database.reading():
        pass
    assert str(caught.value) == "the database cannot be used (OperationalError)"
    assert "127.0.0.1" in caught.value.in_full and "secret" not in caught.value.in_full


@pytest.mark.usefixtures("database")
def test_writers_take_turns(connect: Callable[[], Database]) -> None:
    """Two services that add the same labels at once make one event of each."""
    batch = [says({"tea": "favor"}, text=f"Paragraph {number}.") for number in range(50)]
    with ThreadPoolExecutor(2) as pool:
        added = [done.result() for done in [pool.submit(add, connect(), *batch) for _ in range(2)]]
    assert sorted(counts(each) for each in added) == [(0, 0, 50, 0), (50, 0, 0, 0)]


def test_a_request_is_done_once(database: Database) -> None:
    done = []

    def once(key: str | None, body: bytes, actor: str = "ann") -> requests.Answered:
        def work(_: object) -> requests.Answered:
            done.append(body)
            return requests.Answered(201, b'{"n":%d}' % len(done))

        with database.writing() as connection:
            return requests.once(connection, actor, key, body, work)

    assert once("k", b"one") == once("k", b"one") == (201, b'{"n":1}')
    with pytest.raises(requests.KeyReused):
        once("k", b"two")
    assert once("k", b"two", actor="bob").body == b'{"n":2}'
    assert once(None, b"one").body == b'{"n":3}' and len(done) == 3


def test_one_version_at_most_is_active(database: Database) -> None:
    row = {"path": "x", "family": "linear", "created": "t", "taxonomy": "h", "metrics": "{}"}
    with database.writing() as connection:
        connection.execute(insert(model_versions), [{"version": v, "state": "candidate", **row} for v in "ab"])
        connection.execute(update(model_versions).where(model_versions.c.version == "a").values(state="active"))
    with pytest.raises(IntegrityError), database.writing() as connection:
        connection.execute(update(model_versions).where(model_versions.c.version == "b").values(state="active"))
    with pytest.raises(IntegrityError), database.writing() as connection:
        connection.execute(update(model_versions).where(model_versions.c.version == "b").values(state="splendid"))


def test_what_nobody_could_have_stored_is_unknown(database: Database) -> None:
    with database.writing() as connection:
        for ask in (trainings.find, trainings.state_of, lambda *each: trainings.cancel(*each, "bob")):
            with pytest.raises(trainings.UnknownTraining):
                ask(connection, "\0")
        with pytest.raises(versions.UnknownVersion):
            versions.find(connection, "\0")


def test_one_training_runs_at_a_time_whoever_asks(connect: Callable[[], Database], database: Database) -> None:
    with database.writing() as connection:
        made = [trainings.create(connection, "linear", number, "ann").id for number in range(3)]

    def claim(name: str) -> trainings.Training | None:
        with connect().writing() as connection:
            return trainings.claim(connection, name)

    with ThreadPoolExecutor(4) as pool:
        claimed = [done.result() for done in [pool.submit(claim, f"runner {n}") for n in range(4)]]
    (mine,) = [training for training in claimed if training]
    assert mine.id == made[0] and mine.state == "running"
    runner = f"runner {claimed.index(mine)}"
    with database.writing() as connection:
        assert trainings.beat(connection, made[0], runner, None) == (True, None)
        assert trainings.beat(connection, made[0], "another", None) == (False, None)
        trainings.cancel(connection, made[0], "bob")
        assert trainings.beat(connection, made[0], runner, None) == (True, "bob")
        assert trainings.cancel(connection, made[1], "bob").state == "cancelled"
        assert trainings.finish(connection, made[0], "cancelled", runner=runner)
        assert not trainings.finish(connection, made[0], "succeeded", runner=runner)
    assert (claim("next") or mine).id == made[2]


def test_a_key_is_kept_as_a_digest(database: Database) -> None:
    with database.writing() as connection:
        key = keys.create(connection, "desk", ("label",), 5)
        with pytest.raises(StanceryError, match="taken"):
            keys.create(connection, "desk", ("admin",), None)
    secret = key.split("_", 2)[2]
    with database.reading() as connection:
        (row,) = connection.execute(select(api_keys)).mappings()
    assert secret not in str(dict(row)) and row["digest"] == keys.digest_of(secret)
    with database.writing() as connection:
        keys.revoke(connection, "desk")
        assert keys.every(connection)[0].revoked
        with pytest.raises(StanceryError, match="no key"):
            keys.revoke(connection, "desk")


def test_wal_is_used_only_where_it_is_safe(tmp_path: Path) -> None:
    safe = [(3, 51, 3), (3, 52, 0), (4, 0, 0), (3, 50, 7), (3, 50, 9), (3, 44, 6)]
    unsafe = [(3, 40, 1), (3, 44, 5), (3, 45, 0), (3, 49, 9), (3, 50, 6), (3, 51, 0), (3, 51, 2)]
    assert [wal_is_safe(version) for version in safe + unsafe] == [True] * len(safe) + [False] * len(unsafe)
    database = Database(None, tmp_path)
    with database.reading() as connection:
        mode = connection.execute(text("PRAGMA journal_mode")).scalar()
        assert mode == ("wal" if wal_is_safe(sqlite3.sqlite_version_info) else "truncate")
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    database.close()


def test_a_full_disk_is_told_from_a_store_that_is_away(tmp_path: Path) -> None:
    database = Database(None, tmp_path)
    upgrade(database)
    with database.reading() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar()
    # A limit on the file is what SQLite meets as a disk that is full.
    event.listen(database.engine, "connect", lambda made, _: made.execute(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(StoreFull):
        add(database, *[says({}, text=f"{number} " * 300) for number in range(200)])
    assert export(database) == []
    database.close()
    closed = Database("postgresql://nobody@127.0.0.1:9/none", tmp_path)
    with pytest.raises(StoreUnavailable) as away:
        upgrade(closed)
    assert not isinstance(away.value, StoreFull)


def test_a_store_opened_while_read_only_is_opened_again(tmp_path: Path) -> None:
    database = Database(None, tmp_path)
    upgrade(database)
    modes = iter(("ON", "OFF"))
    # What a connection is like for good that was made while the disk was read-only.
    event.listen(database.engine, "connect", lambda made, _: made.execute(f"PRAGMA query_only = {next(modes)}"))
    with pytest.raises(StoreUnavailable):
        add(database, says({}))
    assert add(database, says({})).new == 1
    database.close()


def test_urls_are_checked_without_telling_the_password(tmp_path: Path) -> None:
    for url in ("mysql://ann:secret@host/db", "nonsense secret", "postgresql://ann:secret@host:port/db"):
        with pytest.raises(StanceryError, match="must be postgresql") as error:
            Database(url, tmp_path)
        assert "secret" not in str(error.value)
