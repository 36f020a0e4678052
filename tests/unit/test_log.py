"""The loggers of taskmux: like the standard library's, but nothing gets out of them."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import pytest
import taskmux
from taskmux.model import log
from taskmux.model.log import Log

logger = Log("taskmux.test")

KINDS = [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]


class Raises(logging.Handler):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error
        self.asked = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.asked += 1
        raise self.error


@pytest.fixture
def raising(request, monkeypatch):
    monkeypatch.setattr(log, "_told", float("-inf"))
    handler = Raises(request.param("of the handler's"))
    logging.getLogger("taskmux.test").addHandler(handler)
    yield handler
    logging.getLogger("taskmux.test").removeHandler(handler)


@pytest.mark.parametrize("raising", KINDS, indirect=True)
def test_what_a_handler_raises_does_not_get_out(raising, capsys):
    for say in (logger.warning, logger.error, logger.exception):
        say("something %d", 7)
    assert raising.asked == 3
    assert capsys.readouterr().err == (
        f"taskmux: logging failed ({type(raising.error).__name__}); work goes on, some lines are "
        f"lost\n"
    )


@pytest.mark.parametrize("raising", [ValueError], indirect=True)
@pytest.mark.parametrize("where", ["closed", "none"])
def test_nor_does_standard_error_that_is_gone(raising, where, monkeypatch, tmp_path):
    if where == "closed":
        with (tmp_path / "closed").open("w") as gone:
            pass
        monkeypatch.setattr(sys, "stderr", gone)
    else:
        monkeypatch.setattr(sys, "stderr", None)
    logger.error("something")
    assert raising.asked == 1


def test_nor_does_a_class_of_loggers_of_the_users(monkeypatch):
    def refuses(level: int) -> bool:
        raise SystemExit

    monkeypatch.setattr(logging.getLogger("taskmux.test"), "isEnabledFor", refuses)
    logger.error("something")
    assert not logger.takes(logging.ERROR)


def test_a_record_names_the_line_that_speaks(caplog):
    caplog.set_level(logging.DEBUG, "taskmux.test")
    for say in (logger.debug, logger.info, logger.warning, logger.error, logger.exception):
        say("what %s", "it says", extra={"job": "j"})
    assert {one.levelno for one in caplog.records} == {10, 20, 30, 40}
    for one in caplog.records:
        assert (one.pathname, one.getMessage(), one.job) == (__file__, "what it says", "j")
        assert one.funcName == "test_a_record_names_the_line_that_speaks"


def test_an_exception_is_told_with_its_traceback(caplog):
    try:
        raise ValueError("the real one")
    except ValueError:
        logger.exception("failed")
    assert "the real one" in caplog.text


def test_an_exception_of_another_task_may_be_given(caplog):
    logger.exception("failed", exc_info=ValueError("of another task"))  # noqa: LOG004 - that is what it is for
    assert "of another task" in caplog.text


def sources(*rooms: str) -> dict[str, str]:
    """Return the code of some folders, by its path."""
    root = Path(taskmux.__file__).parent.parent
    files = [file for room in rooms for file in (root / room).rglob("*.py")]
    return {str(file.relative_to(root)): file.read_text(encoding="utf-8") for file in files}


def test_everything_speaks_through_it():
    speaking = {
        name for name, code in sources("taskmux", "backends").items() if "getLogger" in code
    }
    assert speaking == {"taskmux/model/log.py", "taskmux/cli/logs.py"}


@pytest.mark.parametrize("call", ["create_task(", "ensure_future(", "wait_for("])
def test_tasks_of_the_core_are_begun_past_the_apps_task_factory(call):
    rooms = sources("taskmux/api", "taskmux/worker", "taskmux/memory")
    assert [name for name, code in rooms.items() if call in code] == []
