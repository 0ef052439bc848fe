"""For all tests."""

from unittest import mock

# pyinfra's command line makes threads, sockets and subprocesses of the whole process cooperative (gevent) as soon
# as it is imported, and pyinfra_testing imports it. Tests of asyncio code run in this process, too.
with mock.patch("gevent.monkey.patch_all"):
    import pyinfra_cli  # noqa: F401
