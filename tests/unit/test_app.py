from __future__ import annotations

import asyncio
import os
import sys
import threading

import pytest
from taskmux import Command, Taskmux, hookimpl
from taskmux.conformance import FaultyDriver, held, refused, script
from taskmux.memory import MemoryDriver
from taskmux.model.errors import ConfigError, StoreUnavailable, UnsupportedFeature


class Counting(MemoryDriver):
    """Says how often instances on its store were opened and closed."""

    opened = 0
    closed = 0

    async def open(self) -> None:
        type(self).opened += 1

    async def close(self) -> None:
        type(self).closed += 1


class Serving:
    """A plug-in that serves test:// with one driver."""

    def __init__(self, driver) -> None:
        self.driver = driver

    @hookimpl
    def taskmux_driver(self, url):
        return self.driver


@pytest.fixture
def counting():
    return type("Counting", (Counting,), {})()


def app(driver) -> Taskmux:
    return Taskmux("test://", plugins=[Serving(driver)])


class TestConnections:
    async def test_concurrent_users_share_one_opening(self, counting):
        mux = app(counting)
        await asyncio.gather(*(mux.enqueue("t") for _ in range(10)))
        await mux.close()
        assert (counting.opened, counting.closed) == (1, 1)

    async def test_it_opens_again_after_it_was_closed(self, counting):
        mux = app(counting)
        for _ in range(2):
            await mux.enqueue("t")
            await mux.close()
        assert (counting.opened, counting.closed) == (2, 2)

    async def test_entering_opens_the_store_so_that_a_wrong_url_shows(self):
        mux = app(FaultyDriver(MemoryDriver(), script({"open": [refused]})))
        with pytest.raises(StoreUnavailable):
            await mux.__aenter__()

    async def test_the_next_caller_tries_again_after_a_failed_opening(self):
        mux = app(FaultyDriver(MemoryDriver(), script({"open": [refused]})))
        with pytest.raises(StoreUnavailable):
            await mux.enqueue("t")
        await mux.enqueue("t")
        await mux.close()

    async def test_every_connection_is_closed_though_all_callers_tried_again(self, counting):
        # The first to try again opens a connection that the others must not forget.
        mux = app(FaultyDriver(counting, script({"open": [refused]})))

        async def stubborn() -> None:
            try:
                await mux.enqueue("t")
            except StoreUnavailable:
                await mux.enqueue("t")

        await asyncio.gather(*(stubborn() for _ in range(3)))
        await mux.close()
        assert (counting.opened, counting.closed) == (1, 1)

    async def test_a_cancelled_caller_does_not_cancel_the_opening_of_others(self, counting):
        gate = asyncio.Event()
        mux = app(FaultyDriver(counting, script({"open": [held(gate)]})))
        first, second = (asyncio.ensure_future(mux.enqueue("t")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        gate.set()
        await second
        await mux.close()
        assert (counting.opened, counting.closed) == (1, 1)

    def test_each_event_loop_has_a_connection_of_its_own(self, counting):
        mux = app(counting)

        async def one() -> None:
            async with mux:
                await mux.enqueue("t")

        asyncio.run(one())
        asyncio.run(one())
        assert (counting.opened, counting.closed) == (2, 2)

    def test_threads_that_each_run_loops_of_their_own_do_not_disturb_each_other(self, counting):
        mux = app(counting)
        errors: list[BaseException] = []
        start = threading.Barrier(8)

        def work() -> None:
            start.wait()
            try:
                for _ in range(40):  # each loop is closed without a word, and found by the others
                    asyncio.run(enqueue())
            except BaseException as error:
                errors.append(error)
                raise

        async def enqueue() -> None:
            await mux.enqueue("t")

        switching = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(switching)
        assert not errors
        assert mux.run_blocking(lambda: mux.queue("default").counts()).waiting == 320
        mux.close_blocking()

    async def test_another_default_store_may_be_chosen_before_first_use_only(self):
        mux = Taskmux("memory://a")
        mux.use("memory://b")
        assert mux.url == "memory://b"
        await mux.enqueue("t")
        with pytest.raises(ConfigError, match="before first use"):
            mux.use("memory://c")
        await mux.close()


class TestBlocking:
    def test_it_works_without_a_loop_and_leaves_no_thread(self, counting):
        mux = app(counting)
        before = set(threading.enumerate())
        assert mux.run_blocking(lambda: mux.enqueue("t")).queue == "default"
        mux.close_blocking()
        assert set(threading.enumerate()) <= before
        assert (counting.opened, counting.closed) == (1, 1)

    def test_it_works_again_after_it_was_closed(self, counting):
        mux = app(counting)
        for _ in range(2):
            mux.run_blocking(lambda: mux.enqueue("t"))
            mux.close_blocking()
        assert (counting.opened, counting.closed) == (2, 2)

    def test_an_app_has_its_verbs_for_code_without_a_loop(self):
        mux = Taskmux("memory://")
        send = mux.task(name="send", queue="mails")(lambda user: None)
        job = mux.blocking.enqueue("send", {"user": 1}, id="one")
        assert (job.ref.queue, job.ref.id) == ("mails", "one")
        assert mux.blocking.submit(send.bind(2)).blocking.status() == "waiting"
        here = threading.current_thread()

        def calls():  # read where they are made, not in the loop's thread
            assert threading.current_thread() is here
            yield from map(send.bind, range(3))

        assert len(mux.blocking.enqueue_many(calls())) == 3
        assert mux.blocking.queues() == ["mails"]
        assert mux.blocking.queue("mails").counts().waiting == 5
        assert mux.blocking.job("mails", "one").record().arguments == {"user": 1}
        assert mux.blocking.workers() == []
        assert mux.blocking.tell("nobody", Command("pause")) is False
        mux.blocking.enqueue("send", {"user": 9}, id="two", dedup="k")
        assert mux.blocking.queue("mails").dedup_owner("k").id == "two"
        assert mux.blocking.queue("mails").release_dedup("k") is True
        assert mux.blocking.queue("mails").dedup_owner("k") is None
        mux.close_blocking()

    async def test_in_a_loop_an_apps_blocking_verbs_are_refused(self):
        with pytest.raises(ConfigError, match="Use the async verb"):
            Taskmux("memory://").blocking.queues()

    def test_closing_what_was_never_used(self):
        mux = Taskmux("memory://")
        mux.close_blocking()

    async def test_inside_a_loop_it_is_refused_since_it_would_stop_it(self):
        mux = Taskmux("memory://")
        with pytest.raises(ConfigError, match="Use the async verb"):
            mux.run_blocking(lambda: mux.enqueue("t"))

    def test_many_threads_share_one_loop(self, counting):
        mux = app(counting)
        threads = [
            threading.Thread(target=mux.run_blocking, args=(lambda: mux.enqueue("t"),))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        mux.close_blocking()
        assert counting.opened == 1

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_a_forked_process_gets_a_loop_of_its_own(self):
        mux = Taskmux("memory://")
        mux.run_blocking(lambda: mux.enqueue("t"))
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            try:
                mux.run_blocking(lambda: mux.enqueue("t"))
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        mux.close_blocking()


class TestAnotherStore:
    def test_an_app_whose_stores_are_open_says_how_to_close_them(self):
        mux = Taskmux("memory://")

        @mux.task(name="t")
        def task() -> None: ...

        task.blocking.enqueue()
        with pytest.raises(ConfigError, match=r"mux\.close_blocking\(\) if a \.blocking verb"):
            mux.use("memory://other")
        mux.close_blocking()
        mux.use("memory://other")


class TestShowing:
    def test_no_credentials(self):
        mux = app(MemoryDriver("test://***@h"))
        assert repr(mux) == "<Taskmux test://***@h>"


def test_apps_of_scripts_that_call_asyncio_run_leave_no_thread_behind(tmp_path):
    mux = Taskmux(f"sqlite:///{tmp_path / 'jobs.db'}")

    @mux.task()
    async def task() -> None: ...

    before = set(threading.enumerate())
    for _ in range(5):
        asyncio.run(task.enqueue())
    asyncio.run(mux.close())
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
    assert set(threading.enumerate()) <= before


class TestSessions:
    async def test_a_store_without_transactions_refuses_them_by_name(self):
        mux = Taskmux("memory://")

        @mux.task()
        async def work() -> None: ...

        inside = work.options(session=object())
        with pytest.raises(UnsupportedFeature, match="'transactions'"):
            await inside.enqueue()
        with pytest.raises(UnsupportedFeature, match="'transactions'"):
            await mux.enqueue_many([inside.bind()])
        assert (await mux.queue("default").counts()).total == 0
        await mux.close()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (Command("pause"), "pause"),
        (Command("concurrency", 1), "run 1 handler at once"),
        (Command("concurrency", 20), "run 20 handlers at once"),
    ],
)
def test_what_a_worker_is_told_is_said_in_words(command, words):
    assert str(command) == words
