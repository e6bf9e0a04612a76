#!/usr/bin/env python3
"""Breaks one line at a time of what the hosts get, and says which breaks no test notices.

Each mutant is judged by the unit tests that open its file, the narrowest first: those that open the fewest others.
Which tests open which files is measured by running them once, and kept until they change. One that none of them
notices has to stand in ``tests/mutants.yml``, with the scenario that notices it on hosts, or with the reason why
nothing does; else the exit status is 1, as it is for an entry that is of no use any more. ``--on hosts`` breaks those
of the scenarios instead, some for each, and runs the scenario.

Of each file and each way to break it so many are taken, always the same ones as long as their lines stay.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
REASONS = ROOT / "tests/mutants.yml"
#: What is broken, in which ways.
FILES = {
    "roles/*/defaults/main.yml": ("drop", "flip", "number"),
    "roles/*/vars/*.yml": ("drop", "flip", "number"),
    "roles/*/templates/**/*.j2": ("drop", "flip", "number"),
    "roles/*/files/*.conf": ("drop", "flip"),
    "roles/*/tasks/*.yml": ("boolean", "mode"),
    "playbooks/*.yml": ("boolean", "order"),
    "site.yml": ("drop", "order"),
    "app/clawdbot/lua/*.lua": ("drop", "number", "compare"),
}
#: Tests of the bot that run its scripts in a Redis.
QUEUE = ("queue", "sent", "limits", "cards", "sites", "tokens", "usage")
#: Words that mean the opposite of each other.
OPPOSITE = {"true": "false", "yes": "no", "on": "off", "accept": "drop", "allow": "deny", "always": "everysec"}
OPPOSITE |= {other: word for word, other in OPPOSITE.items()}
#: Seconds of a processor that the tests of one mutant may take together; what takes more is left to hosts.
BUDGET = 20
#: Seconds after which they hang, which is noticed as well.
PATIENCE = 900


@dataclass(frozen=True)
class Mutant:
    """One broken line, or two parts that changed places.

    Attributes:
        name: file, way and line, the same as long as those are.
        file: where, below the repository.
        way: what was done.
        text: the file as it is then.
    """

    name: str
    file: str
    way: str
    text: str


def broken(way: str, line: str) -> str | None:
    """The line broken in that ``way``; None where it cannot be."""
    if way == "drop":
        return None if not re.search(r"\w", line) or re.match(r"\s*(#|--|//|\{[%#]|-?%\}|Description=)", line) else ""
    code, mark, comment = line.partition("#")
    if way == "boolean":
        new = re.sub(r"(: )(true|false)$", lambda found: found[1] + OPPOSITE[found[2]], code)
    elif way == "flip":
        words = re.compile(rf"(?<![\w-])({'|'.join(OPPOSITE)})(?![\w-])")
        new = words.sub(lambda found: OPPOSITE[found[1]], code, count=1)
    elif way == "number":
        new = re.sub(r"(?<![\w.$])(\d+)(?![\w.])", lambda found: str(int(found[1]) + 1), code, count=1)
    elif way == "mode":  # others may what the owner may
        new = re.sub(r'(mode: "?0)(\d)(\d)(?!\2)\d\b', r"\g<1>\2\3\2", code, count=1)
    else:
        opposite = {"<": ">=", ">": "<=", "<=": ">", ">=": "<", "==": "~=", "~=": "=="}
        new = re.sub(r"[<>]=?|[~=]=", lambda found: opposite[found[0]], code, count=1)
    return new + mark + comment if new != code else None


def lines_broken(way: str, text: str) -> Iterator[tuple[str, str]]:
    """Each line that can be broken in that ``way``, with the text then."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if (new := broken(way, line)) is not None:
            yield line.strip(), "".join([*lines[:number], new, *lines[number + 1 :]])


def swapped(text: str) -> Iterator[tuple[str, str]]:
    """Each two plays that follow each other, with the text the other way round."""
    head, *plays = re.split(r"(?m)^(?=- )", text)
    for number in range(len(plays) - 1):
        order = [*plays]
        order[number : number + 2] = reversed(order[number : number + 2])
        yield plays[number].splitlines()[0], "".join([head, *order])


def mutants(root: Path, each: int) -> list[Mutant]:
    """Of each file and way ``each``, chosen by what they are so that others' coming and going changes nothing."""
    chosen = []
    for pattern, ways in FILES.items():
        for path in sorted(root.glob(pattern)):
            file, text = path.relative_to(root).as_posix(), path.read_text("utf-8")
            for way in ways:
                seen: Counter[str] = Counter()
                found = []
                for what, new in swapped(text) if way == "order" else lines_broken(way, text):
                    seen[what] += 1
                    again = f" ({seen[what]})" if seen[what] > 1 else ""
                    found.append(Mutant(f"{file}: {way}: {what}{again}", file, way, new))
                chosen += sorted(found, key=lambda mutant: hashlib.sha256(mutant.name.encode()).digest())[:each]
    return chosen


class Court:
    """A copy of the repository in which mutants are judged."""

    def __init__(self, root: Path, tests: Sequence[str] = ()) -> None:
        self.root = root
        self.tests = tests or sorted(path.relative_to(root).as_posix() for path in root.glob("tests/test_*.py"))
        self.servers: dict[str, subprocess.Popen[str]] = {}
        self.opened: dict[str, list[str]] | None = None

    def __enter__(self) -> Court:
        self.folder = tempfile.TemporaryDirectory()
        self.copy = Path(self.folder.name) / "copy"
        listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=self.root, capture_output=True)
        for name in listed.stdout.decode().splitlines():
            if (self.root / name).exists():
                (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.root / name, self.copy / name, follow_symlinks=False)
        subprocess.run(["git", "init", "--quiet"], cwd=self.copy, check=True)
        subprocess.run(["git", "add", "."], cwd=self.copy, check=True)
        (self.copy / ".cache").mkdir(exist_ok=True)
        for made in (".venv", "app/.venv", ".cache/programs"):
            if (self.root / made).exists():
                (self.copy / made).symlink_to(self.root / made)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for server in self.servers.values():
            server.terminate()
            server.communicate()
        self.folder.cleanup()

    def ask(self, part: str, tests: Sequence[str], seconds: int, *, trace: bool = False) -> dict[str, Any]:
        """Run ``tests`` of a ``part`` of the repository, the folder that has the environment."""
        if part not in self.servers:
            self.servers[part] = subprocess.Popen(
                [self.root / part / ".venv/bin/python", Path(__file__).with_name("judge.py")],
                cwd=self.copy / part,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        server = self.servers[part]
        assert server.stdin
        assert server.stdout
        print(json.dumps({"tests": list(tests), "seconds": seconds, "trace": trace}), file=server.stdin, flush=True)
        answer: dict[str, Any] = json.loads(server.stdout.readline())
        return answer

    def measured(self, module: str) -> dict[str, Any]:
        """What each test of a module takes and opens; kept until the module or what tests share has changed."""
        shared = [path for path in sorted(self.root.glob("tests/*.py")) if not path.name.startswith("test_")]
        state = hashlib.sha256(b"".join(path.read_bytes() for path in (self.root / module, *shared))).hexdigest()
        kept = self.root / f".cache/mutate/{Path(module).stem}-{state[:16]}.json"
        if not kept.exists():
            said = self.ask("", [module], 1800, trace=True)
            if said["failed"]:
                raise SystemExit(f"{module} fails as it is")
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(said), "utf-8")
        found: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        return found

    def judges(self) -> dict[str, list[str]]:
        """The tests that open each file, the narrowest first, as many as the budget allows."""
        if self.opened is None:
            seconds: dict[str, float] = {}
            opened: dict[str, set[str]] = {}
            for module in self.tests:
                said = self.measured(module)
                seconds |= said["seconds"]
                opened |= {test: {*files, *said["opened"].get(module, [])} for test, files in said["opened"].items()}
            self.opened = {}
            left: defaultdict[str, float] = defaultdict(lambda: float(BUDGET))
            for test in sorted(seconds, key=lambda test: (len(opened[test]), seconds[test])):
                for file in opened[test]:
                    left[file] -= seconds[test]
                    if left[file] > 0:
                        self.opened.setdefault(file, []).append(test)
        return self.opened

    def notices(self, mutant: Mutant) -> bool:
        """Whether a test fails because of the mutant."""
        part = "app" if mutant.file.startswith("app/") else ""
        tests = [f"tests/test_{name}.py" for name in QUEUE] if part else self.judges().get(mutant.file, [])
        if not tests:
            return False
        (self.copy / mutant.file).write_text(mutant.text, "utf-8")
        try:
            return bool(self.ask(part, tests, PATIENCE)["failed"])
        finally:
            shutil.copy2(self.root / mutant.file, self.copy / mutant.file)


def without_hosts(chosen: Sequence[Mutant], tests: Sequence[str], *, verbose: bool) -> int:
    """Judge by unit tests; say what they miss."""
    with Court(ROOT, tests) as court:
        missed = []
        for mutant in chosen:
            if not court.notices(mutant):
                missed.append(mutant.name)
            if verbose:
                print("missed " if mutant.name in missed[-1:] else "noticed", mutant.name, flush=True)
    reasons = yaml.safe_load(REASONS.read_text("utf-8"))
    of_hosts = {name: scenario for scenario, names in reasons["hosts"].items() for name in names}
    listed = of_hosts.keys() | reasons["nobody"].keys()
    known = {mutant.name for mutant in chosen}
    unlisted = [name for name in missed if name not in listed]
    useless = sorted((listed & known) - set(missed))
    owners = Counter(of_hosts[name] for name in missed if name in of_hosts)
    explained = sum(name in reasons["nobody"] for name in missed)
    for name in unlisted:
        print(f"nobody notices  {name}")
    for name in useless:
        print(f"needs no entry  {name}")
    total, found = len(chosen), len(chosen) - len(missed)
    print("left to hosts:", ", ".join(f"{scenario} {count}" for scenario, count in sorted(owners.items())) or "none")
    print(
        f"{found} of {total} noticed without hosts ({100 * found / total:.0f} %), {owners.total()} left to hosts, "
        f"{explained} with a reason, {len(unlisted)} that nobody notices: "
        f"score {100 * (found + owners.total()) / (total - explained):.1f} %"
    )
    return int(bool(unlisted or useless))


def on_hosts(known: Sequence[Mutant], each: int) -> int:
    """Run scenarios with some of the mutants that only they can notice; say which they miss."""
    missed = total = 0
    texts = {mutant.name: mutant for mutant in known}
    for scenario, names in yaml.safe_load(REASONS.read_text("utf-8"))["hosts"].items():
        for name in names[:each]:
            with Court(ROOT) as court:
                (court.copy / texts[name].file).write_text(texts[name].text, "utf-8")
                log = ROOT / f".cache/mutant-{scenario}-{names.index(name)}.log"
                with log.open("w") as output:
                    command = [ROOT / ".venv/bin/molecule", "test", "-s", scenario]
                    done = subprocess.run(command, cwd=court.copy, stdout=output, stderr=output, check=False)
            total += 1
            missed += done.returncode == 0
            print("missed " if done.returncode == 0 else "noticed", f"{scenario}: {name}  ({log})", flush=True)
    print(f"{total - missed} of {total} noticed on hosts")
    return int(missed > 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Break, test, report; 1 if a mutant is missed that should not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=1, help="how many of each file and way; with --on hosts, scenario")
    parser.add_argument("--sample", type=int, help="every so manieth of those only, to see that it works")
    parser.add_argument("--only", default="", help="those that have this in their names")
    parser.add_argument("--tests", nargs="+", default=(), help="judge by these files of tests; all by default")
    parser.add_argument("--on", choices=["hosts", "here"], default="here", help="where mutants are judged")
    parser.add_argument("--verbose", action="store_true", help="say what becomes of each")
    options = parser.parse_args(arguments)
    if options.on == "hosts":
        return on_hosts(mutants(ROOT, 1), options.each)
    chosen = [mutant for mutant in mutants(ROOT, options.each) if options.only in mutant.name][:: options.sample]
    return without_hosts(chosen, options.tests, verbose=options.verbose)


if __name__ == "__main__":
    sys.exit(main())
