"""The marker that a driver puts on its `taskmux_driver` hook."""

from __future__ import annotations

import pluggy

__all__ = ["hookimpl"]

hookimpl = pluggy.HookimplMarker("taskmux")
