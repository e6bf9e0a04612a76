"""The repository is a collection as well: other projects use its roles and plugins by full name."""

import grp
import os
import pwd
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - clawdbot.ops.text_files:
        files: [{path: PATH/greeting, content: hello}]
    - clawdbot.ops.in_effect:
        things: [{name: greeting, run: "true", files: [PATH/greeting]}]
- hosts: all
  gather_subset: [distribution, pkg_mgr, service_mgr, virtual, platform]
  roles:
    - role: clawdbot.ops.firewall
    - role: clawdbot.ops.redis
      redis_password: "{{ password }}"
    - role: clawdbot.ops.ssh
"""
# What whoever runs it may do, root or not.
OWN = """
- hosts: all
  gather_facts: false
  tasks:
    - clawdbot.ops.text_files:
        files:
          - path: PATH/url
            content: "{{ 'https' | clawdbot.ops.site_url('bot.example.com', 443) }}"
            validate: grep -q example %s
            owner: OWNER
            group: GROUP
"""
# Tests of ansible-test that need no network; two more that need none know no Chinese quotes and no programs of roles.
SANITY = (
    "compile",
    "empty-init",
    "line-endings",
    "no-assert",
    "no-get-exception",
    "no-illegal-filenames",
    "replace-urlopen",
    "symlinks",
    "use-argspec-type-path",
    "use-compat-six",
)
# What lies about in a folder in which somebody works, and is nobody else's business.
PRIVATE = (
    ".cache/releases/clawdbot-1.tar.gz",
    ".vault_pass",
    ".venv/bin/python",
    "app/.venv/bin/python",
    "app/clawdbot/__pycache__/cli.pyc",
    "group_vars/all/secrets.yml",
    "host_vars/bot1.yml",
    "inventories/mine/group_vars/all/secrets.yml",
    "inventories/mine/hosts.yml",
    "playbooks/group_vars/all.yml",
    "vault-password",
)


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of Ansible's, as somebody who has no configuration but that of the folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment |= {"HOME": str(folder), "NO_COLOR": "1"}
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a release is, made in a folder that somebody has worked in."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    for name in PRIVATE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("clawdbot_model_api_key: mine\n", "utf-8")
    out = tmp_path_factory.mktemp("out")
    built = run("ansible-galaxy", "collection", "build", "--output-path", out, folder=folder)
    assert built.returncode == 0, built.stderr
    return next(out.glob("clawdbot-ops-*.tar.gz"))


@pytest.fixture(scope="module")
def project(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody else's project, in which the collection is installed."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "ansible.cfg").write_text("[defaults]\ninventory = hosts\ncollections_path = collections\n", "utf-8")
    host = "localhost ansible_connection=local ansible_python_interpreter=/usr/bin/python3"
    (folder / "hosts").write_text(f"{host}\n", "utf-8")
    (folder / "play.yml").write_text(PLAY.replace("PATH", str(folder)), "utf-8")
    # Those that it depends on are in the ansible package; Galaxy is not asked.
    options = ("--offline", "--no-deps", "--collections-path", folder / "collections")
    installed = run("ansible-galaxy", "collection", "install", archive, *options, folder=folder)
    assert installed.returncode == 0, installed.stderr
    return folder


def test_the_archive_holds_the_product_and_nothing_of_those_who_made_it(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        names = set(tar.getnames())
    assert not names & set(PRIVATE)
    assert {"roles/redis/tasks/main.yml", "plugins/action/text_files.py", "app/app.py", "CHANGELOG.md"} <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops.isdisjoint({"inventories", "molecule", "sandbox", "simulator", "tests", "bench", ".git", ".github"})


@pytest.mark.skipif(
    os.geteuid() != 0 or "\nID=debian\n" not in Path("/etc/os-release").read_text("utf-8"),
    reason="roles look at their host, which has to be a Debian and to answer root",
)
def test_roles_and_plugins_work_in_somebody_elses_project(project: Path) -> None:
    done = run(
        "ansible-playbook", "play.yml", "--check", "--diff", "-e", "password=of-this-redis-alone", folder=project
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("clawdbot.ops.firewall : ", "clawdbot.ops.redis : ", "clawdbot.ops.ssh : ", "+AllowTcpForwarding no"):
        assert said in done.stdout, done.stdout
    assert not (project / "greeting").exists()


def test_actions_and_filters_work_by_their_full_names(project: Path) -> None:
    owner, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    play = OWN.replace("PATH", str(project)).replace("OWNER", owner).replace("GROUP", group)
    (project / "own.yml").write_text(play, "utf-8")
    first, second = (run("ansible-playbook", "own.yml", folder=project) for _ in range(2))
    assert first.returncode == 0, first.stdout + first.stderr
    assert (project / "url").read_text("utf-8") == "https://bot.example.com"
    assert "changed=1" in first.stdout
    assert "changed=0" in second.stdout


def test_it_passes_what_ansible_tests_of_a_collection(project: Path) -> None:
    options = [word for test in SANITY for word in ("--test", test)]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    installed = project / "collections/ansible_collections/clawdbot/ops"
    done = run("ansible-test", "sanity", "--python", version, *options, folder=installed)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_role_refuses_what_its_argument_spec_does_not_allow(project: Path) -> None:
    options = ("-e", "password=of-this-redis-alone", "-e", "redis_appendfsync=sometimes")
    done = run("ansible-playbook", "play.yml", "--check", *options, folder=project)
    assert done.returncode == 2
    assert "value of redis_appendfsync must be one of" in done.stdout


def test_every_role_is_found_by_its_full_name(project: Path) -> None:
    roles = [{"role": f"clawdbot.ops.{path.name}"} for path in sorted(ROOT.glob("roles/*"))]
    play = [{"hosts": "all", "gather_facts": False, "roles": roles}]
    (project / "every.yml").write_text(yaml.safe_dump(play), "utf-8")
    done = run("ansible-playbook", "every.yml", "--syntax-check", folder=project)
    assert done.returncode == 0, done.stderr


def test_a_playbook_runs_by_its_full_name(project: Path) -> None:
    done = run("ansible-playbook", "clawdbot.ops.preflight", folder=project)
    assert done.returncode == 2
    assert "hosts: clawdbot: the group is missing" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "files"), [("module", "plugins/modules/*.py"), ("callback", "plugins/callback/*.py"), ("role", "roles/*")]
)
def test_ansible_doc_shows_what_there_is(kind: str, files: str, project: Path) -> None:
    listed = run("ansible-doc", "--type", kind, "--json", "--list", "clawdbot.ops", folder=project)
    assert listed.returncode == 0, listed.stderr
    found = set(yaml.safe_load(listed.stdout))
    assert found == {f"clawdbot.ops.{path.stem}" for path in ROOT.glob(files)}
    shown = run("ansible-doc", "--type", kind, "--json", *sorted(found), folder=project)
    assert shown.returncode == 0, shown.stderr
    assert set(yaml.safe_load(shown.stdout)) == found


def test_every_action_says_its_options() -> None:
    actions = {path.stem for path in ROOT.glob("plugins/action/*.py")}
    assert actions <= {path.stem for path in ROOT.glob("plugins/modules/*.py")}


def test_the_collections_that_it_needs_are_named_alike() -> None:
    wanted: dict[str, Any] = yaml.safe_load((ROOT / "galaxy.yml").read_text("utf-8"))["dependencies"]
    listed = yaml.safe_load((ROOT / "requirements.yml").read_text("utf-8"))["collections"]
    assert wanted == {each["name"]: each["version"] for each in listed}
