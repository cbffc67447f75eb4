"""Proxies of the environment: none on the way to this machine; another server's refusal names the proxy in between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from requests.utils import get_environ_proxies

from vgg_dist.proxies import bypass_proxies, describe_proxy
from vgg_dist.tracking import TrackingError, check_store

VARIABLES = [name for lower in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (lower, lower.upper())]


class Refuses(BaseHTTPRequestHandler):
    """A proxy, or a server, that allows nothing."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(403, "not allowed here")

    do_POST = do_CONNECT = do_GET

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def refuses() -> Iterator[tuple[str, list[str]]]:
    """Its address, and what it was asked for."""
    handler = type("Handler", (Refuses,), {"asked": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", handler.asked
        server.shutdown()
        thread.join()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without the machine's own proxies."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that what a test adds is taken away again
    return monkeypatch


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_requests_to_this_machine_go_past_the_proxy(
    variable: str, refuses: tuple[str, list[str]], environment: pytest.MonkeyPatch
) -> None:
    proxy, asked = refuses
    environment.setenv(variable, f"http://{proxy}")
    with pytest.raises(TrackingError, match=r"^--tracking-uri http://127\.0\.0\.1:9: \[Errno 111\] Connection refused$"):
        check_store("http://127.0.0.1:9")
    assert asked == []
    for url in ("http://localhost:5000", "http://127.0.0.1:8265", "http://[::1]:5000"):
        assert describe_proxy(url) == ""
    bypass_proxies("10.1.2.3", "[fd00::1]", "head.cluster")
    for url in ("http://10.1.2.3:8265", "http://head.cluster:8265"):
        assert get_environ_proxies(url) == {}
    assert get_environ_proxies("http://10.1.2.4:8265")


def test_what_a_proxy_refuses_is_told_with_its_name_and_without_its_password(
    refuses: tuple[str, list[str]], environment: pytest.MonkeyPatch
) -> None:
    proxy, asked = refuses
    for name in ("http_proxy", "https_proxy"):
        environment.setenv(name, f"http://me:hUsH@{proxy}")
    for url in ("http://mlflow.example:5000", "https://mlflow.example"):
        with pytest.raises(TrackingError) as caught:
            check_store(url)
        assert str(caught.value).startswith(f"--tracking-uri {url}: ")
        assert str(caught.value).endswith(f" (through the proxy http://***@{proxy}; no_proxy=mlflow.example bypasses it)")
        assert "hUsH" not in str(caught.value)
    assert any("mlflow.example" in path for path in asked)
    environment.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"through the proxy http://127\.0\.0\.1:9; no_proxy=mlflow\.example"):
        check_store("http://mlflow.example:5000")


def test_what_the_user_says_of_proxies_stays(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("no_proxy", "a.example, .b.example")
    environment.setenv("NO_PROXY", "c.example")
    for _ in range(2):
        bypass_proxies("10.1.2.3")
    for name in ("no_proxy", "NO_PROXY"):
        assert os.environ[name].split(",") == [
            "a.example", ".b.example", "c.example", "localhost", "127.0.0.1", "::1", "10.1.2.3",
        ]  # fmt: skip
    environment.setenv("no_proxy", "*")
    bypass_proxies()
    assert os.environ["no_proxy"] == "*"
    assert describe_proxy("http://mlflow.example") == ""
