"""What all tests share: signals as a terminal would have them."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Undo what `nohup` or a shell's `&` around the tests made this process ignore.

    The workers that tests start inherit it, and they keep to it, as any program should.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
