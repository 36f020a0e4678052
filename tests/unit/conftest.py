from __future__ import annotations

from hypothesis import settings

# Shared machines stall at random; the suite's own time limit catches what never ends.
settings.register_profile("taskmux", deadline=None)
settings.load_profile("taskmux")
