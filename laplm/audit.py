"""``laplm audit -- COMMAND``: run a command of ours shut in, and report every attempt to get out.

Two guards, so that neither has to be taken at its word:

- An audit hook (PEP 578) in every Python process of the command, set before anything else is
  imported. It refuses connections, name look-ups and listening beyond this machine, and notes
  what was tried and which module tried it. It comes with ``PYTHONPATH`` as a ``sitecustomize``
  module, so processes that the command starts have it too.
- On Linux, where the kernel allows it, a network namespace with nothing in it but loopback. It
  holds for native code as well, and the kernel counts what had nowhere to go.

This file is also loaded by itself at the start of every process under audit: it imports little,
and nothing of laplm.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

_SENDING = {"socket.connect", "socket.sendto", "socket.sendmsg"}
_LOOKING_UP = {
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
    "socket.getnameinfo",
}
_STARTING = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn"}
_EVENTS = {*_SENDING, *_LOOKING_UP, *_STARTING, "socket.bind"}
_LOOPBACK = re.compile(r"localhost|::1|(::ffff:)?127(\.\d{1,3}){1,3}", re.IGNORECASE)
_ANY = {"", "0.0.0.0", "::"}  # listening here is open to others; sending here stays here
_GUARD = """\
import importlib.machinery, importlib.util, os, sys
spec = importlib.util.spec_from_file_location("laplm_audit_guard", {audit!r})
guard = importlib.util.module_from_spec(spec)
spec.loader.exec_module(guard)
guard.install_guard({report!r})
# The machine's own sitecustomize, which this one stands in front of.
here = os.path.dirname(os.path.abspath(__file__))
path = [entry for entry in sys.path if os.path.abspath(entry) != here]
spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
if spec is not None and spec.loader is not None:
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)
"""


# --- in every process of the command ----------------------------------------------------------


def outside_access(event: str, args: tuple[Any, ...]) -> str | None:
    """What an audit event would do beyond this machine, in words; None when it stays within.

    Args:
        event: Name of the event, as in https://docs.python.org/3/library/audit_events.html.
        args: The event's arguments.
    """
    if event in _SENDING:
        return _beyond(args, "connect to" if event == "socket.connect" else "send to")
    if event == "socket.bind":
        return _beyond(args, "listen on")
    if event in _LOOKING_UP:
        host = args[0][0] if event == "socket.getnameinfo" else args[0]
        name = _text(host)
        if name in _ANY or _LOOPBACK.fullmatch(name) or name == _own_name():
            return None
        # From a number to itself nobody is asked; from a number to a name, somebody is.
        forward = event in ("socket.getaddrinfo", "socket.gethostbyname")
        return None if forward and _is_number(name) else f"look up {name}"
    return None


def _beyond(args: tuple[Any, ...], verb: str) -> str | None:
    import _socket

    family, address = args[0].family, args[1]
    # Netlink asks the kernel, AF_ALG lends its ciphers; Unix sockets are files.
    within = {getattr(_socket, name, None) for name in ("AF_UNIX", "AF_NETLINK", "AF_ALG")}
    if family in within or address is None:  # None: a socket that is connected already
        return None
    if family not in (_socket.AF_INET, _socket.AF_INET6) or not isinstance(address, tuple):
        return f"{verb} {address!r}"
    host = _text(address[0]).partition("%")[0]
    if _LOOPBACK.fullmatch(host) or (host in _ANY and verb != "listen on"):
        return None
    port = address[1] if len(address) > 1 else "?"
    if host in _ANY:
        return f"{verb} every interface, port {port}"
    return f"{verb} [{host}]:{port}" if ":" in host else f"{verb} {host}:{port}"


def _text(host: Any) -> str:
    return host.decode(errors="replace") if isinstance(host, bytes) else str(host or "")


def _is_number(host: str) -> bool:
    import _socket

    for family in (_socket.AF_INET, _socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            _socket.inet_pton(family, host.partition("%")[0])
            return True
    return False


def _own_name() -> str | None:
    return os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME")


def install_guard(report: str) -> None:
    """From now on and for good, refuse what ``outside`` names in this process, and note it.

    Args:
        report: File to which one JSON object a line is added for each attempt.
    """
    guard = str(Path(report).parent)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in _EVENTS:
            return
        if event in _STARTING:
            program = _program_without_hook(event, args, guard)
            if program is not None:
                _note(report, {"started": program})
            return
        attempt = outside_access(event, args)
        if attempt is None:
            return
        _note(report, {"attempt": attempt, "by": _module(sys._getframe(1))})
        if event in _LOOKING_UP:
            import _socket

            raise _socket.gaierror(_socket.EAI_FAIL, f"laplm audit refused to {attempt}")
        import errno

        raise OSError(errno.ENETUNREACH, f"laplm audit refused to {attempt}")

    sys.addaudithook(hook)


def _note(report: str, entry: dict[str, str]) -> None:
    # One write to a file opened for appending: lines of several processes do not mix.
    handle = os.open(report, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, json.dumps(entry).encode() + b"\n")
    finally:
        os.close(handle)


def _module(frame: FrameType | None) -> str:
    """Who is behind an event: the module nearest to it, and the one of ours that called it."""
    names: list[str] = []
    while frame is not None:
        name = str(frame.f_globals.get("__name__", "?"))
        if name.partition(".")[0] not in sys.stdlib_module_names or name == "__main__":
            names.append(name)
        frame = frame.f_back
    if not names:
        return "the standard library"
    ours = [name for name in names if name.partition(".")[0] == "laplm"]
    return f"{names[0]}, called by {ours[0]}" if ours and ours[0] != names[0] else names[0]


def _program_without_hook(event: str, args: tuple[Any, ...], guard: str) -> str | None:
    """A program about to be started that will not have the hook; None when it will."""
    program = _text(args[0]) if args else "?"
    if event == "os.system":
        return program
    if event == "os.spawn":
        program, environment = _text(args[1]), args[3]
    else:
        environment = args[3] if event == "subprocess.Popen" else args[2]
    path = (os.environ if environment is None else environment).get("PYTHONPATH", "")
    python = Path(program).name.startswith("python") or program == sys.executable
    return None if python and guard in _text(path) else program


# --- around the command -----------------------------------------------------------------------


def run_audited(argv: Sequence[str], program: Sequence[str] | None = None) -> int:
    """Run ``laplm ARGV`` with the outside shut off; report on standard error what it tried.

    Args:
        argv: Arguments of the command, such as ``["run", "Once upon a time"]``.
        program: What they are the arguments of; ``laplm`` itself when None.

    Returns:
        The command's exit code, or 1 when there were attempts to get out.
    """
    import shlex
    import subprocess
    import tempfile

    this_file = str(Path(__file__).resolve())
    with tempfile.TemporaryDirectory(prefix="laplm-audit-") as name:
        guard = Path(name)
        report, verdict = guard / "report", guard / "verdict"
        source = _GUARD.format(audit=this_file, report=str(report))
        (guard / "sitecustomize.py").write_text(source, encoding="utf-8")
        command = [sys.executable, "-P", "-m", "laplm"] if program is None else list(program)
        path = [name, *filter(None, [_package_path(), os.environ.get("PYTHONPATH")])]
        with _patience():
            ended = subprocess.run(
                [sys.executable, "-I", this_file, str(verdict), *command, *argv],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
                check=False,
            )
        entries: list[dict[str, str]] = []
        if report.exists():
            lines = report.read_text(encoding="utf-8").splitlines()
            entries = [json.loads(line) for line in lines]
        if not verdict.exists():
            raise RuntimeError(f"the process around the command ended with {ended.returncode}")
        outcome = json.loads(verdict.read_text(encoding="utf-8"))
    shown = shlex.join(["laplm" if program is None else shlex.join(program), *argv])
    attempts = _print_report(shown, entries, outcome)
    return 1 if attempts else int(outcome["code"])


def _package_path() -> str | None:
    """Where ``laplm`` is imported from, unless every Python finds it by itself."""
    parent = Path(__file__).resolve().parents[1]
    return None if parent.name in ("site-packages", "dist-packages") else str(parent)


def _print_report(command: str, entries: list[dict[str, str]], outcome: dict[str, Any]) -> int:
    """Write the report; the number of attempts."""
    lines = [
        f"laplm audit: {command}",
        "  guard: audit hook in every Python process of the command",
    ]
    if outcome["refused"]:
        lines.append(f"  no second guard: {outcome['refused']}, so native code was not held back")
        started = dict.fromkeys(entry["started"] for entry in entries if "started" in entry)
        lines += [f"  started, not watched: {name}" for name in started]
    else:
        lines.append("  guard: network namespace with nothing but loopback, for native code too")
    tried: dict[tuple[str, str], int] = {}
    for entry in entries:
        if "attempt" in entry:
            key = entry["attempt"], entry["by"]
            tried[key] = tried.get(key, 0) + 1
    for (attempt, module), count in tried.items():
        times = f", {count} times" if count > 1 else ""
        lines.append(f"  refused to {attempt} (by {module}{times})")
    if outcome["unroutable"]:
        lines.append(f"  refused by the kernel, from native code: {outcome['unroutable']}")
    total = sum(tried.values()) + int(outcome["unroutable"])
    lines.append(f"{total} attempt{'' if total == 1 else 's'} to connect outside")
    sys.stdout.flush()
    # Names of hosts come from whatever the command ran, and may hold what a terminal would obey.
    shown = "\n".join(lines)
    shown = "".join(c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in shown)
    print(shown, file=sys.stderr)
    return total


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Let Ctrl-C reach the command, which shares the terminal, and outlive it to report."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Not SIG_IGN, which the command would inherit.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# --- between the two: the process that leaves the network before it starts the command --------


def _supervise(verdict: str, command: list[str]) -> None:
    import subprocess

    refused = _leave_network()
    before = _unroutable()
    with _patience():
        try:
            code = subprocess.run(command, check=False).returncode
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr)
            code = 127
    outcome = {
        "refused": refused,
        "unroutable": 0 if refused else _unroutable() - before,
        "code": 128 - code if code < 0 else code,
    }
    Path(verdict).write_text(json.dumps(outcome), encoding="utf-8")


def _leave_network() -> str | None:
    """Move this process into a network namespace of its own; why not, where it cannot."""
    if sys.platform != "linux":
        return f"{sys.platform} has no network namespaces"
    # Tried in a child first: some systems grant the namespace and then forbid to use it, and
    # there is no way back.
    child = os.fork()
    if child == 0:
        error = _unshare()
        os._exit(error if error < 256 else 255)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0:
        status = _unshare()
    return f"network namespaces are refused here ({os.strerror(status)})" if status else None


def _unshare() -> int:
    """Leave the network and bring up loopback; 0, or the error number."""
    import errno

    if sys.platform != "linux":
        return errno.ENOSYS
    import ctypes
    import fcntl
    import socket
    import struct

    new_user, new_network = 0x10000000, 0x40000000
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if libc.unshare(new_network) != 0:
            # Without the right to do so, a user namespace grants it; who we are stays the same.
            if libc.unshare(new_user | new_network) != 0:
                return ctypes.get_errno()
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{user} {user} 1"),
                ("gid_map", f"{group} {group} 1"),
            ):
                Path("/proc/self", name).write_text(text, encoding="ascii")
        set_flags, up_and_running = 0x8914, 0x1 | 0x40
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
            fcntl.ioctl(handle, set_flags, struct.pack("16sh14x", b"lo", up_and_running))
    except OSError as error:
        return error.errno or errno.EPERM
    return 0


def _unroutable() -> int:
    """How often the kernel found no way out of this namespace, IPv4 and IPv6 together."""
    count = 0
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/net/snmp").read_text(encoding="ascii").splitlines()
        names, values = (line.split() for line in lines if line.startswith("Ip:"))
        count += int(values[names.index("OutNoRoutes")])
        lines = Path("/proc/net/snmp6").read_text(encoding="ascii").splitlines()
        count += sum(int(line.split()[1]) for line in lines if "OutNoRoutes" in line)
    return count


if __name__ == "__main__":
    _supervise(sys.argv[1], sys.argv[2:])
