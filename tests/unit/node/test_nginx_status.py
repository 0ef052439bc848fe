"""What nginx's status says of a restart, and of whether it is ours."""

import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from node.nginx_status import open_requests, proof
from operations.services import nginx

STATUS = "Active connections: 3 \\nserver accepts handled requests\\n 9 9 9 \\nReading: 0 Writing: %d Waiting: 2 \\n"


class Server(BaseHTTPRequestHandler):
    """Says at /CODE/N that N requests are being answered."""

    def do_GET(self) -> None:
        _, code, number = self.path.split("/")
        body = (STATUS % int(number) if number else "Welcome").encode()
        self.send_response(int(code))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def nobody() -> Iterator[str]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/200/1", ""),  # the question itself
        ("/200/3", "open requests: 2"),
        ("/200/", "unknown"),
        ("/404/", "unknown"),
        ("/503/1", "unknown"),
        ("/302/1", "unknown"),
    ],
)
def test_a_restart_waits_for_what_is_open_or_unknown(server: str, path: str, said: str) -> None:
    answer = open_requests(server + path)
    assert answer == said if said != "unknown" else answer.startswith("open requests: unknown"), answer


def test_where_nobody_listens_a_restart_harms_nobody(nobody: str) -> None:
    assert open_requests(nobody) == ""


def test_who_says_nothing_is_not_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.nginx_status.TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert open_requests(url).startswith("open requests: unknown")
        assert proof([url]).startswith(url)


def test_the_proof_names_who_does_not_answer_as_ours(server: str, nobody: str) -> None:
    assert proof([f"{server}/200/1", f"{server}/200/7"]) == ""
    assert proof([f"{server}/200/1", f"{server}/404/"]) == f"{server}/404/ says 404"
    assert proof([f"{server}/200/", nobody]) == f"{server}/200/ is not our status location"
    assert nobody in proof([nobody])


def test_the_deploy_asks_where_the_lan_and_the_node_itself_do() -> None:
    asked = nginx.proof("192.0.2.1", tls=True)
    for url in (
        "http://192.0.2.1/okome/status",
        "http://127.0.0.1/okome/status",
        "https://192.0.2.1/okome/status",
    ):
        assert url in asked
    assert "https://192" not in nginx.proof("192.0.2.1", tls=False)
    said = subprocess.run(["sh", "-n", "-c", asked], capture_output=True, check=True, timeout=30)
    assert not said.stderr
