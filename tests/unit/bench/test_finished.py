"""What the frontend's bench makes of wrk's words."""

import pytest

from bench.finished import verdict
from lab import LabError

SAID = """Running 1s test @ http://192.168.86.20/assets/short/outage
  2 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   812.32us    1.06ms  18.21ms   91.90%
    Req/Sec     6.31k     1.02k    8.17k    70.00%
  12558 requests in 1.00s, 4.53MB read
Requests/sec:  12541.75
Transfer/sec:      4.53MB
"""
ERRORS = "  Socket errors: connect 1, read 20, write 300, timeout 4000\n"
REFUSED = "  Non-2xx or 3xx responses: 50000\n"


@pytest.mark.parametrize(
    ("words", "failed"), [("", 0), (ERRORS, 4321), (REFUSED, 50000), (ERRORS + REFUSED, 54321)]
)
def test_every_kind_of_failure_counts(words: str, failed: int) -> None:
    assert verdict(SAID.replace("Requests/sec", f"{words}Requests/sec")) == (12541.75, failed)


def test_words_that_say_nothing_are_no_result() -> None:
    with pytest.raises(LabError, match="unable to connect"):
        verdict("unable to connect to 192.168.86.20:80 Connection refused\n")
