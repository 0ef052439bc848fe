"""For all tests."""

import importlib
from unittest import mock

# pyinfra's command line makes threads, sockets and subprocesses of the whole process cooperative (gevent) as
# soon as it is imported, and pyinfra_testing imports it. Tests of asyncio code run in this process, too.
with mock.patch("gevent.monkey.patch_all"):
    importlib.import_module("pyinfra_cli")
