"""Each way to a certificate, seen by a client that checks it."""

import contextlib
import http.client
import os
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host

CALLBACK = "/api/feishu/callback"
EPHEMERAL = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
SCENARIO = Path(__file__).parents[1]

Reply = tuple[int, dict[str, str]]


def hosts(group: str) -> list[Host]:
    return list(testinfra.get_hosts([f"ansible://{group}"], ansible_inventory=INVENTORY))


def address(host: Host) -> str:
    return str(host.ansible.get_variables()["ansible_host"])


class TlsConnection(http.client.HTTPSConnection):
    """Connects to an address, but expects the certificate of a name."""

    def __init__(self, target: str, name: str, context: ssl.SSLContext) -> None:
        super().__init__(name, timeout=15)
        self._target, self._checked = target, context

    def connect(self) -> None:
        """Connects and checks the certificate."""
        plain = socket.create_connection((self._target, 443), timeout=15)
        self.sock = self._checked.wrap_socket(plain, server_hostname=self.host)


def post(connection: http.client.HTTPConnection, name: str, path: str = CALLBACK) -> Reply:
    """Sends a request, by default a callback; returns status and headers."""
    with contextlib.closing(connection):
        connection.request("POST", path, body=b"{}", headers={"Host": name})
        response = connection.getresponse()
        return response.status, dict(response.headers)


def post_plain(host: Host, name: str, path: str = CALLBACK) -> Reply:
    return post(http.client.HTTPConnection(address(host), timeout=15), name, path)


def post_tls(host: Host, name: str, trusted: str) -> Reply:
    """Raises ssl.SSLError unless the certificate is for the name and by the trusted issuer."""
    return post(TlsConnection(address(host), name, ssl.create_default_context(cadata=trusted)), name)


def serial(host: Host, name: str) -> str:
    """Serial number of the certificate that is served."""
    client = "openssl s_client -connect 127.0.0.1:443 -servername %s </dev/null 2>/dev/null"
    return str(host.check_output(f"{client} | openssl x509 -noout -serial", name))


def test_off_serves_plain_http_only() -> None:
    (balancer,) = hosts("authority")
    assert post_plain(balancer, "any.test")[0] == 200
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address(balancer), 443), timeout=5)


@pytest.fixture
def provided() -> Host:
    (balancer,) = hosts("provided")
    return balancer


def test_provided_certificate_is_served(provided: Host) -> None:
    status, headers = post_tls(provided, "bot.test", (EPHEMERAL / "first.pem").read_text())
    assert status == 200
    assert headers["Strict-Transport-Security"] == "max-age=31536000"


def test_provided_key_is_private(provided: Host) -> None:
    with provided.sudo():
        assert provided.file("/etc/nginx/tls/clawdbot.pem").mode == 0o600
        assert provided.file("/var/lib/clawdbot-nginx").mode == 0o700
        key = (EPHEMERAL / "first.key").read_text().splitlines()[1]
        assert key not in provided.check_output("journalctl --no-pager")


def test_plain_http_redirects_and_keeps_the_method(provided: Host) -> None:
    status, headers = post_plain(provided, "bot.test", "/other")
    assert (status, headers["Location"]) == (308, "https://bot.test/other")


@pytest.mark.parametrize("path", [CALLBACK, "/health"])
def test_what_does_not_follow_a_redirection_is_answered_over_plain_http(provided: Host, path: str) -> None:
    assert post_plain(provided, "bot.test", path)[0] == 200


def test_other_names_are_dropped(provided: Host) -> None:
    with pytest.raises(ConnectionResetError):
        post_plain(provided, "other.test")
    connection = TlsConnection(
        address(provided), "bot.test", ssl.create_default_context(cadata=(EPHEMERAL / "first.pem").read_text())
    )
    connection.connect()
    # It may be gone before all is sent.
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
        post(connection, "other.test")


def converge(group: str = "provided", **variables: str) -> subprocess.CompletedProcess[str]:
    extra = [f"--extra-vars={key}={value}" for key, value in variables.items()]
    return subprocess.run(
        ["ansible-playbook", "--inventory", INVENTORY, "--limit", group, SCENARIO / "converge.yml", *extra],
        capture_output=True,
        text=True,
        check=False,
    )


def test_key_of_another_certificate_is_refused_and_a_new_pair_taken(provided: Host) -> None:
    done = converge(test_certificate="second", test_key="first")
    assert done.returncode != 0
    assert "key values mismatch" in done.stdout
    assert post_tls(provided, "bot.test", (EPHEMERAL / "first.pem").read_text())[0] == 200
    done = converge(test_certificate="second", test_key="second")
    assert done.returncode == 0, done.stdout
    assert post_tls(provided, "bot.test", (EPHEMERAL / "second.pem").read_text())[0] == 200
    done = converge()
    assert done.returncode == 0, done.stdout


@pytest.fixture(params=range(2), ids=["debian12", "debian13"])
def acme(request: pytest.FixtureRequest) -> Host:
    return hosts("acme")[request.param]


def issuer(number: int = 0) -> str:
    """Root certificate of an authority."""
    (authority,) = hosts("authority")
    fetch = (
        "import ssl, urllib.request; context = ssl._create_unverified_context();"
        f"print(urllib.request.urlopen('https://127.0.0.1:1500{number}/roots/0', context=context).read().decode())"
    )
    return str(authority.check_output("python3 -c %s", fetch))


def test_authority_issues_and_renews(acme: Host) -> None:
    name = acme.check_output("hostname") + ".test"
    assert post_tls(acme, name, issuer())[0] == 200
    assert post_plain(acme, name, "/")[0] == 308
    first = serial(acme, name)
    with acme.sudo():
        assert acme.service("certbot.timer").is_enabled
        settings = f"/etc/letsencrypt/renewal/{name}.conf"
        acme.check_output(f"sed -i -e '/^renew_before/d' -e '1i renew_before_expiry = 36500 days' {settings}")
        renewal = acme.run("systemctl start certbot.service || tail -n 30 /var/log/letsencrypt/letsencrypt.log")
        assert renewal.stdout == ""
        acme.check_output(f"sed -i '/^renew_before/d' {settings}")
    assert serial(acme, name) != first
    assert post_tls(acme, name, issuer())[0] == 200


def test_authority_is_reached_through_the_networks_proxy_alone(acme: Host) -> None:
    (authority,) = hosts("authority")
    direct = f"import socket; socket.create_connection(('{address(authority)}', 14000), 5)"
    assert acme.run("python3 -c %s", direct).rc != 0, "the network is not closed"
    requests = acme.check_output("cat /var/log/closed-proxy.log").splitlines()
    assert f" CONNECT {address(authority)}:14000" in requests
    assert not [line for line in requests if line.startswith("407")]
    with acme.sudo():
        assert acme.check_output("cat /run/closed-watch") == "", "the password was in a command line"
        secret = acme.check_output("head -c 24 /opt/closed_network/password")
        assert secret in acme.check_output("cat /etc/nginx/tls/certbot.env")
        assert acme.file("/etc/nginx/tls/certbot.env").mode == 0o600
        assert secret not in acme.check_output(
            "systemctl show certbot.service; cat /var/log/letsencrypt/letsencrypt.log"
        )


def change(**variables: str) -> None:
    """Runs the role with other settings, and once more without an effect."""
    for _ in range(2):
        done = converge("acme", **variables)
        assert done.returncode == 0, done.stdout
    assert "changed=0" in done.stdout, done.stdout
    assert not [line for line in done.stdout.splitlines() if "changed=" in line and "changed=0" not in line]


def served(host: Host, name: str) -> str:
    """The certificate that is served, as PEM."""
    client = "openssl s_client -connect 127.0.0.1:443 -servername %s </dev/null 2>/dev/null"
    return str(host.check_output(f"{client} | openssl x509", name))


def renews(host: Host) -> bool:
    return bool(host.run("systemctl is-enabled certbot.timer").rc == 0)


def test_what_is_served_follows_kind_authority_and_name() -> None:
    """Every change of what the certificate depends on, there and back; the authority is not asked without need."""
    balancers = {host: host.check_output("hostname") + ".test" for host in hosts("acme")}
    before = {name: serial(host, name) for host, name in balancers.items()}

    change(test_kind="selfsigned")
    for host, name in balancers.items():
        own = served(host, name)
        assert post_tls(host, name, own)[0] == 200
        with pytest.raises(ssl.SSLError):
            post_tls(host, name, issuer())
        assert not renews(host)
        with host.sudo():
            for left in ("/etc/nginx/tls/certbot.env", "/etc/systemd/system/certbot.service.d", "/var/www/acme"):
                assert not host.file(left).exists, left

    change()
    for host, name in balancers.items():
        assert post_tls(host, name, issuer())[0] == 200
        assert serial(host, name) == before[name]
        assert renews(host)

    change(test_authority="14001")
    for host, name in balancers.items():
        assert post_tls(host, name, issuer(1))[0] == 200
        with pytest.raises(ssl.SSLError):
            post_tls(host, name, issuer())

    # The old name's lineage is gone, and a late renewal of it puts nothing back.
    for host in balancers:
        with host.sudo():
            host.check_output("cp -a /etc/letsencrypt /root/before")
    change(test_name="new-")
    for host, name in balancers.items():
        assert post_tls(host, f"new-{name}", issuer())[0] == 200
        with host.sudo():
            assert host.check_output("ls /etc/letsencrypt/renewal") == f"new-{name}.conf"
            host.check_output("RENEWED_LINEAGE=/root/before/live/%s clawdbot-certificate", name)
        assert post_tls(host, f"new-{name}", issuer())[0] == 200

    change(test_kind="provided")
    for host in balancers:
        assert post_tls(host, "bot.test", (EPHEMERAL / "first.pem").read_text())[0] == 200
        assert not renews(host)

    change()
    for host, name in balancers.items():
        assert post_tls(host, name, issuer())[0] == 200
