"""Commands when a variable sends them to the wrong Hub, proxy or certificates."""

import json
import shutil
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta.errors import UsageError
from hf_lorameta.network import check_endpoint
from tests.conftest import Account, Built, Shell, rows
from tests.hub.conftest import serving
from tests.support.fault_hub import FaultHub

NO_BYPASS: dict[str, Any] = {"NO_PROXY": "", "no_proxy": ""}
READ_CERTIFICATES = "httpcore2.default_ssl_context.cache_clear()"
"""Code to run before a command: certificates are read again, which the shell reads once."""


NO_WAITS = "import time; time.sleep = lambda seconds: None\n"
"""Code to run before a command: it waits for nothing before it asks again."""
RUN = """
import json, sys
from hf_lorameta.cli import main
for command in json.loads(sys.argv[1]):
    try:
        main(command)
    except SystemExit as end:
        if end.code:
            raise
"""


def run(
    cli: Shell,
    *commands: tuple[object, ...],
    token: str | None = None,
    before: str = "",
    **env: str,
) -> subprocess.CompletedProcess[str]:
    """Run commands in a new process, which reads variables that are read at import.

    Its exit code is that of the first command that fails.
    """
    words = json.dumps([[str(word) for word in command] for command in commands])
    return subprocess.run(
        [sys.executable, "-c", before + RUN, words],
        env=cli.env(token) | env,
        cwd=cli.cwd,
        capture_output=True,
        text=True,
        check=False,
    )


# --- the address of the Hub ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("http://127.0.0.1:99999", "its port is not a number up to 65535"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("hub.example", "it does not begin with http:// or https://"),
        ("http://", "it names no host"),
    ],
)
def test_an_endpoint_that_is_none_is_named(
    address: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(UsageError) as caught:
        check_endpoint()
    assert problem in str(caught.value)


def test_a_command_checks_the_endpoint_before_the_client_is_imported(cli: Shell) -> None:
    done = run(cli, ("--help",), ("bank", "list"), HF_ENDPOINT="http://[::1")
    assert "Usage:" in done.stdout
    assert done.returncode == 2
    assert "Invalid IPv6 URL" in done.stderr


def test_an_empty_endpoint_is_as_good_as_none(cli: Shell, bank: Built) -> None:
    (cli.cwd / "rows.jsonl").write_bytes(rows(1))
    plan = ("plan", "-d", "rows.jsonl", "--bank", bank.folder, "-q")
    assert run(cli, plan, HF_ENDPOINT="").returncode == 0


class Forward(socketserver.BaseRequestHandler):
    """Forwards a connection to 127.0.0.1, on the same port."""

    def handle(self) -> None:
        port: int = self.request.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as there:
            threads = [
                threading.Thread(target=self.copy, args=pair, daemon=True)
                for pair in ((self.request, there), (there, self.request))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    @staticmethod
    def copy(source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Server6(socketserver.ThreadingTCPServer):
    """A server on an IPv6 address."""

    address_family = socket.AF_INET6
    daemon_threads = True
    block_on_close = False


def test_a_hub_on_an_ipv6_address_is_read_and_written(
    cli: Shell, user: Account, bank: Built
) -> None:
    """It states another address for itself, as a Hub behind a proxy does."""
    port = int(cli.hub.url.rpartition(":")[2])
    try:
        server = Server6(("::1", port), Forward)
    except OSError:
        pytest.skip("needs IPv6")
    dataset, target = user.dataset("d", {"train.jsonl": rows(1)}), f"{user.name}/a"
    named = ("--repo-id", target, "--private", "-q")
    push = ("push", "-d", dataset, "--bank", bank.folder, *named)
    with serving(server):
        here = {"HF_ENDPOINT": f"http://[::1]:{port}", "NO_PROXY": "::1,localhost"}
        pull = (*push, "--rank", "2", "--create-pr", "--overwrite")
        done = run(cli, push, pull, token=user.token, **here)
        pushed, pulled = done.stdout.splitlines()
        assert pushed == f"http://[::1]:{port}/{target}", done.stderr
        assert pulled.endswith("/discussions/1"), done.stderr
    assert len(cli.hub.commits(target)) == 2  # the first is that of the new repo


# --- proxies ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("foo:bar", "is not the address of a proxy: its port is not a number up to 65535"),
        ("ftp://127.0.0.1:9", "is not the address of a proxy: it does not begin with http://"),
        ("http://user:secret@127.0.0.1:x", "is not the address of a proxy: its port is not"),
        ("socks5://127.0.0.1:9", "names a SOCKS proxy, for which socksio is not installed"),
    ],
)
@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_a_proxy_that_is_none_is_named(
    cli: Shell, user: Account, variable: str, address: str, problem: str
) -> None:
    no_socks = "import importlib.util as u; find = u.find_spec; "
    no_socks += "u.find_spec = lambda name, *a: None if name == 'socksio' else find(name, *a)"
    set_to = NO_BYPASS | {variable: address}
    done = cli("plan", "-d", f"{user.name}/d", code=6, before=no_socks, **set_to)
    assert f"Error: {variable} {problem}" in done.err
    assert "secret" not in done.err


def test_a_proxy_that_does_not_answer_is_named(cli: Shell, user: Account) -> None:
    done = cli("plan", "-d", f"{user.name}/d", code=6, HTTP_PROXY="http://127.0.0.1:9", **NO_BYPASS)
    assert "add 127.0.0.1 to NO_PROXY" in done.err


def test_uploads_obey_the_same_variables_as_reads(tmp_path: Path, cli: Shell, bank: Built) -> None:
    """The storage of files is on another host, which the message names."""
    with FaultHub(always_lfs=True) as hub:
        token, home = hub.add_user("alice"), tmp_path / "home"
        (tmp_path / "rows.jsonl").write_bytes(rows(1))
        cli("generate", "-d", "rows.jsonl", "--bank", bank.folder, "-o", "adapter")
        push = ("push", "--from", "adapter", "--repo-id", "alice/a", "-q")
        env = hub.env(token, home=home) | {"HTTP_PROXY": "http://127.0.0.1:9"}
        env |= {"HF_HUB_DISABLE_XET": "1"}
        bypass = dict.fromkeys(NO_BYPASS, "127.0.0.1")
        done = run(cli, push, before=NO_WAITS, **env | bypass)
        assert done.returncode == 6
        storage = hub.url.replace("127.0.0.1", "localhost")
        assert f"no answer from {storage} to PUT /_lfs/" in done.stderr
        assert "add localhost to NO_PROXY" in done.stderr
        bypass = dict.fromkeys(NO_BYPASS, "127.0.0.1,localhost")
        done = run(cli, (*push, "--overwrite"), **env | bypass)
        assert done.returncode == 0, done.stderr


# --- certificates -------------------------------------------------------------------------------


def test_certificates_that_cannot_be_read_are_named(
    cli: Shell, user: Account, tmp_path: Path
) -> None:
    (tmp_path / "none.pem").write_text("no certificate")
    for path in ("/nope", str(tmp_path / "none.pem")):
        plan = ("plan", "-d", f"{user.name}/d")
        said = cli(*plan, code=6, before=READ_CERTIFICATES, SSL_CERT_FILE=path).err
        assert f"cannot be read: {path}" in said


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, beside its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    path = tmp_path / "certificate.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    words += ["-days", "2", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(path)]
    subprocess.run([openssl, *words, *files], check=True, capture_output=True)
    return path


def test_a_certificate_that_is_not_trusted_is_named(cli: Shell, certificate: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    hub = f"https://127.0.0.1:{server.server_port}"
    plan = ("plan", "-d", "alice/d")
    with serving(server):
        done = run(cli, plan, HF_ENDPOINT=hub)
        assert done.returncode == 6
        assert f"the certificate of {hub} is not trusted (self-signed certificate)" in done.stderr
        assert "SSL_CERT_FILE" in done.stderr
        assert "attempt" not in done.stderr  # the next one would not be trusted either
        trusted = run(cli, plan, HF_ENDPOINT=hub, SSL_CERT_FILE=str(certificate))
        assert "was not found" in trusted.stderr
