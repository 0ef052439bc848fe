"""CN00 of both releases before the public suite for HTTP caches, beside what the suite publishes of other caches.

The suite is http-tests/cache-tests: its server stands at the orchestrator's place, its client on the LAN, its own
program says which tests are passed, of its published results too. A test counts as passed only if those it depends
on are, as on its pages; those for browsers are none of ours. The node is booted and deployed with the product's
templates as they are. Data says that the suite's paths are assets, and that its one client may ask as often as it
does. The probe is stopped: the suite has no /health.

npm's http-cache-tests (0.4.5) is older and asks 157 required tests, not 160: its figures can't stand beside those that
are published. So whoever runs this brings a checkout, in OKOME_CACHE_TESTS; the figure in README.md is from commit
b55b8bda3dbb8c927c04e85bd8d496a8caa3e4ba. On two busy cores it takes six minutes, half of them for the two nodes.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from bench.finished import finished_node, lab, on_node
from bench.measure import Measure
from lab import LabError, machine, orchestrator
from lab.client import FRONTEND
from lab.tree import SUITES

LAB = "bconf"  # its own, so that another bench may run beside it
REPOSITORY = "https://github.com/http-tests/cache-tests"
COMMIT = "b55b8bda3dbb8c927c04e85bd8d496a8caa3e4ba"
DATA = ('static_prefixes=["/test/"]', "api_rate_per_s=5000", "api_burst=5000")
SECONDS = 900  # for all of the suite
# For each file of results: [required tests passed, required tests].
JUDGE = """
import fs from 'node:fs'
const [root, ...files] = process.argv.slice(1)
const { default: suites } = await import(`${root}/tests/index.mjs`)
const { determineTestResult, resultTypes } = await import(`${root}/test-engine/lib/results.mjs`)
const required = suites.flatMap(suite => suite.tests)
  .filter(test => !test.browser_only).filter(test => (test.kind ?? 'required') === 'required')
console.log(JSON.stringify(files.map(file => {
  const results = JSON.parse(fs.readFileSync(file))
  const passed = required.filter(test => determineTestResult(suites, test.id, results) === resultTypes.pass)
  return [passed.length, required.length]
})))
"""


def checkout() -> Path:
    """The suite. LabError with what to do if there is none."""
    given = os.environ.get("OKOME_CACHE_TESTS", "")
    if not given or not (Path(given) / "test-engine/cli.mjs").is_file():
        raise LabError(
            f"OKOME_CACHE_TESTS is {given!r}; it has to be a checkout of the suite: "
            f"`git clone {REPOSITORY} DIR`, `git -C DIR checkout {COMMIT}`, and OKOME_CACHE_TESTS=DIR."
        )
    if not shutil.which("node"):
        raise LabError("node is missing: apt-get install nodejs")
    return Path(given).resolve()


def commit(suite: Path) -> str:
    # Root may read what is somebody else's.
    return machine.run(["git", "-c", "safe.directory=*", "-C", suite, "rev-parse", "HEAD"]).strip()


def passed(suite: Path, *results: Path) -> list[tuple[int, int]]:
    """(required tests passed, required tests) of each file of results."""
    said = machine.run(["node", "--input-type=module", "-e", JUDGE, "--", suite, *results])
    return [(count, of) for count, of in json.loads(said)]


def asked(suite: Path) -> str:
    """The suite's results, in its own form, of the frontend that is there now."""
    # Its programs are made for npm, which says all this in variables.
    settings = (f"npm_config_base=http://{FRONTEND}", "npm_package_config_id=")
    client = machine.in_lan("env", *settings, "node", "--no-warnings", suite / "test-engine/cli.mjs")
    return machine.run(client, timeout=SECONDS)


def measured(suite: Path, release: str, against: str, goal: int) -> Measure:
    finished_node(*DATA, suite=release)
    on_node("systemctl stop okome-probe")
    settings = (
        "npm_config_protocol=http",
        f"npm_config_port={orchestrator.PORT}",
        f"npm_config_pidfile={machine.state_dir() / 'suite.pid'}",
    )
    orchestrator.another("env", *settings, "node", suite / "test-engine/server/server.mjs")
    results = machine.state_dir() / "results.json"
    results.write_text(asked(suite))
    [(count, of)] = passed(suite, results)
    return Measure(f"required tests passed on {release}, of {of}", count, "tests", against, goal, ">=")


def run() -> list[Measure]:
    """Needs root, node, and the suite."""
    os.environ["OKOME_LAB"] = LAB
    try:
        suite = checkout()
        published = sorted((suite / "results").glob("*.json"))
        counts = {
            path.stem: count for path, (count, _) in zip(published, passed(suite, *published), strict=True)
        }
        best = max(counts, key=lambda cache: counts[cache])
        against = (
            f"published at {commit(suite)[:7]}: nginx as it comes {counts['nginx']}, {best} {counts[best]}"
        )
        try:
            return [measured(suite, release, against, counts[best]) for release in SUITES]
        finally:
            lab("down")
    except LabError as error:
        sys.exit(f"bench: {error}")
