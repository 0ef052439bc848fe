"""What cloud-init is told, and what its own files list."""

import json

import pytest
import yaml

from facts.identity import IdentityState, parse
from facts.overrides import CLOUD_INIT_KEYS
from operations.primitives.config_set import rendered
from operations.services.cloud_init import cloud_init, later

# Debian 12's, shortened.
MODULES = (
    "seed_random",
    ["ssh", "always"],
    "set_hostname",
    ["update_hostname"],
    "update-etc-hosts",
    "users-groups",
)


def said(modules: tuple[object, ...] | None) -> dict[str, object]:
    config = cloud_init(modules)
    content = rendered(config, {})[config.paths[0]]
    assert content is not None
    loaded: dict[str, object] = yaml.safe_load(content)
    return loaded


def test_what_would_rename_the_node_does_not_run() -> None:
    assert said(MODULES) == {
        "preserve_hostname": True,
        "cloud_init_modules": ["seed_random", ["ssh", "always"], "users-groups"],
    }


def test_what_ours_says_is_what_others_are_looked_through_for() -> None:
    assert tuple(said(MODULES)) == CLOUD_INIT_KEYS


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("zzz.cfg", "\npreserve_hostname: false", 2),
        ("zzz.cfg", '{"preserve_hostname": false}', 1),
        ("zzz.cfg", "'preserve_hostname' : no", 1),
        ("zzz.cfg", "cloud_init_modules:", 1),
        ("zzz.cfg", "preserve_hostname: true", None),
        ("zzz.cfg", "preserve_hostname: Yes # so", None),
        ("zzz.cfg", "# preserve_hostname: false", None),
        ("zzz.cfg", "a_preserve_hostname: false", None),
        ("99_raspberry-pi.cfg", "preserve_hostname: false", None),
        ("zz-okome.cfg", "preserve_hostname: false", None),
    ],
)
def test_a_file_that_cloud_init_reads_later_is_named(name: str, text: str, line: int | None) -> None:
    path = f"/etc/cloud/cloud.cfg.d/{name}"
    found = later({path: text, "/etc/zzz.cfg": text}, IdentityState("x", "x", "", MODULES))
    assert [one.partition(" ")[0] for one in found] == ([f"{path}:{line}"] if line else [])


@pytest.mark.parametrize("modules", [("ssh",), (), None])
def test_a_later_list_without_those_that_rename_the_node_does_no_harm(
    modules: tuple[object, ...] | None,
) -> None:
    found = {"/etc/cloud/cloud.cfg.d/zzz.cfg": "cloud_init_modules: [ssh]\n"}
    assert later(found, IdentityState("x", "x", "", modules)) == []


def test_a_list_that_is_not_known_is_left_alone() -> None:
    assert said(None) == {"preserve_hostname": True}
    assert said(()) == {"preserve_hostname": True}


def test_identity() -> None:
    lines = ["=pi", "=cn01", "=MTI3LjAuMS4xIHBp"]
    assert parse(lines).hosts == "127.0.1.1 pi"
    assert (parse(lines).cloud_init, parse([*lines, "=null"]).cloud_init) == (None, None)
    assert parse([*lines, "=" + json.dumps(["a", ["b", 1]])]).cloud_init == ("a", ["b", 1])
