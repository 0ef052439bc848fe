"""`make lint`: the rendered nginx configuration, judged by the nginx of both suites and by gixy."""

import subprocess
import sys
from pathlib import Path

from tests.nginx.box import SUITES, Box, why_not

# missing_resolver: the variable in proxy_pass holds the name of an upstream group, there is nothing to resolve.
# hsts_header: TLS is a switch here; a browser that remembered it would lock its user out once it is off again.
NOT_FOR_US = "missing_resolver,hsts_header"


def complaints(suite: str, certificate: str) -> str:
    """What the suite's nginx and gixy have to say; empty if nothing."""
    with Box(suite, tls_certificate=certificate) as box:
        if certificate:
            box.make_certificate()
        said = box.check()
        if "test is successful" not in said or "[warn]" in said:
            return said
        dump = subprocess.run(
            box.command("/usr/sbin/nginx", "-T", "-q"), capture_output=True, timeout=30, check=True
        )
    gixy = subprocess.run(
        [Path(sys.executable).with_name("gixy"), "--skips", NOT_FOR_US, "--format", "text", "-"],
        input=dump.stdout, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    output = gixy.stdout.decode()
    return output if gixy.returncode or "Problem" in output else ""


def main() -> int:
    if reason := why_not():
        print(f"lint: left out nginx -t and gixy: it {reason}")
        return 0
    failed = False
    for suite in SUITES:
        for certificate in ("", "/etc/ssl/okome/cn00.pem"):
            if said := complaints(suite, certificate):
                print(f"nginx of {suite}, TLS {'on' if certificate else 'off'}:\n{said}", file=sys.stderr)
                failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
