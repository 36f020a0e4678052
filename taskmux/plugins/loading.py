"""Plug-ins: drivers by URL scheme, and observers of hooks. Built-ins register as anybody does."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.metadata import entry_points

import pluggy

from taskmux.config import hide_credentials, scheme_of
from taskmux.driver import Driver
from taskmux.model.errors import DeclarationError, MissingExtra, UnknownScheme
from taskmux.model.units import brief
from taskmux.plugins import hookspecs

__all__ = ["CLIENTS", "DRIVERS", "driver_for", "driver_for_client", "plugin_manager", "schemes"]

DRIVERS = "taskmux.drivers"
"""The entry-point group: one entry per URL scheme, naming a module with `taskmux_driver`."""

CLIENTS = "taskmux.clients"
"""The entry-point group for clients handed in: one entry per top-level package of a client's class,
naming a module with `taskmux_client_driver`."""

_EXTRAS = {"redis": "redis", "rediss": "redis", "unix": "redis", "mongodb": "mongodb"}


def plugin_manager(plugins: Sequence[object] = ()) -> pluggy.PluginManager:
    """Return a manager that knows taskmux's hooks and these plug-ins.

    Raises:
        DeclarationError: a plug-in implements a hook that does not exist, asks for an argument
            that its hook does not have, or is given twice.
    """
    manager = pluggy.PluginManager("taskmux")
    manager.add_hookspecs(hookspecs)
    try:
        for plugin in plugins:
            manager.register(plugin)
        manager.check_pending()
    except (pluggy.PluginValidationError, ValueError) as error:
        raise DeclarationError(
            f"A plug-in does not fit: {error}. Hooks and their arguments are in "
            f"taskmux.plugins.hookspecs."
        ) from None
    return manager


def schemes() -> list[str]:
    """Return the URL schemes that installed drivers serve, sorted."""
    return sorted({entry.name for entry in entry_points(group=DRIVERS)})


def driver_for(url: str, manager: pluggy.PluginManager) -> Driver:
    """Return an unopened driver for the URL. Only its own scheme's plug-in is loaded.

    Raises:
        InvalidURL: the text is no URL, or the driver refuses an option.
        UnknownScheme: no installed driver serves the scheme.
        MissingExtra: the driver's own dependency is not installed.
    """
    scheme = scheme_of(url)
    try:
        manager.load_setuptools_entrypoints(DRIVERS, name=scheme)
    except ModuleNotFoundError as error:
        raise _missing(scheme, error) from None
    lowered = scheme + url[len(scheme) :]  # drivers may compare it
    driver: Driver | None = manager.hook.taskmux_driver(url=lowered)
    if driver is None:
        raise _unknown(scheme, url)
    return driver


def driver_for_client(client: object, manager: pluggy.PluginManager) -> Driver:
    """Return an unopened driver that uses an application's own client (or is one already).

    Raises:
        DeclarationError: no installed driver takes such a client.
    """
    if isinstance(client, Driver):
        return client
    package = type(client).__module__.partition(".")[0]
    manager.load_setuptools_entrypoints(CLIENTS, name=package)
    driver: Driver | None = manager.hook.taskmux_client_driver(client=client)
    if driver is None:
        known = sorted({entry.name for entry in entry_points(group=CLIENTS)})
        raise DeclarationError(
            f"No installed driver takes a {type(client).__module__}.{type(client).__qualname__}. "
            f"Async clients of {', '.join(known) or 'no package'} are taken; or give a URL."
        )
    return driver


def _missing(scheme: str, error: ModuleNotFoundError) -> MissingExtra:
    base = scheme.split("+", maxsplit=1)[0]
    extra = _EXTRAS.get(base)
    how = (
        f"Run: pip install {error.name}"
        if extra is None
        else f"It comes with the extra {extra!r}. If taskmux is installed from a clone, run: pip "
        f'install "./taskmux[{extra}]", where ./taskmux is the clone; if from a package index, '
        f'run: pip install "taskmux[{extra}]"'
    )
    return MissingExtra(
        f"The driver for {scheme}:// needs the package {error.name!r}, which is not installed. "
        f"{how}"
    )


def _unknown(scheme: str, url: str) -> UnknownScheme:
    known = schemes()
    close = difflib.get_close_matches(scheme, known, n=1)
    hint = f" Did you mean {close[0]}://?" if close else ""
    return UnknownScheme(
        f"No installed driver serves {scheme}:// (from {brief(hide_credentials(url), 300)}).{hint} "
        f"Installed: {', '.join(known) or 'none'}. Install the package that provides it, or "
        f"check the URL."
    )
