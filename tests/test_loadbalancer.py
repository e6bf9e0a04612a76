"""The upstream as rendered, and the program that edits it on the balancers, agree with each other."""

import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import rendering
from cryptography import x509
from programs import load

ROLE = Path(__file__).resolve().parents[1] / "roles/loadbalancer"


def render(template: str, **inputs: Any) -> str:
    """A template of the role for a balancer that has IPv6."""
    given = {
        "inventory_hostname": "lb1",
        "loadbalancer_members": [],
        "__loadbalancer_inet6": {"stat": {"exists": True}},
    }
    return rendering.render("loadbalancer", template, **given | inputs)


MEMBERS = [
    {"name": "app1", "address": "10.0.0.1", "port": 18789},
    {"name": "app2", "address": "fd00::2", "port": 18789, "weight": 3, "backup": True},
    {"name": "app3", "address": "10.0.0.3", "port": 18789, "down": True},
]


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, Path]:
    """The program, working on a rendered file, with Nginx and its connections replaced."""
    program = load(ROLE / "files/clawdbot_member.py")
    file = tmp_path / "members.conf"
    file.write_text(render("clawdbot_members.conf", loadbalancer_members=MEMBERS))
    monkeypatch.setattr(program, "MEMBERS", file)
    monkeypatch.setattr(
        program.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout="changed\n")
    )
    monkeypatch.setattr(program, "in_flight", lambda *_: 0)
    return program, file


def test_members_are_rendered(upstream: tuple[ModuleType, Path]) -> None:
    """Those that are slow for a moment are taken for dead; if that is all of them, they are asked all the same."""
    assert [line for line in upstream[1].read_text().splitlines() if line[0] != "#"] == [
        "server 10.0.0.1:18789 weight=1 max_fails=2 fail_timeout=5s; # app1",
        "server [fd00::2]:18789 weight=3 max_fails=2 fail_timeout=5s backup; # app2",
        "server 10.0.0.3:18789 weight=1 max_fails=2 fail_timeout=5s down; # app3",
        "server 10.0.0.1:18789 max_fails=0 backup; # app1",
        "server [fd00::2]:18789 max_fails=0 backup; # app2",
        "server 10.0.0.3:18789 max_fails=0 backup down; # app3",
    ]
    alone = render("clawdbot_members.conf", loadbalancer_members=MEMBERS[:1])
    assert alone.count("server ") == 1, "Nginx does not count the failures of a single one"


@pytest.mark.parametrize("name", ["app1", "app2"])
def test_down_and_up_leave_the_file_as_it_was(upstream: tuple[ModuleType, Path], name: str) -> None:
    program, file = upstream
    before = file.read_text()
    for _ in range(2):
        assert program.switch(name, "down", 1) == 0
        assert file.read_text().count(f" down; # {name} drained\n") == 2
    for _ in range(2):
        assert program.switch(name, "up", 1) == 0
        assert file.read_text() == before


def test_member_down_in_the_inventory_is_not_put_up(upstream: tuple[ModuleType, Path]) -> None:
    program, file = upstream
    before = file.read_text()
    for state in ("down", "up"):
        assert program.switch("app3", state, 1) == 0
        assert file.read_text() == before


def test_last_member_is_kept(upstream: tuple[ModuleType, Path], capsys: pytest.CaptureFixture[str]) -> None:
    program, file = upstream
    program.switch("app1", "down", 1)
    before = file.read_text()
    assert program.switch("app2", "down", 1) == 0
    assert "only member" in capsys.readouterr().out
    assert file.read_text() == before


def test_single_node_gets_time_to_restart() -> None:
    """With nowhere else to go, waiting beats failing."""
    several = render("conf.d/clawdbot.conf", loadbalancer_members=MEMBERS)
    single = render("conf.d/clawdbot.conf", loadbalancer_members=MEMBERS[:1])
    assert several.count("proxy_read_timeout 2s;") == 2
    assert "proxy_read_timeout 2s;" not in single


def test_a_kernel_without_ipv6_is_not_asked_for_it() -> None:
    absent = {"stat": {"exists": False}}
    assert "[::]" in render("conf.d/clawdbot.conf", loadbalancer_members=MEMBERS)
    assert "[::]" not in render("conf.d/clawdbot.conf", loadbalancer_members=MEMBERS, __loadbalancer_inet6=absent)


def test_former_ports_are_served_and_lead_to_the_present_one() -> None:
    ports = {
        "loadbalancer_http_ports": [8080, 80],
        "loadbalancer_https_ports": [8443, 443],
        "loadbalancer_redirect": True,
    }
    text = render("conf.d/clawdbot.conf", loadbalancer_members=MEMBERS, **ports)
    listens = re.findall(r"listen (\d+)( ssl)?", text)
    assert set(listens) == {("8080", ""), ("80", ""), ("8443", " ssl"), ("443", " ssl")}
    assert len({listens.count(each) for each in listens}) == 1
    assert "308 https://$host:8443$request_uri" in text


@pytest.mark.parametrize("off", [False, "off", "none"])
def test_no_certificate_means_plain_http_only(off: object) -> None:
    assert "ssl_certificate" in render("conf.d/clawdbot.conf", loadbalancer_members=MEMBERS)
    assert "ssl_certificate" not in render("conf.d/clawdbot.conf", loadbalancer_members=MEMBERS, loadbalancer_tls=off)


@pytest.mark.parametrize(
    ("inputs", "covered"),
    [
        ({"ansible_host": "203.0.113.10"}, ["203.0.113.10"]),
        ({"ansible_host": "2001:db8::10"}, ["2001:db8::10"]),
        ({"ansible_host": "203.0.113.10", "loadbalancer_domain": "bot.test"}, ["bot.test"]),
        ({}, ["lb1"]),
    ],
)
def test_a_self_signed_certificate_covers_what_people_are_told(
    inputs: dict[str, str], covered: list[str], tmp_path: Path
) -> None:
    pem, program = tmp_path / "served.pem", tmp_path / "program"

    def certify(**more: str) -> str:
        program.write_text(render("clawdbot-certificate", __loadbalancer_pem=str(pem), **inputs | more))
        return subprocess.run(["sh", str(program)], capture_output=True, text=True, check=True).stdout

    assert certify() == "changed\n"
    leaf = x509.load_pem_x509_certificate(pem.read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == covered
    assert certify() == ""
    assert certify(loadbalancer_domain="other.test") == "changed\n"
