"""nginx's syntax, judged by another's parser."""

from pathlib import Path
from typing import Any

import crossplane

from facts.nginx_syntax import Directive, parse
from operations.primitives.config_set import rendered
from tests.unit.operations.services.etc_nginx import CONFIG, DATA, KOME_CACHE, LOST, NGINX_CONF


def test_it_is_read_as_crossplane_reads_it(tmp_path: Path) -> None:
    """Another's parser, on what ours renders and on what people write."""
    ours = rendered(CONFIG, DATA).items()
    texts = [text.decode() for path, text in ours if text and path.endswith(".conf")] + [
        LOST,
        KOME_CACHE,
        NGINX_CONF,
    ]
    texts.append(
        'a "b ; {" \'c # d\' e#f; # g {\nif ($x ~ "^a{2}") { return 200 "x\\"y"; }\nlog_format x \'a\'\n \'b\';'
    )

    def plain(directives: list[Directive]) -> list[object]:
        return [(one.name, *one.args, one.line, plain(one.block or [])) for one in directives]

    def theirs(directives: list[dict[str, Any]]) -> list[object]:
        return [
            (one["directive"], *one["args"], one["line"], theirs(one.get("block", []))) for one in directives
        ]

    for text in texts:
        file = tmp_path / "nginx.conf"
        file.write_text(text.replace("if (", "unless ("))  # whose parentheses crossplane takes away
        read = crossplane.parse(str(file), single=True, check_ctx=False, check_args=False)
        assert plain(parse(file.read_text())) == theirs(read["config"][0]["parsed"])


def test_lua_is_not_nginxs() -> None:
    """An apostrophe in its comments would swallow what comes after the block."""
    text = "location / {\n content_by_lua_block {\n  -- don't\n  if x then y = {} end\n }\n}\nserver {}"
    assert [(one.name, one.line) for one in parse(text)] == [("location", 1), ("server", 7)]
