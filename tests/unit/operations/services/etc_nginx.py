"""/etc/nginx of a node that somebody set up by hand, and what the deploy says of it."""

import contextlib
import io
from pathlib import Path

from facts import nginx_syntax
from facts.nginx import ROOT, NginxFile, NginxFiles
from group_data import frontends
from operations.services.nginx import nginx_config
from operations.services.nginx_strangers import verdict

DATA = {**vars(frontends), "address": "192.168.86.20", "lan_prefix_length": 24}

CONFIG = nginx_config("bookworm", "CN00", DATA)

KOME_CACHE = """
limit_req_zone $binary_remote_addr zone=api_limit:10m rate=10r/s;
proxy_cache_path /var/cache/nginx/kome keys_zone=kome:10m;
upstream kome { server 192.168.86.25:8000; }
server {
    listen 80 default_server;
    server_name _;
    location / { limit_req zone=api_limit; proxy_pass http://kome; }
}
"""

NGINX_CONF = """events {} include modules-enabled/*.conf;
http {
  include conf.d/*.conf;
  include /etc/nginx/sites-enabled/*;
}
"""


class Etc:
    """/etc/nginx of a node that was set up by hand, below a folder of the test's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("conf.d", "sites-enabled", "sites-available", "modules-enabled"):
            (root / folder).mkdir(parents=True)
        self.put("nginx.conf", NGINX_CONF)

    def put(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text.replace(ROOT, str(self.root)))

    def files(self) -> tuple[NginxFile, ...]:
        """What the node's program finds; it runs here."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            nginx_syntax.main(str(self.root))
        return NginxFiles().read(said.getvalue().replace(str(self.root), ROOT).splitlines())

    def verdict(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        judged = verdict(self.files(), CONFIG, DATA)
        assert not judged.refused
        return judged.removed, judged.aside


def refusals(etc: Etc, **data: object) -> str:
    changed = DATA | data
    judged = verdict(etc.files(), nginx_config("bookworm", "CN00", changed), changed)
    return "\n".join(judged.refused)


LOST = """load_module modules/ngx_stream_module.so;
events {}
http {
    include conf.d/*.conf;
    include /etc/nginx/vhosts/*.conf;
    include
        "/etc/nginx/extra/*.conf";
    # include /etc/nginx/commented/*.conf;
    include /etc/nginx/none/*.conf;
    include mime.types;
}
stream {
    include /etc/nginx/stream.d/*.conf;
    server { listen 1884; proxy_pass 10.0.0.9:1884; }
}
mail { server { listen 25; } }
rtmp { server { listen 1935; } }
"""
