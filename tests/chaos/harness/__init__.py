"""The chaos harness: real worker processes, real signals, one journal, and a checker.

A module for another store is a fixture with its URL and the numbers of its plan:

```python
class OnRedis:
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url


class TestKills(OnRedis, KillSuite):
    plan = Plan(jobs=20_000, kills=50, stops=20)


class TestSignals(OnRedis, SignalSuite):
    pass
```
"""
