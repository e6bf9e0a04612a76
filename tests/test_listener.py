"""The program of role clawdbot that gives systemd's socket to a container."""

import os
import signal
import socket
import subprocess
from pathlib import Path

# Stands for the client and the container at once: fetches the listeners, says that it is ready, answers each once.
PROGRAM = """
import os, socket, sys
host = socket.socket(socket.AF_UNIX)
host.connect(sys.argv[1])
_, listeners, _, _ = socket.recv_fds(host, 16, 8)
host.sendall(b"ready")
for listener in listeners:
    socket.socket(fileno=listener).accept()[0].sendall(str(os.getpid()).encode())
"""


def test_the_sockets_arrive_readiness_is_told_and_the_process_is_the_commands(root: Path, tmp_path: Path) -> None:
    present, former = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    systemd.bind(str(tmp_path / "notify"))
    systemd.settimeout(10)
    script = str(root / "roles/clawdbot/files/clawdbot_listener.py")
    door = str(tmp_path / "door")
    socket.socket(socket.AF_UNIX).bind(door)  # left behind by an earlier one
    run = subprocess.Popen(
        # As systemd does: the sockets are descriptors 3 and 4.
        [
            "bash",
            "-c",
            f'exec "$@" 3<&{present.fileno()} 4<&{former.fileno()}',
            "bash",
            "python3",
            script,
            door,
            "/usr/bin/python3",
            "-c",
            PROGRAM,
            door,
        ],
        env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "LISTEN_FDS": "2"},
        pass_fds=[present.fileno(), former.fileno()],
    )
    try:
        assert systemd.recv(100) == b"READY=1"
        for listener in (present, former):
            with socket.create_connection(listener.getsockname(), timeout=10) as client:
                assert int(client.recv(100)) == run.pid, "systemd's signals have to reach the command"
        assert Path(door).stat().st_mode & 0o777 == 0o660
        assert run.wait(10) == 0
    finally:
        if run.poll() is None:
            run.send_signal(signal.SIGKILL)
