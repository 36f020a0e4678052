"""The floor on SQLite: one table, one index, a transaction per batch of claims and one of acks."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["drain"]

BATCH = 100


async def drain(url: str, jobs: int) -> float:  # noqa: ARG001 - a file of its own, same disk
    """Return jobs per second of claim + acknowledge, `jobs` of them, on the calling thread."""
    with TemporaryDirectory() as folder:
        db = sqlite3.connect(Path(folder) / "floor.db", isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("CREATE TABLE jobs (id TEXT PRIMARY KEY, state INT, seq INT, payload BLOB)")
        db.execute("CREATE INDEX waiting ON jobs (seq) WHERE state = 0")
        rows = ((f"{number:032x}", 0, number, b'{"number":1}') for number in range(jobs))
        db.execute("BEGIN")
        db.executemany("INSERT INTO jobs VALUES (?, ?, ?, ?)", rows)
        db.execute("COMMIT")
        began = time.perf_counter()
        while True:
            db.execute("BEGIN IMMEDIATE")
            got = db.execute(
                "UPDATE jobs SET state = 1 WHERE rowid IN "
                "(SELECT rowid FROM jobs WHERE state = 0 ORDER BY seq LIMIT ?) "
                "RETURNING id, payload",
                (BATCH,),
            ).fetchall()
            db.execute("COMMIT")
            if not got:
                break
            db.execute("BEGIN IMMEDIATE")
            done = [(job_id,) for job_id, _ in got]
            db.executemany("UPDATE jobs SET state = 2 WHERE id = ? AND state = 1", done)
            db.execute("COMMIT")
        seconds = time.perf_counter() - began
        db.close()
    return jobs / seconds
