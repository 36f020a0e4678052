from __future__ import annotations

import json
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskmux.cli.logs import JsonFormatter, TextFormatter
from taskmux.cli.output import dumps, print_json, safe, shown

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
