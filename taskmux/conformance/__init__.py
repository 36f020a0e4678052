"""The conformance kit: a driver author's second file to read, after `taskmux.driver`.

A driver that passes keeps every numbered contract of the interface. A whole test file:

```python
import pytest

from my_driver import MyDriver
from taskmux.conformance import DriverSuite


class TestMyDriver(DriverSuite):
    @pytest.fixture
    def unopened_driver(self, tmp_path):
        return MyDriver(f"mine:///{tmp_path}/jobs")
```

The one thing to say is the fixture `unopened_driver`: a driver that is not opened yet, on an empty
store. It may be sync or async, and may yield, to clean up after the test. The kit opens and closes
the driver, and makes further instances with `fork`.

What may be overridden beside it, as methods of the class (see `Hooks`):

- `advance(ms)`: let time pass on the store's clock; by default it really passes.
- `leaked(driver)`: what is in the store that should not be there, checked after every test.
- `unfit()`: drivers whose `open` must fail, each with the error it must raise.
- `cut(driver)`: break the connections of an open driver.
- `damage(driver, ref)`: make a stored record unreadable.
- `clock_error_ms`: for a store whose clock is estimated.

A case is named for its contract, as in `test_a1_a_zombie_is_refused`. After each test, counts must
agree with records, and only active jobs may hold a lease. A capability that the driver lacks is
skipped, by name. `pytest_plugins = ["taskmux.conformance.plugin"]` in the topmost conftest prints
how many cases each suite passed. `FaultyDriver` wraps any driver to lose replies, refuse or delay.

Needs `pip install "taskmux[conformance]"`.
"""

from pathlib import Path

import pytest

# Cases explain their failures with pytest's own introspection of `assert`.
pytest.register_assert_rewrite(
    "taskmux.conformance.bench",
    *(
        f"taskmux.conformance.cases.{path.stem}"
        for path in Path(__file__).parent.glob("cases/*.py")
    ),
)

from taskmux.conformance.bench import Bench, needs  # noqa: E402 - after the registration
from taskmux.conformance.faults import (  # noqa: E402 - as above
    Fault,
    FaultyDriver,
    Plan,
    chance,
    held,
    lost,
    refused,
    resend,
    script,
    slow,
)
from taskmux.conformance.hooks import Hooks  # noqa: E402 - as above
from taskmux.conformance.suite import DriverSuite  # noqa: E402 - as above

__all__ = [
    "Bench",
    "DriverSuite",
    "Fault",
    "FaultyDriver",
    "Hooks",
    "Plan",
    "chance",
    "held",
    "lost",
    "needs",
    "refused",
    "resend",
    "script",
    "slow",
]
