"""Groups under other names: the plays follow the map, and other people's groups named like ours stay alone."""

import re
import subprocess
from pathlib import Path

import pytest
import site_inventory

# Nothing listens at these addresses, which the others know by another one.
INVENTORY = """
all:
  vars: {site_address: "192.0.2.{{ ansible_host.split('.')[3] }}"}
  children:
    bots: {hosts: {app1: {ansible_host: 127.0.113.1}, app2: {ansible_host: 127.0.113.2}}}
    cache_servers: {hosts: {cache1: {ansible_host: 127.0.113.3}}}
    loadbalancer: {hosts: {lb1: {ansible_host: 127.0.113.4}}}
    # Other people's.
    redis: {hosts: {shop-redis1: {ansible_host: 127.0.113.5}, shop-redis2: {ansible_host: 127.0.113.6}}}
    monitoring: {hosts: {shop-monitor: {ansible_host: 127.0.113.7}}}
    clawdbot: {hosts: {}}
"""
VARIABLES = """
site_group_names: {clawdbot: bots, redis: cache_servers, monitoring: ""}
site_redis_password: 0123456789abcdef0123
site_backup_password: 0123456789abcdef0123
clawdbot_model_type: echo
clawdbot_feishu_app_id: cli_1
clawdbot_feishu_app_secret: s1
clawdbot_feishu_encryption_key: k1
clawdbot_feishu_verification_token: t1
ssh_probe_timeout: 1
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    (tmp_path / "group_vars/all").mkdir(parents=True)
    (tmp_path / "hosts.yml").write_text(INVENTORY, "utf-8")
    (tmp_path / "group_vars/all/main.yml").write_text(VARIABLES, "utf-8")
    return tmp_path


def play(inventory: Path, root: Path, playbook: str, *options: str) -> subprocess.CompletedProcess[str]:
    # Nothing listens on that port of these addresses, so that every host that a play takes fails at once.
    command = ["ansible-playbook", "-i", str(inventory), "-e", '{"site_ssh_port": 1}', playbook, *options]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    "playbook", ["site.yml", "playbooks/deploy.yml", "playbooks/verify.yml", "playbooks/backup.yml"]
)
def test_only_hosts_of_the_mapped_groups_are_touched(playbook: str, inventory: Path, root: Path) -> None:
    """Also where the first play of all has mapped hosts already."""
    done = play(inventory, root, playbook)
    assert done.returncode != 0
    touched = set(re.findall(r"\[([\w-]+)(?: ->[^]]*)?\]: (?:UNREACHABLE|FAILED)", done.stdout + done.stderr))
    assert touched == {"app1", "app2", "cache1", "lb1"}, done.stdout + done.stderr


def test_the_preflight_checks_the_mapped_groups(inventory: Path, root: Path) -> None:
    done = play(inventory, root, "playbooks/preflight.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    variables = inventory / "group_vars/all/main.yml"
    wrong = "{clawdbot: bots, redis: cache_server, cache: redis}"
    variables.write_text(re.sub(r"\{clawdbot: .*\}", wrong, VARIABLES), "utf-8")
    done = play(inventory, root, "playbooks/preflight.yml")
    assert done.returncode != 0
    for said in (
        "redis: the inventory has no group 'cache_server'",
        "there is no group 'cache' to rename; ours are clawdbot, redis, loadbalancer, monitoring",
    ):
        assert said in done.stdout, done.stdout


def test_a_map_that_is_not_everybodys_is_refused(inventory: Path, root: Path) -> None:
    (inventory / "group_vars/cache_servers.yml").write_text("site_group_names: {redis: redis}\n", "utf-8")
    done = play(inventory, root, "playbooks/preflight.yml")
    assert ": site_group_names: has to be the same for all hosts" in done.stdout, done.stdout


def test_patterns_and_groups_follow_the_map() -> None:
    groups = {"all": ["a", "b"], "bots": ["a"], "cache": ["b"], "redis": ["c"]}
    names = {"clawdbot": "bots", "redis": "cache", "monitoring": ""}
    assert site_inventory.site_groups(groups, [], names) == {
        "loadbalancer": [],
        "clawdbot": ["a"],
        "redis": ["b"],
        "monitoring": [],
    }
    patterns = site_inventory.site_patterns(groups, {"a": {"site_group_names": names}, "b": {}})
    assert patterns == {
        "loadbalancer": "loadbalancer",
        "clawdbot": "bots",
        "redis": "cache",
        "monitoring": "!all",
        "site": "loadbalancer,bots,cache",
        "serving": "loadbalancer,bots,cache",
    }
    assert site_inventory.site_patterns(groups, {})["site"] == "loadbalancer,clawdbot,redis,monitoring"


def test_no_play_names_a_group_by_itself(root: Path) -> None:
    """It would miss the host of an inventory that calls it otherwise, and take somebody else's."""
    ours = "|".join(site_inventory.SITE_GROUPS)
    literal = re.compile(
        rf"group_names\b(?<!site_group_names)|\bgroups(?:\.|\[')(?:{ours})\b|hosts: ['\"]?(?:{ours})\b"
    )
    for file in [*root.glob("playbooks/*.yml"), *root.glob("playbooks/*/*.yml"), *root.glob("playbooks/*/*.j2")]:
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            found = literal.search(re.sub(r"site_groups\.\w+", "", line))
            assert not found, f"{file.name}:{number}: use site_patterns or site_groups instead of {found}"
