"""Checks an inventory without touching a host and reports everything that is wrong at once.

What is checked: groups and addresses, secrets that are missing or still placeholders, variables that look like
ours but are not, those that would be ignored because the plays set them, and the type of every value, as the roles'
argument specs say. Each finding names the file and the key, so that it can be mended without a search.
"""

from __future__ import annotations

import datetime
import difflib
import functools
import ipaddress
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ansible import constants, context
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.plugins.inventory import detect_range, expand_hostname_range
from ansible.template import Templar
from ansible.utils.vars import load_extra_vars
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

#: Groups of an installation, and whether it can do without them.
GROUPS = {"clawdbot": True, "redis": True, "loadbalancer": False, "monitoring": False}

#: Servers of Redis that survive the death of none of them.
TOO_FEW_TO_AGREE = 2

#: Roles whose required variables have to come from the inventory, and the group they concern ("" = every host).
#: The other roles get their required variables from the plays.
REQUIRED_OF = {"site": ""}

PLACEHOLDER = re.compile(
    r"""your[-_ ].* | change[-_ ]?me.* | replace[-_ ]?me.* | fill[-_ ]?me.* | todo | secret | password | <.*> | x{3,} |
        generated[ ]or[ ]given | 32[ ]random[ ]characters""",
    re.IGNORECASE | re.VERBOSE,
)

#: Secrets that come together: with the first one set, the others are needed, too.
TOGETHER = (
    (
        "clawdbot_dingtalk_app_key",
        ("clawdbot_dingtalk_app_secret", "clawdbot_dingtalk_aes_key", "clawdbot_dingtalk_token"),
    ),
    (
        "clawdbot_feishu_app_id",
        ("clawdbot_feishu_app_secret", "clawdbot_feishu_encryption_key", "clawdbot_feishu_verification_token"),
    ),
)

#: What names a chat for alerts, and what the bot needs to write there.
CHATS = (
    ("clawdbot_alerts_feishu_chat", "clawdbot_feishu_app_id"),
    ("clawdbot_dingtalk_access_token", "clawdbot_dingtalk_app_key"),
)

#: A provided certificate and its key.
PROVIDED = ("loadbalancer_tls_certificate", "loadbalancer_tls_key")

#: URLs of archives in a closed network, which may hold an account and its password.
ARCHIVES = (
    "base_apt_mirror",
    "base_apt_security_mirror",
    "base_pip_index",
    "base_npm_registry",
    "clawdbot_pip_index_url",
)
#: What an account and its password are made of (RFC 3986, section 3.2.1), but for the apostrophe, a shell's quote.
USERINFO = r"(?:[\w.~!$&()*+,;=-]|%[0-9A-Fa-f]{2})"
SERVER = rf"https?://(?:{USERINFO}+(?::{USERINFO}*)?@)?(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])"
ARCHIVE = re.compile(rf"{SERVER}(?::\d+)?(?:/[^\s'\"\\?#@]*)?", re.ASCII)
PROXY = re.compile(rf"{SERVER}:\d+/?", re.ASCII)
ENCODED = "; in user and password write %25 for %, %40 for @, %3A for :, %2F for /, %23 for #"
SITE = re.compile(r"[a-z0-9][a-z0-9-]*", re.IGNORECASE)
DOMAIN = re.compile(r"\.?[a-z0-9-]+(?:\.[a-z0-9-]+)*", re.IGNORECASE)

#: Lists of addresses and networks, what else may stand in them, and what to write there.
NETWORKS: dict[str, tuple[str | re.Pattern[str], str]] = {
    "site_admin_sources": ("", "address or network; write 10.1.2.3 or 10.0.0.0/8"),
    "loadbalancer_trusted_proxies": ("", "address or network; write 10.1.2.3 or 10.0.0.0/8"),
    "firewall_extra_services": ("any", "address or network; write 10.1.2.3, 10.0.0.0/8 or any"),
    "site_no_proxy": (
        DOMAIN,
        "domain, address or network; write example.com for that and all names below it, 10.1.2.3 or 10.0.0.0/8",
    ),
}

#: What the hosts tell each other, besides the ports of their services.
SHARED = (
    "site_domain",
    "site_redis_password",
    "site_alerts_token",
    "site_floating_addresses",
    "site_sites",
    "site_name",
    "site_active",
    "site_link_certificate",
    "site_link_key",
)

#: How many sites an installation has that has more than one.
SITES = 2

#: Variables of Ansible's own that are looked at.
CONNECTION: dict[str, dict[str, Any]] = {"ansible_port": {"type": "int"}}

#: Variables that had another name in an earlier version, and what to write now (the new name first). CHANGELOG.md says
#: since which version.
RENAMED = {
    "ssh_allow_groups": "ssh_group, one group instead of a list",
    "loadbalancer_https_port": "loadbalancer_https_ports, a list",
}

#: Variables of the bot that the plays set, and where the inventory has their values.
GIVEN_AS = {"clawdbot_alerts_token": "site_alerts_token"}

#: What no secret may hold.
UNWRITABLE = r"['\\\n]"
UNWRITABLE_CURE = "holds a quote, a backslash or a line break, which an environment file cannot"

AES_KEY_LENGTH = 43
# As the bot has it: one to show a card, one for what grows, one to finish it.
CARD_CALLS = range(3, 101)
MONTHLY_CALLS = range(100_000_001)
PASSWORD_LENGTH = 16
LAST_PORT = 65535
QUOTES = "or it is taken for a number: 'mine', and beside a host of an INI file \"'mine'\""

#: How much (0 to 1, as difflib measures) an unknown variable resembles one of ours to be taken for a slip. Nobody else
#: begins names with clawdbot_, few with site_; the other roles' names are everybody's: docker_users, nginx_vhosts.
SLIP = {"clawdbot": 0.0, "site": 0.8}
SLIP_ELSEWHERE = 0.85

#: The package, whose argument specs and plays say what is right.
PACKAGE = Path(__file__).resolve().parents[2]

Spec = dict[str, Any]


@dataclass(frozen=True, order=True)
class Finding:
    """One thing to mend: where it stands (file:line, or where it should be written), which key, what to do."""

    place: str
    key: str
    cure: str

    def __str__(self) -> str:
        """The finding as a line for people."""
        return f"{self.place}: {self.key}: {self.cure}"


class Sources:
    """The inventory's files, to say where a key was written."""

    def __init__(
        self,
        sources: Iterable[str],
        beside: Path | None = None,
        extra: Iterable[str] = (),
        read: Callable[[str], str] = lambda file: Path(file).read_text("utf-8"),
    ) -> None:
        """Index the files.

        Args:
            sources: files or folders of the inventory, as Ansible got them.
            beside: folder of the playbook, whose group_vars and host_vars count as well.
            extra: names given with -e, which win over every file.
            read: gives the text of a file, decrypted if need be; raises what it likes if it cannot.
        """
        self.roots = [Path(source) for source in sources]
        self._extra = set(extra)
        self.read = read
        self._lines: dict[str, list[tuple[str, str]]] = {}
        #: Files that are no YAML, although their names say so, and where each goes wrong.
        self.broken: dict[Path, str] = {}
        folders = [root if root.is_dir() else root.parent for root in self.roots]
        files = {root for root in self.roots if root.is_file()}
        files |= {file for root in self.roots if root.is_dir() for file in root.iterdir() if file.is_file()}
        self._folders = {
            folder / kind
            for folder in [*folders, *([beside] if beside else [])]
            for kind in ("group_vars", "host_vars")
        }
        files |= {file for folder in self._folders for file in folder.rglob("*") if file.is_file()}
        for file in sorted(files):
            self._index(file)

    def _index(self, file: Path) -> None:
        try:
            text = self.read(str(file))
        except Exception:
            return  # not ours to judge: encrypted with another password, or no text at all
        try:
            tree = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            tree = None
            if file.suffix in constants.YAML_FILENAME_EXTENSIONS:
                mark = getattr(error, "problem_mark", None)
                self.broken[file] = f"{relative(file)}:{mark.line + 1 if mark else 1}"
                return
        if isinstance(tree, yaml.MappingNode):
            self._walk(tree, file, "")
            return
        for number, line in enumerate(text.splitlines(), 1):  # INI: "host key=value", or "key=value" of a group
            host, *_ = [*line.split(), ""]
            for name in [host, *re.findall(r"(?:^|\s)(\w+)\s*=", line.partition("#")[0])]:
                self._note(name, f"{relative(file)}:{number}", host)

    def _walk(self, node: yaml.Node | None, file: Path, owner: str) -> None:
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._walk(item, file, owner)
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            name = str(key.value)
            self._note(name, f"{relative(file)}:{key.start_mark.line + 1}", owner)
            self._walk(value, file, name)

    def _note(self, name: str, place: str, owner: str) -> None:
        for each in expanded(name):
            self._lines.setdefault(each, []).extend((place, host) for host in expanded(owner))

    def shadowed(self) -> Iterator[tuple[Path, Path]]:
        """Files of variables that Ansible does not read, each with the one that it reads instead.

        Source: ``DataLoader.find_vars_files``, which ends with the first of these names.
        """
        endings = ("", *constants.YAML_FILENAME_EXTENSIONS)
        for folder in self._folders:
            found = folder.iterdir() if folder.is_dir() else ()
            for name in {file.with_suffix("") if file.suffix in endings else file for file in found}:
                read, *others = (path for ending in endings if (path := name.with_name(name.name + ending)).exists())
                yield from ((other, read) for other in others)

    def strays(self, groups: Collection[str]) -> Iterator[tuple[str, str, str]]:
        """Variables of groups that the inventory does not have: place, key and group."""
        for key, places in self._lines.items():
            for place, owner in places:
                file = Path(place.rpartition(":")[0]).absolute()
                for folder in self._folders:
                    if folder.name == "group_vars" and not owner and file.is_relative_to(folder.absolute()):
                        first = Path(file.relative_to(folder.absolute()).parts[0])
                        name = first.stem if first.suffix in constants.YAML_FILENAME_EXTENSIONS else first.name
                        if name not in groups:
                            yield place, key, name

    def places(self, key: str) -> list[str]:
        """Every place of ``key``."""
        return list(dict.fromkeys(place for place, _ in self._lines.get(key, [])))

    def where(self, key: str, host: str | None = None) -> str:
        """Place of ``key``, the one below ``host`` or in its own file first."""
        if key in self._extra:
            return "-e"
        places = self._lines.get(key, [])
        for place, owner in places:
            if host is not None and (owner == host or f"host_vars/{host}" in place):
                return place
        return places[0][0] if places else "a file that cannot be read here"

    def home(self) -> str:
        """File in which a missing secret is best written."""
        root = self.roots[0] if self.roots else Path("inventory")
        folder = root if root.is_dir() else root.parent
        return str(relative(folder) / "group_vars" / "all" / "secrets.yml")


def expanded(name: str) -> list[str]:
    """The hosts that an inventory means with ``name``, which may be a range: app[1:3]."""
    try:
        return list(expand_hostname_range(name)) if detect_range(name) else [name]
    except (AnsibleError, ValueError):  # brackets, and no range of hosts: [group:vars]
        return [name]


def relative(path: Path) -> Path:
    """``path`` as people type it."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path


def load_specs(roles: Path) -> dict[str, Spec]:
    """Options of each role below ``roles``, as its ``meta/argument_specs.yml`` declares them."""
    specs = {}
    for file in sorted(roles.glob("*/meta/argument_specs.yml")):
        entry_points = yaml.safe_load(file.read_text("utf-8"))["argument_specs"]
        specs[file.parts[-3]] = {
            name: option for entry in entry_points.values() for name, option in entry.get("options", {}).items()
        }
    return specs


class Plays:
    """What the plays and roles say by ``vars`` and ``vars_files``, which wins over every inventory."""

    def __init__(self, package: Path, options: Mapping[str, Spec]) -> None:
        """Read the plays below ``package``. ``options`` are the variables of all roles."""
        self.options = options
        #: Those of all tasks, and what Ansible makes of itself.
        self.tags = {"all", "tagged", "untagged", "always", "never"}
        self.expressions: dict[str, list[str]] = {}
        files = [package / "site.yml", *package.glob("playbooks/*.yml"), *package.glob("playbooks/tasks/*.yml")]
        for file in [*files, *package.glob("roles/*/tasks/*.yml")]:
            self._walk(yaml.safe_load(file.read_text("utf-8")))
        for file in [*package.glob("playbooks/vars/*.yml"), *package.glob("roles/*/vars/main.yml")]:
            self._note(yaml.safe_load(file.read_text("utf-8")))
        self.given = {name for name in self.expressions if name in options}
        # What is worked out from other variables is no place to write anything either.
        site = yaml.safe_load((package / "roles/site/defaults/main.yml").read_text("utf-8")) or {}
        self._note(site)
        #: Each port that other hosts have to know, and the groups on whose hosts it is taken.
        self.services: dict[str, set[str]] = {}
        for service in site.get("site_services", []):
            for name in re.findall(r"site_\w+_ports?\b", f"{service.get('port')} {service.get('former', '')}"):
                self.services.setdefault(name, set()).add(service["on"])
        own = {
            name: {"monitoring"} for name, value in site.items() if name.endswith("_port") and isinstance(value, int)
        }
        #: All ports, likewise.
        self.ports = {**own, "site_ssh_port": {"site"}, **self.services}

    def _walk(self, node: object) -> None:
        for item in node if isinstance(node, list) else []:
            self._walk(item)
        for key, value in node.items() if isinstance(node, dict) else []:
            if key == "vars" and isinstance(value, dict):
                self._note(value)
            if key == "tags":
                self.tags |= set(value if isinstance(value, list) else [value])
            self._walk(value)

    def _note(self, variables: Mapping[str, Any] | None) -> None:
        for name, value in (variables or {}).items():
            self.expressions.setdefault(name, []).append("\n".join(leaves(value)))

    def cure(self, name: str) -> str:
        """What to write instead of ``name``."""
        role, _, rest = name.partition("_")
        # How the groups are called is no other value of it.
        others = [*self._roots(name, {name, "site_group_names"}), *({f"{role}_extra_{rest}"} & set(self.options))]
        said = "the plays set it, so what is written here has no effect; "
        return said + (f"write {' or '.join(others)}" if others else "take it out")

    def _roots(self, name: str, seen: set[str]) -> list[str]:
        """The variables of the inventory that the value of ``name`` is made of."""
        found: list[str] = []
        for word in re.findall(r"\b[a-z]\w+\b", "\n".join(self.expressions.get(name, []))):
            if word in seen or (word not in self.options and word not in self.expressions):
                continue
            seen.add(word)
            derived = self.options.get(word, {}).get("description", "Derived.").startswith("Derived.")
            found += self._roots(word, seen) if derived or word in self.given else [word]
        return found


@functools.cache
def nearest(name: str, options: frozenset[str]) -> tuple[str, float]:
    """The one of ``options`` that resembles ``name`` most, and how much, from 0 to 1."""
    matcher = difflib.SequenceMatcher()
    matcher.set_seq2(name)
    best, most = "", 0.0
    for option in sorted(options):
        matcher.set_seq1(option)
        if matcher.real_quick_ratio() > most and matcher.quick_ratio() > most and (ratio := matcher.ratio()) > most:
            best, most = option, ratio
    return best, most


def is_number(value: object) -> bool:
    """Whether a text was taken for a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def entries(value: object) -> list[Any]:
    """A list that may be something else, which is said elsewhere."""
    return value if isinstance(value, list) else []


def text(variables: Mapping[str, Any], name: str) -> str:
    """A text among variables; empty where it is something else, or cannot be worked out."""
    value = variables.get(name) or ""
    return "" if isinstance(value, Undefined | list | Mapping) else str(value)


def leaves(value: object) -> Iterator[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)


def end_of(written: object) -> datetime.datetime | None:
    """When a date or a time of ISO 8601 is over, as the bot reads it; None if it is neither."""
    try:
        found = datetime.datetime.fromisoformat(str(written))
        if "T" not in str(written) and " " not in str(written):
            found += datetime.timedelta(days=1)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


@functools.cache
def presets(source: str) -> dict[str, dict[str, Any]]:
    """The models that the application in a folder knows by name; empty where it keeps no such list."""
    file = Path(source) / "clawdbot/models/presets.yaml"
    found: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text("utf-8")) if file.exists() else {}
    return found


@functools.cache
def languages(source: str) -> list[str]:
    """The languages of the application in a folder: its catalogues, and English; empty where it has no catalogues."""
    found = [file.stem for file in Path(source).glob("clawdbot/locale/*.po")]
    return sorted([*found, "en"]) if found else []


READ_RULES = """
import json, sys
from clawdbot.config.voices import read
_, problems = read("bot.yaml", json.load(sys.stdin))
print(json.dumps([str(problem).removeprefix("bot.yaml: ") for problem in problems if problem.fatal]))
"""


@functools.cache
def rule_faults(source: str, rules: str) -> list[str]:
    """What the application in a folder says of its rules, JSON; nothing where it knows none."""
    if not (Path(source) / "clawdbot/config/voices.py").exists():
        return []
    done = subprocess.run(  # noqa: S603  # our own program; the rules are its input
        [sys.executable, "-c", READ_RULES], cwd=source, input=rules, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return [f"could not be checked: {(done.stderr.splitlines() or ['no reason given'])[-1]}"]
    found: list[str] = json.loads(done.stdout)
    return found


def certificate_faults(certificate: str, key: str, name: str) -> tuple[str, str]:
    """What is wrong with a certificate for ``name`` and with its private key, both PEM; empty: nothing."""
    try:
        leaf = x509.load_pem_x509_certificate(certificate.encode())
    except ValueError:
        return "holds no PEM certificate", ""
    fault = ""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        known = [dns.lower() for dns in names.get_values_for_type(x509.DNSName)]
        known += [str(ip) for ip in names.get_values_for_type(x509.IPAddress)]
    except x509.ExtensionNotFound:
        known = []  # clients have not looked at the subject for years
    if leaf.not_valid_after_utc <= datetime.datetime.now(datetime.UTC):
        fault = f"has expired on {leaf.not_valid_after_utc:%Y-%m-%d}; get a new one"
    elif not {name.lower(), f"*.{name.lower().partition('.')[2]}"} & set(known):
        fault = f"is for {', '.join(known) or 'no name'}, not for site_domain {name}"
    return fault, key_fault(leaf, key, "loadbalancer_tls_certificate")


def key_fault(leaf: x509.Certificate, key: str, name: str) -> str:
    """What is wrong with ``key``, PEM, as that of a certificate that stands in variable ``name``; empty: nothing."""
    try:
        private = serialization.load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "holds no private key in PEM that is usable without a password"
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    same = private.public_key().public_bytes(*form) == leaf.public_key().public_bytes(*form)
    return "" if same else f"is not the key of {name}"


class Preflight:
    """The checks. ``hosts`` maps each host of the installation to its inventory variables, templated."""

    def __init__(
        self,
        groups: Mapping[str, list[str]],
        hosts: Mapping[str, Mapping[str, Any]],
        specs: Mapping[str, Spec],
        sources: Sources,
        package: Path = PACKAGE,
        group_names: Mapping[str, str] | None = None,
        everybodys: Collection[str] = (),
    ) -> None:
        """Take what is checked; ``everybodys`` are the names of all groups of the inventory."""
        self.groups = groups
        self.everybodys = {name.lower(): name for name in everybodys}
        self.group_names = dict(group_names or {})
        self.hosts = hosts
        self.specs = specs
        self.sources = sources
        self.findings: set[Finding] = set()
        self.warnings: set[Finding] = set()
        self.options = {name: option for spec in specs.values() for name, option in spec.items()}
        self.plays = Plays(package, self.options)

    def run(self) -> list[Finding]:
        """All findings, sorted by place."""
        self.check_files()
        self.check_groups()
        self.check_addresses()
        self.check_shared()
        self.check_members()
        self.check_front()
        self.check_sites()
        for host, variables in self.hosts.items():
            self.check_names(host, variables)
            self.check_values(host, variables)
            self.check_ports(host, variables)
            self.check_required(host, variables)
            self.check_network(host, variables)
        for host in self.groups.get("loadbalancer", []):
            self.check_certificate(host, self.hosts[host])
        for host in self.groups.get("clawdbot", []):
            self.check_bot(host, self.hosts[host])
        return sorted(self.findings)

    def add(self, key: str, cure: str, host: str | None = None, place: str | None = None) -> None:
        """Note a finding at the place of ``key``."""
        self.findings.add(Finding(place or self.sources.where(key, host), key, cure))

    def mention(self, key: str, cure: str, host: str | None = None) -> None:
        """Note what is odd, and no reason to stop."""
        self.warnings.add(Finding(self.sources.where(key, host), key, cure))

    def missing(self, key: str, cure: str) -> None:
        """Note a variable that is not there at all."""
        self.findings.add(Finding(self.sources.home(), key, cure))

    def check_files(self) -> None:
        """Ansible reads every file of the inventory."""
        for file, read in self.sources.shadowed():
            move = f"mv {shlex.quote(str(relative(file)))} {shlex.quote(f'{relative(read)}/')}"
            instead, cure = (f"the folder {read.name}/", move) if read.is_dir() else (read.name, "put both into one")
            self.add(file.stem, f"Ansible reads {instead} instead of this file; {cure}", place=str(relative(file)))
        for file, place in self.sources.broken.items():
            self.add(file.name, "is not YAML, so none of it counts; mend it", place=place)
        for place, key, group in self.sources.strays(self.everybodys.values()) if self.everybodys else ():
            if key in self.options:
                cure = f"has no effect, because the inventory has no group {group}"
                self.warnings.add(Finding(place, key, cure))

    def check_tags(self, tags: Iterable[str]) -> None:
        """What is selected by --tags is there: a run that does nothing looks like one that worked."""
        for tag in set(tags) - self.plays.tags:
            near, _ = nearest(tag, frozenset(self.plays.tags))
            self.add(tag, f"no task has this tag; did you mean {near}?", place="--tags")

    def check_groups(self) -> None:
        """Every group that is there has hosts, and those that are needed are there."""
        inventory = str(relative(self.sources.roots[0])) if self.sources.roots else "inventory"
        for group in self.group_names.keys() - GROUPS.keys():
            self.add("site_group_names", f"there is no group {group!r} to rename; ours are {', '.join(GROUPS)}")
        elsewhere = {text(variables, "site_redis_host") for variables in self.hosts.values()} - {""}
        for group, always in GROUPS.items():
            needed = always and not (group == "redis" and elsewhere)
            name = self.group_names.get(group, group)
            if group not in self.groups:
                if group in self.group_names and name:
                    self.add("site_group_names", f"{group}: the inventory has no group {name!r}")
                elif needed:
                    self.add(name or group, "the group is missing; add it with at least one host", place=inventory)
                if group not in self.group_names:
                    self.mention_near(group)
            elif not self.groups[group]:
                hint = "add a host" if needed else "add a host, or remove the group to do without it"
                self.add(name, f"the group is empty; {hint}")
        for host, variables in self.hosts.items():
            if variables.get("site_group_names", {}) != self.group_names:
                self.add("site_group_names", "has to be the same for all hosts; write it into group_vars/all", host)
        several = self.groups.get("redis", [])
        if several and elsewhere:
            cure = f"the bot would use {', '.join(sorted(elsewhere))} (site_redis_host); take one of the two out"
            self.add(self.group_names.get("redis", "redis"), cure)
        if len(several) == TOO_FEW_TO_AGREE:
            self.add(
                self.group_names.get("redis", "redis"),
                f"the group has 2 hosts ({', '.join(several)}), which cannot agree on who leads when one is silent; "
                "write one, or three, of which any one may die",
            )

    def mention_near(self, group: str) -> None:
        """A group that nearly has the name of ``group``, which the inventory does not have, may be a slip."""
        near, likeness = nearest(group, frozenset(self.everybodys.keys() - GROUPS.keys()))
        if likeness >= SLIP["site"] and (name := self.everybodys[near]) not in self.group_names.values():
            cure = f"is no group of ours; if its hosts are meant, write site_group_names: {{{group}: {name}}}"
            self.warnings.add(Finding(self.sources.where(name), name, f"{cure} into group_vars/all"))

    def check_members(self) -> None:
        """One node at least gets requests."""
        nodes = {host: self.hosts[host] for host in self.groups.get("clawdbot", [])}

        def is_out(host: str) -> bool:
            return any(
                boolean(nodes[host].get(f"site_member_{why}", False), strict=False) for why in ("down", "backup")
            )

        if nodes and all(map(is_out, nodes)):
            first = next(iter(nodes))
            self.add("site_member_down", "every node is down or a backup; leave one in regular service", first)

    def check_front(self) -> None:
        """Addresses that move have balancers to move between, in whose network they are."""
        name = "site_floating_addresses"
        balancers = self.groups.get("loadbalancer", [])
        written = next(iter(self.hosts.values()), {}).get(name)
        if not isinstance(written, list) or not written:
            return
        if len(balancers) < TOO_FEW_TO_AGREE:
            self.add(name, "an address moves between two balancers or more; write more, or take it out")
        elif len(written) > len(balancers):
            self.add(name, f"has {len(written)} addresses for {len(balancers)} balancers; each owns one at most")
        for each in map(str, written):
            try:
                found = ipaddress.ip_interface(each)
            except ValueError:
                found = None
            if found is None or "/" not in each:
                self.add(name, f"{each!r} is no address with the length of its network, such as 10.0.0.100/24")
                continue
            for host in balancers:
                own = self.hosts[host].get("site_address") or self.hosts[host].get("ansible_host") or host
                if str(own) == str(found.ip):
                    self.add(name, f"{own} is that of {host} alone; write a free one")
                elif self.is_address(own) and ipaddress.ip_address(str(own)) not in found.network:
                    self.add(name, f"{each} is not in the network of {host} ({own}), which could not have it")

    def check_sites(self) -> None:
        """Of two sites each knows the other, and one Redis of each follows or is followed."""
        variables = next(iter(self.hosts.values()), {})
        sites = variables.get("site_sites")
        if not isinstance(sites, Mapping) or not sites:
            return
        if len(sites) != SITES:
            self.add("site_sites", f"names {', '.join(map(str, sites))}; write this site and the one that stands by")
        for name, site in sites.items():
            row = site if isinstance(site, Mapping) else {}
            networks = row.get("addresses") if isinstance(row.get("addresses"), list) else []
            if not SITE.fullmatch(str(name)):
                self.add("site_sites", f"{name!r} is no name of a site; write letters, digits and hyphens, as shanghai")
            if not self.is_server(str(row.get("redis") or "")):
                cure = "has no redis where the other site reaches it; write redis: 203.0.113.10, or 203.0.113.10:7380"
                self.add("site_sites", f"{name} {cure}")
            if not networks or not all(map(self.is_network, networks)):
                cure = "has no addresses from which its hosts come; write addresses: [203.0.113.10, 198.51.100.0/28]"
                self.add("site_sites", f"{name} {cure}")
        for name in ("site_name", "site_active"):
            if (said := text(variables, name)) not in sites:
                cure = f"{said!r} is none of site_sites; write {' or '.join(map(str, sites))}"
                self.add(name, cure, place=None if name in variables else self.sources.where("site_sites"))
        if len(several := self.groups.get("redis", [])) > 1:
            cure = f"a site that stands by follows one Redis, and the group redis has {len(several)} hosts; write one"
            self.add("site_sites", cure)
        if text(variables, "site_redis_host"):
            self.add(
                "site_redis_host", "a site that stands by follows a Redis of this package; take this or site_sites out"
            )
        hook = text(variables, "site_promote_hook")
        if hook and not (Path(hook).is_absolute() and os.access(hook, os.X_OK)):
            cure = f"{hook} is no program of this controller; write its whole path, and make it executable"
            self.add("site_promote_hook", cure)
        self.check_link(text(variables, "site_link_certificate"), text(variables, "site_link_key"))

    def check_link(self, certificate: str, key: str) -> None:
        """Both sites have a certificate, and its key."""
        if not certificate or not key:
            for name, value in (("site_link_certificate", certificate), ("site_link_key", key)):
                if not value:
                    self.missing(name, "is missing; site_sites needs it")
            return
        try:
            leaf = x509.load_pem_x509_certificate(certificate.encode())
        except ValueError:
            self.add("site_link_certificate", "holds no PEM certificate")
            return
        if fault := key_fault(leaf, key, "site_link_certificate"):
            self.add("site_link_key", fault)

    def check_shared(self) -> None:
        """What several hosts have to agree on is the same for all."""
        for name in (*SHARED, *self.plays.services):
            default = self.options.get(name, {}).get("default")
            said = {host: str(variables.get(name, default)) for host, variables in self.hosts.items()}
            first = next(iter(said), "")
            if other := next((host for host in said if said[host] != said[first]), ""):
                cure = "but it has to be the same for all hosts; write it into group_vars/all"
                place = ", ".join(self.sources.places(name))
                self.add(name, f"{first} and {other} have different ones, {cure}", place=place or None)

    def check_ports(self, host: str, variables: Mapping[str, Any]) -> None:
        """No two programs of a host have the same port."""
        member = {"site", *(group for group, hosts in self.groups.items() if host in hosts)}
        taken: dict[str, str] = {}
        for name, groups in self.plays.ports.items():
            given = variables.get(name, self.options[name]["default"])
            for port in map(str, given if isinstance(given, list) else [given]):
                if groups & member and (other := taken.setdefault(port, name)) != name:
                    key, other = (name, other) if name in variables else (other, name)
                    self.add(key, f"{other} is {port} as well on {host}; give each its own", host)

    def check_addresses(self) -> None:
        """Addresses are IP addresses (firewall and balancer need them), and no two hosts share one."""
        owners: dict[object, str] = {}
        for host, variables in self.hosts.items():
            key = next((name for name in ("site_address", "ansible_host") if variables.get(name)), host)
            value = str(variables.get(key) or host)
            try:
                address = ipaddress.ip_address(value)
            except ValueError:
                self.add(
                    key,
                    f"{host}: {value!r} is not an IP address; set ansible_host, or site_address beside a name",
                    host,
                )
                continue
            local = address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast
            if local and len(self.hosts) > 1:
                cure = "write the address that the others use, as site_address"
                self.add(key, f"at {address} no other host reaches {host}; {cure}", host)
            elif owners.setdefault(address, host) != host:
                self.add(key, f"{host} and {owners[address]} have the same address {address}; give each its own", host)

    def check_names(self, host: str, variables: Mapping[str, Any]) -> None:
        """A variable that looks like ours is one that a role knows and the inventory may set."""
        for name in variables:
            if name in self.foreign(variables):
                continue
            if name in RENAMED:
                self.add(name, f"has another name now: write {RENAMED[name]}; see CHANGELOG.md", host)
            elif name in self.plays.given:
                self.add(name, self.plays.cure(name), host)
            elif name not in self.options:
                self.check_unknown(name, host)

    @staticmethod
    def foreign(variables: Mapping[str, Any]) -> list[str]:
        """Names of which the inventory says that they are somebody else's."""
        names = variables.get("site_foreign_variables", [])
        return names if isinstance(names, list) else []

    def check_unknown(self, name: str, host: str) -> None:
        """A slip is an error; what is plainly of another role is only mentioned."""
        near, likeness = nearest(name, frozenset(self.options))
        role = name.partition("_")[0]
        if likeness >= SLIP.get(role, SLIP_ELSEWHERE):
            cure = f"no role knows this variable; did you mean {near}?"
            if near in self.plays.given:
                cure += f" But {self.plays.cure(near).partition('; ')[2]}."
            self.add(name, f"{cure} If it is another role's, add it to site_foreign_variables", host)
        elif role in self.specs:
            place = self.sources.where(name, host)
            self.warnings.add(Finding(place, name, f"no role of this package knows it; the nearest one is {near}"))

    def check_values(self, host: str, variables: Mapping[str, Any]) -> None:
        """Every value fits its spec and holds no placeholder."""
        options = {**CONNECTION, **self.options}
        for name, value in variables.items():
            option = options.get(name)
            if option is None or name in self.plays.given or name in self.foreign(variables):
                continue
            if isinstance(value, Undefined):
                self.add(name, str(value), host)
                continue
            for text in leaves(value):
                if PLACEHOLDER.fullmatch(text.strip()):
                    self.add(name, f"still holds the placeholder {text.strip()!r}; write the real value", host)
            if "options" in option and isinstance(value, Mapping):
                self.check_former(host, name, value, variables)
                continue
            secret = option.get("no_log", False)
            exact = secret or name.startswith(("clawdbot_dingtalk_", "clawdbot_feishu_"))
            if exact and option.get("type", "str") == "str" and is_number(value):
                self.add(name, f"has to be in quotes, {QUOTES}", host)
            for error in self.type_errors(name, option, value):
                self.add(name, "has the wrong type or value" if secret else error.removesuffix("."), host)

    def check_former(self, host: str, name: str, former: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
        """Secrets that were replaced have been, and are accepted up to a date that is one."""
        known = self.options[name]["options"]
        values = {key: former[key] for key in known if key != "until" and former.get(key)}
        for key in former.keys() - known.keys():
            near, _ = nearest(str(key), frozenset(known))
            self.add(name, f"{key}: is not known here; did you mean {near}?", host)
        for key, value in values.items():
            present = f"{name.removesuffix('former')}{key}"
            present = GIVEN_AS.get(present, present)
            if not isinstance(value, str):
                self.add(name, f"{key}: has to be in quotes, {QUOTES}", host)
            elif re.search(UNWRITABLE, value):
                self.add(name, f"{key}: {UNWRITABLE_CURE}", host)
            elif key == "aes_key" and len(value) != AES_KEY_LENGTH:
                self.add(name, f"{key}: has {len(value)} characters, DingTalk's have {AES_KEY_LENGTH}", host)
            elif not variables.get(present):
                self.add(name, f"{key}: replaces nothing, since {present} is empty; take it out", host)
            elif value == variables[present]:
                self.mention(name, f"{key}: is the present {present}; write the one before it", host)
        until = former.get("until")
        end = end_of(until)
        if until and end is None:
            self.add(name, f"until: {str(until)!r} is no ISO 8601 date; write one such as 2027-01-31", host)
        elif values and end is None:
            cure = "until: is missing; write the date up to which former secrets count, such as 2027-01-31"
            self.add(name, cure, host)
        elif end and not values:
            self.mention(name, "until: is of no use without a former secret; take it out", host)
        elif end and end <= datetime.datetime.now(datetime.UTC):
            self.mention(name, "until: is over, so former secrets are refused; take them out", host)

    @staticmethod
    def type_errors(name: str, option: Spec, value: object) -> list[str]:
        """What Ansible would say of the value; stricter for texts and lists, which it makes of anything."""
        ports = [value] if name.endswith("_port") else entries(value) if name.endswith("_ports") else []
        if bad := [port for port in ports if not (str(port).isdecimal() and 1 <= int(str(port)) <= LAST_PORT)]:
            return [f"{port!r} is no port, those are 1 to {LAST_PORT}" for port in bad]
        if name == "site_member_weight" and str(value) == "0":
            return ["0 is no share; write 1 or more, or site_member_down: true"]
        if option.get("type", "str") in ("str", "path") and isinstance(value, list | Mapping):
            return [f"must be a text, not a {'list' if isinstance(value, list) else 'mapping'}"]
        if option.get("type") == "list" and not isinstance(value, list):
            return ["must be a list, such as [one, two]"]
        if name == "site_serial":
            return [
                f"{each!r} is no number of nodes; write 1, or 25% of them"
                for each in entries(value)
                if not re.fullmatch(r"[1-9]\d*|([1-9]\d?|100)%", str(each))
            ]
        if option.get("elements") == "str" and any(map(is_number, entries(value))):
            return [f"each has to be in quotes, {QUOTES}"]
        checked = {**option, "required": False}
        errors: list[str] = ArgumentSpecValidator({name: checked}).validate({name: value}).error_messages
        return errors

    def check_required(self, host: str, variables: Mapping[str, Any]) -> None:
        """What the inventory has to bring is there."""
        for role, group in REQUIRED_OF.items():
            if group and host not in self.groups.get(group, []):
                continue
            for name, option in self.specs.get(role, {}).items():
                if option.get("required") and not variables.get(name):
                    self.missing(name, f"is missing; {option['description']}")
        if begun := variables.get("site_rotated"):
            names = ", ".join(begun)
            cure = f"the former values of {names} are not proven dead yet; run playbooks/rotate_secrets.yml again"
            self.mention("site_rotated", cure, host)
        for name in ("site_redis_password", "site_backup_password"):
            if 0 < len(text(variables, name)) < PASSWORD_LENGTH:
                self.add(name, f"is shorter than {PASSWORD_LENGTH} characters; try: openssl rand -hex 24", host)

    def check_network(self, host: str, variables: Mapping[str, Any]) -> None:
        """Proxy and archives are URLs that every program takes; what is said of them shows no password."""
        proxy = text(variables, "site_proxy")
        if proxy and not PROXY.fullmatch(proxy):
            self.add("site_proxy", f"must be http://host:port or http://user:password@host:port{ENCODED}", host)
        for name in ARCHIVES:
            url = text(variables, name)
            if url and not ARCHIVE.fullmatch(url):
                self.add(name, f"must be https://host/path or https://user:password@host/path{ENCODED}", host)
        for name, (also, cure) in NETWORKS.items():
            for entry in entries(variables.get(name)):
                # A service of the firewall has a list of its own.
                for each in map(str, entries(entry.get("sources")) if isinstance(entry, Mapping) else [entry]):
                    if not self.is_network(each) and not re.fullmatch(also, each):
                        self.add(name, f"{each!r} is no {cure}", host)
        domain = text(variables, "site_domain")
        bare = re.sub(r"^\w+://|[:/].*$", "", domain)
        if domain and not self.is_name(domain):
            self.add(
                "site_domain", f"{domain!r} is no name; write {bare if self.is_name(bare) else 'bot.example.com'}", host
            )

    @staticmethod
    def is_address(written: object) -> bool:
        """Whether it is an IP address."""
        try:
            ipaddress.ip_address(str(written))
        except ValueError:
            return False
        return True

    @staticmethod
    def is_network(written: object) -> bool:
        """Whether it is an IP address, or a network of them."""
        try:
            ipaddress.ip_network(str(written), strict=False)
        except ValueError:
            return False
        return True

    def is_server(self, written: str) -> bool:
        """Whether it is a name or an address, maybe with a port."""
        found = re.fullmatch(r"\[(.+)](?::(\d+))?|([^:]+):(\d+)|(.+)", written)
        port = found and (found[2] or found[4])
        named = found and (found[1] or found[3] or found[5])
        return bool(named) and self.is_name(str(named)) and (not port or 1 <= int(port) <= LAST_PORT)

    def is_name(self, written: str) -> bool:
        """Whether it is a name or an address, by which others reach a host."""
        return self.is_address(written) or (bool(DOMAIN.fullmatch(written)) and not written.startswith("."))

    def check_certificate(self, host: str, variables: Mapping[str, Any]) -> None:
        """A certificate that the platforms trust has a name, and a provided one fits the name and its key."""
        kind = variables.get("loadbalancer_tls")
        name = variables.get("site_domain")
        if kind not in ("acme", "provided"):
            return
        needed = {"acme": ["loadbalancer_acme_email"], "provided": list(PROVIDED)}[str(kind)]
        missing = [key for key in ["site_domain", *needed] if not variables.get(key)]
        for key in missing:
            self.add(
                key, f"is missing; loadbalancer_tls: {kind} needs it", host, self.sources.where("loadbalancer_tls")
            )
        if kind == "acme":
            self.check_acme(host, text(variables, "site_domain"), text(variables, "loadbalancer_acme_email"))
            if len(self.groups.get("loadbalancer", [])) > 1:
                cure = "an authority asks one balancer only, where the name leads; with several write provided"
                self.add("loadbalancer_tls", cure, host)
        if kind == "acme" or missing:
            return
        texts = []
        for key in PROVIDED:
            try:
                texts.append(self.sources.read(str(variables[key])))
            except (
                Exception
            ) as error:  # whatever the loader raises, such as a wrong Vault password, is for the operator
                self.add(key, f"cannot be read on this controller: {str(error).splitlines()[0]}", host)
        if len(texts) == len(PROVIDED):
            for key, cure in zip(PROVIDED, certificate_faults(texts[0], texts[1], str(name)), strict=True):
                if cure:
                    self.add(key, cure, host)

    def check_acme(self, host: str, name: str, mailbox: str) -> None:
        """What an authority asks for is what it takes."""
        if re.fullmatch(r"[\d.]+|.*:.*", name):
            self.add("site_domain", f"{name!r} is an address; acme certifies names only", host)
        if mailbox and not re.fullmatch(r"[^@\s]+@[^@\s]+", mailbox):
            self.add("loadbalancer_acme_email", f"{mailbox!r} is no mailbox", host)

    def check_bot(self, host: str, variables: Mapping[str, Any]) -> None:
        """The bot has a model and at least one platform, each with all that belongs to it."""
        model = variables.get("clawdbot_model_type", "echo")
        known = presets(text(variables, "clawdbot_source") or str(PACKAGE / "app"))
        if known and model not in known:
            self.add("clawdbot_model_type", f"{model!r} is no preset; choose one of {', '.join(known)}", host)
        elif known and known[model]["auth"] != "none" and not variables.get("clawdbot_model_api_key"):
            self.missing(
                "clawdbot_model_api_key",
                f"is missing; model {model!r} needs the key from its provider (clawdbot_model_type: echo needs none)",
            )
        if not any(variables.get(first) for first, _ in TOGETHER):
            self.missing(
                " or ".join(first for first, _ in TOGETHER),
                "is missing; set at least one platform's credentials, the bot has nobody to talk to",
            )
        for first, others in TOGETHER:
            for name in others if variables.get(first) else ():
                if not variables.get(name):
                    self.missing(name, f"is missing; {first} is set and needs it")
        self.check_chats(host, variables)
        self.check_cards(host, variables)
        self.check_languages(host, variables)
        self.check_rules(host, variables)
        key = text(variables, "clawdbot_dingtalk_aes_key")
        if key and len(key) != AES_KEY_LENGTH:
            self.add("clawdbot_dingtalk_aes_key", f"has {len(key)} characters, DingTalk's have {AES_KEY_LENGTH}", host)
        extra = variables.get("clawdbot_extra_environment")
        for name in extra if isinstance(extra, Mapping) else ():
            if re.match(r"CLAWDBOT_|MODEL_|PROMETHEUS_", str(name)):
                near = difflib.get_close_matches(f"clawdbot_{str(name).lower()}", self.options, n=1)
                self.add(
                    "clawdbot_extra_environment",
                    f"{name} is the role's to set{f'; use {near[0]}' if near else ''}",
                    host,
                )
            elif not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
                self.add("clawdbot_extra_environment", f"{name!r} is no name of an environment variable", host)
        for name, option in self.options.items():
            # That one goes into a file of its own.
            if option.get("no_log") and name != "site_link_key" and re.search(UNWRITABLE, text(variables, name)):
                self.add(name, UNWRITABLE_CURE, host)

    def check_cards(self, host: str, variables: Mapping[str, Any]) -> None:
        """An answer that grows has the calls that it takes."""
        card = f"write {CARD_CALLS[0]} to {CARD_CALLS[-1]}, such as 10, or 0"
        for name, good, cure in (
            ("clawdbot_dingtalk_card_calls", CARD_CALLS, card),
            ("clawdbot_dingtalk_monthly_calls", MONTHLY_CALLS, "write 0 or more"),
            ("clawdbot_feishu_monthly_calls", MONTHLY_CALLS, "write 0 or more"),
        ):
            given = text(variables, name)
            if re.fullmatch(r"-?[1-9]\d*", given) and int(given) not in good:
                self.add(name, f"{given} is no such number of calls; {cure}", host)

    def check_rules(self, host: str, variables: Mapping[str, Any]) -> None:
        """The bot takes its rules."""
        source = text(variables, "clawdbot_source") or str(PACKAGE / "app")
        given = variables.get("clawdbot_rules")
        if isinstance(given, Mapping) and given:
            for problem in rule_faults(source, json.dumps(given, default=str, sort_keys=True)):
                self.add("clawdbot_rules", problem, host)

    def check_languages(self, host: str, variables: Mapping[str, Any]) -> None:
        """The bot speaks the languages that it is to speak."""
        known = languages(text(variables, "clawdbot_source") or str(PACKAGE / "app"))
        if not known:
            return
        chats = variables.get("clawdbot_chat_languages")
        wanted = [("clawdbot_languages", "", variables.get("clawdbot_languages"))]
        if isinstance(chats, Mapping):
            wanted += [("clawdbot_chat_languages", f"{chat}: ", codes) for chat, codes in chats.items()]
        for key, chat, codes in wanted:
            if codes == [] or (chat and not isinstance(codes, list)):
                self.add(key, f"{chat}must be a list of languages; write [{', '.join(known)}], or one of them", host)
            names = [str(code) for code in codes] if isinstance(codes, list) else []
            for code in dict.fromkeys(names):
                if code not in known:
                    self.add(key, f"{chat}{code!r} is no language of the bot; choose of {', '.join(known)}", host)
                elif names.count(code) > 1:
                    self.add(key, f"{chat}names {code} twice", host)

    def check_chats(self, host: str, variables: Mapping[str, Any]) -> None:
        """A chat for alerts may be absent, but not half there."""
        for first, other in CHATS:
            if variables.get(first) and not variables.get(other):
                self.missing(other, f"is missing; {first} is set and needs it")
        robot, token = (text(variables, f"clawdbot_dingtalk_{name}") for name in ("webhook_url", "access_token"))
        if variables.get("clawdbot_dingtalk_robot_secret") and not token and "access_token=" not in robot:
            self.missing(
                "clawdbot_dingtalk_access_token", "is missing; clawdbot_dingtalk_robot_secret is set and needs it"
            )
        if re.search(r"[/=]", token):
            self.add(
                "clawdbot_dingtalk_access_token", "is more than the token; write what follows access_token= only", host
            )
        chat = text(variables, "clawdbot_alerts_feishu_chat")
        if chat and not chat.startswith("oc_"):
            self.add("clawdbot_alerts_feishu_chat", f"{chat!r} is no chat_id of Feishu, those begin with oc_", host)


class Undefined(str):
    """Stands for a value that could not be templated; its text says why."""

    __slots__ = ()


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible is not typed
    """Options and what is returned: see ``plugins/modules``."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Check the inventory of this run."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        self.validate_argument_spec({})
        specs = load_specs(PACKAGE / "roles")
        group_names = self._group_names(variables)
        groups = {
            group: list(variables["groups"][name])
            for group in GROUPS
            if (name := group_names.get(group, group)) in variables["groups"]
        }
        names = dict.fromkeys(host for members in groups.values() for host in members)
        hosts = {host: self._inventory_variables(host, variables["hostvars"], specs) for host in names}
        sources = Sources(
            variables["ansible_inventory_sources"],
            beside=Path(variables["playbook_dir"]),
            extra=load_extra_vars(self._loader),
            read=self._loader.get_text_file_contents,
        )
        preflight = Preflight(
            groups, hosts, specs, sources, group_names=group_names, everybodys=list(variables["groups"])
        )
        # A playbook that imports ours has tags of its own.
        if {Path(each).resolve().parent for each in context.CLIARGS.get("args", ())} <= {
            PACKAGE,
            PACKAGE / "playbooks",
        }:
            preflight.check_tags(variables["ansible_run_tags"])
        findings = preflight.run()
        result["changed"] = False
        if preflight.warnings:
            result["warnings"] = [f"Not refused, only mentioned: {'; '.join(map(str, sorted(preflight.warnings)))}"]
        if findings:
            result["failed"] = True
            lines = [
                f"{len(findings)} thing(s) to mend; no host was touched:",
                *(f"  - {finding}" for finding in findings),
            ]
            if any(finding.place == sources.home() for finding in findings):
                inventory = sources.roots[0] if sources.roots else "..."
                lines.append(f"make secrets INVENTORY={inventory} writes the secrets that nobody else has to issue.")
            result["msg"] = "\n".join(lines)
        return result

    def _group_names(self, variables: Mapping[str, Any]) -> dict[str, str]:
        """What the inventory calls our groups, as the plays will read it: from the first host of all."""
        everybody = variables["groups"]["all"]
        raw = variables["hostvars"].raw_get(everybody[0]) if everybody else {}
        names = Templar(loader=self._loader, variables=raw).template(raw.get("site_group_names", {}))
        return {str(group): str(name) for group, name in names.items()} if isinstance(names, Mapping) else {}

    def _inventory_variables(self, host: str, hostvars: Any, specs: Mapping[str, Spec]) -> dict[str, Any]:
        """Variables that look like ours or concern addresses, templated one by one."""
        raw = hostvars.raw_get(host)
        templar = Templar(loader=self._loader, variables={**raw, "hostvars": hostvars})
        options = frozenset(name for spec in specs.values() for name in spec)
        found: dict[str, Any] = {}
        for name, value in raw.items():
            ours = name in ("ansible_host", *CONNECTION, *RENAMED) or name.partition("_")[0] in specs
            if not ours and (name.startswith("ansible_") or nearest(name, options)[1] < SLIP_ELSEWHERE):
                continue
            try:
                found[name] = templar.template(value)
            except Exception as error:  # whatever a template may raise is the operator's to mend
                found[name] = Undefined(f"cannot be worked out: {str(error).splitlines()[0]}")
        return found
