#!/usr/bin/env python3
"""Breaks one line at a time of what the hosts get, and says which breaks no test notices that needs no host.

``tests/mutate.py --sample 30`` takes thirty of all mutants, ``--seconds 20`` as many as that time allows; ``--seed``
takes the same ones again. Each one is judged by the unit tests that name its role; the score is the share that made one
of them fail. Mutants of roles that no such test names can be noticed on hosts only, by the scenario of the role: they
are counted apart.
"""

from __future__ import annotations

import argparse
import difflib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: What is broken, in which ways.
FILES = {
    "roles/*/defaults/main.yml": ("drop", "flip", "number"),
    "roles/*/templates/**/*.j2": ("drop", "flip", "number", "mode"),
    "roles/*/tasks/*.yml": ("flip", "mode"),
    "roles/*/vars/*.yml": ("flip", "number"),
    "site.yml": ("order",),
    "app/clawdbot/lua/*.lua": ("drop", "number", "compare"),
}
#: Tests that play whole playbooks; each takes minutes.
SLOW = {"test_collection", "test_elsewhere", "test_preflight", "test_secrets", "test_staging"}
#: Tests of the bot that run its scripts in a Redis.
QUEUE = ("test_queue", "test_limits", "test_sent", "test_cards", "test_usage")
#: Words that mean the opposite of each other.
OPPOSITE = {"true": "false", "yes": "no", "on": "off", "accept": "drop", "allow": "deny", "always": "everysec"}
OPPOSITE |= {other: word for word, other in OPPOSITE.items()}
#: Nothing is noticed within this many seconds.
PATIENCE = 120


@dataclass(frozen=True)
class Mutant:
    """One broken line, or two that changed places.

    Attributes:
        file: where, below the repository.
        way: what was done.
        line: which one, from 0.
        text: the file as it is then.
    """

    file: Path
    way: str
    line: int
    text: str

    def __str__(self) -> str:
        """The mutant as a difference."""
        before = (ROOT / self.file).read_text("utf-8").splitlines()
        lines = difflib.unified_diff(before, self.text.splitlines(), lineterm="", n=0)
        changed = [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]
        return f"{self.file}:{self.line + 1}: {self.way}\n" + "\n".join(f"    {line}" for line in changed)


def broken(way: str, line: str) -> str | None:
    """The line broken in that ``way``; None where it cannot be."""
    code, mark, comment = line.partition("#") if way != "drop" else (line, "", "")
    if way == "drop":
        return "" if re.search(r"\w", line) and not re.match(r"\s*(#|--|\{[%#]|-?%\})", line) else None
    if way == "flip":
        words = re.compile(rf"(?<![\w-])({'|'.join(OPPOSITE)})(?![\w-])")
        new = words.sub(lambda found: OPPOSITE[found[1]], code, count=1)
    elif way == "number":
        new = re.sub(r"(?<![\w.])(\d+)(?![\w.])", lambda found: str(int(found[1]) + 1), code, count=1)
    elif way == "mode":
        new = re.sub(r"(mode: \"?0?)[0-7]{3}\b", r"\g<1>666", code, count=1)
    else:
        new = re.sub(
            r"[<>]=?|[~=]=", lambda found: {"<": ">=", ">": "<=", "==": "~="}.get(found[0], "=="), code, count=1
        )
    return new + mark + comment if new != code else None


def mutants() -> Iterator[Mutant]:
    """All there are, in a fixed order."""
    for pattern, ways in FILES.items():
        for path in sorted(ROOT.glob(pattern)):
            file, text = path.relative_to(ROOT), path.read_text("utf-8")
            lines = text.splitlines(keepends=True)
            for way in ways:
                if way == "order":
                    yield from swapped(file, text)
                    continue
                for number, line in enumerate(lines):
                    if (new := broken(way, line)) is not None:
                        yield Mutant(file, way, number, "".join([*lines[:number], new, *lines[number + 1 :]]))


def swapped(file: Path, text: str) -> Iterator[Mutant]:
    """Each two plays that follow each other, the other way round."""
    head, *plays = re.split(r"(?m)^(?=- name: )", text)
    for number in range(len(plays) - 1):
        order = [*plays]
        order[number : number + 2] = reversed(order[number : number + 2])
        yield Mutant(file, "order", text[: text.index(plays[number])].count("\n"), "".join([head, *order]))


@cache
def judges(file: Path) -> tuple[str, ...]:
    """Names of the test files that may notice a change of ``file``: those of the queue, or those that name its role."""
    if file.parts[0] == "app":
        return QUEUE
    role = file.parts[1] if file.parts[0] == "roles" else file.name
    wanted = re.compile(
        rf"\b(roles/)?{re.escape(role)}\b" if role == file.name else rf"\broles/{role}\b|render\(\s*\"{role}\""
    )
    found = [test.stem for test in sorted(ROOT.glob("tests/test_*.py")) if wanted.search(test.read_text("utf-8"))]
    return tuple(name for name in found if name not in SLOW)


def passes(copy: Path, file: Path) -> bool:
    """Whether the tests that judge ``file`` are green in the ``copy`` of the repository."""
    folder = copy / "app" if file.parts[0] == "app" else copy
    command = [".venv/bin/python", "-m", "pytest", "-qx", *(f"tests/{name}.py" for name in judges(file))]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def duplicate(folder: Path) -> Path:
    """A copy of the repository, with the environments of this one."""
    copy = folder / "copy"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(lambda name: (ROOT / name).exists(), listed.stdout.decode().splitlines()):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    for environment in (".venv", "app/.venv"):
        (copy / environment).symlink_to(ROOT / environment)
    return copy


def main(arguments: Sequence[str] | None = None) -> int:
    """Break, test, report; 1 if the score is below what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="how many mutants; all by default")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further one after that time")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="which ones")  # noqa: S311  # no secret
    parser.add_argument("--only", default="", help="of files whose path has this in it")
    parser.add_argument("--score", type=float, default=0, help="least share noticed, in percent")
    options = parser.parse_args(arguments)

    known = [mutant for mutant in mutants() if options.only in str(mutant.file)]
    on_hosts = Counter(mutant.file.parts[1] for mutant in known if not judges(mutant.file))
    judged = [mutant for mutant in known if judges(mutant.file)]
    random.Random(options.seed).shuffle(judged)  # noqa: S311  # no secret
    noticed, missed, begin = 0, [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = duplicate(Path(folder))
        green: dict[Path, bool] = {}
        for mutant in judged[: options.sample]:
            if time.monotonic() - begin > options.seconds:
                break
            if not green.setdefault(mutant.file, passes(copy, mutant.file)):
                print(f"{mutant.file}: its tests fail as it is", file=sys.stderr)
                return 2
            (copy / mutant.file).write_text(mutant.text, "utf-8")
            if passes(copy, mutant.file):
                missed.append(mutant)
            else:
                noticed += 1
            shutil.copy2(ROOT / mutant.file, copy / mutant.file)
    print(*missed, sep="\n")
    total = noticed + len(missed)
    score = 100 * noticed / total if total else 100.0
    print(f"{noticed} of {total} noticed ({score:.0f} %), of {len(judged)} that unit tests judge; seed {options.seed}")
    print("on hosts only:", ", ".join(f"{role} {count}" for role, count in sorted(on_hosts.items())))
    return int(score < options.score)


if __name__ == "__main__":
    sys.exit(main())
