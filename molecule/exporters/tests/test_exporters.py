"""The exporters report what they watch, on the one address they were given."""

from pathlib import Path

import pytest
from again import converge
from testinfra.host import Host

CONVERGE = Path(__file__).parents[1] / "converge.yml"
PORTS = {"node": 9100, "nginx": 9113, "redis": 9121}


def address(host: Host) -> str:
    return str(host.check_output("hostname -I").split()[0])


@pytest.mark.every_host
@pytest.mark.parametrize(
    ("exporter", "expected"),
    [
        ("node", "node_memory_MemAvailable_bytes"),
        ("node", 'node_filesystem_avail_bytes{device="'),
        ("nginx", "nginx_up 1"),
        ("redis", "redis_up 1"),
    ],
)
def test_metrics_are_served(host: Host, exporter: str, expected: str) -> None:
    assert expected in host.check_output(f"curl -sSf http://{address(host)}:{PORTS[exporter]}/metrics")


def test_pending_updates_are_reported(host: Host) -> None:
    """Debian's apt collector writes what the node exporter serves."""
    with host.sudo():
        host.check_output("systemctl start prometheus-node-exporter-apt.service")
    page = host.check_output(f"curl -sSf http://{address(host)}:9100/metrics")
    assert "apt_package_cache_timestamp_seconds" in page


def test_exporters_listen_nowhere_else(host: Host) -> None:
    listeners = set(host.check_output("ss -Hltn 'sport >= :9100 and sport <= :9200' | awk '{print $4}'").split())
    assert listeners == {f"{address(host)}:{port}" for port in PORTS.values()} | {"127.0.0.1:9115"}


def test_exporters_never_listened_elsewhere(host: Host) -> None:
    """Not even between the installation of the package and its configuration."""
    with host.sudo():
        journal = host.check_output("journalctl --no-pager --unit='prometheus-*-exporter.service'")
    announced = [line for line in journal.splitlines() if "istening on" in line]
    assert announced
    assert [line for line in announced if address(host) not in line and "127.0.0.1" not in line] == []


def test_redis_password_is_readable_by_root_only(host: Host) -> None:
    assert host.file("/etc/default/prometheus-redis-exporter").mode == 0o600


def test_blackbox_probes(host: Host) -> None:
    probe = "http://127.0.0.1:9115/probe?module=public&target="
    assert "probe_success 1" in host.check_output(f"curl -sSf '{probe}http://127.0.0.1/'")
    assert "probe_success 0" in host.check_output(f"curl -sSf '{probe}http://127.0.0.1/missing'")


def test_arguments_that_were_written_but_not_taken_are_taken_by_the_next_run(host: Host) -> None:
    name, more = host.backend.get_hostname(), ["cron"]
    task = "exporters : Run these exporters with this configuration, now and at boot, and no others"
    arguments = "tr '\\0' ' ' </proc/$(systemctl show --property MainPID --value prometheus-node-exporter)/cmdline"
    run = converge(CONVERGE, name, task, exporters_extra_units=more)
    assert run.returncode == -9, run.stdout[-3000:]
    assert "cron" not in host.check_output(arguments)
    assert converge(CONVERGE, name, exporters_extra_units=more).returncode == 0
    assert "cron" in host.check_output(arguments)


def test_exporter_that_is_taken_off_the_list_rests(host: Host) -> None:
    name = host.backend.get_hostname()
    assert converge(CONVERGE, name, exporters_enabled=["node"]).returncode == 0
    for exporter in ("nginx", "redis", "blackbox"):
        assert not host.service(f"prometheus-{exporter}-exporter").is_running
        assert not host.service(f"prometheus-{exporter}-exporter").is_enabled
        # One that ends by a signal has failed, and there would be an alarm about it.
        assert host.run(f"systemctl is-failed prometheus-{exporter}-exporter").stdout == "inactive\n"
        # With it goes what it was told, such as the password of Redis.
        assert not host.file(f"/etc/default/prometheus-{exporter}-exporter").exists
    assert converge(CONVERGE, name).returncode == 0
    assert host.service("prometheus-redis-exporter").is_running
