"""An inventory for rehearsals is production's but for what leads to people, platforms and production itself."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import site_staging
import yaml
from ansible.errors import AnsibleActionFail

ROOT = site_staging.PACKAGE
SIMULATOR = "{{ sandbox_simulator_url }}"

#: A company's inventory in INI: ranges, groups of groups, a name of its own for one of ours, hosts that are not ours.
INI = """
# the shop's servers
[all:vars]
ansible_user=deploy
site_group_names={"redis": "cache_servers"}

[web]
edge-1 ansible_host=198.51.100.11 ansible_port=10022 loadbalancer_rate=7   # in rack 3
[apps]
bot[1:5].example.com site_address=10.9.0.1
[loadbalancer:children]
web
[clawdbot:children]
apps
[cache_servers]
store ansible_host=198.51.100.31 ansible_ssh_common_args='-o ProxyJump=me@198.51.100.11'
[monitoring]
store
[printers]
laser ansible_host=198.51.100.99 printer_password=let-me-print-now
[apps:vars]
clawdbot_worker_concurrency=6
"""
VARIABLES = """
# --- How the bot answers -----------------------
clawdbot_model_type: qwen           # bought by the office
clawdbot_model_system_prompt: |
  You are the shop's help desk.
  Be brief.
# who may write
clawdbot_feishu_allow_users:
  - ou_boss
clawdbot_rules:
  # the big one is dear
  everybody: {bot_name: Shopkeeper}
  models:
    big: {type: qwen, name: qwen-max, api_key: "{{ vault_qwen_key }}", vision: true}
base_apt_mirror: http://shop:apt-account-1@198.51.100.99/debian
firewall_extra_services:
  - {name: till, ports: [9000], sources: [198.51.100.31, 198.51.100.99/32]}   # the tills
site_domain: bot.shop.example
shop_master: "{{ hostvars['store'].ansible_host }}:6379"
monitoring_email_to: night-shift@shop.example
shop_token: token-of-the-till-1
site_redis_password: "{{ vault_redis_password }}"
"""
VAULT = """
# only for the three of us
vault_qwen_key: sk-real-key-of-qwen
vault_redis_password: real-password-of-redis
vault_ports: [1, 2]
"""
REAL = (
    "sk-real-key",
    "real-password",
    "let-me-print",
    "token-of-the-till",
    "198.51.100.11",
    "198.51.100.31",
    "10.9.0.1",
)


@pytest.fixture(scope="module", autouse=True)
def password(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The password of every vault here."""
    file = tmp_path_factory.mktemp("vault") / "password"
    file.write_text("correct horse\n", "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(file))
        yield


def play(inventory: Path, staging: Path, *arguments: str, book: str = "staging") -> subprocess.CompletedProcess[str]:
    """Runs a playbook, by default the one that makes ``staging``."""
    where = json.dumps({"staging_path": str(staging)})
    return run("ansible-playbook", "-i", str(inventory), f"playbooks/{book}.yml", "-e", where, *arguments)


def run(*command: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs a command of Ansible in the repository."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=check)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The company's inventory, with a file and a value in a vault."""
    folder = tmp_path_factory.mktemp("shop") / "the shop"
    for place, text in (
        ("hosts", INI),
        ("group_vars/all.yml", VARIABLES),
        ("group_vars/apps/keys.yml", VAULT),
        ("group_vars/apps/README.md", "not variables"),
        ("host_vars/store.yml", "redis_maxmemory: 1gb  # half of it\n"),
        ("host_vars/bot5.example.com/more.yml", "clawdbot_web_workers: 2\n"),
        ("host_vars/bot1.example.com/more.yml", "clawdbot_web_workers: 5\n"),
    ):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text, "utf-8")
    run("ansible-vault", "encrypt", str(folder / "group_vars/apps/keys.yml"), check=True)
    sealed = run("ansible-vault", "encrypt_string", "--name", "shop_pin", "real-password-of-the-safe", check=True)
    with (folder / "group_vars/all.yml").open("a", encoding="utf-8") as file:
        file.write(f"{sealed.stdout.strip()}\n# the end\n")
    return folder


@pytest.fixture(scope="module")
def staging(shop: Path) -> Path:
    """The staging of the shop."""
    folder = shop.parent / "staging"
    done = play(shop, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def made(staging: Path) -> dict[str, Any]:
    """What Ansible makes of it: hosts with their variables, groups with their hosts."""
    return listed(staging)


def listed(inventory: Path) -> dict[str, Any]:
    """An inventory as ansible-inventory says it."""
    return dict(json.loads(run("ansible-inventory", "-i", str(inventory), "--list", check=True).stdout))


def passes_the_preflight(staging: Path) -> None:
    """With the secrets that `make sandbox` makes."""
    secrets = ["ansible", "localhost", "-i", str(staging), "-m", "site_secrets", "-a", "everything=true"]
    run(*secrets, "-e", "ansible_connection=local", check=True)
    checked = play(staging, staging, book="preflight")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def contents(staging: Path) -> Iterator[str]:
    """The texts of all files of a staging, decrypted."""
    for file in filter(Path.is_file, staging.rglob("*")):
        text = file.read_text("utf-8")
        is_sealed = text.startswith("$ANSIBLE_VAULT")
        yield run("ansible-vault", "view", str(file), check=True).stdout if is_sealed else text


@pytest.mark.parametrize("name", ["single", "cluster", "sandbox"])
def test_an_inventory_of_the_package_passes_the_preflight(name: str, tmp_path: Path) -> None:
    done = play(ROOT / "inventories" / name, tmp_path / "staging")
    assert done.returncode == 0, done.stdout + done.stderr
    passes_the_preflight(tmp_path / "staging")


def test_a_strangers_inventory_passes_the_preflight(staging: Path, tmp_path: Path) -> None:
    passes_the_preflight(Path(shutil.copytree(staging, tmp_path / "staging")))


def test_hosts_and_groups_are_productions_under_other_names(made: dict[str, Any]) -> None:
    assert made["web"]["hosts"] == ["staging-edge-1"]
    assert made["apps"]["hosts"] == [f"staging-bot{number}.example.com" for number in (1, 2, 3)]
    assert made["cache_servers"]["hosts"] == made["monitoring"]["hosts"] == ["staging-store"]
    assert "printers" not in made
    hosts = made["_meta"]["hostvars"]
    assert len({beside["ansible_host"] for beside in hosts.values()}) == len(hosts)
    assert all(beside["ansible_user"] == "debian" for beside in hosts.values())
    assert not {"ansible_port", "site_address"} & set().union(*hosts.values())


def test_settings_come_along_wherever_they_stand(made: dict[str, Any]) -> None:
    hosts = made["_meta"]["hostvars"]
    bot = hosts["staging-bot1.example.com"]
    assert hosts["staging-edge-1"]["loadbalancer_rate"] == 7
    assert (bot["clawdbot_worker_concurrency"], bot["clawdbot_web_workers"]) == (6, 5)
    assert hosts["staging-store"]["redis_maxmemory"] == "1gb"
    assert bot["clawdbot_model_system_prompt"] == "You are the shop's help desk.\nBe brief.\n"
    assert bot["base_apt_mirror"] == "http://shop:apt-account-1@198.51.100.99/debian"
    assert bot["vault_ports"] == [1, 2]


def test_nothing_leads_to_production_or_to_people(made: dict[str, Any], staging: Path) -> None:
    bot = made["_meta"]["hostvars"]["staging-bot1.example.com"]
    store = made["_meta"]["hostvars"]["staging-store"]["ansible_host"]
    for name in ("clawdbot_feishu_allow_users", "monitoring_email_to", "site_domain", "site_redis_password"):
        assert name not in bot
    assert (bot["clawdbot_model_type"], bot["clawdbot_model_base_url"]) == ("gpt", f"{SIMULATOR}/v1")
    assert bot["clawdbot_rules"]["models"]["big"]["base_url"] == f"{SIMULATOR}/v1"
    assert bot["clawdbot_rules"]["everybody"] == {"bot_name": "Shopkeeper"}
    assert bot["firewall_extra_services"][0]["sources"] == [store, f"{site_staging.NOWHERE}/32"]
    assert bot["shop_master"] == "{{ hostvars['staging-store'].ansible_host }}:6379"
    for text in contents(staging):
        assert not [real for real in REAL if real in text], text


def test_comments_stay(staging: Path) -> None:
    text = (staging / "group_vars/all/main.yml").read_text("utf-8")
    for comment in ("# --- How the bot answers ---", "# who may write", "# the end"):
        assert comment in text
    assert "# half of it" in (staging / "host_vars/staging-store/main.yml").read_text("utf-8")


def test_what_was_in_a_vault_is_in_one(staging: Path) -> None:
    keys = (staging / "group_vars/apps/keys.yml").read_text("utf-8")
    assert keys.startswith("$ANSIBLE_VAULT")
    assert any("# only for the three of us" in text for text in contents(staging))


def test_made_again_it_keeps_secrets_and_places(
    made: dict[str, Any], shop: Path, staging: Path, tmp_path: Path
) -> None:
    again, shop = tmp_path / "staging", Path(shutil.copytree(shop, tmp_path / "the shop"))
    shutil.copytree(staging, again)
    assert "changed=0" in play(shop, again).stdout
    (again / "group_vars/all/secrets.yml").write_text("site_redis_password: 0123456789abcdef\n", "utf-8")
    hosts = yaml.safe_load((again / "hosts.yml").read_text("utf-8"))
    hosts["all"]["hosts"]["staging-store"] = {"ansible_host": "192.0.2.7", "ansible_user": "root"}
    (again / "hosts.yml").write_text(yaml.safe_dump(hosts), "utf-8")
    (shop / "group_vars/web.yml").write_text("loadbalancer_burst: 9\n", "utf-8")
    (shop / "host_vars/store.yml").unlink()
    done = play(shop, again, "-e", "staging_hosts=1")
    assert done.returncode == 0, done.stdout + done.stderr
    now = listed(again)["_meta"]["hostvars"]
    assert "staging-bot2.example.com" not in now
    edge, former = now["staging-edge-1"], made["_meta"]["hostvars"]["staging-edge-1"]
    assert (edge["ansible_host"], edge["loadbalancer_burst"]) == (former["ansible_host"], 9)
    assert (now["staging-store"]["ansible_host"], now["staging-store"]["ansible_user"]) == ("192.0.2.7", "root")
    assert not {"sandbox_image", "redis_maxmemory"} & set(now["staging-store"])
    assert edge["site_redis_password"] == "0123456789abcdef"


def test_it_writes_over_nothing_else(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("all: {}\n", "utf-8")
    assert "was not made by this" in play(shop, tmp_path).stdout
    for where in (shop, shop / "group_vars", shop.parent):
        assert "production's inventory itself" in play(shop, where).stdout
    assert [file.name for file in tmp_path.iterdir()] == ["hosts.yml"]


def test_a_dry_run_writes_nothing(shop: Path, tmp_path: Path) -> None:
    assert "changed=1" in play(shop, tmp_path / "staging", "--check").stdout
    assert not (tmp_path / "staging").exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: 1  # one\nb: 2\n", "# a: production's own\nb: 2\n"),
        (
            "b:\n- 1\n- 2  # two\n# a\na:\n  c: 3\n\n# end\n",
            "b:\n- 1\n- 2  # two\n# a\n# a: production's own\n\n# end\n",
        ),
        ("c: >\n  x\n  y\n# after\nd: 1\n", 'c: "new"\n# after\nd: 1\n'),
        ("c:   # here\n    e: f\nd: 1", 'c: "new"\nd: 1'),
        ("a: 1", "# a: production's own"),
        ('{"a": 1, "c": 2, "b": [3]}', "c: new\nb: [3]\n"),
        ("x: &x [1]\nc: *x\na: *x\nb: *x\n", "x: [1]\nc: new\nb: [1]\n"),
        ("# nothing\n", "# nothing\n"),
    ],
)
def test_a_text_is_changed_in_its_places(before: str, after: str) -> None:
    def change(name: str, value: Any) -> list[Any] | None:
        return {"a": None, "c": ["new"]}.get(name, [value])

    assert site_staging.rewritten(before, change) == after


def test_a_leak_is_found() -> None:
    staging = site_staging.Staging({}, {"198.51.100.7": "10.213.9.11"})
    production = {"one": {"my_password": "hunter2hunter2", "n": 1}}
    site_staging.prove({"a.yml": "x: 198.51.100.77\n"}, production, staging)
    for text in ("# hunter2hunter2\n", "x: [{y: http://198.51.100.7:80/}]\n"):
        with pytest.raises(AnsibleActionFail, match="nothing was written"):
            site_staging.prove({"a.yml": text}, production, staging)


#: What looks like a way outside by its name, and leads nowhere that a rehearsal must not go.
HARMLESS = {
    "backup_repository",
    "base_hosts",
    "base_pip_index",
    "clawdbot_redis_host",
    "clawdbot_pip_index_url",
    "exporters_nginx_status_url",
    "loadbalancer_domain",
    "loadbalancer_former_domains",
    "monitoring_runbook_url",
    "site_public_host",
    "site_public_url",
    "ssh_jump_host",
}


def test_every_variable_that_may_lead_outside_is_decided() -> None:
    """One that a role gets anew is either left in production (``OUTSIDE``, or no_log) or known to be harmless."""
    ways = {
        name
        for name, option in site_staging._specs()
        if re.search(r"_(urls?|domains?|hosts?|repository|email_\w+|webhook\w*|floating_\w+|hook)$", name)
        and not option.get("no_log")
    }
    assert {"clawdbot_feishu_webhook_url", "monitoring_heartbeat_url", "site_domain"} <= ways
    given = set(yaml.safe_load((ROOT / "inventories/sandbox/group_vars/all/main.yml").read_text("utf-8")))
    undecided = {name for name in ways - given - HARMLESS if not site_staging.OUTSIDE.fullmatch(name)}
    assert not undecided, "add them to OUTSIDE in plugins/action/site_staging.py, or to HARMLESS here"
