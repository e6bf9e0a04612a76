"""Alerts reach the mailbox through every kind of mail server there is, by the release's own Alertmanager."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from testinfra.host import Host

testinfra_hosts = ["ansible://monitoring"]

ROLE = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"], "roles/monitoring")
ADDRESS = "127.0.0.1:19093"
ACCOUNT = {"monitoring_email_username": "bot@mail.test", "monitoring_email_password": "pass word"}
#: What a user writes, and the door of the mail server (files/mail_server.py) that the mail comes through.
SERVERS: dict[str, tuple[dict[str, Any], str]] = {
    "STARTTLS": ({"monitoring_email_smarthost": "mail.test:587", **ACCOUNT}, "starttls"),
    "TLS from the first byte": ({"monitoring_email_smarthost": "mail.test:465", **ACCOUNT}, "tls"),
    "in the clear": ({"monitoring_email_smarthost": "mail.test:25", "monitoring_email_require_tls": False}, "plain"),
}


def mails(host: Host, subject: str) -> list[dict[str, Any]]:
    """The mails that arrived about one alert."""
    lines = host.check_output("cat /var/lib/mail-server/received 2>/dev/null || true").splitlines()
    return [mail for mail in map(json.loads, lines) if subject in mail["text"]]


@pytest.fixture
def alertmanager(host: Host) -> Iterator[Any]:
    """Starts a second Alertmanager with the role's configuration and some settings; returns its alert's name."""
    name = f"Mail{time.monotonic_ns()}"

    def start(settings: dict[str, Any]) -> str:
        defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text("utf-8"))
        given = {"monitoring_email_to": "ops@example.org", "monitoring_group_wait": "0s", "ansible_managed": "test"}
        source = f"src={ROLE}/templates/alertmanager.yml.j2 dest=/tmp/mail.yml mode=0644"
        host.ansible("template", source, check=False, become=True, extra_vars={**defaults, **given, **settings})
        with host.sudo():
            host.check_output(
                f"systemd-run --quiet --unit {name} prometheus-alertmanager --config.file=/tmp/mail.yml "
                f"--web.listen-address={ADDRESS} --cluster.listen-address= --storage.path=/tmp/mail-test"
            )
        host.check_output(f"timeout 20 sh -c 'until curl -sf http://{ADDRESS}/-/ready; do sleep 0.2; done'")
        host.check_output(f"amtool --alertmanager.url=http://{ADDRESS} alert add {name} severity=warning")
        return name

    yield start
    with host.sudo():
        host.run(f"systemctl stop {name}.service")


@pytest.mark.parametrize("kind", SERVERS)
def test_a_mailbox_alone_gets_every_alert(host: Host, alertmanager: Any, kind: str) -> None:
    settings, door = SERVERS[kind]
    alert = alertmanager(settings)
    deadline = time.monotonic() + 30
    while not (arrived := mails(host, alert)):
        with host.sudo():
            said = host.check_output(f"journalctl --no-pager -u {alert} -n 5")
        assert time.monotonic() < deadline, said
        time.sleep(0.5)
    assert arrived[0]["door"] == door
    assert arrived[0]["user"] == settings.get("monitoring_email_username", "")
    assert (arrived[0]["from"], arrived[0]["to"]) == ("clawdbot@localhost", ["ops@example.org"])


def test_no_mail_goes_out_in_the_clear_unless_that_is_wanted(host: Host, alertmanager: Any) -> None:
    alert = alertmanager({"monitoring_email_smarthost": "mail.test:25"})
    refused = f"journalctl -u {alert} | grep -q 'does not advertise the STARTTLS'"
    with host.sudo():
        host.check_output(f'timeout 30 sh -c "until {refused}; do sleep 0.5; done"')
    assert mails(host, alert) == []


def test_a_mailer_on_the_host_is_enough(host: Host) -> None:
    """The deployed Alertmanager, with nothing set but the mailbox; "gone" is down since the beginning."""
    deadline = time.monotonic() + 200
    while not (arrived := mails(host, "HostDown")):
        assert time.monotonic() < deadline
        time.sleep(1)
    assert arrived[0]["door"] == "local"
