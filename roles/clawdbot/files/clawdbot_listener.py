#!/usr/bin/python3
"""Gives the sockets that systemd listens on to a program in a container: ``clawdbot-listener SOCKET COMMAND...``.

``docker run`` cannot pass an open file on, but a Unix socket can: the program connects to SOCKET, which is mounted into
its container, gets the listening sockets, and says when it is ready. COMMAND takes the place of this process, so
systemd sees its end and sends it the signals; what is left here waits for the program beside it.
"""

import os
import socket
import sys
from pathlib import Path

FIRST = 3  # of the files that systemd passes; LISTEN_FDS says how many, see sd_listen_fds(3)


def hand_over(door: socket.socket) -> None:
    """Wait for the program, give it the listeners, and tell systemd when it is ready."""
    program, _ = door.accept()
    with program:
        socket.send_fds(program, [b"listeners"], range(FIRST, FIRST + int(os.environ["LISTEN_FDS"])))
        if program.recv(16) == b"ready":
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
                systemd.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))


def main() -> None:
    """Open the door, leave a process behind it, and become COMMAND."""
    path, command = sys.argv[1], sys.argv[2:]
    Path(path).unlink(missing_ok=True)  # systemd only removes it as long as the unit is the one that it was made for
    door = socket.socket(socket.AF_UNIX)
    door.bind(path)
    Path(path).chmod(0o660)  # for the group of this service, which is the program's
    door.listen(1)
    # A grandchild is nobody's: systemd collects it, COMMAND does not have to.
    if os.fork() == 0:
        if os.fork() == 0:
            hand_over(door)
        os._exit(0)
    os.wait()
    os.execv(command[0], command)  # noqa: S606  # the unit's own command


if __name__ == "__main__":
    main()
