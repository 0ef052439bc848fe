"""How long the deploy reads a node's nginx before it changes anything: 300 sites of somebody else's, beside one.

The sites are laid below a folder of the bench's own. Timed is all that the preflight does with them but the way to the
node: the fact's own command, as the node would run it, the parser of its answer, and the findings, for which our own
configuration is rendered. One site more shares our socket: it has to be found, and nothing else may be.
"""

import statistics
import subprocess
import tempfile
import time
from pathlib import Path, PurePosixPath

import inventory
from bench.measure import Measure
from group_data import all as every_node
from group_data import frontends
from lab import LabError
from operations.services.nginx import VERSIONS
from operations.services.nginx_collisions import NGINX_CONF
from operations.services.nginx_strangers import look

ROOT = str(PurePosixPath(NGINX_CONF).parent)
SITES = 300
SECONDS = 3  # the goal
ROUNDS = 5
OLD_NGINX_CONF = "events {}\nhttp {\n    include conf.d/*.conf;\n    include sites-enabled/*;\n}\n"
# As they are in the field: plain HTTP that leads to TLS, then a site with a few locations.
SITE = """
server {{
    listen 8080;
    server_name shop{0}.example www.shop{0}.example;
    return 301 https://$host$request_uri;
}}
server {{
    listen 8443 ssl;
    server_name shop{0}.example www.shop{0}.example;
    include snippets/tls.conf;
    root /srv/shop{0};
    location / {{
        try_files $uri @shop;
    }}
    location @shop {{
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_pass http://127.0.0.1:3000;
    }}
    location ~ \\.(css|js|jpg)$ {{
        expires 30d;
    }}
}}
"""
SHARES = "server { listen 80 proxy_protocol; server_name shares.example; }\n"


def lay(root: Path, sites: int) -> None:
    files = {
        "nginx.conf": OLD_NGINX_CONF,
        "snippets/tls.conf": "ssl_protocols TLSv1.3;\n",
        "sites-enabled/shares": SHARES,
        **{f"sites-enabled/shop{number}": SITE.format(number) for number in range(sites)},
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def findings(root: Path) -> list[str]:
    """What the preflight would say of a node whose /etc/nginx is `root`."""
    name, node = inventory.frontends[0]
    judge = look(next(iter(VERSIONS)), name.upper(), {**vars(every_node), **vars(frontends), **node})
    [question] = judge.questions
    command = str(question.fact().command()).replace(ROOT, str(root))
    said = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    return judge.findings(question.fact().process(said.replace(str(root), ROOT).splitlines()))


def seconds(sites: int) -> float:
    """Median of `ROUNDS`."""
    took = []
    with tempfile.TemporaryDirectory() as folder:
        lay(Path(folder), sites)
        for _ in range(ROUNDS):
            before = time.monotonic()
            said = findings(Path(folder))
            took.append(time.monotonic() - before)
    if len(said) != 1 or "sites-enabled/shares:1" not in said[0]:
        raise LabError(f"of {sites} sites one shares our socket, and this was found: {said}")
    return statistics.median(took)


def run() -> list[Measure]:
    one, many = seconds(1), seconds(SITES)
    against = f"one site: {one:.2f} s; medians of {ROUNDS}"
    return [Measure(f"{SITES} sites read and judged", many, "s", against, goal=SECONDS)]
