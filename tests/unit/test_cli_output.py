from __future__ import annotations

import io
import json
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from taskmux.cli.logs import JsonFormatter, TextFormatter
from taskmux.cli.output import NARROWEST, _widths, dumps, print_json, safe, shown, table

OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
anything = st.text(st.characters(exclude_categories=())) | st.text(
    st.sampled_from("a\x1b[31m\x9b\x07\x7f\u202e\ud800\n\t\\")
)


class TestEscaping:
    @given(anything)
    def test_nothing_that_a_terminal_obeys_is_left(self, text):
        assert not OBEYED.search(safe(text))
        assert "\n" not in safe(text)
        assert not OBEYED.search(safe(text, lines=True).replace("\t", ""))
        assert shown(text).plain == safe(text)

    def test_what_is_escaped_can_be_read(self):
        assert safe("a\x1b[1m\x9bé\n\u202e") == r"a\x1b[1m\x9bé\n\u202e"
        assert safe("a\n\tb\r", lines=True) == "a\n\tb\\r"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(anything, inner, max_size=3),
    max_leaves=8,
)


def strictly(text: str):
    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


class TestJson:
    @given(values)
    def test_any_payload_is_valid_json(self, value):
        captured: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("taskmux.cli.output.click.echo", captured.append)
            print_json({"payload": json.dumps(value).encode()})
            print_json({"payload": json.dumps(value, ensure_ascii=False).encode(errors="replace")})
        for text in captured:
            assert set(strictly(text)) == {"payload"}
            assert not OBEYED.search(text)
            text.encode()

    @pytest.mark.parametrize(
        "data",
        [b"NaN", b"[-Infinity]", b"1e999", b"\xff", b"{", b"[" * 5000 + b"]" * 5000, b"1" * 9999],
    )
    def test_what_json_has_no_word_for(self, data, capsys):
        print_json({"result": data})
        assert set(strictly(capsys.readouterr().out)) == {"result"}

    def test_a_payload_is_what_it_says(self, capsys):
        print_json({"payload": b'{"a": [1, 2.5, null, "\\u00e9"]}'})
        assert json.loads(capsys.readouterr().out) == {"payload": {"a": [1, 2.5, None, "é"]}}

    def test_escapes_mean_the_same(self):
        assert json.loads(dumps("\x9b\ud800\u202e")) == "\x9b\ud800\u202e"


def record(message: str, **extra: object) -> logging.LogRecord:
    return logging.getLogger("x").makeRecord(
        "taskmux.worker", logging.INFO, "f", 1, message, (), None, extra=extra
    )


class TestLogLines:
    def test_json_has_the_extra_fields(self):
        line = strictly(JsonFormatter().format(record("done\x1b", job="email/1", seconds=0.5)))
        assert line["message"] == "done\x1b"
        assert (line["level"], line["logger"]) == ("info", "taskmux.worker")
        assert (line["job"], line["seconds"]) == ("email/1", 0.5)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert set(line) == {"time", "level", "logger", "message", "job", "seconds"}

    @pytest.mark.parametrize("odd", [float("nan"), object(), {1: b"x"}, {(1,): 2}])
    def test_json_whatever_the_extra_fields_are(self, odd):
        assert "odd" in strictly(JsonFormatter().format(record("m", odd=odd)))

    def test_what_follows_a_messages_first_line_is_set_in(self):
        try:
            raise ValueError("bad \x1b[2J")
        except ValueError:
            import sys  # noqa: PLC0415 - for its own traceback

            one = record("a\nb")
            one.exc_info = sys.exc_info()
        lines = TextFormatter().format(one).splitlines()
        assert lines[0].endswith("INFO    taskmux.worker: a")
        assert lines[1] == "    b"
        assert lines[2].startswith("Traceback")
        assert lines[-1] == r"ValueError: bad \x1b[2J"


class TestTables:
    @staticmethod
    def drawn(monkeypatch, headers, rows, *, width=80, **options):
        said = io.StringIO()
        screen = Console(file=said, force_terminal=True, width=width, color_system=None)
        monkeypatch.setattr("taskmux.cli.output.console", screen)
        table(headers, rows, **options)
        lines = said.getvalue().splitlines()
        assert all(len(line) <= width for line in lines)
        return lines

    def test_a_narrow_terminal_wraps_between_words(self, monkeypatch):
        headers = ("Worker", "Queues", "Running", "Completed", "Reason")
        text = "sqlite is locked by another process, which has not answered for a while"
        row = ("vm-1234-5678-abcdef", "bulk, default, reports.daily", "0 of 10", "1,234,567", text)
        lines = self.drawn(monkeypatch, headers, [row])
        words = [word for line in lines for word in line.split() if "\u2500" not in word]
        assert sorted(words) == sorted([*headers, *" ".join(row).split()])

    def test_what_has_room_is_on_one_line(self, monkeypatch):
        lines = self.drawn(monkeypatch, ("Queue", "Note"), [("a", "b c"), ("long name", "")])
        assert [line.rstrip() for line in lines if "\u2500" not in line] == [
            "Queue      Note", "a          b c", "long name",
        ]  # fmt: skip

    def test_only_a_word_without_room_is_broken(self, monkeypatch):
        lines = self.drawn(monkeypatch, ("Id", "Task", "Completed"), [("i" * 200, "send", "9")])
        assert sum(line.count("i") for line in lines) == 200
        assert {"Completed", "send"} <= set(" ".join(lines).split())

    def test_a_row_of_one_line_is_cut_at_its_end(self, monkeypatch):
        rows = [("i" * 30, "words " * 30), ("a", "b")]
        lines = self.drawn(monkeypatch, ("Id", "Note"), rows, one_line=True)
        assert len(lines) == 4
        assert lines[2].startswith("i" * 30 + "  words words")
        assert lines[2].rstrip().endswith("\u2026")

    @given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=9))
    def test_widths_fit_where_they_can(self, sizes):
        wanted, least = [max(pair) for pair in sizes], [min(pair) for pair in sizes]
        widths = _widths(wanted, least, 60)
        assert sum(widths) <= 60 or max(widths) <= NARROWEST
        if sum(least) <= 60:
            assert all(a >= b for a, b in zip(widths, least, strict=True))
        if sum(wanted) <= 60:
            assert widths == wanted
