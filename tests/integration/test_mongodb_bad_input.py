"""Wrong URLs, servers, documents and values: one typed error each, and no credential shown."""

from __future__ import annotations

import traceback

import pytest
from pymongo import AsyncMongoClient, MongoClient
from taskmux.driver import (
    CorruptRecord,
    InvalidURL,
    Note,
    Op,
    PruneAsk,
    PushStatus,
    Ref,
    State,
    StoreDenied,
    StoreIncompatible,
    StoreUnavailable,
    errors,
    transition,
)
from tests import mongo_jobs
from tests.mongo_jobs import claim, job, needs_mongod, push
from tests.mongo_servers import running
from tests.servers import free_port

from taskmux_mongodb import MongoDriver, address

server = mongo_jobs.server
driver = mongo_jobs.driver

SECRET = "s3cret%21"


async def refused(driver: MongoDriver) -> tuple[BaseException, str]:
    """Open a driver that must fail; return the error and all that could be printed of it."""
    with pytest.raises(errors.TaskmuxError) as raised:
        await driver.open()
    await driver.close()
    return raised.value, "".join(traceback.format_exception(raised.value)) + repr(raised.value)


# -- URLs and servers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://",
        "mongodb://host/bad.name",
        "mongodb://host/db?nosuchoption=1",
        f"mongodb://user:{SECRET}@host:port/db",
        f"mongodb://user:{SECRET}@/db",
        f"mongodb://host/db?tlsCertificateKeyFilePassword={SECRET}&tls=maybe",
        f"mongodb://us@er:{SECRET}@host/db",
    ],
)
def test_a_wrong_url_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(InvalidURL) as raised:
        MongoDriver(url)
    assert len(str(raised.value)) > 20
    shown = "".join(traceback.format_exception(raised.value))
    assert "s3cret" not in shown.replace(url, "")


@pytest.mark.parametrize(
    "url",
    ["mongodb+srv://host.example:27017/db", "mongodb+srv://a.example,b.example/db"],
)
def test_a_name_for_dns_has_no_port_and_is_one(url: str) -> None:
    with pytest.raises(InvalidURL, match="DNS"):
        MongoDriver(url)


async def test_the_name_that_azure_puts_between_at_signs_is_accepted() -> None:
    options = "ssl=true&replicaSet=globaldb&retrywrites=false&appName=@account@"
    url = f"mongodb://account:{SECRET}@account.mongo.cosmos.azure.com:10255/?{options}"
    driver = MongoDriver(url)
    assert "s3cret" not in driver.url
    assert driver._address is not None
    with pytest.warns(UserWarning, match="Cosmos"):  # PyMongo's own
        client = address.connect(driver._address)
    assert client.options.pool_options.appname == "@account@"
    await client.close()


@pytest.mark.parametrize("option", ["tlsCAFile", "tlsCertificateKeyFile"])
@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_an_unreadable_file_for_tls_is_told(tmp_path, option: str, content) -> None:
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_text(content)
    url = f"mongodb://user:{SECRET}@127.0.0.1/?tls=true&{option}={file}"
    with pytest.raises(InvalidURL, match=r"(?i)tls") as raised:
        await MongoDriver(url).open()
    assert "s3cret" not in str(raised.value)


async def test_a_server_that_is_down_is_unavailable() -> None:
    url = f"mongodb://user:{SECRET}@127.0.0.1:{free_port()}/?serverSelectionTimeoutMS=100"
    driver = MongoDriver(url)
    assert "s3cret" not in driver.url
    error, shown = await refused(driver)
    assert isinstance(error, StoreUnavailable)
    assert "s3cret" not in shown


@needs_mongod
async def test_refused_credentials_are_told_and_not_shown() -> None:
    with running("--auth", replica_set=None) as server:
        url = f"mongodb://user:{SECRET}@127.0.0.1:{server.port}/taskmux"
        error, shown = await refused(MongoDriver(url))
    assert isinstance(error, StoreDenied)
    assert "s3cret" not in shown


@needs_mongod
async def test_the_role_read_write_is_all_that_is_needed() -> None:
    with running("--auth", replica_set=None) as server:
        with server.client() as client:
            root = {"createUser": "root", "pwd": "root", "roles": ["root"]}
            client.admin.command(root)
        with MongoClient(f"mongodb://root:root@127.0.0.1:{server.port}") as client:
            role = {"role": "readWrite", "db": "taskmux"}
            client.admin.command({"createUser": "user", "pwd": "s3cret!", "roles": [role]})
        url = f"mongodb://user:{SECRET}@127.0.0.1:{server.port}/taskmux?authSource=admin"
        driver = MongoDriver(url)
        await driver.open()
        await push(driver, job())
        (held,) = await claim(driver, limit=1)
        await driver.apply(Op("w", 2), [transition.complete(held, b"1")])
        assert await driver.prune(PruneAsk("q")) == 0
        assert await driver.queues() == ["q"]
        await driver.close()
        outside = MongoDriver(url.replace("/taskmux?", "/other?"))
        error, shown = await refused(outside)
    assert isinstance(error, StoreDenied)
    assert "s3cret" not in shown


@needs_mongod
async def test_a_closed_driver_says_so(driver) -> None:
    with pytest.raises(StoreUnavailable, match="open"):
        await driver.fork().get([Ref("q", "job")])


# -- what is in the database already --------------------------------------------------------------


@needs_mongod
@pytest.mark.parametrize("what", ["index", "bell", "schema"])
async def test_another_shape_in_the_way_is_incompatible(server, what: str) -> None:
    with server.client() as client:
        client.drop_database("strange")
        database = client["strange"]
        if what == "index":
            database["jobs"].create_index([("queue", 1)], name="line")
        elif what == "bell":
            database["bell"].insert_one({"ding": "dong"})
        else:
            database["meta"].insert_one({"_id": "schema", "version": 99})
    driver = MongoDriver(server.url.replace("/taskmux", "/strange"))
    error, _ = await refused(driver)
    assert isinstance(error, StoreIncompatible)


@needs_mongod
async def test_foreign_documents_are_set_aside(server, driver) -> None:
    await push(driver, job("good"))
    with server.client() as client:
        client["taskmux"]["jobs"].insert_many(
            [
                {"queue": "q", "state": "waiting"},
                {"_id": "q/text", "queue": "q", "state": "waiting", "rank": 0, "body": "text"},
                {"_id": "q/bare", "queue": "q", "state": "waiting", "rank": 1, "seq": "x"},
                {"_id": "q/late", "queue": "q", "state": "delayed"},
                {"_id": "q/due", "queue": "q", "state": "delayed", "rank": 1},
                {"_id": "q/odd", "queue": "q", "state": "no state"},
            ]
        )
    claimed = [one.id for number in range(3) for one in await claim(driver, number, limit=10)]
    assert claimed == ["good"]
    counts = await driver.counts("q")
    assert {state: n for state, n in counts.items() if n} == {State.ACTIVE: 1}
    with pytest.raises(CorruptRecord):
        await driver.get([Ref("q", "text")])


@needs_mongod
async def test_a_client_that_its_owner_closed_is_unavailable(server) -> None:
    client = AsyncMongoClient(server.url)
    driver = MongoDriver.from_client(client)
    await driver.open()
    await client.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await driver.get([Ref("q", "job")])
    await driver.close()


@needs_mongod
@pytest.mark.parametrize("field", ["rank", "seq", "rev", "priority", "fence", "created_at", "body"])
async def test_a_document_without_one_of_its_fields_stops_nothing(
    server, driver, field: str
) -> None:
    await push(driver, job("bad"), job("good"))
    with server.client() as client:
        client["taskmux"]["jobs"].update_one({"_id": "q/bad"}, {"$unset": {field: ""}})
    bad = Ref("q", "bad")
    ids: list[str] = []
    for number in range(2):
        ids += [one.id for one in await claim(driver, number, limit=10)]
    assert ids == ["good"]
    await driver.apply(Op("x", 1), [transition.remove(bad), transition.hold(bad)])
    await driver.annotate([Note(ref=bad, fence=1, progress=b"1")])
    with pytest.raises(CorruptRecord):
        await driver.get([bad])
    assert sum((await driver.counts("q")).values()) == 1


# -- values ---------------------------------------------------------------------------------------


@needs_mongod
async def test_a_document_over_16_mib_is_too_large(driver) -> None:
    with pytest.raises(errors.PayloadTooLarge):
        await push(driver, job(payload=b"x" * 17_000_000))
    assert await push(driver, job(), number=2) == [PushStatus.CREATED]


@needs_mongod
async def test_a_document_that_grows_over_16_mib_is_too_large(driver) -> None:
    await push(driver, job("large", payload=b"x" * 9_000_000), job("small"))
    large, small = await claim(driver, limit=2)
    done = [transition.complete(large, b"y" * 9_000_000), transition.complete(small, b"1")]
    with pytest.raises(errors.PayloadTooLarge):
        await driver.apply(Op("w", 2), done)
    states = [one and one.state for one in await driver.get([large.ref, small.ref])]
    assert states == [State.ACTIVE, State.COMPLETED], "one item harms no other"


@needs_mongod
@pytest.mark.parametrize("name", ["nul\0", "$set", "a.b", "", "%24", "%00", "0", "_x"])
async def test_step_names_come_back_equal(driver, name: str) -> None:
    await push(driver, job(steps={name: b"0"}))
    (held,) = await claim(driver, limit=1)
    assert held.steps == {name: b"0"}
    await driver.annotate([Note(ref=held.ref, fence=held.fence, steps={name: b"1"})])
    (stored,) = await driver.get([held.ref])
    assert stored is not None
    assert stored.steps == {name: b"1"}


@needs_mongod
@pytest.mark.parametrize(
    "fields",
    [{"run_at": 2**63, "state": State.DELAYED}, {"id": "lone \ud800"}, {"reason": "\udfff"}],
)
async def test_a_value_without_a_bson_form_is_not_encodable(driver, fields) -> None:
    with pytest.raises(errors.NotEncodable):
        await push(driver, job(**fields))
    assert sum((await driver.counts("q")).values()) == 0
