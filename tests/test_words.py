"""Choices whose words YAML 1.1 takes for booleans mean the same with and without quotes."""

import re
from pathlib import Path

import pytest
import site_inventory as site
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[1]
WORDS = {"no", "yes", "on", "off", "true", "false"}


@pytest.mark.parametrize(
    ("role", "name", "written", "meant"),
    [
        ("loadbalancer", "loadbalancer_tls", "off", "none"),
        ("loadbalancer", "loadbalancer_tls", "'off'", "none"),
        ("loadbalancer", "loadbalancer_tls", "none", "none"),
        ("loadbalancer", "loadbalancer_tls", "acme", "acme"),
        ("ssh", "ssh_permit_root_login", "no", "no"),
        ("ssh", "ssh_permit_root_login", "'yes'", "yes"),
        ("ssh", "ssh_permit_root_login", "yes", "yes"),
        ("ssh", "ssh_permit_root_login", "prohibit-password", "prohibit-password"),
    ],
)
def test_quotes_make_no_difference(role: str, name: str, written: str, meant: str) -> None:
    files = (ROOT / f"roles/{role}/vars/main.yml", ROOT / "roles/ssh/templates/sshd.conf.j2")
    text = "\n".join(file.read_text("utf-8") for file in files)
    found = re.search(rf"{{{{ ({name} \| .*?) }}}}", text)
    assert found, name
    variables = {name: yaml.safe_load(written)}
    templar = Templar(loader=DataLoader(), variables=variables)
    assert templar.template(trust_as_template(f"{{{{ {found[1]} }}}}")) == meant


def test_every_such_choice_is_read_as_a_word() -> None:
    """Where a template reads it, or where the one internal variable is made that all others read."""
    found = {}
    for spec in ROOT.glob("roles/*/meta/argument_specs.yml"):
        role = spec.parents[1]
        files = [file for file in (*role.glob("templates/**/*.j2"), role / "vars/main.yml") if file.exists()]
        text = "\n".join(file.read_text("utf-8") for file in files)
        for entry in yaml.safe_load(spec.read_text("utf-8"))["argument_specs"].values():
            for name, option in entry.get("options", {}).items():
                if set(map(str, option.get("choices", []))) & WORDS:
                    found[name] = re.findall(rf"\b{name}\b(.*)", text)
    assert set(found) >= {"loadbalancer_tls", "ssh_permit_root_login", "ssh_allow_tcp_forwarding"}
    for name, uses in found.items():
        assert uses, name
        assert all(use.startswith(" | string | lower") for use in uses), (name, uses)


@pytest.mark.parametrize(
    ("tls", "expected"),
    [(None, "selfsigned"), (False, "none"), ("off", "none"), ("none", "none"), ("acme", "acme")],
)
def test_the_kind_of_certificate_is_that_of_the_balancers(tls: object, expected: str) -> None:
    variables = {} if tls is None else {"loadbalancer_tls": tls}
    assert site.site_certificate(["lb1"], {"lb1": variables}) == expected
    assert site.site_certificate([], {}) == "none"


@pytest.mark.parametrize(
    ("scheme", "host", "port", "url"),
    [
        ("http", "bot.example.com", 18789, "http://bot.example.com:18789"),
        ("https", "bot.example.com", "443", "https://bot.example.com"),
        ("https", "bot.example.com", 8443, "https://bot.example.com:8443"),
        ("http", "2001:db8::1", 80, "http://[2001:db8::1]"),
    ],
)
def test_urls(scheme: str, host: str, port: int | str, url: str) -> None:
    assert site.site_url(scheme, host, port) == url
