from __future__ import annotations

import itertools
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from taskmux.config import (
    DEFAULT_URL,
    Settings,
    check_options,
    hide_credentials,
    load_settings,
    scheme_of,
    split_url,
)
from taskmux.model.errors import ConfigError, InvalidURL, TaskmuxError
from taskmux.plugins.loading import driver_for, plugin_manager

MEGABYTE = 1_048_576


class TestPrecedence:
    def load(self, tmp_path, flags=None, **environ):
        return load_settings(flags, environ=environ, directory=tmp_path)

    def test_defaults_where_nothing_is_said(self, tmp_path):
        assert self.load(tmp_path) == Settings()
        assert Settings().url == DEFAULT_URL

    @pytest.mark.parametrize(
        ("name", "text"),
        [("taskmux.toml", 'url = "{}"'), ("pyproject.toml", '[tool.taskmux]\nurl = "{}"')],
    )
    def test_flag_over_environment_over_file_over_default(self, tmp_path, name, text):
        (tmp_path / name).write_text(text.format("memory://file"))
        assert self.load(tmp_path).url == "memory://file"
        assert self.load(tmp_path, TASKMUX_URL="memory://env").url == "memory://env"
        flags = {"url": "memory://flag", "lease": None}
        assert self.load(tmp_path, flags, TASKMUX_URL="memory://env").url == "memory://flag"

    def test_a_flag_that_is_none_was_not_given(self, tmp_path):
        assert self.load(tmp_path, {"lease": None}, TASKMUX_LEASE="5s").lease == "5s"

    def test_each_setting_has_its_variable(self, tmp_path):
        settings = self.load(
            tmp_path,
            TASKMUX_URL="memory://",
            TASKMUX_APP="app:mux",
            TASKMUX_QUEUES="email, reports",
            TASKMUX_CONCURRENCY="3",
            TASKMUX_LEASE="10s",
            TASKMUX_DRAIN="1s",
            TASKMUX_PROCESSES="2",
            TASKMUX_LOG_LEVEL="debug",
        )
        assert settings == Settings(
            url="memory://",
            app="app:mux",
            queues=("email", "reports"),
            concurrency=3,
            lease="10s",
            drain="1s",
            processes=2,
            log_level="debug",
        )

    def test_the_file_of_its_own_wins_over_pyproject(self, tmp_path):
        (tmp_path / "taskmux.toml").write_text('lease = "1s"')
        (tmp_path / "pyproject.toml").write_text('[tool.taskmux]\nlease = "2s"')
        assert self.load(tmp_path).lease == "1s"

    def test_a_pyproject_of_others_says_nothing(self, tmp_path):
        (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100")
        assert self.load(tmp_path) == Settings()

    def test_the_process_environment_is_read_by_default(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TASKMUX_URL", "memory://here")
        monkeypatch.chdir(tmp_path)
        assert load_settings().url == "memory://here"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("url = ", "cannot be read as TOML"),
            ('url = "\udcff"', "cannot be read as TOML"),
            ("concurrency = []", "concurrency"),
            ('speed = "high"', "speed"),
        ],
    )
    def test_a_wrong_file_is_a_typed_error(self, tmp_path, text, says):
        (tmp_path / "taskmux.toml").write_text(text, errors="surrogateescape")
        with pytest.raises(ConfigError, match=says):
            self.load(tmp_path)

    def test_a_table_that_is_none_is_a_typed_error(self, tmp_path):
        (tmp_path / "pyproject.toml").write_text("[tool]\ntaskmux = 5")
        with pytest.raises(ConfigError, match="not a table"):
            self.load(tmp_path)

    def test_a_wrong_variable_is_a_typed_error(self, tmp_path):
        words = r"concurrency is 'many' in TASKMUX_CONCURRENCY: expected `int`\."
        with pytest.raises(ConfigError, match=words):
            self.load(tmp_path, TASKMUX_CONCURRENCY="many")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('[tool.taskmux]\nspeed = "high"', "pyproject.toml has no setting 'speed'"),
            ("[tool.taskmux]\nlease = 5", "lease is 5 in .*pyproject.toml: expected `str`"),
            ("[tool.taskmux]\nqueues = [5]", "queues is .5. in .*pyproject.toml: expected `str`"),
        ],
    )
    def test_the_file_with_a_wrong_setting_is_named(self, tmp_path, text, says):
        (tmp_path / "pyproject.toml").write_text(text)
        with pytest.raises(ConfigError, match=says):
            self.load(tmp_path)

    def test_a_wrong_url_is_not_shown(self, tmp_path):
        (tmp_path / "taskmux.toml").write_text('url = ["redis://:hunter2@h"]')
        with pytest.raises(ConfigError, match=r"url is a URL in .*taskmux.toml") as error:
            self.load(tmp_path)
        assert "hunter2" not in str(error.value)


class TestURLs:
    @pytest.mark.parametrize(
        ("url", "scheme"),
        [("redis://h", "redis"), ("REDIS://h", "redis"), ("mongodb+srv://h", "mongodb+srv")],
    )
    def test_scheme(self, url, scheme):
        assert scheme_of(url) == scheme

    @pytest.mark.parametrize("url", ["", "localhost", "//h", "://", "1a://", None, 5, b"a://"])
    def test_no_url(self, url):
        with pytest.raises(InvalidURL, match="is not a backend URL"):
            scheme_of(url)

    def test_parts_and_options(self):
        parts, options = split_url("redis://u:p%40@h:1/2?prefix=a%20b&empty=&prefix=c%2541")
        assert (parts.hostname, parts.port, parts.path) == ("h", 1, "/2")
        assert options == {"prefix": "c%41", "empty": ""}

    def test_several_hosts_have_no_one_port(self):
        parts, _ = split_url("mongodb://a:1,b:2/db")
        assert parts.netloc == "a:1,b:2"

    @pytest.mark.parametrize(
        "url",
        [
            "redis://h:port",
            "redis://h:99999",
            "redis://[::1",
            "redis://h\n",
            "redis://\x00",
            "a:\t",
        ],
    )
    def test_malformed_ones_are_refused(self, url):
        with pytest.raises(InvalidURL):
            split_url(url)

    def test_unknown_options_are_refused_by_name(self):
        with pytest.raises(InvalidURL, match=r"unknown option 'prefx'.*Known options: prefix"):
            check_options("redis://h?prefx=1", {"prefx": "1"}, {"prefix"})


class TestHidingCredentials:
    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("redis://localhost/0", "redis://localhost/0"),
            ("redis://u:p@h/0", "redis://***@h/0"),
            ("redis://:p@h", "redis://***@h"),
            ("mongodb://u:p@h1,h2/db?w=majority", "mongodb://***@h1,h2/db?w=majority"),
            ("redis://u:p@s@h", "redis://***@h"),
            ("redis://u:p/s?s#@h", "redis://…"),
            ("u:p@h", "u://…"),
            ("redis:u:p@h", "redis://…"),
            ("nonsense", "…"),  # it may be the password alone
            ("redis://h/0;password=p", "redis://…"),
            ("redis://h/0%3Bpassword=p", "redis://…"),
            ("unix:///run/redis.sock;password=p", "unix://…"),
            ("sqlite:////data/day=1/jobs;2.db", "sqlite:////data/day=1/jobs;2.db"),
            (":p@h", "…"),
            ("redis://h?password=p&db=1", "redis://h?password=***&db=1"),
            ("redis://h?db=1&API_KEY=p?q;r", "redis://h?db=1&API_KEY=***"),
            ("redis://h?pass%77ord=p", "redis://h?***"),
            ("redis://h?pw=p&prefix=tm", "redis://h?pw=***&prefix=tm"),
            ("redis://h?hunter2", "redis://h?***"),
            ("redis://h?prefix=p:q", "redis://h?prefix=***"),
            ("sqlite:////home/me@work/jobs.db", "sqlite:////home/me@work/jobs.db"),
            ("unix://u:p@/run/redis.sock", "unix://***@/run/redis.sock"),
        ],
    )
    def test_shown(self, url, shown):
        assert hide_credentials(url) == shown

    def test_what_azure_gives_out_is_a_url(self):
        url = "mongodb://db:k%3D@db.mongo.cosmos.azure.com:10255/?ssl=true&appName=@db@"
        parts, options = split_url(url)
        assert parts.hostname == "db.mongo.cosmos.azure.com"
        assert options["appName"] == "@db@"
        shown = "mongodb://***@db.mongo.cosmos.azure.com:10255/?ssl=true&appName=***"
        assert hide_credentials(url) == shown
        assert driver_for(url, plugin_manager()).url

    @pytest.mark.parametrize(
        "url",
        ["a://" + "?" * MEGABYTE, "a://?" + "pass" * MEGABYTE, "a://" + ":@" * MEGABYTE],
        ids=itertools.count(),
    )
    def test_a_megabyte_is_read_once(self, url):
        assert len(hide_credentials(url)) <= len(url)  # ends within the test's time limit


SECRET = "hunter2"
odd = st.text(st.sampled_from("@:/?#[]%&=+ ;,\\.℀\n\x00é{}$0a"), max_size=6)


@st.composite
def urls_with_a_secret(draw: st.DrawFn) -> str:
    """URLs whose password has SECRET in it, between odd characters."""
    scheme = draw(st.sampled_from(["redis", "memory", "sqlite", "mongodb+srv", "nosuch", "x y"]))
    password = draw(odd) + SECRET + draw(odd)
    host = draw(st.sampled_from(["h", "h:1", "h:port", "[::1", "[v]", "a,b", "", "h℀"]))
    tail = draw(st.sampled_from(["", "/0", "/0?nosuch=1", "?a", "?w=1#x"]))
    if draw(st.booleans()):
        return f"{scheme}://{host}{tail.split('?')[0]}?db=1&password={quote(password)}"
    user = draw(st.sampled_from(["", "u", "u%40x", "a b"]))
    slashes = draw(st.sampled_from(["://", "://", ":///", ":/", ":"]))
    return f"{scheme}{slashes}{user}:{password}@{host}{tail}"


HOSTILE = [
    "PW",
    "redis://h/0;password=PW",
    "redis+sentinel://h:1/0;password=PW",
    "mongodb://h/0;password=PW",
    "mongodb+srv://h/0;password=PW",
    "memory://h/0;password=PW",
    "postgres://h/0;password=PW",
    "unix://h/0;password=PW",
    "sqlite://h/0;password=PW",
    "redis:///u:PW@h/0",
    "redis:///:PW@h",
    "redis:///PW@h",
    "redis:///u%3APW%40h/0",
    "redis:/u:PW@h",
    "redis:u:PW@h",
    "redis:PW@h",
    "redis://h:PW",
    "redis://h:1PW",
    "redis://u:PW",
    "redis://u:PW/0",
    "redis://u:PW?x=1",
    "redis://u:1?x=PW@h",
    "redis://u:1?PW@h",
    "redis://u:1#PW@h",
    "redis://u:1/PW@h",
    "redis://u:a@b:PW",
    "redis://u:a@PW?x=@h",
    "redis://u:PW@[::1",
    "redis://u:PW@h:port",
    "redis://u:PW@h:99999",
    "redis://u:PW@h]",
    "redis://[PW",
    "redis://[::1]:PW",
    "redis://h?pw=PW",
    "redis://h?PW",
    "redis://h?PW=",
    "redis://h?x=1&pw=PW",
    "redis://h?pass=PW;x=1",
    "redis://h/0?pw=PW#x",
    "redis://u:PW\t@h",
    "redis://u:PW\x9b@h",
    "redis://u:PW\\@h:x",
    "redis+sentinel://a:1,b:PW/mymaster",
    "redis+sentinel://u:PW/mymaster",
    "redis+sentinel:///u:PW@h/mymaster",
    "redis+cluster://u:PW@a,b:x",
    "redis+cluster:///u:PW@a",
    "rediss:///u:PW@h",
    "rediss://h?ssl_pw=PW",
    "unix:///u:PW@/p",
    "unix://h:PW",
    "unix:u:PW@/p",
    "unix:///p?pw=PW",
    "mongodb:///u:PW@h/db",
    "mongodb:/u:PW@h",
    "mongodb:u:PW@h",
    "mongodb://h:PW/db",
    "mongodb://a:1,b:PW/db",
    "mongodb://u:PW/db",
    "mongodb://u:PW@",
    "mongodb://u:PW@/db",
    "mongodb://u:PW@h:x/db",
    "mongodb://u:a@b:PW@h/x y",
    "mongodb://u:PW/w@h/db",
    "mongodb://u:%PW@h/db",
    "mongodb+srv:///u:PW@h",
    "mongodb+srv://u:PW",
    "sqlite:///u:PW@h/x.db?nosuch=1",
    "sqlite://u:PW@h/x.db",
    "sqlite:u:PW@h",
    "memory://u:PW",
    "memory:///u:PW@h",
    "nosuch:///u:PW@h",
    "nosuch:/u:PW@h",
    "nosuch://h?pw=PW",
    "nosuch://h:PW",
    ":PW@h",
    "//u:PW@h/0",
    "h/0?pw=PW",
    " redis://u:PW@h",
    "u:PW@h",
]
"""Where people put a password, with PW for it: none of it may be shown."""


def _tries(url: str) -> list[str]:
    """Return the texts of every error that this URL can cause before a connection is made."""
    attempts = [
        lambda: split_url(url),
        lambda: check_options(url, {"nosuch": "1"}, {"known"}),
        lambda: driver_for(url, plugin_manager()),
        lambda: scheme_of(url.removeprefix(url.partition(":")[0])),
    ]
    texts = []
    for attempt in attempts:
        try:
            made = attempt()
        except TaskmuxError as error:
            texts.append(str(error))
        else:
            texts.append(getattr(made, "url", ""))
    return texts


class TestSecretsStayOutOfErrors:
    @given(urls_with_a_secret())
    @example(f"redis://u:℀{SECRET}@h")  # normalises to 'a/c': urlsplit's error quotes the netloc
    @example(f"redis://u:a@h:{SECRET}@[")
    @example(f"redis://u:a]{SECRET}@h")
    @example(f"redis://u:?{SECRET}@h")  # the host is u, and the secret an option
    @example(f"redis://u:1/{SECRET}@h")
    def test_whatever_is_wrong_with_the_url(self, url):
        texts = _tries(url)
        assert texts
        assert not [text for text in texts if SECRET in text]
        assert SECRET not in hide_credentials(url)

    @pytest.mark.parametrize("url", HOSTILE)
    def test_wherever_it_was_written(self, url):
        url = url.replace("PW", SECRET)
        assert not [text for text in _tries(url) if SECRET in text]
        assert SECRET not in hide_credentials(url)

    @given(st.text() | st.text(st.sampled_from("a:/@?#[]%&=,.℀\x00")))
    def test_any_text_is_a_url_or_a_typed_error(self, text):
        for _ in _tries(text):
            pass
