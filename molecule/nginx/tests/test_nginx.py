"""Nginx serves nothing it was not told to, and a bad configuration never takes effect."""

from collections.abc import Iterator

import pytest
from bot import nobody_refused
from testinfra.host import Host

SITE = "/etc/nginx/conf.d/test.conf"


def write_site(host: Host, text: str) -> None:
    host.check_output("printf '%%s\\n' %s > " + SITE, text)


def apply(host: Host) -> tuple[int, str]:
    """Exit status and messages of clawdbot-nginx."""
    result = host.run("clawdbot-nginx apply")
    return result.rc, result.stdout + result.stderr


def get(host: Host, port: int, path: str = "/") -> str:
    """Answer of Nginx with its headers."""
    script = (
        "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=5);"
        "c.request('GET', sys.argv[2]); r = c.getresponse(); print(r.status, dict(r.headers), r.read().decode())"
    )
    return str(host.check_output("python3 -c %s %s %s", script, str(port), path))


@pytest.fixture(autouse=True)
def _root(host: Host) -> Iterator[None]:
    with host.sudo():
        yield
        host.check_output(f"rm -f {SITE} && clawdbot-nginx apply")


@pytest.mark.every_host
def test_only_the_status_page_listens(host: Host) -> None:
    sockets = host.check_output("ss --no-header -ltnp | grep nginx").splitlines()
    assert {socket.split()[3] for socket in sockets} == {"127.0.0.1:8080"}
    assert "Active connections" in get(host, 8080, "/stub_status")


def test_version_is_not_told(host: Host) -> None:
    assert "'Server': 'nginx'" in get(host, 8080, "/unknown")


def test_access_log_is_private_and_survives_rotation(host: Host) -> None:
    write_site(host, "server { listen 127.0.0.1:8081; location / { return 200 fine; } }")
    assert apply(host)[0] == 0
    for _ in range(2):
        get(host, 8081, "/logged")
        log = host.file("/var/log/nginx/access.log")
        assert log.contains("GET /logged")
        assert (log.mode, log.group) == (0o640, "adm")
        host.check_output("logrotate --force /etc/logrotate.d/nginx && sleep 0.5")


def test_old_tls_is_refused(host: Host) -> None:
    host.check_output(
        "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=test -keyout /tmp/k.pem -out /tmp/c.pem 2>/dev/null"
        " && mkdir -p /run/tls && mv /tmp/k.pem /tmp/c.pem /run/tls"
    )
    write_site(
        host,
        "server { listen 127.0.0.1:8443 ssl; ssl_certificate /run/tls/c.pem; ssl_certificate_key /run/tls/k.pem; }",
    )
    assert apply(host)[0] == 0
    client = "openssl s_client -connect 127.0.0.1:8443 -cipher ALL:@SECLEVEL=0 {} </dev/null"
    assert host.run(client.format("-tls1_2")).succeeded
    assert host.run(client.format("-tls1_3")).succeeded
    assert not host.run(client.format("-tls1_1")).succeeded


def test_apply_says_whether_it_had_to_do_something(host: Host) -> None:
    assert apply(host) == (0, "")
    write_site(host, "server { listen 127.0.0.1:8081; location / { return 200 fine; } }")
    assert apply(host) == (0, "changed\n")
    assert get(host, 8081).endswith("fine")
    assert apply(host) == (0, "")


def test_broken_configuration_is_taken_back(host: Host) -> None:
    write_site(host, "server { listen 127.0.0.1:8081; location / { return 200 first; } }")
    assert apply(host)[0] == 0
    write_site(host, "server { listen 127.0.0.1:8081; locution / { return 200 second; } }")
    status, said = apply(host)
    assert status == 1
    assert 'unknown directive "locution"' in said
    assert get(host, 8081).endswith("first")
    assert host.file(SITE).contains("first")
    assert host.run("nginx -t").succeeded
    assert host.file("/var/lib/clawdbot-nginx/refused/conf.d/test.conf").contains("locution")


def test_taken_port_is_noticed(host: Host) -> None:
    host.check_output("systemd-run --collect --unit=squatter python3 -m http.server 8082 --bind 127.0.0.1")
    try:
        host.check_output("timeout 20 sh -c 'until ss -ltn | grep -q 127.0.0.1:8082; do sleep 0.1; done'")
        write_site(host, "server { listen 127.0.0.1:8082; }")
        assert host.run("nginx -t").succeeded  # which is why the test alone is not enough
        status, said = apply(host)
        assert status == 1
        assert "Address already in use" in said
        assert not host.file(SITE).exists
        assert "Active connections" in get(host, 8080, "/stub_status")
    finally:
        host.check_output("systemctl stop squatter")


def test_unapplied_file_is_applied_by_the_next_run(host: Host) -> None:
    write_site(host, "server { listen 127.0.0.1:8081; location / { return 200 fine; } }")
    host.check_output("systemctl stop nginx")
    assert apply(host) == (0, "changed\n")
    assert get(host, 8081).endswith("fine")


def test_unit_that_systemd_has_read_and_nginx_not_is_taken_by_the_next_run(host: Host) -> None:
    """The run that wrote it died, and another one told systemd of something else."""
    process, drop_in = "systemctl show -P MainPID nginx", "/etc/systemd/system/nginx.service.d/test.conf"
    before = host.check_output(process)
    host.check_output(f"printf '[Service]\\nLimitCORE=0\\n' >{drop_in}; systemctl daemon-reload")
    try:
        assert apply(host) == (0, "changed\n")
        assert host.check_output(process) != before
        assert apply(host) == (0, "")
    finally:
        host.check_output(f"rm {drop_in}")
        assert apply(host) == (0, "changed\n")


def test_killed_master_comes_back(host: Host) -> None:
    for _ in range(7):
        host.check_output("systemctl kill --signal=KILL nginx; sleep 0.7")
    host.check_output("timeout 10 sh -c 'until systemctl is-active -q nginx; do sleep 0.1; done'")
    assert "Active connections" in get(host, 8080, "/stub_status")


def test_an_updated_library_is_taken_without_refusing_anybody(host: Host) -> None:
    host.check_output("DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends needrestart")
    maps = "/proc/$(cat /run/nginx.pid)/maps"
    library = host.check_output(f"grep -o '/.*/libcrypto.*' {maps} | head -n 1")
    host.check_output(f"cp --archive {library} {library}.new && mv {library}.new {library}")
    with nobody_refused(host, "http://127.0.0.1:8080/stub_status"):
        host.check_output("DEBIAN_FRONTEND=noninteractive needrestart -r a")
    assert host.run(f"grep -q '{library} (deleted)' {maps}").rc == 1
    # The former process is there until the requests of its workers are over.
    write_site(host, "server { listen 127.0.0.1:8081; location / { return 200 fine; } }")
    assert apply(host) == (0, "changed\n")
