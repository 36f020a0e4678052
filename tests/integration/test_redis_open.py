"""Opening a Redis driver: what is wrong is said in words, and no credential is among them."""

from __future__ import annotations

import asyncio
import subprocess
import traceback

import pytest
import redis
from taskmux.driver import (
    Beat,
    FindAsk,
    InvalidURL,
    Op,
    PruneAsk,
    QueueSettings,
    State,
    StoreDenied,
    StoreIncompatible,
    StoreUnavailable,
    WorkerInfo,
)
from taskmux.plugins.loading import driver_for, plugin_manager
from tests.redis_load import Load, new
from tests.servers import (
    RedisServer,
    free_bus_port,
    free_port,
    published_acl,
    redis_program,
    running,
)

from taskmux_redis import RedisDriver
from taskmux_redis.address import parse

needs_server = pytest.mark.skipif(redis_program() is None, reason="no redis-server")


async def refused(url: str) -> Exception:
    driver = RedisDriver(url)
    with pytest.raises((StoreDenied, StoreIncompatible, StoreUnavailable)) as caught:
        await driver.open()
    shown = "".join(traceback.format_exception(caught.value)) + repr(driver) + driver.url
    assert "hunter2" not in shown
    assert "hunter2" not in repr(vars(driver))
    await driver.close()
    return caught.value


async def test_a_server_that_is_down():
    port = free_port()
    error = await refused(f"redis://127.0.0.1:{port}")
    assert isinstance(error, StoreUnavailable)
    assert f"127.0.0.1:{port}" in str(error)
    assert "(nothing listens there). Start it" in str(error)


async def test_a_host_that_is_not_known():
    error = await refused("redis://nosuch.invalid:6379")
    assert isinstance(error, StoreUnavailable)
    assert "(its host name is not known)" in str(error)


def test_an_unknown_option_is_named():
    with pytest.raises(InvalidURL, match=r"unknown option 'prefx'. Known options: allow_eviction"):
        parse("redis://h?prefx=a")


@needs_server
class TestRefusals:
    async def test_a_wrong_password(self):
        with running("--requirepass", "right") as server:
            url = f"redis://:hunter2@127.0.0.1:{server.port}"
            assert isinstance(await refused(url), StoreDenied)
            assert isinstance(await refused(server.url), StoreDenied)

    async def test_a_permission_that_is_missing(self):
        with running() as server:
            with redis.Redis(port=server.port) as admin:
                admin.execute_command("ACL", "SETUSER", "app", "on", ">hunter2", "~*", "+ping")
            error = await refused(f"redis://app:hunter2@127.0.0.1:{server.port}")
            assert isinstance(error, StoreDenied)
            assert "ACL" in str(error)

    async def test_the_published_acl_suffices(self):
        with running() as server:
            with redis.Redis(port=server.port) as admin:
                admin.execute_command(*published_acl())
            driver = RedisDriver(f"redis://taskmux:password@127.0.0.1:{server.port}")
            await driver.open()
            load = Load(driver, "q", 50)
            await load.run()
            await load.check()
            assert await driver.queues() == ["q"]
            assert await driver.put_settings("q", QueueSettings(paused=True))
            assert await driver.prune(PruneAsk("q")) == 0
            assert (await driver.find(FindAsk(queue="q", state=State.COMPLETED))).jobs
            about = WorkerInfo(id="w", host="h", pid=1, queues=(), tasks=(), concurrency=1)
            await driver.beat(Beat(about, (), 1000))
            assert len(await driver.workers()) == 1
            await driver.close()

    async def test_a_database_that_is_not_there(self):
        with running() as server:
            error = await refused(f"{server.url}/99")
            assert isinstance(error, StoreIncompatible)
            assert "database" in str(error)

    async def test_tls_where_the_server_has_none(self):
        with running() as server:
            error = await refused(f"rediss://:hunter2@127.0.0.1:{server.port}?timeout=0.5")
            assert isinstance(error, StoreUnavailable)
            assert "TLS" in str(error)

    async def test_eviction_would_throw_jobs_away(self):
        with running("--maxmemory-policy", "allkeys-lru") as server:
            error = await refused(server.url)
            assert isinstance(error, StoreIncompatible)
            assert "noeviction" in str(error)
            driver = RedisDriver(f"{server.url}?allow_eviction=1")
            await driver.open()
            await driver.close()

    async def test_a_cluster_node_wants_another_scheme(self):
        server = RedisServer("--cluster-enabled", "yes", port=free_bus_port())
        try:
            error = await refused(server.start().url)
        finally:
            server.stop()
        assert isinstance(error, StoreIncompatible)
        assert "redis+cluster://" in str(error)

    async def test_a_unix_socket(self, tmp_path):
        path = tmp_path / "redis.sock"
        with running("--unixsocket", str(path)) as server:
            driver = RedisDriver(f"unix://{path}?db=3&prefix=app")
            await driver.open()
            await driver.push(Op("p", 1), [new("q", "a")])
            with redis.Redis(port=server.port, db=3) as other:
                assert other.zcard("{app:q}:ready") == 1
            await driver.close()


@pytest.fixture
def certificate(tmp_path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    except OSError:
        pytest.skip("no openssl program to make a certificate with")
    return key, cert


@needs_server
async def test_tls_is_verified(certificate):
    key, cert = certificate
    tls_port = free_port()
    try:
        with running(
            *("--tls-port", str(tls_port), "--tls-cert-file", str(cert)),
            *("--tls-key-file", str(key), "--tls-ca-cert-file", str(cert)),
            *("--tls-auth-clients", "no"),
        ):
            error = await refused(f"rediss://:hunter2@localhost:{tls_port}")
            assert "TLS" in str(error)
            assert isinstance(await refused(f"redis://localhost:{tls_port}"), StoreUnavailable)
            driver = RedisDriver(f"rediss://localhost:{tls_port}?ssl_ca_certs={cert}")
            await driver.open()
            assert await driver.queues() == []
            await driver.close()
    except RuntimeError as error:
        if "tls" not in str(error).lower():
            raise
        pytest.skip("this redis-server is built without TLS")


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@h/x",
        "redis://:hunter2@h:0",
        "redis://:hunter2@h?prefix=a{b}",
        "redis://:hunter2@h?prefix=a:b",
        "redis://:hunter2@h?prefix=",
        "redis://:hunter2@h?unknown=1",
        "redis://:hunter2@h?timeout=never",
        "redis://:hunter2@h?timeout=nan",
        "redis://:hunter2@h?allow_eviction=perhaps",
        "redis+sentinel://:hunter2@h",
        "redis:///u:hunter2@h/0",
        "redis:/u:hunter2@h",
        "redis:u:hunter2@h",
        "redis://h:hunter2",
        "redis://h,i:hunter2",
        "redis://h/hunter2",
        "redis://h?pw=hunter2",
        "redis://h?hunter2",
        "redis://h?timeout=hunter2",
        "redis://h?db=hunter2",
        "redis://u:p#hunter2@h",
        "redis://[hunter2@h",
        "redis://u:hunter2/@h/0",
        "redis://h/0/hunter2",
        "unix:///u:hunter2@/p",
        "unix:/u:hunter2@/p",
        "redis+sentinel:///u:hunter2@h/main",
        "redis+cluster:///u:hunter2@h",
        "redis+cluster://:hunter2@h/3",
    ],
)
def test_a_url_that_cannot_be_meant(url):
    with pytest.raises(InvalidURL) as caught:
        RedisDriver(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "hosts", "rest"),
    [
        ("redis://", (("localhost", 6379),), ("", 0)),
        ("redis://h:1/2", (("h", 1),), ("", 2)),
        ("redis://[::1]:7/0", (("::1", 7),), ("", 0)),
        ("redis://[::1]", (("::1", 6379),), ("", 0)),
        ("redis+cluster://a:1,b", (("a", 1), ("b", 6379)), ("", 0)),
        ("redis+sentinel://a,b:2/main/3", (("a", 26379), ("b", 2)), ("main", 3)),
        ("unix:///run/r.sock?db=4", (), ("/run/r.sock", 4)),
    ],
)
def test_a_url_says_where(url, hosts, rest):
    address = parse(url)
    assert address.hosts == hosts
    assert (address.path, address.database) == rest


def test_credentials_are_decoded_and_hidden():
    address = parse("redis://me:p%40ss@h:1?sentinel_password=hunter2")
    assert (address.username, address.password) == ("me", "p@ss")
    for shown in (repr(address), address.shown, address.where):
        assert "p@ss" not in shown
        assert "p%40ss" not in shown
        assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:p@h", "redis://***@h:6379/0"),
        ("rediss://[::1]:7/2", "rediss://[::1]:7/2"),
        ("unix://u:p@/run/r.sock?db=4", "unix://***@/run/r.sock?db=4"),
        ("redis+sentinel://a,b:2/main/3", "redis+sentinel://a:26379,b:2/main/3"),
        ("redis+cluster://a:1,b", "redis+cluster://a:1,b:6379"),
    ],
)
def test_a_url_is_shown_without_credentials_and_can_be_used_again(url, shown):
    address = parse(url)
    assert address.shown == shown
    again = parse(shown.replace("***@", ""))
    assert (again.hosts, again.path, again.database) == (
        address.hosts,
        address.path,
        address.database,
    )


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster"])
def test_every_scheme_has_an_entry_point(scheme):
    assert isinstance(driver_for(f"{scheme}://localhost", plugin_manager()), RedisDriver)


@needs_server
async def test_many_calls_at_once_share_the_connections():
    with running() as server:
        driver = RedisDriver(server.url)
        await driver.open()
        await asyncio.gather(
            *(driver.push(Op(f"p{n}", 1), [new("q", f"j{n}")]) for n in range(500))
        )
        assert (await driver.counts("q"))[State.WAITING] == 500
        await driver.close()
