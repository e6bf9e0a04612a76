"""Choices whose words YAML 1.1 takes for booleans mean the same with and without quotes."""

import re
from pathlib import Path

import pytest
import site_inventory as site
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORDS = {"no", "yes", "on", "off", "true", "false"}


@pytest.mark.parametrize(
    ("written", "no", "meant"),
    [
        ("off", "none", "none"),
        ("'off'", "none", "none"),
        ("none", "none", "none"),
        ("acme", "none", "acme"),
        ("no", "no", "no"),
        ("yes", "no", "yes"),
        ("prohibit-password", "no", "prohibit-password"),
    ],
)
def test_quotes_make_no_difference(written: str, no: str, meant: str) -> None:
    assert site.worded(yaml.safe_load(written), no=no) == meant


def test_every_such_choice_is_read_through_a_filter() -> None:
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
        assert all(use.startswith((" | worded", " | string | lower")) for use in uses), (name, uses)


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
