"""What a run prints at its end fits the hosts of the inventory."""

import subprocess
from pathlib import Path

import pytest
import yaml

HOSTS = """
all:
  vars: {site_redis_password: 0123456789abcdef0123}
  children:
    loadbalancer: {hosts: {lb1: {ansible_host: 192.0.2.1, ansible_port: 2222}}}
    clawdbot:
      hosts:
        app1: {ansible_host: 192.0.2.11, ansible_port: "2222"}
        app2: {ansible_host: 192.0.2.12, ansible_port: 10022}
    redis: {hosts: {redis1: {ansible_host: 192.0.2.21, ansible_port: 22}}}
    monitoring: {hosts: {lb1: {}}}
"""


def shown(root: Path, folder: Path, **variables: object) -> str:
    """What a run with these variables prints last."""
    last = yaml.safe_load((root / "playbooks/verify.yml").read_text("utf-8"))[-1]
    (folder / "play.yml").write_text(yaml.safe_dump([last]), "utf-8")
    (folder / "templates").symlink_to(root / "playbooks/templates")
    (folder / "hosts.yml").write_text(HOSTS, "utf-8")
    (folder / "group_vars").mkdir()
    (folder / "group_vars/all.yml").write_text(yaml.safe_dump(variables), "utf-8")
    command = ["ansible-playbook", "-i", str(folder / "hosts.yml"), str(folder / "play.yml")]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


def test_a_run_ends_with_each_hosts_own_ssh_port(root: Path, tmp_path: Path) -> None:
    said = shown(root, tmp_path)
    for line in (
        "SSH of lb1, app1 is on port 2222 now: ssh -p 2222 <user>@<host>",
        "SSH of app2 is on port 10022 now: ssh -p 10022 <user>@<host>",
        "SSH of redis1 is on port 22 now: ssh -p 22 <user>@<host>",
        "Alerts reach nobody yet: write clawdbot_dingtalk_access_token",
    ):
        assert line in said


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, "http://192.0.2.1:18789"),
        ({"loadbalancer_tls": False, "site_bot_port": 8080}, "http://192.0.2.1:8080"),
        ({"site_domain": "bot.test"}, "http://bot.test:18789"),
        ({"site_domain": "bot.test", "loadbalancer_tls": "provided"}, "https://bot.test"),
        ({"site_domain": "bot.test", "loadbalancer_tls": "acme", "site_https_port": 8443}, "https://bot.test:8443"),
    ],
)
def test_the_printed_urls_are_those_that_the_certificate_allows(
    variables: dict[str, object], url: str, root: Path, tmp_path: Path
) -> None:
    said = shown(root, tmp_path, **variables, clawdbot_dingtalk_app_key="d", clawdbot_feishu_app_id="cli_1")
    for line in (f"The bot answers at {url} ", f"  {url}/api/dingtalk/callback", f"  {url}/api/feishu/callback"):
        assert line in said
    assert ("Without a certificate that the platforms accept" in said) == url.startswith("http:")


def test_where_the_bot_connects_itself_no_url_is_printed(root: Path, tmp_path: Path) -> None:
    chosen = {"clawdbot_dingtalk_intake": "stream", "clawdbot_feishu_intake": "connection"}
    said = shown(root, tmp_path, **chosen, clawdbot_dingtalk_app_key="d", clawdbot_feishu_app_id="cli_1")
    for line in (
        "The bot is connected to its platforms (2 node(s)); nobody has to reach it from outside.",
        "DingTalk console > your app > Robot > message receiving mode: Stream",
        "Feishu console > your app > Events & callbacks > subscription mode: long connection",
    ):
        assert line in said
    assert "/callback" not in said
