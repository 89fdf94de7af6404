from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import laplm
from laplm import audit
from laplm.audit import outside_access, run_audited

ROOT = Path(laplm.__file__).parents[1]
TCP = SimpleNamespace(family=socket.AF_INET)
TCP6 = SimpleNamespace(family=socket.AF_INET6)


def script(tmp_path: Path, code: str) -> list[str]:
    file = tmp_path / "command.py"
    file.write_text(textwrap.dedent(code))
    return [sys.executable, str(file)]


@pytest.fixture
def no_namespace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run the supervisor as on a system that refuses namespaces."""
    copy = tmp_path / "audit.py"
    source = Path(audit.__file__).read_text(encoding="utf-8")
    refusing = source.replace("libc.unshare(", "(lambda _: ctypes.set_errno(1) or -1)(")
    assert refusing != source
    copy.write_text(refusing)
    monkeypatch.setattr(audit, "__file__", str(copy))


# --- what counts as outside -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "args"),
    [
        ("socket.connect", (TCP, ("127.0.0.1", 80))),
        ("socket.connect", (TCP, ("127.1.2.3", 80))),
        ("socket.connect", (TCP, ("localhost", 80))),
        ("socket.connect", (TCP, ("0.0.0.0", 80))),
        ("socket.connect", (TCP6, ("::1", 80, 0, 0))),
        ("socket.connect", (TCP6, ("::ffff:127.0.0.1", 80, 0, 0))),
        ("socket.connect", (SimpleNamespace(family=socket.AF_UNIX), "/run/some.sock")),
        ("socket.sendto", (TCP, ("127.0.0.1", 53))),
        ("socket.sendmsg", (TCP, None)),
        ("socket.bind", (TCP, ("127.0.0.1", 0))),
        ("socket.bind", (TCP6, ("::1", 0))),
        ("socket.getaddrinfo", ("localhost", 80, 0, 0, 0)),
        ("socket.getaddrinfo", (None, 80, 0, 0, 0)),
        ("socket.getaddrinfo", (b"127.0.0.1", 80, 0, 0, 0)),
        ("socket.getaddrinfo", ("93.184.216.34", 80, 0, 0, 0)),
        ("socket.getaddrinfo", (os.uname().nodename, 80, 0, 0, 0)),
        ("socket.gethostbyaddr", ("127.0.0.1",)),
        ("socket.getnameinfo", (("127.0.0.1", 80),)),
        ("open", ("/etc/hosts", "r", 0)),
    ],
)
def test_what_stays_on_this_machine_is_let_through(event: str, args: tuple[object, ...]) -> None:
    assert outside_access(event, args) is None


@pytest.mark.parametrize(
    ("event", "args", "words"),
    [
        ("socket.connect", (TCP, ("93.184.216.34", 443)), "connect to 93.184.216.34:443"),
        ("socket.connect", (TCP, ("127.evil.example", 443)), "connect to 127.evil.example:443"),
        ("socket.connect", (TCP, ("localhost.example", 1)), "connect to localhost.example:1"),
        ("socket.connect", (TCP, ("10.0.0.1", 22)), "connect to 10.0.0.1:22"),
        ("socket.connect", (TCP6, ("2001:db8::1", 443, 0, 0)), "connect to [2001:db8::1]:443"),
        ("socket.connect", (TCP6, ("::ffff:8.8.8.8", 53, 0, 0)), "connect to [::ffff:8.8.8.8]:53"),
        ("socket.sendto", (TCP, ("8.8.8.8", 53)), "send to 8.8.8.8:53"),
        ("socket.sendmsg", (TCP, ("8.8.8.8", 53)), "send to 8.8.8.8:53"),
        ("socket.bind", (TCP, ("", 8000)), "listen on every interface, port 8000"),
        ("socket.bind", (TCP, ("0.0.0.0", 8000)), "listen on every interface, port 8000"),
        ("socket.bind", (TCP6, ("::", 8000, 0, 0)), "listen on every interface, port 8000"),
        ("socket.bind", (TCP, ("192.168.1.2", 8000)), "listen on 192.168.1.2:8000"),
        ("socket.getaddrinfo", ("example.com", 443, 0, 0, 0), "look up example.com"),
        ("socket.getaddrinfo", (b"example.com", 443, 0, 0, 0), "look up example.com"),
        ("socket.gethostbyname", ("example.com",), "look up example.com"),
        ("socket.gethostbyaddr", ("8.8.8.8",), "look up 8.8.8.8"),
        ("socket.getnameinfo", (("8.8.8.8", 53),), "look up 8.8.8.8"),
    ],
)
def test_what_leaves_this_machine_is_named(
    event: str, args: tuple[object, ...], words: str
) -> None:
    assert outside_access(event, args) == words


# --- a command under audit --------------------------------------------------------------------


def test_quiet_command_reports_nothing_and_keeps_its_exit_code_and_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = script(tmp_path, "import sys; print('text', sys.argv[1:]); sys.exit(3)")
    assert run_audited(["a b", "--x"], command) == 3
    out, err = capfd.readouterr()
    assert out == "text ['a b', '--x']\n"
    assert err.splitlines()[-1] == "0 attempts to connect outside"
    assert "audit hook" in err


TRIES = """
    import socket, sys, urllib.request

    def urlopen(): urllib.request.urlopen("http://example.com", timeout=5)
    def connect(): socket.create_connection(("192.0.2.1", 443), timeout=5)
    def connect_ex(): socket.socket().connect_ex(("192.0.2.1", 444))
    def send(): socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53))
    def listen(): socket.socket().bind(("", 0))
    def by_name(): socket.gethostbyname("example.org")
    def by_name_ex(): socket.gethostbyname_ex("example.net")
    def by_address(): socket.gethostbyaddr("192.0.2.7")
    def name_of(): socket.getnameinfo(("192.0.2.8", 53), 0)

    for attempt in (
        urlopen, connect, connect_ex, send, listen, by_name, by_name_ex, by_address, name_of
    ):
        try:
            attempt()
        except OSError as error:
            print(type(error).__name__, error)
        else:
            print(attempt.__name__, "went through")
"""


@pytest.mark.parametrize("namespace", [True, False])
def test_attempts_are_refused_and_reported(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    namespace: bool,
) -> None:
    if not namespace:
        request.getfixturevalue("no_namespace")
    assert run_audited([], script(tmp_path, TRIES)) == 1
    out, err = capfd.readouterr()
    assert "went through" not in out and len(out.splitlines()) == 9
    for words in (
        "refused to look up example.com",
        "refused to connect to 192.0.2.1:443",
        "refused to connect to 192.0.2.1:444",
        "refused to send to 192.0.2.1:53",
        "refused to listen on every interface, port 0",
        "refused to look up example.org",
        "refused to look up example.net",
        "refused to look up 192.0.2.7",
        "refused to look up 192.0.2.8",
        "by __main__",
    ):
        assert words in err
    assert err.splitlines()[-1] == "9 attempts to connect outside"
    if not namespace:
        assert "no second guard: network namespaces are refused here" in err


def test_repeated_attempts_are_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = script(
        tmp_path,
        """
        import socket
        for _ in range(3):
            try: socket.getaddrinfo("example.com", 80)
            except socket.gaierror: pass
        """,
    )
    assert run_audited([], command) == 1
    err = capfd.readouterr().err
    assert "refused to look up example.com (by __main__, 3 times)" in err
    assert "3 attempts to connect outside" in err


def test_processes_that_the_command_starts_are_guarded_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = script(
        tmp_path,
        """
        import subprocess, sys
        code = "import socket; socket.create_connection(('192.0.2.7', 80))"
        sys.exit(subprocess.run([sys.executable, "-c", code]).returncode == 0)
        """,
    )
    assert run_audited([], command) == 1
    assert "refused to connect to 192.0.2.7:80" in capfd.readouterr().err


def test_loopback_works_under_audit(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = script(
        tmp_path,
        """
        import socket
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(("localhost", server.getsockname()[1]))
        server.accept()[0].send(b"here")
        assert client.recv(4) == b"here"
        """,
    )
    assert run_audited([], command) == 0
    assert "0 attempts" in capfd.readouterr().err


NATIVE = """
    import ctypes, socket, struct
    libc = ctypes.CDLL(None)
    handle = libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
    address = struct.pack("=HHI8x", socket.AF_INET, socket.htons(80), 0x010200C0)
    libc.connect(handle, address, 16)
"""


def test_native_code_is_held_by_the_namespace_and_counted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = run_audited([], script(tmp_path, NATIVE))
    err = capfd.readouterr().err
    if "no second guard" in err:
        pytest.skip("this system refuses network namespaces")
    assert code == 1
    assert "refused by the kernel, from native code: 1" in err
    assert err.splitlines()[-1] == "1 attempt to connect outside"


def test_without_a_namespace_the_report_names_programs_that_were_not_watched(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], no_namespace: None
) -> None:
    command = script(
        tmp_path,
        """
        import subprocess, sys
        subprocess.run(["true"])
        subprocess.run([sys.executable, "-c", ""])
        subprocess.run([sys.executable, "-c", ""], env={})
        """,
    )
    assert run_audited([], command) == 0
    err = capfd.readouterr().err
    assert re.findall("started, not watched: (.*)", err) == ["true", sys.executable]
    assert "so native code was not held back" in err


def test_who_we_are_stays_the_same(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = script(tmp_path, "import os; print(os.getuid(), os.getgid())")
    assert run_audited([], command) == 0
    assert capfd.readouterr().out == f"{os.getuid()} {os.getgid()}\n"


def test_sitecustomize_of_the_machine_still_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "sitecustomize.py").write_text("import builtins; builtins.theirs = 1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "theirs"))
    command = script(tmp_path, "print(theirs)\n" + textwrap.dedent(TRIES))
    assert run_audited([], command) == 1
    out, err = capfd.readouterr()
    assert out.startswith("1\n") and "9 attempts" in err


def test_command_ended_by_a_signal_has_the_shells_exit_code(tmp_path: Path) -> None:
    command = script(tmp_path, "import os; os.kill(os.getpid(), 15)")
    assert run_audited([], command) == 128 + 15


def test_command_that_does_not_exist_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_audited([], [str(tmp_path / "nothing")]) == 127
    assert "No such file" in capfd.readouterr().err


def test_ctrl_c_ends_the_command_and_the_report_still_comes(tmp_path: Path) -> None:
    command = script(
        tmp_path,
        """
        import sys, time
        try:
            print("ready", flush=True)
            time.sleep(30)
        except KeyboardInterrupt:
            sys.exit(5)
        """,
    )
    code = f"import sys; from laplm.audit import run_audited; sys.exit(run_audited([], {command}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    _, err = process.communicate(timeout=20)
    assert process.returncode == 5
    assert "0 attempts to connect outside" in err


def test_report_can_be_asked_for_from_another_thread(tmp_path: Path) -> None:
    codes: list[int] = []
    command = script(tmp_path, "import sys; sys.exit(4)")
    thread = threading.Thread(target=lambda: codes.append(run_audited([], command)))
    thread.start()
    thread.join()
    assert codes == [4]


def test_module_behind_an_attempt_is_named_with_the_one_of_ours() -> None:
    def frame(name: str, back: object) -> SimpleNamespace:
        return SimpleNamespace(f_globals={"__name__": name}, f_back=back)

    stack = frame("laplm.hub.pull", frame("laplm.cli", frame("__main__", None)))
    for name in ("huggingface_hub.utils", "httpx._client", "ssl", "socket"):
        stack = frame(name, stack)
    assert audit._module(stack) == "httpx._client, called by laplm.hub.pull"
    assert audit._module(frame("socket", frame("laplm.hub.pull", None))) == "laplm.hub.pull"
    assert audit._module(frame("socket", None)) == "the standard library"


# --- the library itself -----------------------------------------------------------------------


def test_models_load_and_text_is_encoded_without_a_connection(
    tmp_path: Path, tiny_model_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = script(
        tmp_path,
        f"""
        import numpy as np
        from laplm.hub import locate, pull
        from laplm.model.files.checkpoint import open_checkpoint
        from laplm.model.reference import DenseWeights, forward
        from laplm.model.tokenizer import Tokenizer

        path = locate.locate({str(tiny_model_dir)!r})
        checkpoint, tokenizer = open_checkpoint(path), Tokenizer.from_directory(path)
        weights = DenseWeights(
            {{name: checkpoint.tensor(name) for name in checkpoint.names}}, checkpoint.config)
        ids = np.array(tokenizer.encode("Once upon a time"))
        assert np.isfinite(forward(ids, weights, checkpoint.config)).all()
        locate.installed()
        try:
            locate.locate("gpt2")
        except Exception as error:
            assert "pull" in str(error)
        """,
    )
    assert run_audited([], command) == 0
    assert "0 attempts to connect outside" in capfd.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["models"],
        ["run", "Once upon a time", "-n", "3", "-m", "MODEL", "--json"],
        ["eval", "TEXT", "-m", "MODEL"],
    ],
    ids=lambda argv: argv[0],
)
def test_every_other_command_works_with_the_outside_shut_off(
    argv: list[str], tiny_model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("Once upon a time there was a little girl named Sue. " * 9)
    real = {"MODEL": str(tiny_model_dir), "TEXT": str(tmp_path / "text.txt")}
    assert run_audited([real.get(word, word) for word in argv]) == 0
    out, err = capfd.readouterr()
    assert out
    assert err.splitlines()[-1] == "0 attempts to connect outside"


def test_pull_is_what_the_audit_catches(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    code = """
        from laplm.hub import locate, pull
        from laplm.errors import DownloadError
        try: pull.pull("gpt2")
        except DownloadError as error: print(error)
    """
    assert run_audited([], script(tmp_path, code)) == 1
    out, err = capfd.readouterr()
    assert "the connection to https://hub.example failed" in out
    assert re.search(r"refused to look up hub\.example \(by .*called by laplm\.hub\.pull", err)


def test_guard_file_is_valid_python_whatever_the_paths() -> None:
    source = audit._GUARD.format(audit="/a 'b'\\n/audit.py", report='/c "d"/report')
    compile(source, "sitecustomize.py", "exec")


def test_guard_imports_nothing_of_ours() -> None:
    code = (
        f"import importlib.util, sys, json; spec = importlib.util.spec_from_file_location('g', "
        f"{audit.__file__!r}); m = importlib.util.module_from_spec(spec); "
        "spec.loader.exec_module(m); print(json.dumps(sorted(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    modules = set(json.loads(out.stdout))
    assert not {name for name in modules if name.startswith("laplm") or name == "socket"}
