"""The secrets nobody else has to issue are written once; what is there stays, in a vault or not; nothing is shown."""

import datetime
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from cryptography import x509

MADE = {
    "site_redis_password",
    "site_alerts_token",
    "site_dashboard_password",
    "site_backup_password",
    "clawdbot_dingtalk_token",
    "clawdbot_dingtalk_aes_key",
    "clawdbot_feishu_encryption_key",
}

Run = Callable[..., str]


@pytest.fixture
def run(root: Path, inventory: Path) -> Run:
    """Runs the playbook; returns what it says."""

    def play(*arguments: str, environment: dict[str, str] | None = None, succeeds: bool = True) -> str:
        command = ["ansible-playbook", "-i", str(inventory), "playbooks/secrets.yml", "-vvv", "--diff", *arguments]
        done = subprocess.run(
            command, cwd=root, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
        )
        assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
        return done.stdout + done.stderr

    return play


def view(secrets: Path, vault: dict[str, str]) -> str:
    """The text of a file in a vault."""
    command = ["ansible-vault", "view", str(secrets)]
    return subprocess.run(command, env={**os.environ, **vault}, capture_output=True, text=True, check=True).stdout


def test_a_new_file_holds_everything_that_can_be_made(run: Run, secrets: Path) -> None:
    said = run()
    values = yaml.safe_load(secrets.read_text("utf-8"))
    assert set(values) == MADE
    assert secrets.stat().st_mode & 0o777 == 0o600
    assert len(set(values.values())) == len(MADE)
    assert all(re.fullmatch(r"[A-Za-z0-9]{20,}", value) for value in values.values())
    assert len(values["clawdbot_dingtalk_aes_key"]) == 43
    for name, value in values.items():
        assert name in said
        assert value not in said
    for name in ("clawdbot_model_api_key", "clawdbot_dingtalk_app_secret", "clawdbot_feishu_verification_token"):
        assert f"#{name}:\n" in secrets.read_text("utf-8"), "to be filled in"
        assert name in said


def test_two_installations_have_different_secrets(run: Run, secrets: Path) -> None:
    run()
    first = yaml.safe_load(secrets.read_text("utf-8"))
    secrets.unlink()
    run()
    second = yaml.safe_load(secrets.read_text("utf-8"))
    assert not set(first.values()) & set(second.values())


def test_two_sites_get_a_certificate_that_both_prove_themselves_by(run: Run, secrets: Path) -> None:
    secrets.write_text("site_sites: {shanghai: {}, beijing: {}}\n", "utf-8")
    said = run()
    values = yaml.safe_load(secrets.read_text("utf-8"))
    assert set(values) == MADE | {"site_sites", "site_link_certificate", "site_link_key"}
    assert "PRIVATE KEY" not in said
    for file, name in (("crt", "site_link_certificate"), ("key", "site_link_key")):
        (secrets.parent / f"link.{file}").write_text(values[name], "utf-8")
    ends = x509.load_pem_x509_certificate(values["site_link_certificate"].encode()).not_valid_after_utc
    assert ends > datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=99 * 365)
    talk(secrets.parent / "link.crt", secrets.parent / "link.key")
    assert "changed=0" in run()


def talk(certificate: Path, key: Path) -> None:
    """A handshake in which either side asks for the certificate of the other, as strictly as Python can."""
    sides = []
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(protocol)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(certificate)
        sides.append(context)
    ours, theirs = socket.socketpair()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(sides[0].wrap_socket, ours, server_side=True)
        with sides[1].wrap_socket(theirs) as client, answer.result(10) as server:
            client.sendall(b"hello")
            assert server.recv(5) == b"hello"


def test_what_is_there_stays(run: Run, secrets: Path, inventory: Path) -> None:
    mine = '# mine\nsite_redis_password: hunter2hunter2hunter2   # old\nsite_backup_password: ""\n'
    mine += "clawdbot_model_api_key: sk-1"
    secrets.write_text(mine, "utf-8")
    (inventory / "group_vars/clawdbot.yml").write_text("clawdbot_dingtalk_token: elsewhere\n", "utf-8")
    said = run()
    written = secrets.read_text("utf-8")
    assert written.startswith(f"{mine}\n")
    assert "hunter2" not in said
    assert set(yaml.safe_load(written)) == MADE - {"clawdbot_dingtalk_token"} | {"clawdbot_model_api_key"}
    assert secrets.stat().st_mode & 0o777 == 0o600
    assert "changed=0" in run()
    assert secrets.read_text("utf-8") == written


def test_with_a_vault_password_the_file_is_encrypted(run: Run, secrets: Path, vault: dict[str, str]) -> None:
    secrets.write_text("# mine\nsite_redis_password: hunter2hunter2hunter2\n", "utf-8")
    said = run(environment=vault)
    assert secrets.read_text("utf-8").startswith("$ANSIBLE_VAULT;")
    text = view(secrets, vault)
    assert text.startswith("# mine\nsite_redis_password: hunter2hunter2hunter2\n")
    assert set(yaml.safe_load(text)) == MADE
    assert "hunter2" not in said
    before = secrets.read_bytes()
    assert "changed=0" in run(environment=vault)
    assert secrets.read_bytes() == before


def test_a_file_in_a_vault_gets_what_is_missing_under_its_own_password(
    run: Run, secrets: Path, vault: dict[str, str], tmp_path: Path
) -> None:
    run(environment=vault)
    kept = view(secrets, vault)
    shorter = re.sub(r"^site_alerts_token: .*\n", "", kept, flags=re.MULTILINE)
    secrets.write_text(shorter, "utf-8")
    password = vault["ANSIBLE_VAULT_PASSWORD_FILE"]
    subprocess.run(["ansible-vault", "encrypt", "--vault-id", f"prod@{password}", str(secrets)], check=True)
    other = tmp_path / "other"
    other.write_text("battery staple\n", "utf-8")
    run("--vault-id", f"dev@{other}", "--vault-id", f"prod@{password}")
    assert secrets.read_text("utf-8").startswith("$ANSIBLE_VAULT;1.2;AES256;prod\n")
    text = view(secrets, vault)
    assert text.startswith(shorter)
    assert set(yaml.safe_load(text)) == MADE


def test_a_dry_run_writes_nothing(run: Run, secrets: Path) -> None:
    assert "site_redis_password" in run("--check")
    assert not secrets.exists()


def test_a_broken_file_is_named_and_left_alone(run: Run, secrets: Path) -> None:
    secrets.write_text("- site_redis_password: hunter2\n", "utf-8")
    assert "secrets.yml" in run(succeeds=False)
    assert secrets.read_text("utf-8") == "- site_redis_password: hunter2\n"


@pytest.mark.parametrize("name", ["all.yml", "all"])
def test_a_file_that_ansible_would_no_longer_read_has_to_move_first(
    name: str, run: Run, secrets: Path, inventory: Path
) -> None:
    """Beside a folder ``all`` Ansible reads no file of that name."""
    shutil.rmtree(inventory / "group_vars/all")
    mine = inventory / "group_vars" / name
    mine.write_text("clawdbot_feishu_allow_users: [ou_1]\n", "utf-8")
    said = " ".join(run(succeeds=False).split())
    assert f"move {mine} to {inventory}/group_vars/all/main.yml first" in said
    assert mine.is_file()
    assert not secrets.exists()


@pytest.mark.parametrize("inventory", ["inventories/mien", "203.0.113.10,"])
def test_an_inventory_that_is_not_there_gets_no_secrets(inventory: str, root: Path) -> None:
    """They would lie where nobody looks for them, and where git does not overlook them."""
    command = ["ansible-playbook", "-i", inventory, "playbooks/secrets.yml"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    written = [path for path in (root / "group_vars", root / "inventories/group_vars") if path.exists()]
    for path in written:
        shutil.rmtree(path)
    assert not written
    assert done.returncode != 0
    assert f"{inventory}: there is no such file or folder" in done.stdout


def test_an_inventory_may_have_a_space_in_its_path(root: Path) -> None:
    command = ["make", "--no-print-directory", "--dry-run", "--old-file=.venv/.done", "secrets", "INVENTORY=my servers"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert shlex.split(done.stdout.splitlines()[-1])[:3] == ["ansible-playbook", "-i", "my servers"]


def test_make_asks_for_the_inventory(root: Path) -> None:
    # The environment is there, whatever its age.
    command = ["make", "--old-file=.venv/.done", "secrets"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "make secrets INVENTORY=inventories/mine" in done.stderr
