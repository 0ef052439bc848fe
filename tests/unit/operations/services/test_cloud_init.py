"""What cloud-init is told, and what its own files list."""

import json

import yaml

from facts.identity import parse
from operations.primitives.config_set import rendered
from operations.services.cloud_init import cloud_init

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


def test_a_list_that_is_not_known_is_left_alone() -> None:
    assert said(None) == {"preserve_hostname": True}
    assert said(()) == {"preserve_hostname": True}


def test_identity() -> None:
    lines = ["=pi", "=cn01", "=MTI3LjAuMS4xIHBp"]
    assert parse(lines).hosts == "127.0.1.1 pi"
    assert (parse(lines).cloud_init, parse([*lines, "=null"]).cloud_init) == (None, None)
    assert parse([*lines, "=" + json.dumps(["a", ["b", 1]])]).cloud_init == ("a", ["b", 1])
