"""A URL with a password: nothing of it is ever printed, and a new one in its file is taken up."""

import asyncio
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from okome import Bytes, Cache, Status, connect, connect_cluster, connect_sentinel
from okome.planner import main
from okome.redis_url import UrlFile, checked

MALFORMED = [
    "redis://okome:s3cr/tPart@host:6379",
    "redis://okome:s3cr?tPart@host:6379",
    "redis://okome:s3cr#tPart@host:6379",
    "redis://okome:1234/s3cr@host:6379",  # a port and a path, as it seems
    "redis://okome:1234?s3cr=tPart@host:6379",
    "redis://okome:@s3cr/tPart@host:6379",
    "redis://okome:s3cr[tPart@host:6379",
    "redis://okome:[s3cr]tPart@host:6379",
    "redis://okome:s3cr\u2100tPart@host:6379",  # another letter under NFKC, which urlsplit refuses
    "redis://okome:s3cr tPart@host:6379",
    "redis://okome:s3cr\ntPart@host:6379",
    "redis://okome:s3cr\x00tPart@host:6379",
    "redis://okome:s3cr",
    "redis://host:6379/s3cr",
    "redis://okome:tPart@host:6379#s3cr",
    "unix://okome:s3cr/tPart@/run/redis.sock",
    "okome:s3cr@host:6379",
    "http://okome:s3cr@host:6379",
    "redis:okome:s3cr@host:6379",
    "s3cr",
]
CONNECTS: list[Callable[[Any], object]] = [
    connect,
    connect_cluster,
    lambda url: connect_sentinel(url, [("127.0.0.1", 26379)], "okome"),
]


def everything_of(error: BaseException) -> str:
    """Whatever anybody may print of it: itself, what led to it, its traceback."""
    said = [repr(error), *traceback.format_exception(error)]
    seen: list[BaseException | None] = [error.__cause__, error.__context__]
    said += [everything_of(other) for other in seen if other is not None]
    return "\n".join(said)


@pytest.mark.parametrize("url", MALFORMED)
@pytest.mark.parametrize("connecting", CONNECTS, ids=["connect", "cluster", "sentinel"])
def test_nothing_of_a_malformed_url_is_said(
    connecting: Callable[[Any], object], url: str, tmp_path: Path
) -> None:
    """Whether it comes as it is or in a file."""
    file = tmp_path / "url"
    file.write_text(url)
    for given in (url, file):
        with pytest.raises(ValueError, match="percent-encoded") as caught:
            connecting(given)
        said = everything_of(caught.value)
        assert not any(part in said for part in ("s3cr", "tPart", "1234")), said


@pytest.mark.parametrize("url", [url for url in MALFORMED if "\0" not in url])
def test_nor_by_the_planner(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OKOME_REDIS_URL", url)
    assert main(["--listen", "127.0.0.1:1", "--ledger", str(tmp_path / "ledger")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "percent-encoded" in said.err
    assert not any(part in said.err for part in ("s3cr", "tPart", "1234"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["redis://okome:s3cr@host"],
        ["--redis-url", "redis://okome:s3cr/t@host"],
        ["--redis-password", "s3cr"],
        ["--redis-password=s3cr"],
        ["s3cr"],
    ],
)
def test_nor_of_one_on_the_command_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main(["--ledger", str(tmp_path / "ledger"), *arguments])
    except SystemExit as exit_:  # argparse
        status = exit_.code
    assert status == 2
    said = capsys.readouterr()
    assert "--redis-url-file" in said.err  # in the usage, or in what is to be done
    assert "s3cr" not in said.out + said.err


def test_what_is_no_text_says_so_without_a_byte_of_it(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_bytes(b"redis://okome:s3cr\xfe@host")
    with pytest.raises(ValueError, match="what is in ") as caught:
        connect(file)
    said = everything_of(caught.value)
    assert "s3cr" not in said
    assert "0xfe" not in said
    with pytest.raises(FileNotFoundError):
        connect(tmp_path / "none")


@pytest.mark.parametrize("url", [None, b"redis://okome:s3cr@host", 5])
def test_what_is_no_url_at_all(url: object) -> None:
    with pytest.raises(TypeError, match="the URL of Redis is a str") as caught:
        connect(url)  # type: ignore[arg-type]  # so it is
    assert "s3cr" not in everything_of(caught.value)


def test_an_option_that_nobody_knows_is_one_at_once() -> None:
    with pytest.raises(TypeError, match="max_conections"):
        connect("redis://host?max_conections=5")


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://host",
        "redis://host:6379/",
        "redis://okome:s3cr%2FtPart%40@host:6379/1?socket_timeout=3",
        "rediss://okome:s3cr@[::1]:6379/0",
        "redis://okome:s3cr@@t@host",  # the last @ ends it
        "redis://:s3cr@host",
        "unix://okome:s3cr@/run/redis.sock",
        "unix:///run/a@b.sock",
    ],
)
def test_a_good_url_is_read_as_redis_py_reads_it(url: str, tmp_path: Path) -> None:
    """From a file, too; and who prints the client prints no password."""
    checked(url)
    file = tmp_path / "url"
    file.write_text(url + "\n")
    whole, from_file = connect(url), connect(file)
    told = [client.connection_pool.connection_kwargs for client in (whole, from_file)]
    for option in ("host", "port", "path", "db", "socket_timeout"):
        assert told[0].get(option) == told[1].get(option)
    login = (told[0].get("username"), told[0].get("password"))
    assert told[1]["credential_provider"].get_credentials() == tuple(part for part in login if part)
    for client in (whole, from_file):
        pool = client.connection_pool
        assert "s3cr" not in repr(client) + repr(pool) + repr(pool.connection_class(**pool.connection_kwargs))


@pytest.mark.anyio
async def test_a_server_that_repeats_the_password_is_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    """As Redis does with the arguments of a command that it does not know: of AUTH, where that was renamed."""

    async def knows_no_auth(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            arguments = data.decode().split("\r\n")[4::2]
            writer.write(f"-ERR unknown command 'AUTH', with args beginning with: {arguments}\r\n".encode())
        writer.close()

    async def answer() -> bytes:
        return b"answer"

    async with await asyncio.start_server(knows_no_auth, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = connect(f"redis://okome:s3crtPart@127.0.0.1:{port}", timeout=30)
        with pytest.raises(ResponseError, match="s3crtPart"):
            await client.get("okome:k")
        async with asyncio.timeout(60), Cache(client, namespace="n", codec=Bytes()) as cache:
            assert (await cache.get_or_compute("k", answer)).status is Status.DEGRADED
        await client.aclose()
    assert "Redis refuses commands: ResponseError" in caplog.text
    assert "s3crtPart" not in caplog.text


def test_a_file_that_is_just_being_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "url"
    file.write_text("redis://okome:first@host")
    login = UrlFile(file)
    assert login.get_credentials() == ("okome", "first")
    for half in ("", "redis://okome:s3cr/x@"):
        file.write_text(half)
        assert login.get_credentials() == ("okome", "first")
    file.unlink()
    assert login.get_credentials() == ("okome", "first")
    file.write_text("redis://okome:second@host\n")
    assert login.get_credentials() == ("okome", "second")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert "s3cr" not in caplog.text
