"""Capabilities: what a driver may do beyond the required verbs, as types.

A driver has a capability by having its methods; nothing is declared twice. The core checks at
startup, and a feature whose capability is missing is refused by name (`UnsupportedFeature`).
"""

from __future__ import annotations

from taskmux.driver.events import Events
from taskmux.driver.lines import Lines
from taskmux.driver.presence import Presence
from taskmux.driver.transactions import Transactions
from taskmux.model.errors import UnsupportedFeature

__all__ = ["CAPABILITIES", "capabilities_of", "require"]

CAPABILITIES: dict[str, type] = {
    "presence": Presence,
    "lines": Lines,
    "events": Events,
    "transactions": Transactions,
}
"""Every capability by the name that errors and `taskmux drivers` use."""


def capabilities_of(driver: object) -> tuple[str, ...]:
    """Return the names of the capabilities that the driver has."""
    return tuple(name for name, kind in CAPABILITIES.items() if isinstance(driver, kind))


def require(driver: object, capability: str, *, feature: str) -> None:
    """Refuse a feature on a driver that lacks what the feature needs.

    Args:
        driver: the driver in use.
        capability: a name in `CAPABILITIES`.
        feature: what the user asked for, as the subject of a sentence.

    Raises:
        UnsupportedFeature: the driver lacks the capability; the message names all three.
    """
    if not isinstance(driver, CAPABILITIES[capability]):
        url = getattr(driver, "url", None)
        raise UnsupportedFeature(
            f"{feature} needs the capability {capability!r}, which {type(driver).__name__} "
            f"({url or 'no URL'}) does not have. Use another backend for it: `taskmux drivers` "
            f"lists what each can do."
        )
