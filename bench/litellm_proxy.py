"""LiteLLM's proxy (MIT, but for its enterprise folder) with its Redis cache, in an environment of its own: what it
depends on is ten times what we do.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bench.served import serving
from lab.machine import cache_dir

_ROOT = Path(__file__).parent.parent
REQUIREMENTS = _ROOT / "requirements-litellm.txt"
_INSTALL = 600.0  # s


def environment() -> Path:
    """Of the versions in REQUIREMENTS, checked by hash; made at the first use."""
    name = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = cache_dir() / f"litellm-{name}"
    complete = folder / "complete"
    if not complete.exists():
        uv, python = _ROOT / ".uv/bin/uv", folder / "bin/python"
        made_by = getattr(sys, "_base_executable", sys.executable)
        made: list[str | Path] = [uv, "venv", "-q", "--clear", "--python", made_by, folder]
        filled: list[str | Path] = [
            uv,
            "pip",
            "sync",
            "-q",
            "--compile-bytecode",
            "--python",
            python,
            "--require-hashes",
        ]
        for command in (made, [*filled, REQUIREMENTS]):
            subprocess.run(command, check=True, timeout=_INSTALL)
        complete.touch()
    return folder


@contextmanager
def litellm(port: int, upstream: str, redis_url: str, folder: Path) -> Iterator[int]:
    """Its pid, once it answers. `upstream`: with /v1. As its manual says, one worker; what goes wrong is logged."""
    where = urlsplit(redis_url)
    parameters = {"model": "openai/bare", "api_base": upstream, "api_key": "none"}
    config = folder / "litellm.yaml"  # JSON is YAML
    config.write_text(
        json.dumps(
            {
                "model_list": [{"model_name": "bare", "litellm_params": parameters}],
                "litellm_settings": {"cache": True, "cache_params": {"type": "redis", "ttl": 600}},
            }
        )
    )
    words = ("--config", config, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    variables = {
        "REDIS_HOST": str(where.hostname),
        "REDIS_PORT": str(where.port),
        "REDIS_USERNAME": str(where.username),
        "REDIS_PASSWORD": str(where.password),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches prices from the net
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",  # reads no .env
        # As ours: whoever asks, nobody looks at who it is. On loopback, and with no model behind it.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "PATH": f"{environment() / 'bin'}:{os.environ['PATH']}",
    }
    with serving([environment() / "bin/litellm", *words, "--telemetry", "False"], port, variables) as pid:
        yield pid
