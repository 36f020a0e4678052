from __future__ import annotations

import sys

import pytest
from taskmux import Taskmux
from taskmux.memory import MemoryDriver
from taskmux.model.errors import InvalidURL, MissingExtra, UnknownScheme
from taskmux.plugins.loading import driver_for, plugin_manager, schemes


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution whose entry points name modules with the given sources."""
    monkeypatch.syspath_prepend(tmp_path)

    def installed(sources: dict[str, str]) -> None:
        lines = ["[taskmux.drivers]"]
        for number, (scheme, source) in enumerate(sources.items()):
            module = f"fake_driver_{tmp_path.name.replace('-', '_')}_{number}"
            (tmp_path / f"{module}.py").write_text(source)
            lines.append(f"{scheme} = {module}")
        info = tmp_path / "fake_driver-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-driver\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("\n".join(lines))

    yield installed
    for name in [name for name in sys.modules if name.startswith("fake_driver_")]:
        del sys.modules[name]


SERVING = """
from taskmux.driver import hookimpl
from taskmux.memory import MemoryDriver

@hookimpl
def taskmux_driver(url):
    return MemoryDriver(url)
"""
LACKING = "import package_that_is_not_there.submodule"
RAISING = "raise AssertionError('this module must not be imported')"
DECLINING = """
from taskmux.driver import hookimpl

@hookimpl
def taskmux_driver(url):
    return None
"""


def driver(url: str):
    return driver_for(url, plugin_manager())


class TestLoading:
    def test_built_in_drivers_register_as_anybody_does(self):
        assert {"memory", "sqlite"} <= set(schemes())
        assert isinstance(driver("memory://x"), MemoryDriver)

    def test_a_third_partys_driver_is_found_by_its_scheme(self, install):
        install({"fake": SERVING})
        assert "fake" in schemes()
        assert driver("fake://x").url == "fake://x"
        assert Taskmux("fake://x").url == "fake://x"

    def test_the_scheme_may_be_written_in_capitals(self, install):
        install({"fake": SERVING})
        assert driver("Fake://X").url == "fake://X"
        assert isinstance(driver("MEMORY://x"), MemoryDriver)

    def test_only_the_asked_schemes_plugin_is_imported(self, install):
        install({"fake": SERVING, "other": RAISING})
        driver("fake://x")
        assert [name for name in sys.modules if name.startswith("fake_driver_")][1:] == []

    def test_one_missing_dependency_hurts_nobody_else(self, install):
        install({"fake": SERVING, "other": LACKING})
        driver("fake://x")
        assert {"fake", "other"} <= set(schemes())


class TestWhatCannotBeServed:
    @pytest.mark.parametrize(
        ("url", "hint"),
        [
            ("memry://x", "Did you mean memory://"),
            ("sqlite3:///x", "Did you mean sqlite://"),
            ("xyzzy://x", "Installed: "),
        ],
    )
    def test_an_unknown_scheme_with_a_suggestion(self, url, hint):
        with pytest.raises(UnknownScheme, match=hint):
            driver(url)

    def test_no_suggestion_where_nothing_is_near(self):
        with pytest.raises(UnknownScheme) as caught:
            driver("xyzzy://x")
        assert "Did you mean" not in str(caught.value)

    def test_a_driver_that_declines(self, install):
        install({"fake": DECLINING})
        with pytest.raises(UnknownScheme):
            driver("fake://x")

    @pytest.mark.parametrize(
        ("scheme", "command"),
        [
            ("fake", "pip install package_that_is_not_there"),
            ("redis+fake", r'pip install "taskmux\[redis\]"'),
            ("redis+fake", r'pip install "./taskmux\[redis\]", where .*'),
            ("mongodb+fake", r'pip install "taskmux\[mongodb\]"'),
        ],
    )
    def test_a_missing_package_gives_the_command_to_type(self, install, scheme, command):
        install({scheme: LACKING})
        with pytest.raises(MissingExtra, match=f"needs the package.*[Rr]un: {command}$"):
            driver(f"{scheme}://x")

    def test_an_app_is_told_before_any_connection_is_made(self):
        with pytest.raises(UnknownScheme):
            Taskmux("memory://", routes={"a.*": "nosuch://x"})
        with pytest.raises(InvalidURL):
            Taskmux("memory")

    def test_an_unknown_option_is_refused(self):
        with pytest.raises(InvalidURL, match="unknown option 'size'"):
            Taskmux("memory://x?size=5")
