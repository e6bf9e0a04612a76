"""Preflight finds everything that is wrong with an inventory at once and says where it stands."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

GOOD_HOSTS = """
all:
  children:
    loadbalancer: {hosts: {lb1: {ansible_host: 192.0.2.1}}}
    clawdbot:
      hosts:
        app1: {ansible_host: 192.0.2.11}
        app2: {ansible_host: 192.0.2.12}
    redis: {hosts: {redis1: {ansible_host: 192.0.2.21}}}
"""
GOOD_VARS = """
site_redis_password: 0123456789abcdef0123
clawdbot_feishu_app_id: cli_1
clawdbot_feishu_app_secret: s1
clawdbot_feishu_encryption_key: k1
clawdbot_feishu_verification_token: t1
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def preflight(tmp_path: Path, root: Path) -> Run:
    """Runs the playbook on an inventory of the given texts."""

    def run(hosts: str = GOOD_HOSTS, variables: str = GOOD_VARS, *arguments: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "group_vars/all").mkdir(parents=True)
        (tmp_path / "hosts.yml").write_text(hosts, "utf-8")
        (tmp_path / "group_vars/all/main.yml").write_text(variables, "utf-8")
        command = ["ansible-playbook", "-i", str(tmp_path), "playbooks/preflight.yml", *arguments]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=120)

    return run


def test_a_sound_inventory_passes(preflight: Run) -> None:
    done = preflight()
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_wrong_is_listed_at_once(preflight: Run) -> None:
    hosts = """
all:
  children:
    loadbalancer: {hosts: {}}
    clawdbot:
      hosts:
        app1: {ansible_host: 192.0.2.11, clawdbot_port: eighty}
        app2: {ansible_host: 192.0.2.11}
        app3: {}
"""
    variables = """
clawdbot_modle_type: gpt
clawdbot_dingtalk_app_key: your_app_key
clawdbot_dingtalk_aes_key: short
clawdbot_model_type: gpt
site_ssh_port: "{{ nowhere }}"
site_domain: [a, b]
site_alerts_token: a1a1a1a1a1
clawdbot_dingtalk_allow_users: alice,bob
clawdbot_model_vision: perhaps
clawdbot_extra_environment: {MODEL_NAME: x, "no name": y, HTTPS_PROXY: "http://proxy.example.com:3128"}
"""
    done = preflight(hosts, variables, "-e", "nginx_no_such_thing=1")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    for expected in (
        "hosts.yml:4: loadbalancer: the group is empty",
        "redis: the group is missing",
        "hosts.yml:7: clawdbot_port:",
        "hosts.yml:8: ansible_host: app2 and app1 have the same address 192.0.2.11",
        "hosts.yml:9: app3: app3: 'app3' is not an IP address",
        "main.yml:2: clawdbot_modle_type: no role knows this variable; did you mean clawdbot_model_type?",
        "main.yml:9: clawdbot_dingtalk_allow_users: must be a list",
        "main.yml:10: clawdbot_model_vision: value of clawdbot_model_vision must be one of",
        "main.yml:11: clawdbot_extra_environment: MODEL_NAME is the role's to set; use clawdbot_model_name",
        "main.yml:11: clawdbot_extra_environment: 'no name' is no name of an environment variable",
        "main.yml:3: clawdbot_dingtalk_app_key: still holds the placeholder 'your_app_key'",
        "main.yml:4: clawdbot_dingtalk_aes_key: has 5 characters, DingTalk's have 43",
        "main.yml:6: site_ssh_port: cannot be worked out",
        "main.yml:7: site_domain: must be a text, not a list",
        "secrets.yml: clawdbot_dingtalk_app_secret: is missing",
        "secrets.yml: clawdbot_model_api_key: is missing",
        "secrets.yml: site_redis_password: is missing",
        "secrets.yml: clawdbot_dingtalk_access_token or clawdbot_alerts_feishu_chat: is missing",
        "nginx_no_such_thing: no role knows this variable",
    ):
        assert expected in said, f"{expected!r} is not in:\n{said}"


def test_a_secret_is_never_shown(preflight: Run) -> None:
    hidden = "hunter2-quote'"
    done = preflight(variables=GOOD_VARS.replace("s1", hidden) + "clawdbot_dingtalk_token: [hunter2]\n")
    assert done.returncode != 0
    assert "clawdbot_feishu_app_secret: holds a quote" in done.stdout + done.stderr
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["single", "cluster"])
def test_an_example_inventory_passes_once_its_secrets_are_filled_in(name: str, root: Path, tmp_path: Path) -> None:
    inventory = tmp_path / name
    shutil.copytree(root / "inventories" / name, inventory, ignore=shutil.ignore_patterns("secrets.yml"))
    command = ["ansible-playbook", "-i", str(inventory), "playbooks/preflight.yml"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=120)

    missing = run()
    assert missing.returncode != 0
    assert "secrets.yml: site_redis_password: is missing" in missing.stdout + missing.stderr

    secrets = inventory / "group_vars/all/secrets.yml"
    example = (inventory / "group_vars/all/secrets.yml.example").read_text("utf-8")
    secrets.write_text(example, "utf-8")
    untouched = run()
    assert untouched.returncode != 0
    assert "still holds the placeholder" in untouched.stdout + untouched.stderr

    secrets.write_text(re.sub(r"^(\w+): .*", rf"\1: {'a1' * 21}b", example, flags=re.MULTILINE), "utf-8")
    filled = run()
    assert filled.returncode == 0, filled.stdout + filled.stderr
