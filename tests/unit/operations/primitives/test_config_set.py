"""What a set is made of, and when it is not on the node."""

import ast
import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from pyinfra.api import OperationError

from facts.files import FilesState, FileState
from operations.primitives.config_set import (
    ConfigFile,
    ConfigSet,
    differing,
    digest,
    render,
    rendered,
    transaction,
)

CONTENT = b"old\n"
FILE = ConfigFile("/etc/a.conf", mode="0644")
SET = ConfigSet(files=(FILE, ConfigFile("/etc/leftover.conf", absent=True)))
CONTENTS = {"/etc/a.conf": CONTENT, "/etc/leftover.conf": None}
RIGHT = FileState("f", "644", "root", "root", hashlib.sha256(CONTENT).hexdigest())


def templates(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_path_is_the_template(tmp_path: Path) -> None:
    where = templates(tmp_path, {"etc/a.conf.j2": "a {{ x }}\n", "etc/b.conf": "b {{ x }}\n"})
    assert render(ConfigFile("/etc/a.conf"), {"x": 1}, where) == b"a 1\n"
    assert render(ConfigFile("/etc/b.conf"), {"x": 1}, where) == b"b {{ x }}\n"
    assert render(ConfigFile("/etc/c.conf", template="etc/a.conf.j2"), {"x": 2}, where) == b"a 2\n"


def test_blocks_leave_no_empty_lines_and_the_last_newline_stays(tmp_path: Path) -> None:
    where = templates(
        tmp_path, {"a.j2": "{% for x in [1, 2] %}\n  {% if x %}\n{{ x }}\n  {% endif %}\n{% endfor %}\n"}
    )
    assert render(ConfigFile("/a"), {}, where) == b"1\n2\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{{ nothing }}", "template a.j2: 'nothing' is undefined"),
        ("{% if %}", "template a.j2: Expected an expression, got 'end of statement block'"),
    ],
)
def test_a_template_that_can_not_be_rendered_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(OperationError) as error:
        render(ConfigFile("/a"), {}, templates(tmp_path, {"a.j2": text}))
    assert str(error.value) == sentence


def test_a_file_without_a_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperationError, match=r"^/etc/x has no template etc/x in "):
        render(ConfigFile("/etc/x"), {}, tmp_path)


def test_values_win_over_the_hosts_data(tmp_path: Path) -> None:
    where = templates(tmp_path, {"a.j2": "{{ x }} {{ y }}"})
    config = ConfigSet(files=(ConfigFile("/a"), ConfigFile("/b", absent=True)), values={"x": "value"})
    assert rendered(config, {"x": "data", "y": "data"}, where) == {"/a": b"value data", "/b": None}


@pytest.mark.parametrize("path", ["etc/x", "/etc/../x", "/etc/x y", "/etc/x\n", "/", "/etc/x/", "/etc/$(x)"])
def test_only_plain_absolute_paths(path: str) -> None:
    with pytest.raises(OperationError, match="is not an absolute path of plain characters"):
        ConfigFile(path)


@pytest.mark.parametrize("mode", ["u+x", "0o644", "64", "888", ""])
def test_only_octal_modes(mode: str) -> None:
    with pytest.raises(OperationError, match="is not octal digits"):
        ConfigFile("/etc/x", mode=mode)


def test_a_checker_must_exist() -> None:
    with pytest.raises(OperationError, match="no checker is called 'redsi'; there are "):
        ConfigSet(files=(), check="redsi")


def test_secret_values_are_in_no_repr() -> None:
    assert "hunter2" not in repr(ConfigSet(files=(FILE,), values={"password": "hunter2"}))


def test_nothing_differs() -> None:
    assert differing(SET, CONTENTS, FilesState({"/etc/a.conf": RIGHT}, pending=False)) == ()


@pytest.mark.parametrize(
    "found",
    [
        replace(RIGHT, mode="640"),
        replace(RIGHT, owner="redis"),
        replace(RIGHT, group="redis"),
        replace(RIGHT, sha256=hashlib.sha256(b"new\n").hexdigest()),
        FileState("l", "777", "root", "root"),
        FileState("d", "755", "root", "root"),
        None,
    ],
    ids=["mode", "owner", "group", "content", "symlink", "folder", "absent"],
)
def test_each_difference_counts(found: FileState | None) -> None:
    files = {"/etc/a.conf": found} if found else {}
    assert differing(SET, CONTENTS, FilesState(files, pending=False)) == (FILE,)


def test_what_a_pending_transaction_left_is_trusted_for_no_file() -> None:
    """It is undone first; a file that it had swapped in, and that looks right now, is the old one then."""
    assert differing(SET, CONTENTS, FilesState({"/etc/a.conf": RIGHT}, pending=True)) == SET.files


def test_a_leftover_counts() -> None:
    files = {"/etc/a.conf": RIGHT, "/etc/leftover.conf": RIGHT}
    assert differing(SET, CONTENTS, FilesState(files, pending=False)) == (SET.files[1],)


def test_the_digest_covers_everything_that_lands() -> None:
    again = ConfigSet(files=(replace(FILE, mode="644"), SET.files[1]))
    assert digest(again, CONTENTS) == digest(SET, CONTENTS)
    assert digest(ConfigSet(files=(FILE,)), CONTENTS) == digest(
        SET, CONTENTS
    )  # what is absent puts nothing there
    others = [replace(FILE, mode="640"), replace(FILE, owner="redis"), replace(FILE, group="redis")]
    digests = {digest(ConfigSet(files=(file, SET.files[1])), CONTENTS) for file in (FILE, *others)}
    digests.add(digest(SET, {**CONTENTS, "/etc/a.conf": b"new\n"}))
    digests.add(digest(SET, {**CONTENTS, "/etc/leftover.conf": b""}))
    assert len(digests) == 6


def test_the_request_carries_what_differs_and_names_the_whole_set_to_the_checker() -> None:
    config = ConfigSet(files=SET.files, check="systemd")
    text = transaction(config, CONTENTS, (FILE,))
    call = text.rstrip().splitlines()[-1]
    request = json.loads(ast.literal_eval(call.removeprefix("sys.exit(main(").removesuffix("))")))
    assert request["paths"] == ["/etc/a.conf", "/etc/leftover.conf"]
    assert [file["path"] for file in request["files"]] == ["/etc/a.conf"]
    assert base64.b64decode(request["files"][0]["content"]) == CONTENT


def test_what_is_removed_may_be_called_as_its_author_liked() -> None:
    backup = "/etc/nginx/conf.d/kome-cache (1).conf~"
    assert ConfigFile(backup, absent=True).path == backup
    with pytest.raises(OperationError, match="not an absolute path"):
        ConfigFile(backup)
    with pytest.raises(OperationError, match="not an absolute path"):
        ConfigFile("kome-cache.conf", absent=True)
