"""Deduplication as users say it: a key and how a second job with it is met."""

from __future__ import annotations

from typing import Any

import msgspec

from taskmux.model import job as model
from taskmux.model.errors import DeclarationError
from taskmux.model.units import Duration, brief, check_name, milliseconds

__all__ = ["Dedup", "parse_dedup", "parse_on_duplicate", "superseding"]

MODES = ("replace", "extend", "latest")


class Dedup(msgspec.Struct, frozen=True):
    """A deduplication key, which one job of a queue owns, and how a second job with it is met.

    A second job is not made, and the handle says `duplicate`, unless the mode says otherwise.

    ```python
    Dedup("k")                                         # until the first is finished, as dedup="k"
    Dedup("k", ttl="10m")                              # throttle: for ten minutes, finished or not
    Dedup("k", ttl="10m", replace=True, extend=True)   # debounce: with delay="5s" of the second
    Dedup("k", latest=True)                            # one runs, and the newest waits for its end
    ```

    Args:
        key: up to 255 characters, as an id.
        ttl: how long a job owns the key; None: until it is finished. Removing the job ends both.
        replace: a job that waits or is delayed gets the second one's content and keeps its id: the
            handle says `replaced`. One that runs is left alone.
        extend: with `replace` or `latest`, the second one's `delay` counts from now, too.
        latest: as `replace`; and while the first one runs, the second waits for its end. It is the
            only one that does: a third gives it its content.

    Raises:
        DeclarationError: the words do not fit together.
        InvalidName: the key cannot be stored everywhere.
    """

    key: str
    ttl: Duration | None = None
    replace: bool = False
    extend: bool = False
    latest: bool = False

    def __post_init__(self) -> None:
        self.stored()

    def stored(self) -> model.Dedup:
        """Return it as it is stored with a job."""
        check_name(self.key, "dedup key")
        for name in MODES:
            if not isinstance(getattr(self, name), bool):
                raise DeclarationError(
                    f"Dedup: {name} {brief(getattr(self, name))} is neither True nor False."
                )
        ttl = None if self.ttl is None else milliseconds(self.ttl, "ttl")
        if ttl == 0:
            raise DeclarationError(
                "Dedup: with ttl 0 no job owns the key. Leave ttl out, and the key is owned until "
                "its job is finished."
            )
        if self.latest and ttl is not None:
            raise DeclarationError(
                "Dedup: with latest=True the next job waits for the end of the one that runs, "
                "whenever that is. Leave ttl out."
            )
        if self.latest and self.replace:
            raise DeclarationError(
                "Dedup: latest=True replaces what has not begun by itself. Leave replace out."
            )
        if self.extend and not (self.replace or self.latest):
            raise DeclarationError(
                "Dedup: extend=True begins the delay of a replaced job anew. Say replace=True (or "
                "latest=True) with it, or leave it out."
            )
        return model.Dedup(self.key, ttl, self.replace, self.extend, self.latest)


def parse_dedup(value: Any) -> dict[str, Any]:
    """Return the option in its working form.

    Raises:
        DeclarationError: it is neither a key nor a `Dedup`.
        InvalidName: the key cannot be stored everywhere.
    """
    if isinstance(value, Dedup):
        return {"dedup": value.stored()}
    if isinstance(value, str):
        return {"dedup": model.Dedup(check_name(value, "dedup key"))}
    raise DeclarationError(
        f"dedup {brief(value)} is neither a key nor a Dedup. Write dedup='order:7', or "
        f"dedup=Dedup('order:7', ttl='10m')."
    )


def parse_on_duplicate(value: Any) -> dict[str, Any]:
    """Return the option in its working form.

    Raises:
        DeclarationError: it is neither word.
    """
    if value not in ("return", "raise"):
        raise DeclarationError(f"on_duplicate {brief(value)} is neither 'return' nor 'raise'.")
    return {"on_duplicate": value}


def superseding(dedup: model.Dedup | None) -> model.Dedup:
    """Return what `supersede=True` makes of a key: the newest job comes after the running one.

    Raises:
        DeclarationError: there is no key, or it is owned in another way.
    """
    if dedup is None:
        raise DeclarationError(
            "supersede=True needs the key by which jobs supersede each other: add dedup='k'."
        )
    if dedup.ttl is not None or dedup.replace:
        raise DeclarationError(
            "supersede=True lets the newest job run instead of the others, so it goes with "
            "dedup='k' or Dedup('k', latest=True) only. Leave ttl and replace out."
        )
    return model.Dedup(dedup.key, extend=dedup.extend, latest=True)
