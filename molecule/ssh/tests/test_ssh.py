"""sshd after the move, seen from the controller and from the host."""

from testinfra.host import Host


def test_only_the_new_port_listens(host: Host) -> None:
    listening = host.check_output("ss -Hltn 'sport = :22 or sport = :2222'")
    assert {line.split()[3].rsplit(":", 1)[1] for line in listening.splitlines()} == {"2222"}


def test_nothing_is_left_to_undo(host: Host) -> None:
    assert not host.service("clawdbot-ssh-rollback.timer").is_running
