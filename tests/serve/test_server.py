"""The server as a process: signals, ports, clients that leave, and more of them than fit."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from serving import Running, started

LONG = {"prompt": "a", "max_tokens": 120, "ignore_eos": True, "temperature": 1.0}


@pytest.fixture
def server(tiny_model_dir: Path) -> Iterator[Running]:
    with started(f"tiny={tiny_model_dir}", "--slots", "2", "--queue", "2") as server:
        yield server


def gauge(server: Running, name: str) -> float:
    text = httpx.get(f"{server.address}/metrics").text
    found = [line for line in text.splitlines() if line.startswith(f'{name}{{model="tiny"}}')]
    return float(found[0].split()[-1]) if found else 0.0


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def stream(server: Running, body: dict[str, Any]) -> Any:
    return httpx.stream("POST", f"{server.address}/v1/completions", json=body, timeout=60)


def test_a_client_that_leaves_frees_its_place(server: Running) -> None:
    for streaming in (True, False):
        body = LONG | {"n": 128, "stream": streaming}
        with socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2]))) as s:
            sent = json.dumps(body).encode()
            s.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(sent) + sent
            )
            until(lambda: gauge(server, "laplm_samples") > 0)
        until(lambda: gauge(server, "laplm_samples") == 0)
        assert gauge(server, "laplm_queue") == 0
    answer = httpx.post(f"{server.address}/v1/completions", json={"prompt": "a"}, timeout=60)
    assert answer.status_code == 200


def test_a_connection_whose_request_does_not_come_is_closed(tiny_model_dir: Path) -> None:
    soon = "from laplm.serve import server\nserver._HEADERS_SECONDS = 1.0"
    with started(f"tiny={tiny_model_dir}", before=soon) as server:
        _close_what_says_nothing(server)


def _close_what_says_nothing(server: Running) -> None:
    port = int(server.address.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port)) as silent,
        socket.create_connection(("127.0.0.1", port)) as dripping,
    ):
        dripping.sendall(b"GET /healthz HTTP/1.1\r\n")
        closed = False
        for i in range(300):
            time.sleep(0.2)
            try:
                dripping.sendall(b"X-%d: 1\r\n" % i)
            except OSError:
                closed = True
                break
        assert closed
        silent.settimeout(60)
        assert silent.recv(1) == b""
    assert httpx.get(f"{server.address}/healthz").status_code == 200


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_what_is_no_http_is_answered_in_words(server: Running, used: bool) -> None:
    port = int(server.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
        if used:
            s.sendall(b"GET /healthz HTTP/1.1\r\nHost: loc")
            time.sleep(0.1)  # networks cut where they like
            s.sendall(b"alhost\r\n\r\n")
            first = s.recv(4096)
            while not first.endswith(b"}"):
                first += s.recv(4096)
            assert first.startswith(b"HTTP/1.1 200")
        s.sendall(b"\x16\x03\x01 what a TLS client says\r\n\r\n")
        answer = b"".join(iter(lambda: s.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400") and b"not to https://" in answer


def test_more_requests_than_can_wait_are_told_to_come_again(server: Running) -> None:
    answers: list[httpx.Response] = []

    def ask() -> None:
        body = LONG | {"n": 40}
        answers.append(httpx.post(f"{server.address}/v1/completions", json=body, timeout=120))

    askers = [threading.Thread(target=ask) for _ in range(12)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    assert refused[0].json()["error"]["type"] == "rate_limit_error"
    assert [a.status_code for a in answers if a not in refused] == [200] * (12 - len(refused))


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_a_signal_lets_streams_finish_and_ends_the_process(server: Running) -> None:
    with stream(server, LONG | {"stream": True, "n": 8}) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        server.process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert server.process.wait(60) in (0, -signal.SIGTERM)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_a_stream_that_takes_too_long_is_ended_with_an_error(tiny_model_dir: Path) -> None:
    with (
        started(f"tiny={tiny_model_dir}", "--slots", "1", "--grace", "0") as server,
        stream(server, LONG | {"stream": True, "n": 128}) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
        assert "stopping" in json.loads(rest[-1].removeprefix("data: "))["error"]["message"]


def test_a_port_that_is_taken_is_said_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "laplm", "serve", "pocket", "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode != 0
    assert f"port {port} is taken" in ended.stderr
    assert f"--port {port + 1}" in ended.stderr
    if sys.platform == "linux":
        assert f"(process {os.getpid()})" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_kernels_are_there_before_the_address_is_told(tmp_path: Path) -> None:
    with started("pocket", "--runs", str(tmp_path / "runs"), LAPLM_HOME=str(tmp_path)) as server:
        assert len(list((tmp_path / "kernels").glob("*.o"))) == 1
        assert not list(tmp_path.glob("prepared/*"))  # a model is loaded when it is first used
        body = {"prompt": "Once", "max_tokens": 2}
        answer = httpx.post(f"{server.address}/v1/completions", json=body, timeout=60)
        assert answer.status_code == 200
        assert len(list((tmp_path / "kernels").glob("*.o"))) == 1


def test_an_idle_server_sleeps() -> None:
    """No thread of it spins, and none looks again and again whether there is something to do.

    The built-in model is large enough that a pass is shared among threads.
    """
    with started("pocket", "--threads", "2") as server:
        body = {"prompt": "Once", "max_tokens": 4}
        answer = httpx.post(f"{server.address}/v1/completions", json=body, timeout=60)
        assert answer.status_code == 200
        assert not {"server", "date"} & answer.headers.keys()  # what runs here is nobody's business
        process = psutil.Process(server.process.pid)

        def seconds() -> float:
            all_of_it = [process, *process.children(recursive=True)]
            return sum(sum(one.cpu_times()[:2]) for one in all_of_it)

        def wakings() -> int:  # of all threads, which Linux alone tells
            found = Path(f"/proc/{process.pid}/task").glob("*/status")
            lines = [line for file in found for line in file.read_text().splitlines()]
            return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary"))

        seen = []
        for _ in range(5):  # what follows the request comes late on a busy machine
            time.sleep(1)
            before = seconds(), wakings()
            time.sleep(2)
            seen.append((seconds() - before[0], wakings() - before[1]))
            if seen[-1][0] <= 0.02 and seen[-1][1] <= 4:
                return
        pytest.fail(f"seconds of CPU time and wakings in 2 seconds each: {seen}")


def test_many_clients_that_come_and_go_leave_nothing_behind(tiny_model_dir: Path) -> None:
    body = {"prompt": "The capital", "max_tokens": 24, "seed": 9, "ignore_eos": True}
    with started(f"tiny={tiny_model_dir}", "--slots", "8") as server:
        want = httpx.post(f"{server.address}/v1/completions", json=body, timeout=60).json()
        problems: list[str] = []

        def come_and_go(seed: int) -> None:
            draw = random.Random(seed)
            for _ in range(4):
                try:
                    if draw.random() < 0.5:
                        with stream(server, body | {"stream": True, "n": 3}) as answer:
                            for _line in zip(
                                range(draw.randrange(9)), answer.iter_lines(), strict=False
                            ):
                                pass
                        continue
                    answer = httpx.post(f"{server.address}/v1/completions", json=body, timeout=60)
                    if answer.json()["choices"] != want["choices"]:
                        problems.append(answer.text)
                except Exception as error:
                    problems.append(repr(error))

        clients = [threading.Thread(target=come_and_go, args=(i,)) for i in range(16)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert problems == []
        until(lambda: gauge(server, "laplm_samples") + gauge(server, "laplm_queue") == 0)
