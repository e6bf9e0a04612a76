"""Secrets get new values in the file in which they stand, whatever that looks like, and nothing else in it changes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

OLD = "hunter2hunter2hunter2"
CONSOLE = {"clawdbot_dingtalk_token", "clawdbot_dingtalk_aes_key", "clawdbot_feishu_encryption_key"}
OURS = {"site_redis_password", "site_alerts_token", "site_dashboard_password", "site_backup_password", *CONSOLE}

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(root: Path, inventory: Path, tmp_path: Path) -> Run:
    """Runs the action in a play of its own; returns its result, or what it said when it failed, as ``msg``."""
    play = tmp_path / "play.yml"
    task = {"site_secrets": {"state": "{{ state }}", "only": "{{ only | default('') }}"}, "register": "done"}
    show: dict[str, Any] = {
        "ansible.builtin.copy": {"content": "{{ done | to_json }}", "dest": str(tmp_path / "result")}
    }
    show["check_mode"] = False
    plays = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task, show]}]
    play.write_text(json.dumps(plays), "utf-8")

    def action(state: str, *arguments: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
        (tmp_path / "result").unlink(missing_ok=True)
        command = ["ansible-playbook", "-i", str(inventory), str(play), "-e", f"state={state}", *arguments]
        done = subprocess.run(
            command,
            cwd=root,
            env=os.environ | {"ANSIBLE_ACTION_PLUGINS": str(root / "plugins/action")} | (environment or {}),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return {"msg": " ".join((done.stdout + done.stderr).split())}
        result: dict[str, Any] = json.loads((tmp_path / "result").read_text("utf-8"))
        return result

    return action


def encrypted(vault: dict[str, str], name: str, value: str) -> str:
    """A value in a vault, as ``ansible-vault encrypt_string`` writes it."""
    command = ["ansible-vault", "encrypt_string", "--name", name, value]
    done = subprocess.run(command, env=os.environ | vault, capture_output=True, text=True, check=True)
    return done.stdout


def decrypted(vault: dict[str, str], text: str) -> str:
    """What is in a vault."""
    command = ["ansible-vault", "decrypt", "--output", "-"]
    done = subprocess.run(command, input=text, env=os.environ | vault, capture_output=True, text=True, check=True)
    return done.stdout


MINE = f"""---
# mine
site_redis_password: {OLD}   # the old one
site_backup_password: "quoted \\" {OLD}"

# another thing
clawdbot_model_api_key: sk-1
"""


def test_a_new_value_stands_where_the_old_one_was(run: Run, secrets: Path) -> None:
    secrets.write_text(MINE, "utf-8")
    secrets.chmod(0o640)
    done = run("rotated")
    written = secrets.read_text("utf-8")
    values = yaml.safe_load(written)
    former = {"site_redis_password": OLD, "site_backup_password": f'quoted " {OLD}'}
    assert values["site_rotated"] == former == done["former"]
    assert set(done["rotated"]) == set(former)
    for name in former:
        assert re.fullmatch(r"[A-Za-z0-9]{48}", values[name])
        assert done["given"][name] == values[name]
    before = MINE.replace(OLD, values["site_redis_password"], 1)
    before = before.replace(f'"quoted \\" {OLD}"', f'"{values["site_backup_password"]}"')
    assert written.startswith(before)
    assert secrets.stat().st_mode & 0o777 == 0o640
    assert [file.name for file in secrets.parent.iterdir() if "secrets" in file.name] == ["secrets.yml"]

    # A run that died is finished by the next one, with the same values; what the file holds in the end is as it was.
    again = run("rotated")
    assert again["finishes"]
    assert again["former"] == former
    assert again["given"].items() >= done["given"].items()
    assert secrets.read_text("utf-8") == written
    run("proven")
    assert secrets.read_text("utf-8") == before
    assert secrets.stat().st_mode & 0o777 == 0o640


def test_a_file_in_a_vault_stays_in_it(run: Run, secrets: Path, vault: dict[str, str]) -> None:
    secrets.write_text(MINE, "utf-8")
    subprocess.run(["ansible-vault", "encrypt", str(secrets)], env=os.environ | vault, check=True, capture_output=True)
    run("rotated", environment=vault)
    assert secrets.read_text("utf-8").startswith("$ANSIBLE_VAULT;")
    values = yaml.safe_load(decrypted(vault, secrets.read_text("utf-8")))
    assert values["site_rotated"]["site_redis_password"] == OLD
    assert values["site_redis_password"] != OLD
    run("proven", environment=vault)
    text = decrypted(vault, secrets.read_text("utf-8"))
    assert text == MINE.replace(OLD, values["site_redis_password"], 1).replace(
        f'"quoted \\" {OLD}"', f'"{values["site_backup_password"]}"'
    )


def test_a_single_value_in_a_vault_stays_in_it(run: Run, secrets: Path, vault: dict[str, str]) -> None:
    kept = encrypted(vault, "clawdbot_model_api_key", "sk-1")
    text = f"# mine\n{encrypted(vault, 'site_redis_password', OLD)}\n# and this\n{kept}site_alerts_token: plain-{OLD}\n"
    secrets.write_text(text, "utf-8")
    done = run("rotated", environment=vault)
    written = secrets.read_text("utf-8")
    assert OLD not in written.replace(f"plain-{OLD}", "")
    assert done["given"]["site_redis_password"] not in written
    assert f"\n# and this\n{kept}" in written
    assert written.startswith("# mine\nsite_redis_password: !vault |\n")
    again = run("rotated", environment=vault)
    assert again["former"] == {"site_redis_password": OLD, "site_alerts_token": f"plain-{OLD}"}
    assert again["given"]["site_redis_password"] == done["given"]["site_redis_password"]
    run("proven", environment=vault)
    assert secrets.read_text("utf-8").splitlines()[-1] == f"site_alerts_token: {done['given']['site_alerts_token']}"


def test_a_secret_that_refers_to_a_vault_gets_its_value_there(run: Run, secrets: Path, vault: dict[str, str]) -> None:
    """As Ansible's own documentation has it: names in one file, values in an encrypted one."""
    secrets.write_text('site_redis_password: "{{ vault_redis }}"\n', "utf-8")
    other = secrets.with_name("vault.yml")
    other.write_text(f"vault_redis: {OLD}\n", "utf-8")
    subprocess.run(["ansible-vault", "encrypt", str(other)], env=os.environ | vault, check=True, capture_output=True)
    done = run("rotated", environment=vault)
    assert secrets.read_text("utf-8") == 'site_redis_password: "{{ vault_redis }}"\n'
    values = yaml.safe_load(decrypted(vault, other.read_text("utf-8")))
    assert values["vault_redis"] == done["given"]["site_redis_password"] != OLD
    assert values["site_rotated"] == {"site_redis_password": OLD}
    assert run("rotated", environment=vault)["given"]["site_redis_password"] == values["vault_redis"]


def test_what_a_console_holds_is_accepted_for_a_while(run: Run, secrets: Path) -> None:
    run("present")
    text = secrets.read_text("utf-8")
    secrets.write_text(text.replace("#clawdbot_dingtalk_app_key:", "clawdbot_dingtalk_app_key: mine"), "utf-8")
    before = yaml.safe_load(secrets.read_text("utf-8"))
    done = run("rotated")
    assert set(done["rotated"]) == OURS
    values = yaml.safe_load(secrets.read_text("utf-8"))
    former = values["clawdbot_dingtalk_former"]
    assert former.pop("until") > "2026"
    assert former == {name: before[f"clawdbot_dingtalk_{name}"] for name in ("token", "aes_key")}
    assert len(values["clawdbot_dingtalk_aes_key"]) == 43
    assert "clawdbot_feishu_former" not in values, "Feishu is not in use"
    assert all(values[name] != before[name] for name in OURS)
    (console,) = run("proven")["consoles"]
    assert "clawdbot_dingtalk_token, clawdbot_dingtalk_aes_key: in open-dev.dingtalk.com" in console

    # Its console may not have been edited.
    said = run("rotated")["msg"]
    assert "clawdbot_dingtalk_former: what it holds is still accepted" in said
    assert "-e only=site_redis_password,site_alerts_token" in said
    text = secrets.read_text("utf-8")
    secrets.write_text(re.sub(r'until: "[^"]*"', 'until: "2020-01-31"', text), "utf-8")
    done = run("rotated", "-e", "only=clawdbot_dingtalk_token")
    assert done["rotated"] == ["clawdbot_dingtalk_token"]
    assert secrets.read_text("utf-8").count("clawdbot_dingtalk_former:") == 1
    assert set(done["given"]["clawdbot_dingtalk_former"]) == {"token", "until"}


def test_the_password_of_a_redis_that_somebody_else_runs_stays(run: Run, secrets: Path) -> None:
    secrets.write_text(f"{MINE}site_redis_host: redis.example.com\n", "utf-8")
    assert run("rotated")["rotated"] == ["site_backup_password"]
    assert yaml.safe_load(secrets.read_text("utf-8"))["site_redis_password"] == OLD


def test_only_some(run: Run, secrets: Path) -> None:
    run("present")
    before = yaml.safe_load(secrets.read_text("utf-8"))
    done = run("rotated", "-e", "only=site_redis_password,site_backup_password")
    after = yaml.safe_load(secrets.read_text("utf-8"))
    assert {name for name in before if before[name] != after[name]} == set(done["rotated"])
    assert set(done["rotated"]) == {"site_redis_password", "site_backup_password"}
    # What was begun comes first, and the same command finishes it.
    assert "site_alerts_token has to wait" in run("rotated", "-e", "only=site_alerts_token")["msg"]
    assert run("rotated", "-e", "only=site_redis_password")["finishes"]


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        (
            MINE,
            ["-e", "only=site_redis_pasword"],
            "there is no secret site_redis_pasword; there are site_redis_password, ",
        ),
        (
            MINE,
            ["-e", "only=clawdbot_model_api_key"],
            "comes from your model provider's console, under API keys; change",
        ),
        (MINE, ["-e", "only=site_link_key"], "To change it, take site_link_certificate and site_link_key out"),
        (
            f"{MINE}site_redis_host: redis.example.com\n",
            ["-e", "only=site_redis_password"],
            "site_redis_password is that of site_redis_host; change it there",
        ),
        (MINE, ["-e", "only=site_alerts_token"], "site_alerts_token has no value yet; make secrets writes one"),
        (MINE, ["-e", "site_redis_password=x"], "site_redis_password: was given with -e, which wins"),
        ("a: 1\n", [], "there is no secret to rotate"),
        ("site_redis_password: \"{{ lookup('env', 'HOME') }}\"\n", [], "secrets.yml:1: site_redis_password: is worked"),
        ("site_redis_password: x\nsite_redis_password: y\n", [], "secrets.yml:2; leave one"),
        (f"x: &x {OLD}\nsite_redis_password: *x\n", [], "cannot be edited by program"),
        (f'{{"site_redis_password": "{OLD}"}}\n', [], "cannot be edited by program"),
    ],
)
def test_what_cannot_be_rotated_is_refused(text: str, arguments: list[str], said: str, run: Run, secrets: Path) -> None:
    secrets.write_text(text, "utf-8")
    refused = run("rotated", *arguments)["msg"]
    assert said in refused
    assert OLD not in refused
    assert secrets.read_text("utf-8") == text


def test_a_secret_from_elsewhere_is_refused(run: Run, secrets: Path, inventory: Path) -> None:
    (inventory / "group_vars/redis.yml").write_text("site_redis_password: another one\n", "utf-8")
    secrets.write_text("a: 1\n", "utf-8")
    assert f"site_redis_password: does not stand in {secrets}; move it there" in run("rotated")["msg"]
    secrets.write_text(MINE, "utf-8")
    assert "secrets.yml:3: site_redis_password: some hosts have another value from elsewhere" in run("rotated")["msg"]
    assert secrets.read_text("utf-8") == MINE


def test_a_dry_run_writes_nothing(run: Run, secrets: Path) -> None:
    secrets.write_text(MINE, "utf-8")
    run("rotated", "--check")
    assert secrets.read_text("utf-8") == MINE
