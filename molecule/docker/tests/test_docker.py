"""Containers run, survive the engine's restart, are not public by accident and do not fill the disk with logs."""

import socket
from collections.abc import Iterator

import pytest
from testinfra.host import Host

MAKE_IMAGE = """
apt-get install -y -qq --no-install-recommends busybox-static
mkdir -p /tmp/tiny/bin
cp /bin/busybox /tmp/tiny/bin/
ln -sf busybox /tmp/tiny/bin/sh
tar -C /tmp/tiny -c . | docker import - tiny
"""


def wait_for(host: Host, port: int) -> None:
    """Wait until the host itself gets an answer from the container behind ``port``."""
    fetch = f"busybox wget -q -O /dev/null http://127.0.0.1:{port}/busybox"
    host.check_output(f"timeout 20 sh -c 'until {fetch}; do sleep 0.2; done'")


def restart_engine(host: Host) -> None:
    """Restart it, however often these tests do: systemd gives up after three starts within a minute."""
    host.check_output("systemctl reset-failed docker.service docker.socket; systemctl restart docker.service")


def reload_firewall(host: Host) -> None:
    """Load the whole ruleset anew."""
    host.check_output("systemctl reload nftables")


def reachable(host: Host, port: int) -> bool:
    """Whether the controller, a stranger to the container, gets a connection."""
    try:
        socket.create_connection((str(host.ansible.get_variables()["ansible_host"]), port), timeout=3).close()
    except (ConnectionRefusedError, TimeoutError):
        return False
    return True


@pytest.fixture(autouse=True)
def _image(host: Host) -> Iterator[None]:
    """An image made on the host, since there may be no registry."""
    with host.sudo():
        if not host.run("docker image inspect tiny").succeeded:
            host.check_output(MAKE_IMAGE)
        yield
        host.check_output("docker ps --all --quiet | xargs --no-run-if-empty docker rm --force")


@pytest.mark.every_host
def test_published_port_is_for_the_host_only(host: Host) -> None:
    host.check_output("docker run --detach --publish 8000:80 tiny /bin/busybox httpd -f -h /bin")
    wait_for(host, 8000)
    assert not reachable(host, 8000)


def test_port_published_for_everyone_is_still_the_firewalls_matter(host: Host) -> None:
    ports = "--publish 0.0.0.0:8001:80 --publish 0.0.0.0:8081:80"
    host.check_output(f"docker run --detach --restart always {ports} tiny /bin/busybox httpd -f -h /bin")
    for disturb in (None, reload_firewall, restart_engine):
        if disturb:
            disturb(host)
        wait_for(host, 8001)
        assert [reachable(host, port) for port in (8001, 8081)] == [False, True], disturb
    host.check_output("systemctl stop nftables")
    try:
        assert reachable(host, 8001), "without the guard the port would be public"
    finally:
        host.check_output("systemctl start nftables")
    assert not reachable(host, 8001)


def test_container_survives_the_restart_of_the_engine(host: Host) -> None:
    container = host.check_output("docker run --detach tiny /bin/busybox sleep 600")
    started = host.check_output("docker inspect --format '{{.State.StartedAt}}' %s", container)
    restart_engine(host)
    assert host.check_output("docker inspect --format '{{.State.StartedAt}}' %s", container) == started
    assert host.check_output("docker inspect --format '{{.State.Running}}' %s", container) == "true"


def test_killed_engine_comes_back(host: Host) -> None:
    host.check_output("systemctl reset-failed docker.service; systemctl kill --signal=KILL docker.service; sleep 1")
    host.check_output("timeout 30 sh -c 'until docker info >/dev/null 2>&1; do sleep 0.2; done'")


def test_no_new_privileges(host: Host) -> None:
    assert host.check_output("docker run --rm tiny /bin/busybox grep NoNewPrivs /proc/self/status").split()[1] == "1"


def test_logs_are_rotated(host: Host) -> None:
    chatter = "i=0; while [ $i -lt 20000 ]; do echo $i 012345678901234567890123456789; i=$((i+1)); done"
    container = host.check_output("docker run --detach tiny /bin/sh -c %s", chatter)
    host.check_output("docker wait %s", container)
    logs = host.check_output("du --bytes /var/lib/docker/containers/%s/local-logs/*", container).splitlines()
    assert len(logs) == 2
    assert sum(int(line.split()[0]) for line in logs) <= 2 * 110_000
    assert host.check_output("docker logs --tail 1 %s", container).startswith("19999 ")
