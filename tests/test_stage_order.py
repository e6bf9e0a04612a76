"""Stages come in an order that has reasons, in every playbook that has several of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
#: Which stage comes before which, and what goes wrong the other way round.
STAGES = {
    ("preflight", "connect"): "a host is touched before the inventory is known to be sound",
    ("connect", "leave"): "nobody knows on which port a host answers, or whether another run is under way",
    ("leave", "harden"): "a node loses its access to Redis while the balancers still send it requests",
    ("connect", "harden"): "nobody knows on which port a host answers",
    ("harden", "data"): "Redis listens before the firewall says to whom",
    ("data", "app"): "the bot starts without a Redis",
    ("app", "balance"): "a balancer sends requests to a node that is not there yet",
    ("balance", "observe"): "an alarm goes off about an address that is not there yet",
    ("app", "observe"): "an alarm goes off about a node that is not there yet",
    ("data", "backup"): "there is no Redis to copy",
    ("app", "backup"): "the copy lacks the settings of the bot",
    ("balance", "left"): "what others still use is taken away",
    ("observe", "left"): "what others still use is taken away",
    ("left", "close"): "a host that leaves still uses what is closed",
    ("app", "close"): "a former password is refused before the bot has the new one",
    ("observe", "close"): "a former password is refused before the exporters have the new one",
    ("close", "verify"): "what was proven is changed afterwards",
    ("backup", "verify"): "it looks for a copy before there can be one",
    ("verify", "end"): "the next run begins while this one still looks",
}
#: The same for what a playbook does besides.
STEPS = {
    "connect": {("Connect", "Make the hosts ready for packages"): "nobody knows on which port a host answers"},
    "harden": {("Prepare", "Harden"): "packages of the firewall come from sources that are not there yet"},
    "app": {
        (
            "Lay the release beside the running one",
            "Back up before a node changes",
        ): "nobody knows whether a node changes",
        (
            "Back up before a node changes",
            "Bring the nodes up to date in turn",
        ): "a node changes before there is a copy",
    },
    "leave": {
        (
            "Look what hosts are to lose",
            "Look what hosts are to lose that are in no group any more",
        ): "nobody knows them yet",
        ("Look what hosts are to lose", "Leave"): "a Redis that holds messages is found when nodes have left already",
        ("Leave", "Remove what is not wanted any more"): "a node is removed that the balancers still send requests to",
    },
    "left": {("Remove what others needed until now", "harden"): "its ports are closed while it still runs"},
    "verify": {("Verify the backup", "Say where the bot answers"): "it is said before it is true"},
    "observe": {("exporters", "Observe"): "an alarm goes off about an exporter that is not there yet"},
    "close": {
        ("Close", "data"): "nobody knows what is to be closed",
        ("app", "harden"): "the firewall closes a port where the bot still listens",
    },
    "add_node": {
        ("preflight", "Check the names"): "the names are looked up in an inventory that may be broken",
        ("Check the names", "connect"): "a host is touched that nobody meant",
        ("connect", "Check the others"): "nobody knows on which port they answer",
        ("Check the others", "harden"): "a node joins others that are not ready for it",
        ("app", "exporters"): "an alarm goes off about a node that is not there yet",
        ("app", "members"): "a balancer sends requests to a node that is not there yet",
        ("exporters", "members"): "an alarm goes off about an exporter that is not there yet",
        ("members", "verify"): "it looks for a node that gets no requests",
    },
    "remove_node": {
        ("preflight", "Check the names"): "the names are looked up in an inventory that may be broken",
        ("Check the names", "connect"): "a host is touched that nobody meant",
        ("leave", "Stop the bot on the nodes"): "the balancers send requests to a bot that has stopped",
        ("Stop the bot on the nodes", "harden"): "a bot that still answers loses its Redis",
        ("data", "members"): "a node is forgotten whose connections still live",
        ("end", "Say what is left to do"): "the lock outlives a message that fails",
    },
    "rollback": {
        ("connect", "Choose the release"): "nobody knows who answers",
        ("Choose the release", "app"): "the newest release is deployed once more",
    },
    "drill": {
        ("connect", "Rehearse a restore"): "nobody knows who answers",
        ("Rehearse a restore", "end"): "the next run begins while this one rehearses",
    },
    "patch": {
        ("connect", "Look what the hosts lack"): "nobody knows who answers",
        ("Look what the hosts lack", "Patch host after host"): "nobody knows what is to be patched",
        ("Patch host after host", "verify"): "what was proven is changed afterwards",
    },
    "promote_site": {
        ("preflight", "Check that the inventory means it"): "the question is put to an inventory that may be broken",
        ("Check that the inventory means it", "connect"): "a site is touched that nobody meant",
        ("connect", "Promote the site"): "nobody knows who answers",
        ("Promote the site", "Wait for the bot"): "the bot of a standby never becomes ready",
        ("Wait for the bot", "data"): "the outage lasts as long as a stage more",
        ("data", "Say where the bot answers"): "it is said before it is true",
        ("Say where the bot answers", "end"): "the next run begins while this one still looks",
    },
    "restore": {
        ("connect", "Fetch the copies"): "nobody knows who answers",
        ("Fetch the copies", "harden"): "a host changes before there is a copy to be restored",
        ("data", "Put the copies in their places"): "there is no Redis to take the copy",
        ("Put the copies in their places", "app"): "the bot answers before its messages are back",
    },
    "upgrade_release": {
        ("connect", "Look which hosts are due"): "nobody knows who answers",
        ("Look which hosts are due", "backup"): "copies are taken where nothing is due",
        ("backup", "Upgrade host after host"): "a host changes before there is a copy",
        ("Upgrade host after host", "harden"): "the new release is left as its packages came",
        ("verify", "Finish the upgrades"): "what is needed to go on is gone before all is well",
        ("Finish the upgrades", "end"): "the next run begins while this one still works",
    },
}
PLAYBOOKS = [ROOT / "site.yml", *sorted(ROOT.glob("playbooks/*.yml"))]


def steps(playbook: Path) -> list[str]:
    """Stages that a playbook imports, and its own plays, in their order."""
    plays = yaml.safe_load(playbook.read_text("utf-8"))
    return [Path(play.get("ansible.builtin.import_playbook", play["name"])).stem for play in plays]


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: path.name)
def test_no_step_comes_before_what_it_needs(playbook: Path) -> None:
    found = steps(playbook)
    own = STEPS.get(playbook.stem, {})
    assert {step for pair in own for step in pair} <= set(found)
    # The one that closes runs stages a second time.
    for (before, after), why in (own if playbook.stem == "close" else STAGES | own).items():
        if before in found and after in found:
            # A stage that comes twice, as a copy before and after an upgrade, is right where it comes last.
            place = found.index(after) if (before, after) in own else len(found) - 1 - found[::-1].index(after)
            assert found.index(before) < place, why


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: path.name)
def test_other_runs_are_kept_out_from_beginning_to_end(playbook: Path) -> None:
    """``connect`` takes the lock, ``end`` frees it."""
    found = steps(playbook)
    if "end" in found:
        assert found[0] == "preflight"
        assert [step for step in found[found.index("end") + 1 :] if not step.startswith("Say ")] == []
        assert [step for step in found[1 : found.index("connect")] if not step.startswith("Check ")] == []


def test_the_front_door_has_every_stage() -> None:
    assert set(steps(ROOT / "site.yml")) == {stage for pair in STAGES for stage in pair}
