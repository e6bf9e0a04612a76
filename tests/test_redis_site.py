"""Two sites: the Redis of one follows the other's over TLS; who answers is agreed upon, promoted and handed back."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from site_secrets import link
from test_redis_access import digest, free_port

ROOT = Path(__file__).resolve().parents[1]
PASSWORD = "the password of both"  # of servers on loopback that live for a test


@dataclass
class Site:
    """A Redis with the programs of its host."""

    name: str
    folder: Path
    ports: dict[str, int] = field(default_factory=lambda: {"plain": free_port(), "link": free_port()})
    process: subprocess.Popen[bytes] | None = None

    def install(self, other: "Site") -> None:
        """What the role writes."""
        self.folder.mkdir()
        for program in ("clawdbot-redis", "clawdbot-redis-site", "clawdbot-redis-access"):
            text = (ROOT / "roles/redis/files" / program).read_text()
            for there, here in (
                ("/etc/redis", str(self.folder)),
                ("/run/redis", str(self.folder)),
                ("/usr/local/sbin", str(self.folder)),
                ("chown root:redis", "test -e"),
                ("journalctl", "echo its journal:"),
            ):
                text = text.replace(there, here)
            (self.folder / program).write_text(text)
            (self.folder / program).chmod(0o755)
        certificate, private = link()
        said = {
            "own": self.name,
            "own_host": "localhost",
            "own_port": self.ports["link"],
            "link_port": self.ports["link"],
            "other": other.name,
            "other_host": "localhost",
            "other_port": other.ports["link"],
        }
        for name, text in {
            "clawdbot-site": "".join(f"{key}={value}\n" for key, value in said.items()),
            "clawdbot-link.crt": certificate,
            "clawdbot-link.key": private,
            "clawdbot-replication.conf": f'masterauth "{PASSWORD}"\n',
            "clawdbot-port.conf": f"port {self.ports['plain']}\n",
            "redis.conf": f"""
                include {self.folder}/clawdbot-port.conf
                include {self.folder}/clawdbot-replication.conf
                bind 127.0.0.1
                dir {self.folder}
                aclfile {self.folder}/clawdbot.acl
                unixsocket {self.folder}/clawdbot.sock
                save ''
                appendonly yes
                repl-diskless-sync-delay 0
                repl-ping-replica-period 1
                tls-cert-file {self.folder}/clawdbot-link.crt
                tls-key-file {self.folder}/clawdbot-link.key
                tls-ca-cert-file {self.folder}/clawdbot-link.crt
                tls-auth-clients yes
                include {self.folder}/clawdbot-link*.conf
                """,
        }.items():
            (self.folder / name).write_text(text)
        self.run("clawdbot-redis-access", "write", said=f"{digest(PASSWORD)}\n")

    def run(self, program: str, *arguments: str, status: int = 0, said: str = "") -> str:
        """What a program says."""
        done = subprocess.run(
            [self.folder / program, *arguments], input=said, capture_output=True, text=True, check=False, timeout=180
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def site(self, *arguments: str, status: int = 0) -> str:
        """What clawdbot-redis-site says."""
        return self.run("clawdbot-redis-site", *arguments, status=status)

    def redis(self, *arguments: str) -> str:
        """What its Redis says."""
        return self.run("clawdbot-redis", *arguments).rstrip("\n")

    def is_copy(self) -> bool:
        """Whether it follows and has all."""
        said = self.redis("info", "replication")
        return "role:slave" in said and "master_link_status:up" in said

    def start(self) -> None:
        """Start its Redis and wait until it answers."""
        # Debian's redis-tools has the server under another name: what it is depends on argv[0].
        program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
        assert program, "install redis-server or redis-tools"
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                ["redis-server", f"{self.folder}/redis.conf"], executable=program, stdout=log
            )
        eventually(
            lambda: (
                subprocess.run([self.folder / "clawdbot-redis", "ping"], capture_output=True, check=False).returncode
                == 0
            )
        )

    def kill(self) -> None:
        """End it as a power cut does."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


def has_its_word(site: Site) -> bool:
    """Whether this run of its Redis was told that the site answers."""
    return (
        site.redis("get", f"clawdbot:site-word:{site.name}")
        == site.redis("info", "server").partition("run_id:")[2][:40]
    )


def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it did not become so")


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    """Two sites that were never told who answers."""
    pair = Site("shanghai", tmp_path / "shanghai"), Site("beijing", tmp_path / "beijing")
    for site, other in (pair, pair[::-1]):
        site.install(other)
        site.start()
    yield pair
    for site in pair:
        site.kill()


@pytest.fixture
def both(sites: tuple[Site, Site]) -> tuple[Site, Site]:
    """The first answers, the second follows; there is data."""
    one, two = sites
    assert "shanghai answers from now on (epoch 1)" in one.site("agree", "shanghai")
    one.redis("set", "clawdbot:session:1", "hello")
    assert "beijing: Redis follows that of shanghai" in two.site("agree", "shanghai")
    assert two.redis("get", "clawdbot:session:1") == "hello"
    return one, two


def test_who_stands_by_is_set_up_after_the_one_that_answers(sites: tuple[Site, Site]) -> None:
    one, two = sites
    assert "shanghai has not been set up yet" in two.site("agree", "shanghai", status=1)
    one.site("agree", "shanghai")
    two.site("agree", "shanghai")
    assert two.is_copy()
    for site in sites:
        assert site.site("agree", "shanghai") == "", "a second run has nothing to do"


def test_who_answers_gets_its_word_anew_after_a_restart(both: tuple[Site, Site]) -> None:
    one, _ = both
    assert has_its_word(one)
    one.kill()
    one.start()
    assert not has_its_word(one)
    assert one.site("agree", "shanghai") == ""
    assert has_its_word(one)


def test_what_the_inventory_says_does_not_move_who_answers(both: tuple[Site, Site]) -> None:
    for site in both:
        said = site.site("agree", "beijing", status=1)
        assert "shanghai answers since it was promoted (epoch 1), but the inventory says site_active: beijing." in said
    assert both[1].is_copy()


def test_nobody_without_the_certificate_gets_in(both: tuple[Site, Site]) -> None:
    port = str(both[0].ports["link"])
    command = ["redis-cli", "--tls", "--insecure", "-h", "localhost", "-p", port, "ping"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"REDISCLI_AUTH": PASSWORD})
    assert "PONG" not in done.stdout


def test_a_lost_site_is_replaced_and_stands_by_when_it_returns(both: tuple[Site, Site]) -> None:
    one, two = both
    one.kill()
    assert "Nothing was changed" in two.site("promote", "--planned", status=1)
    assert two.redis("get", "clawdbot:site") == "1 shanghai"
    said = two.site("promote")
    assert "shanghai cannot be asked" in said
    assert "Its last word came" in said
    assert "beijing answers from now on (epoch 2)" in said
    assert has_its_word(two)
    two.redis("set", "clawdbot:session:1", "answered in beijing")

    one.start()  # it comes back with what it had, and takes itself for the one that answers
    assert one.redis("get", "clawdbot:site") == "1 shanghai"
    assert "beijing answers since it was promoted (epoch 2)" in one.site("agree", "shanghai", status=1)
    assert "holds data of its own, and beijing answers (epoch 2)" in one.site("agree", "beijing", status=3)
    assert one.redis("get", "clawdbot:session:1") == "hello", "nothing is forgotten unasked"
    one.site("follow")
    assert one.redis("get", "clawdbot:session:1") == "answered in beijing"
    assert one.redis("get", "clawdbot:site") == "2 beijing"
    assert one.site("agree", "beijing") == ""


def test_a_planned_promotion_loses_nothing_and_turns_the_link_round(both: tuple[Site, Site]) -> None:
    one, two = both
    said = two.site("promote", "--planned")
    assert said.splitlines()[-1] == "shanghai follows"
    assert has_its_word(two)
    eventually(one.is_copy)
    two.redis("set", "clawdbot:session:2", "on")
    eventually(lambda: one.redis("get", "clawdbot:session:2") == "on")
    assert two.redis("get", "clawdbot:site") == "2 beijing"
    assert "beijing answers already (epoch 2)" in two.site("promote")
    one.site("agree", "beijing")  # notes that a restart keeps it
    one.kill()
    one.start()
    eventually(one.is_copy)
    one.site("promote", "--planned")
    eventually(two.is_copy)
    assert one.redis("set", "clawdbot:session:3", "back") == "OK"


def test_a_promotion_keeps_over_a_restart_and_restarts_nothing(both: tuple[Site, Site]) -> None:
    _, two = both
    started = two.redis("info", "server").partition("run_id:")[2][:40]
    two.site("promote")
    assert two.redis("info", "server").partition("run_id:")[2][:40] == started
    two.kill()
    two.start()
    assert "role:master" in two.redis("info", "replication")
    assert two.redis("get", "clawdbot:session:1") == "hello"


def test_a_promotion_that_died_is_finished(both: tuple[Site, Site]) -> None:
    one, two = both
    one.redis("set", "clawdbot:site", "2 beijing")  # the first step, and no other
    eventually(lambda: two.redis("get", "clawdbot:site") == "2 beijing")
    assert "shanghai follows" in two.site("agree", "beijing")
    eventually(one.is_copy)


def test_where_the_copy_cannot_catch_up_the_other_site_goes_on(both: tuple[Site, Site]) -> None:
    one, two = both
    program = two.folder / "clawdbot-redis-site"
    # The offset of the other one is never reached.
    program.write_text(
        program.read_text().replace("within 30 level", "within 1 level").replace("-ge", "-gt 1000000000 -a 0 -ge")
    )
    said = two.site("promote", status=1)
    assert "does not catch up with shanghai, which answers again (epoch 3)" in said
    assert one.redis("get", "clawdbot:site") == "3 shanghai"
    assert one.redis("set", "clawdbot:session:9", "goes on") == "OK"
    eventually(lambda: two.redis("get", "clawdbot:session:9") == "goes on")


def test_a_promotion_waits_for_what_is_in_work(both: tuple[Site, Site]) -> None:
    one, two = both
    one.redis("xgroup", "create", "clawdbot:ready", "workers", "0", "mkstream")
    one.redis("xadd", "clawdbot:ready", "*", "c", "1")
    one.redis("xreadgroup", "group", "workers", "w", "streams", "clawdbot:ready", ">")
    command = [str(two.folder / "clawdbot-redis-site"), "promote"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        eventually(lambda: one.redis("get", "clawdbot:site") == "2 beijing")
        time.sleep(1)
        assert running.poll() is None
        assert "role:slave" in two.redis("info", "replication")
        entry = one.redis("xpending", "clawdbot:ready", "workers", "-", "+", "1").splitlines()[0]
        one.redis("xack", "clawdbot:ready", "workers", entry)
        assert "shanghai has 0 in work" in running.communicate(timeout=30)[0]
    assert running.returncode == 0


def test_a_server_that_has_lost_its_data_lets_nobody_forget_theirs(both: tuple[Site, Site]) -> None:
    one, two = both
    one.kill()
    shutil.rmtree(one.folder)
    one.install(two)
    one.start()
    time.sleep(2)  # in which the copy would begin anew
    assert "Redis here has lost its data" in one.site("agree", "shanghai", status=1)
    assert two.redis("get", "clawdbot:session:1") == "hello"
    two.site("promote")
    assert "Redis follows that of beijing" in one.site("agree", "beijing")
    assert one.redis("get", "clawdbot:session:1") == "hello"


def test_people_see_who_answers_and_how_far_behind_the_copy_is(both: tuple[Site, Site]) -> None:
    one, two = both
    assert "answers:  shanghai (epoch 1)" in one.site("state")
    said = two.site("state")
    assert "link:     up" in said
    assert "behind:   0 bytes" in said
    one.kill()
    assert "cannot be asked" in two.site("state")


def test_a_new_certificate_is_taken_without_a_restart(both: tuple[Site, Site]) -> None:
    one, two = both
    certificate, key = link.__wrapped__()
    for site in both:
        (site.folder / "clawdbot-link.crt").write_text(certificate)
        (site.folder / "clawdbot-link.key").write_text(key)
    two.run("clawdbot-redis-access", "load")
    one.redis("client", "kill", "type", "replica")
    eventually(lambda: not two.is_copy())
    time.sleep(2)
    assert not two.is_copy(), "the other one knows the former certificate only"
    one.run("clawdbot-redis-access", "load")
    eventually(two.is_copy)


def test_two_that_were_promoted_apart_are_brought_together_by_another_promotion(both: tuple[Site, Site]) -> None:
    one, two = both
    one.kill()
    two.site("promote")
    one.start()
    one.redis("set", "clawdbot:site", "2 shanghai")
    assert "beijing answers from now on (epoch 3)" in two.site("promote")
    assert "beijing answers since it was promoted (epoch 3)" in one.site("agree", "shanghai", status=1)
