"""The frame of a background duty: do it, pause, do it again, whatever happens."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from taskmux.model.errors import StoreError

__all__ = ["repeat"]

logger = logging.getLogger("taskmux.worker")


async def repeat(name: str, duty: Callable[[], Awaitable[object]], every: float) -> None:
    """Run a duty about every so many seconds until cancelled.

    The pause is spread by +-20 %, so that workers started together do not act together. A failure
    is logged and does not end the duty.
    """
    while True:
        try:
            await duty()
        except StoreError as error:
            logger.warning("%s failed, trying again: %s", name, error)
        except Exception:
            logger.exception("%s failed, trying again", name)
        await asyncio.sleep(every * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
