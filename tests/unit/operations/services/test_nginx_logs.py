"""What of others' rules is about nginx's logs and folders; no node. What logrotate says of each was looked up."""

import pytest

from facts.overrides import Overrides
from facts.several import Question
from operations.primitives.config_set import rendered
from operations.primitives.managed import MARK
from operations.primitives.overrides import UNITS
from operations.services.nginx import FOLDERS
from operations.services.nginx_logs import logs, look, made_otherwise, rotated_twice

OURS = next(text.decode() for text in rendered(FOLDERS, {}).values() if text)
LOG = "/var/log/nginx/okome"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{LOG}/*.log {{\n}}\n", 1),
        (f'\n"{LOG}/access.log" /var/log/other.log\n{{\n}}\n', 2),
        (f"/a.log\n# /b\n{LOG}/acc[a-e]ss.log* {{ daily }}\n", 3),
        ("/var/log/*/*/*.log {\n}\n", 1),
        (f"/a.log {{\n daily }}\n{LOG}/*.log {{\n}}\n", 3),
        (f"/a.log {{\n postrotate\n  x\n }}\n endscript }}\n{LOG}/*.log {{\n}}\n", 6),
        (f"/a.log {{ daily }}\n{LOG}/*.log {{\n}}\n", 2),
        (f"daily {LOG}//access.log {{\n}}\n", 1),
        # Debian's own for nginx, and what only looks alike.
        ("/var/log/nginx/*.log {\n}\n", None),
        (f"{LOG} {{\n}}\n", None),
        (f"{LOG}/error.log {{\n}}\n", None),
        (f"# {LOG}/*.log {{\n", None),
        (f"/a.log {{\n olddir {LOG}/access.log\n}}\n", None),
        (f"/a.log {{\n daily\n olddir {LOG}/access.log\n}}\n", None),
        (f"/a.log {{\n postrotate\n  x\n endscript\n olddir {LOG}/access.log\n}}\n", None),
        (f"/a.log {{\n postrotate\n  }}\n{LOG}/access.log\n endscript\n}}\n", None),
        (f"{MARK}\n{LOG}/*.log {{\n}}\n", None),
    ],
)
def test_a_rule_for_our_log(text: str, line: int | None) -> None:
    said = rotated_twice({"/etc/logrotate.d/foo": text})
    assert [one.partition(" ")[0] for one in said] == ([f"/etc/logrotate.d/foo:{line}"] if line else [])


def test_a_rule_counts_where_logrotate_reads_it() -> None:
    rule = f"{LOG}/*.log {{\n}}\n"
    assert rotated_twice({"/etc/logrotate.conf": rule}) == [
        f"/etc/logrotate.conf:1 rotates {LOG}/*.log, our {LOG}/access.log among them, for which logrotate takes one"
        " rule only: take it out"
    ]
    for path in ("/etc/logrotate.d/foo.dpkg-old", "/etc/logrotate.d/foo~", "/etc/sysctl.d/foo"):
        assert rotated_twice({path: rule}) == []


def test_logs_of_a_file() -> None:
    assert list(logs('"/X/aX" {\n}')) == [(1, "/X/aX")]
    assert list(logs("weekly\ninclude /etc/logrotate.d\n'/a b.log' /c {\n  missingok\n}\n")) == [
        (2, "/etc/logrotate.d"),
        (3, "/a b.log"),
        (3, "/c"),
    ]


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        ("nginx.conf", "d /var/log/nginx 0700 root root -", True),
        ("nginx.conf", "d /var/log/nginx 0755 root adm -", False),
        ("zz.conf", "d /var/log/nginx 0700 root root -", False),  # ours is first
        ("zz.conf", "D! /var/cache/nginx/okome 0700 www-data root -", True),  # emptied at boot
        ("zz.conf", "R /var/cache/nginx/*", True),
        ("zz.conf", "z /var/log/nginx 0700", True),
        ("zz.conf", "R /var/cache/*", True),
        ("zz.conf", "x /var/cache/nginx/*", False),
        ("nginx.conf", "d /var/log/apache2 0700 root root -", False),
        ("nginx.conf", "# d /var/log/nginx 0700 root root -", False),
        ("nginx.conf", "d", False),
    ],
)
def test_a_line_that_is_in_effect_on_our_folders(name: str, line: str, told: bool) -> None:
    for folder in ("/etc/tmpfiles.d", "/run/tmpfiles.d"):
        said = made_otherwise({f"{folder}/{name}": f"\n{line}\n"}, OURS)
        assert [one.partition(" says ")[0] for one in said] == ([f"{folder}/{name}:2"] if told else [])
    assert made_otherwise({f"/etc/x/{name}": line, f"/etc/tmpfiles.d/{name}": f"{MARK}\n{line}"}, OURS) == []


def test_a_file_of_our_own_name_in_a_later_folder_is_not_read() -> None:
    name = FOLDERS.paths[0].rpartition("/")[2]
    assert made_otherwise({f"/run/tmpfiles.d/{name}": "d /var/log/nginx 0700 root root -\n"}, OURS) == []


def test_one_look_says_all_of_it() -> None:
    found = {
        "/etc/logrotate.d/foo": f"{LOG}/*.log {{\n}}\n",
        "/etc/tmpfiles.d/a.conf": "d /var/log/nginx 0700 root root\n",
    }
    assert look({}).questions == (Question(Overrides, {"units": UNITS}),)
    rule, line = look({}).findings(found)
    assert rule.startswith("/etc/logrotate.d/foo:1 rotates ")
    assert line == (
        "/etc/tmpfiles.d/a.conf:1 says 'd /var/log/nginx 0700 root root', which is in effect on /var/log/nginx at the"
        " next boot: take it out"
    )
