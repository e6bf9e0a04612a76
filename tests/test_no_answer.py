"""The page for a bot that does not answer names what there is."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs/no-answer.md"
TEXT = PAGE.read_text("utf-8")


def test_its_commands_are_those_of_the_bot(root: Path) -> None:
    program = (root / "app/clawdbot/cli.py").read_text("utf-8")
    for words in re.findall(r"clawdbot (check|queue|dead \w+)", TEXT):
        for word in words.split():
            assert f'"{word}"' in program, words
    for label in ("messages waiting", "oldest, seconds", "conversations delayed", "dead letters"):
        assert label in program


def test_its_playbooks_logs_and_pages_are_there(root: Path) -> None:
    names = re.findall(r"ansible-playbook (\S+\.yml)", TEXT)
    assert {"site.yml", "playbooks/verify.yml", "playbooks/rollback.yml"} <= set(names)
    assert all((root / name).exists() for name in names)
    logs = (root / "roles/clawdbot/templates/rsyslog.conf.j2").read_text("utf-8")
    for name in re.findall(r"logs/(\w+)\.log", TEXT):
        assert f'"clawdbot-{name}"' in logs, name
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        file, _, anchor = link.partition("#")
        assert (PAGE.parent / file).exists(), link
        heads = re.findall(r"^#+ (.*)", (PAGE.parent / file).read_text("utf-8"), re.MULTILINE)
        assert not anchor or anchor in {head.lower().replace(" ", "-") for head in heads}, link
