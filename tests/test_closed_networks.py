"""How the hosts of a closed network reach what is outside."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import render

ROOT = Path(__file__).resolve().parents[1]
PROXY = {
    "HTTP_PROXY": "http://bot:p%40ss%3A@proxy.example.com:3128",
    "HTTPS_PROXY": "http://bot:p%40ss%3A@proxy.example.com:3128",
    "NO_PROXY": "localhost,127.0.0.1,::1,10.0.0.0/8,example.org,.example.net",
}


@pytest.mark.parametrize(
    ("url", "machine"),
    [
        ("https://bot:p%40ss%3A+%2F@host:8443/simple", "https://host:8443/simple login bot password p@ss:+/"),
        ("https://token@host/", "https://host login token password "),
        ("http://[fd00::1]:3128", ""),
        ("", ""),
    ],
)
def test_accounts_are_taken_out_of_urls(url: str, machine: str) -> None:
    said = render("base", "auth.conf", base_apt_mirror=url, base_proxy={}, base_apt_security_mirror="")
    assert [line.removeprefix("machine ") for line in said.splitlines()[1:]] == ([machine] if machine else [])


def test_what_is_in_the_inventory_reaches_every_role_that_has_a_proxy() -> None:
    plays = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "playbooks").rglob("*.yml")))
    names = []
    for file in ROOT.glob("roles/*/defaults/main.yml"):
        names += [name for name in yaml.safe_load(file.read_text("utf-8")) or {} if name.endswith("_proxy")]
    names = [name for name in names if not name.startswith("site_")]
    assert sorted(names) == ["backup_proxy", "base_proxy", "clawdbot_proxy", "docker_proxy", "loadbalancer_proxy"]
    for name in names:
        assert f'{name}: "{{{{ site_proxy_environment }}}}"' in plays, name


def proxy_of(tmp_path: Path, url: str) -> str:
    """What the program for apt says of a URL."""
    program = tmp_path / "proxy"
    program.write_text(render("base", "clawdbot-apt-proxy", base_proxy=PROXY), "utf-8")
    program.chmod(0o755)
    return subprocess.run([program, url], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("url", "direct"),
    [
        ("http://deb.debian.org/debian/dists/trixie/InRelease", False),
        ("https://deb.debian.org/debian/", False),
        ("http://10.1.2.3:3142/debian/", True),
        ("http://11.1.2.3/debian/", False),
        ("http://[::1]:3142/debian/", True),
        ("http://mirror.EXAMPLE.org/debian/", True),
        ("http://example.org/debian/", True),
        ("http://notexample.org/debian/", False),
        ("http://deb.example.net/debian/", True),
    ],
)
def test_apt_takes_the_proxy_but_for_what_is_reached_directly(tmp_path: Path, url: str, direct: bool) -> None:
    assert proxy_of(tmp_path, url) == ("DIRECT" if direct else "http://proxy.example.com:3128")


def test_apts_passwords_are_in_one_file_and_in_the_notation_of_that() -> None:
    """apt_auth.conf(5): the words after login and password are taken as they are, not decoded."""
    said = render(
        "base",
        "auth.conf",
        base_proxy=PROXY,
        base_apt_mirror="https://me:a%2Fb@mirror.example.com/debian",
        __base_sources={"stdout_lines": ["trixie"]},
    ).splitlines()
    assert said[1:] == [
        "machine https://mirror.example.com/debian login me password a/b",
        "machine https://mirror.example.com/debian-security login me password a/b",
        "machine http://proxy.example.com:3128 login bot password p@ss:",
    ]
    for name in ("mirror.sources", "security.list", "proxy.conf", "clawdbot-apt-proxy"):
        public = render(
            "base",
            name,
            base_proxy=PROXY,
            base_apt_mirror="https://me:a%2Fb@mirror.example.com/debian",
            __base_sources={"stdout_lines": ["trixie"]},
        )
        assert "@" not in public, name
        assert "password" not in public, name


def test_npm_gets_the_account_in_its_own_notation() -> None:
    said = render(
        "base", "npmrc", base_npm_registry="https://me:a%2Fb@npm.example.com/r", base_proxy=PROXY
    ).splitlines()
    assert "registry=https://npm.example.com/r" in said
    assert "//npm.example.com/r/:_auth=bWU6YS9i" in said
    assert f"https-proxy={PROXY['HTTPS_PROXY']}" in said


@pytest.mark.parametrize(
    ("role", "name", "variables"),
    [
        (
            "clawdbot",
            "packages.env",
            {"clawdbot_proxy": PROXY, "clawdbot_pip_index_url": "https://b:c@pypi.example.com"},
        ),
        ("clawdbot", "service.env", {"clawdbot_proxy": PROXY}),
        ("docker", "docker", {"docker_proxy": PROXY}),
        ("loadbalancer", "certbot.env", {"loadbalancer_proxy": PROXY}),
        (
            "backup",
            "settings",
            {"backup_proxy": PROXY, "backup_repository": "/x", "backup_password": "y", "inventory_hostname": "z"},
        ),
    ],
)
def test_a_shell_reads_the_proxy_from_what_a_role_writes(tmp_path: Path, role: str, name: str, variables: Any) -> None:
    file = tmp_path / name
    file.write_text(render(role, name, **variables), "utf-8")
    script = 'set -aeu; . "$0"; env'
    said = subprocess.run(
        ["bash", "-c", script, str(file)], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {f"{key}={value}" for key, value in PROXY.items()} <= set(said)


def test_a_setting_of_ones_own_wins_over_the_proxy_of_the_site() -> None:
    said = render("clawdbot", "service.env", clawdbot_proxy=PROXY, clawdbot_extra_environment={"HTTPS_PROXY": ""})
    assert "HTTPS_PROXY=''" in said.splitlines()
    assert f"HTTP_PROXY='{PROXY['HTTP_PROXY']}'" in said.splitlines()
