"""Servers of a bench, each a process of its own on loopback, the load that wrk puts on them, and their memory."""

import http.client
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 8
KEYS = 32  # questions that take turns, where answers are to come from the cache
START = 120.0  # s until it answers; LiteLLM imports for long
END = 10.0  # s

# "{prefix}" and "{keys}" are filled in; a question is about as long as people's are.
_SCRIPT = """
local n = 0
local text = string.rep("what does a rice bowl hold? ", 16)
local headers = {{["Content-Type"] = "application/json", ["Authorization"] = "Bearer bench"}}
request = function()
  n = n + 1
  local body = '{{"model":"bare","temperature":0,"max_tokens":100,"messages":[{{"role":"user","content":"{prefix} '
    .. (n % {keys}) .. ' ' .. text .. '"}}]}}'
  return wrk.format("POST", "/v1/chat/completions", headers, body)
end
done = function(summary, latency)
  local e = summary.errors
  print(string.format('SAID {{"answers": %d, "us": %d, "p50": %f, "p99": %f, "failed": %d}}', summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw: answers per second, latencies in ms."""

    rate: float
    p50: float
    p99: float


@contextmanager
def serving(command: Sequence[str | Path], port: int, environment: Mapping[str, str]) -> Iterator[int]:
    """Its pid, once it answers at 127.0.0.1:`port`; its whole session is ended at the end. RuntimeError, with what it
    printed, if it does not answer.
    """
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **environment},
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + START
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    printed.seek(0)
                    text = printed.read().decode(errors="replace")[-3000:]
                    raise RuntimeError(f"{command[0]} does not answer:\n{text}")
                time.sleep(0.1)
            yield process.pid
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
            process.wait(timeout=END)
        except ProcessLookupError:
            process.wait(timeout=END)
            return
        except subprocess.TimeoutExpired:
            continue


def _answers(port: int) -> bool:
    body = json.dumps(
        {"model": "bare", "temperature": 0, "messages": [{"role": "user", "content": "are you there?"}]}
    )
    headers = {"Content-Type": "application/json", "Authorization": "Bearer bench"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def load(port: int, seconds: float, *, prefix: str, keys: int, connections: int = CONNECTIONS) -> Load:
    """wrk asks `keys` questions in turn that begin with `prefix`. RuntimeError if any answer is not 200."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT.format(prefix=prefix, keys=keys))
        script.flush()
        words = ("wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", script.name)
        said = subprocess.run(
            [*words, f"http://127.0.0.1:{port}"],
            check=True,
            capture_output=True,
            text=True,
            timeout=seconds + 60,
        ).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("SAID ")]
    found = json.loads(line.removeprefix("SAID "))
    if found["failed"] or not found["answers"]:
        raise RuntimeError(f"wrk: {found['failed']} of {found['answers']} answers failed")
    return Load(found["answers"] / found["us"] * 1e6, found["p50"] / 1000, found["p99"] / 1000)


def memory_mb(pid: int) -> float:
    """Proportional set size of the process and of all it started."""
    proc = Path("/proc", str(pid))
    own = next(
        int(line.split()[1])
        for line in (proc / "smaps_rollup").read_text().splitlines()
        if line.startswith("Pss:")
    )
    children = (proc / "task" / str(pid) / "children").read_text().split()
    return own / 1024 + sum(memory_mb(int(child)) for child in children)
