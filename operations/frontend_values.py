"""From the data of a frontend to the values its templates are rendered with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

PROBE_FLAG = "/run/okome/upstream/down"


def frontend_values(
    data: Mapping[str, Any], *, node: str, address: str, lan: str, orchestrator: str, nginx_version: str
) -> dict[str, Any]:
    """`data` is group_data/frontends.py; `orchestrator` is ADDRESS:PORT, `lan` a network, `nginx_version` "1.22.1"."""
    version = tuple(int(part) for part in nginx_version.split("."))
    certificate = data["tls_certificate"]
    return {
        **data,
        "node": node,
        "lan": lan,
        "orchestrator": orchestrator,
        # The first is the name under which everything is cached, and the Host that the origin sees for assets.
        "names": [address, node.lower(), *data["server_names"], "localhost", "127.0.0.1"],
        "probe_flag": PROBE_FLAG,
        # 1.23 began to join repeated header lines; 1.25.1 made http2 a directive of its own (nginx's CHANGES).
        "nginx_joins_vary": version >= (1, 23),
        "nginx_http2_on_listen": version < (1, 25, 1),
        "tls_certificate_key": certificate.removesuffix(".pem") + ".key",
    }


def render(templates: Path, folder: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Every file of templates/FOLDER: destination path -> text. An unknown name in a template is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - configuration, not HTML
    )
    found = {}
    for path in sorted((templates / folder).rglob("*")):
        if path.is_file():
            name = str(path.relative_to(templates))
            text = environment.get_template(name).render(values) if name.endswith(".j2") else path.read_text()
            found["/" + name.removesuffix(".j2")] = text
    return found
