"""What the frontends share: nginx, its cache, the probe. Every tunable is here, with its unit."""

from typing import Annotated

from group_data.valid import Endpoint, Form, Megabytes, Name, Prefix, Range, Seconds

# ADDRESS:PORT of the one upstream; all traffic goes through it.
orchestrator: Endpoint = "192.168.86.25:8000"
# What clients may call the node besides its address and its own name; another Host gets no answer at all.
server_names: list[Name] = []

# -- the request path
# One model call may think for ten minutes before its next byte: read, send and drain times follow from this.
stream_timeout_s: Seconds = 600
# How long old workers (after a reload) and the whole service (when it is stopped) may take to drain.
drain_timeout_s: Seconds = 630
connect_timeout_s: Seconds = 2
# Idle connections kept to the orchestrator, per worker.
upstream_keepalive: Annotated[int, Range(1, 10_000, "connections")] = 64
# Below the orchestrator's own (uvicorn: 5 s): a POST on a connection that was just closed becomes a 502.
upstream_keepalive_timeout_s: Seconds = 4
# A failed GET is tried once more, but not after the client has waited this long already.
next_upstream_timeout_s: Seconds = 30
# An asset is a file: an origin that says nothing for this long hangs.
asset_timeout_s: Seconds = 8
# One client asks for an asset that is not there yet, the others wait for its answer, but no longer than this: nginx
# looks every 500 ms, lets one more pass, and does not learn that an answer can't be kept.
asset_wait_s: Seconds = 1
# An origin's status line and headers may be this long.
answer_head_kb: Annotated[int, Range(4, 60, "kB")] = 32
# On loopback: where nginx, on its way to the origin, reads what its cache does not.
fetch_port: Annotated[int, Range(1024, 65_535)] = 8010
max_body_mb: Megabytes = 100  # documents and images that are sent to a model
api_rate_per_s: Annotated[int, Range(1, 100_000, "requests per second")] = 50  # per client address
# Requests above the rate that are still let through at once.
api_burst: Annotated[int, Range(1, 100_000, "requests")] = 100
# Per worker; each stream takes two.
worker_connections: Annotated[int, Range(64, 1_000_000, "connections")] = 4096

# -- the cache
# By prefix, never by file extension: /api/me/x.css must not become an asset because of its name.
static_prefixes: list[Prefix] = ["/assets/"]
cache_keys_mb: Megabytes = 32  # shared memory for keys, about 8000 per MB
cache_max_mb: Megabytes = 2048
cache_min_free_mb: Megabytes = 1024  # the SD card keeps this much free, whatever cache_max_mb says
# nginx looks after that every 10 s. What comes in faster, or from others, must not fill the card: an answer that
# can't be written is cut short. Below this nothing more is stored.
cache_stop_mb: Megabytes = 128
# Nginx's default of 10 minutes would evict what an outage needs.
cache_inactive: Annotated[str, Form(r"[1-9]\d*[smhdwMy]", "a time such as 7d")] = "7d"
# Freshness of an answer that states none. It is stored, so that it can bridge an outage, and asked for again
# almost at once: anything longer would be a guess (RFC 9111, 4.2.2).
unstated_freshness_s: Seconds = 1

# -- TLS
# The path of a certificate chain on the node, NAME.pem, turns TLS on; its key is NAME.key beside it. After a
# renewal: the deploy, which sees that it is another one, or `systemctl reload nginx`.
# Empty: plain HTTP, which is the LAN's default.
tls_certificate: Annotated[
    str, Form(r"(/[A-Za-z0-9@_+.-]+)+\.pem|", "an absolute path that ends in .pem, or empty")
] = ""

# -- failover
# An orchestrator that hangs is known to be down fall × (timeout + 1.1 × interval) after its last answer at the
# latest: 0.82 s, of the second that clients may wait for it. It may stop answering for fall × timeout +
# (fall - 1) × interval, 0.7 s, before it is taken for down, and answer every time as late as the timeout: an
# event loop that is busy for 200 ms, or one packet that is lost, is no outage.
# Between the end of one probe and the start of the next, ± 10 %.
probe_interval_s: Annotated[float, Range(0.01, 60, "s")] = 0.1
probe_timeout_s: Annotated[float, Range(0.01, 60, "s")] = 0.3  # for a whole probe: connect, send, read
probe_fall: Annotated[int, Range(1, 100, "failures")] = 2  # failures in a row until the upstream is down
probe_rise: Annotated[int, Range(1, 100, "successes")] = 2  # successes in a row until it is up again
retry_after_s: Seconds = 5  # what the maintenance answer tells clients

# -- observability
# Who may read the status location besides loopback is the LAN (all.py). The exporter is on loopback until
# somebody on the LAN scrapes it: then give the node's address here.
nginx_exporter_listen: Endpoint = "127.0.0.1:9113"
hit_ratio_interval_s: Seconds = 60
