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
- `damage(driver, ref)`: make a stored record unreadable.
- `clock_error_ms`: for a store whose clock is estimated.

A case is named for its contract, as in `test_a1_a_stale_fence_is_refused`. After each test, counts
must agree with records, and only active jobs may hold a lease. A capability that the driver lacks
is skipped, by name. `pytest_plugins = ["taskmux.conformance.plugin"]` in the topmost conftest
prints how many cases each suite passed.

Needs `pip install "taskmux[conformance]"`.
"""

import pytest

pytest.register_assert_rewrite(
    "taskmux.conformance.bench",
    "taskmux.conformance.cases",
    "taskmux.conformance.suite",
)

from taskmux.conformance.bench import Bench, Hooks  # noqa: E402 - after the rewrite is registered
from taskmux.conformance.suite import DriverSuite  # noqa: E402 - as above

__all__ = ["Bench", "DriverSuite", "Hooks"]
