"""The bot's virtual environments are those of the host's Python."""

from __future__ import annotations

from bot import converge, wait_until_ready
from testinfra.host import Host

HOME = "/opt/clawdbot"


def test_an_upgrade_of_debian_brings_another_python(host: Host) -> None:
    """The releases come with environments that another Python was made for, as after ``apt full-upgrade``."""
    environment = host.check_output(f"readlink {HOME}/current/venv")
    version = environment.rpartition("-")[2]
    older = environment.removesuffix(version) + "python3.8"
    with host.sudo():
        host.check_output(f"mv {environment} {older} && mv {older}/lib/{version} {older}/lib/python3.8")
        host.check_output(f"for venv in {HOME}/releases/*/venv; do ln -sfn {older} $venv; done")
        host.check_output("systemctl kill --signal=KILL clawdbot.service clawdbot-worker.service")
        died = "journalctl --quiet --unit=clawdbot-worker --since=-1min | grep -q 'No module named'"
        host.check_output("timeout 60 sh -c %s", f"until {died}; do sleep 0.5; done")
    converge(host)
    wait_until_ready(host)
    assert host.check_output(f"readlink {HOME}/current/venv") == environment
    assert host.run(f"ls {older}").rc != 0
    assert "changed=0" in converge(host)
