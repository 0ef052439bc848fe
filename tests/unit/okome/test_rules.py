"""The calendar of caps."""

from datetime import UTC, datetime

import pytest

from okome import Period

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("period", "now", "begin", "end"),
    [
        (Period.HOUR, "2026-12-31T23:59:59", "2026-12-31T23:00:00", "2027-01-01T00:00:00"),
        (Period.DAY, "2028-02-28T12:00:00", "2028-02-28T00:00:00", "2028-02-29T00:00:00"),
        (Period.MONTH, "2028-02-29T00:00:00", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
        (Period.MONTH, "2026-12-31T23:59:59", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
    ],
)
def test_periods(period: Period, now: str, begin: str, end: str) -> None:
    def at(text: str) -> int:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())

    assert period.around(at(now)) == (at(begin), at(end))
