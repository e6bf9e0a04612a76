"""Keepalived with what the role writes, as Keepalived itself reads it, on two hosts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from readers import read_apart
from rendering import render

HOSTS = {"lb1": "10.0.0.1", "lb2": "10.0.0.2"}
ADDRESSES = ["10.0.0.9/24", "10.0.0.10/24"]
#: Alone, and where there is an interface, Keepalived accepts the file; it complains about what does not exist.
SCRIPT = """
ip link add eth9 type veth peer name eth8
ip address add 10.0.0.1/24 dev eth9
ip link set eth9 up
keepalived --config-test --use-file {} 2>&1 || true
"""


def written(host: str = "lb1", **variables: Any) -> str:
    """The configuration of a host."""
    given = {
        "inventory_hostname": host,
        "keepalived_hosts": HOSTS,
        "keepalived_addresses": ADDRESSES,
        "__keepalived_interface": {"stdout": "dev eth9 x"},
    }
    return render("keepalived", "keepalived.conf", **given | variables)


def parsed(text: str) -> dict[str, Any]:
    """Blocks by their names, options with their values; a line without a value is an entry of a list."""
    stack: list[dict[str, Any]] = [{}]
    for line in (line.partition("#")[0].strip() for line in text.splitlines()):
        if line.endswith("{"):
            stack.append(stack[-1].setdefault(line.removesuffix("{").strip(), {}))
        elif line == "}":
            stack.pop()
        elif line:
            name, _, value = line.partition(" ")
            stack[-1][name] = value
    assert len(stack) == 1
    return stack[0]


def test_it_is_accepted(tmp_path: Path) -> None:
    file, check = tmp_path / "keepalived.conf", "/usr/local/sbin/clawdbot-front-check"
    # Programs have to be root's and to lie where only root writes.
    file.write_text(written().replace(check, "/bin/true"), "utf-8")
    said = read_apart(tmp_path, SCRIPT.format(file), "keepalived", "ip")
    complaints = [line for line in said.splitlines() if "script" not in line]
    assert complaints == []


def test_a_host_that_does_not_serve_gives_its_addresses_away() -> None:
    found = parsed(written())
    assert found["global_defs"] == {
        "router_id": "lb1",
        "enable_script_security": "",
        "script_user": "keepalived_script",
        "vrrp_version": "3",
        "vrrp_garp_master_refresh": "30",
    }
    assert found["vrrp_script front"] == {
        "script": '"/usr/local/sbin/clawdbot-front-check"',
        "interval": "1",
        "timeout": "2",
        "fall": "2",
        "rise": "2",
        "weight": "-50",
        "init_fail": "",
    }


@pytest.mark.parametrize(("host", "priorities"), [("lb1", ["120", "100"]), ("lb2", ["100", "120"])])
def test_each_host_has_an_address_of_its_own(host: str, priorities: list[str]) -> None:
    found = parsed(written(host))
    (peer,) = [address for name, address in HOSTS.items() if name != host]
    for number, (address, priority) in enumerate(zip(ADDRESSES, priorities, strict=True)):
        assert found[f"vrrp_instance clawdbot_{number + 1}"] == {
            "state": "BACKUP",
            "interface": "eth9",
            "virtual_router_id": str(51 + number),
            "priority": priority,
            "advert_int": "0.5",
            "unicast_src_ip": HOSTS[host],
            "unicast_peer": {peer: ""},
            "virtual_ipaddress": {address.split("/")[0] + "/24": "dev eth9"},
            "track_script": {"front": ""},
            "notify": f'"/usr/local/sbin/clawdbot-front-moved {address.split("/")[0]}"',
        }


def test_a_single_address_stays_where_it_is() -> None:
    for host in HOSTS:
        assert (
            parsed(written(host, keepalived_addresses=ADDRESSES[:1]))["vrrp_instance clawdbot_1"]["priority"] == "100"
        )


def test_it_asks_its_own_nginx(tmp_path: Path) -> None:
    curl = tmp_path / "curl"
    curl.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', "utf-8")
    curl.chmod(0o755)

    def asked(**variables: str) -> list[str]:
        script = render("keepalived", "clawdbot-front-check", **variables)
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        return subprocess.run(
            ["sh", "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout.splitlines()

    always = ["--silent", "--fail", "--output", "/dev/null", "--max-time", "1.5", "--noproxy", "*"]
    assert asked() == [*always, "http://127.0.0.1/health"]
    assert asked(keepalived_check_host="bot.test") == [*always, "--header", "Host: bot.test", "http://127.0.0.1/health"]


STUBS = {
    "nft": 'if [ "$1" = -f ]; then cat >>"$TOLD"; else echo "nft $*" >>"$TOLD"; fi',
    "nginx": 'echo "nginx $*" >>"$TOLD"',
    "ss": 'echo "ss $*" >>"$TOLD"; [ "$(grep -c "^ss" "$TOLD")" -gt 4 ] || echo a connection',
    "sleep": ":",
}


@pytest.mark.parametrize(
    ("argument", "pid", "told"),
    [
        (
            "",
            "7",
            [
                "table inet clawdbot_front { chain leave { type filter hook input priority filter - 10;",
                "ip daddr 10.0.0.9 tcp flags & (fin | syn | rst | ack) == syn drop",
                "ip6 daddr fd00::9 tcp flags & (fin | syn | rst | ack) == syn drop",
                "}; }",
                "nginx -s reload",
                *["ss -Htn state established src 10.0.0.9", "ss -Htn state established src fd00::9"] * 3,
            ],
        ),
        ("", "", []),
        ("open", "7", ["nft delete table inet clawdbot_front"]),
    ],
)
def test_those_who_are_here_are_answered_before_an_address_leaves(
    tmp_path: Path, argument: str, pid: str, told: list[str]
) -> None:
    for name, body in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n", "utf-8")
        (tmp_path / name).chmod(0o755)
    script = render("keepalived", "clawdbot-front-leave", keepalived_addresses=["10.0.0.9/24", "fd00::9/64"])
    file = tmp_path / "told"
    file.touch()
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TOLD": str(file), "MAINPID": pid}
    subprocess.run(["sh", "-c", script, "leave", *filter(None, [argument])], env=environment, check=True)
    assert file.read_text("utf-8").splitlines() == told
    assert not re.search(r"^\s+", file.read_text("utf-8"))
