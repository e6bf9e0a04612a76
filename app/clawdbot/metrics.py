"""The metrics, and the page that shows those of all processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import redis
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from clawdbot import metrics_folder
from clawdbot.connected import Connected
from clawdbot.errors import SpoolError
from clawdbot.sites import Role, Sites

if TYPE_CHECKING:
    from clawdbot.config import ModelConfig, Settings
    from clawdbot.engine.queue import Queue
    from clawdbot.engine.spool import Spool

HTTP_SECONDS = Histogram(
    "clawdbot_http_request_duration_seconds",
    "Time from the request's arrival in the application to its answer.",
    ["endpoint"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10),
)
HTTP_REQUESTS = Counter("clawdbot_http_requests_total", "Answered requests.", ["endpoint", "status"])
CALLBACKS = Counter(
    "clawdbot_callbacks_total",
    "Callbacks by result: accepted, spooled (this node's disk has it, Redis not yet), duplicate, ignored, answered,"
    " unavailable, full, platform_error (the platform reports trouble), or the reason of a refusal.",
    ["platform", "result"],
)
SPOOL_REFUSALS = Counter(
    "clawdbot_spool_refusals_total",
    "Callbacks that neither Redis nor this node's disk took at first, by the disk's reason: full, old, disk, slow.",
    ["reason"],
)
SPOOL_HANDED_OVER = Counter(
    "clawdbot_spool_handed_over_total", "Messages that went from this node's disk to Redis, by its answer.", ["result"]
)
SPOOL_FAILURES = Counter(
    "clawdbot_spool_hand_over_failures_total",
    "Tries to hand over that failed, because Redis is full or unavailable.",
    ["reason"],
)
MESSAGES = Counter(
    "clawdbot_messages_total",
    "Attempts by outcome: answered, ignored, apologised, deferred, throttled, redis, dead, lost_lease.",
    ["platform", "outcome"],
)
ANSWER_SECONDS = Histogram(
    "clawdbot_answer_duration_seconds",
    "Time from when the user wrote to the end of the answer, by the platform's clock.",
    ["platform"],
    buckets=(0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300),
)
MODEL_CALLS = Counter(
    "clawdbot_model_calls_total",
    "Calls of the model service by outcome: success or the kind of failure, see models/failures.py.",
    ["provider", "outcome"],
)
MODEL_SECONDS = Histogram(
    "clawdbot_model_call_duration_seconds",
    "Duration of one call of the model service.",
    ["provider"],
    buckets=(0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300),
)
MODEL_TOKENS = Counter("clawdbot_model_tokens_total", "Tokens as the model service counts them.", ["provider", "kind"])
MODEL_FALLBACKS = Counter(
    "clawdbot_model_fallbacks_total",
    "Questions that another model was asked because one could not answer.",
    ["of", "to"],
)
MODEL_COST = Counter("clawdbot_model_cost_total", "What answers cost, by the prices of bot.yaml.", ["model"])
BOT_FILE = Counter(
    "clawdbot_bot_file_changes_total", "Changes of bot.yaml: taken, or refused as not sound.", ["result"]
)
CACHE = Counter("clawdbot_cache_requests_total", "Look-ups in the cache.", ["kind", "result"])
TOKEN_REFRESHES = Counter(
    "clawdbot_token_refreshes_total", "Access tokens fetched from a platform.", ["platform", "outcome"]
)
FORMER_SECRETS = Counter(
    "clawdbot_former_secrets_used_total",
    "Callbacks, alerts and access tokens that took a secret which was replaced: the other side still has it.",
    ["part", "secret"],
)
ANSWER_CALLS = Histogram(
    "clawdbot_answer_platform_calls",
    "Calls of the platform that an attempt at a message costs, the updates of its card included.",
    ["platform"],
    buckets=(0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48),
)
SENDS = Counter(
    "clawdbot_platform_sends_total", "Calls that send an answer, by way and outcome.", ["platform", "way", "outcome"]
)

CONNECTIONS = Counter(
    "clawdbot_receiver_connections_total",
    "Connections to a platform: opened; and how tries and connections ended: refused, unreachable, moved (the platform"
    " asked for it), lost, silent (no answer to a ping), closed (by us).",
    ["platform", "outcome"],
)
UNACKNOWLEDGED = Counter(
    "clawdbot_receiver_unacknowledged_total",
    "Events that were taken in when their connection was gone; the platform sends them again.",
    ["platform"],
)


class _Processes(Collector):
    """The metrics that processes left in files."""

    def collect(self) -> Iterator[Metric]:
        # The package has no types here.
        yield from MultiProcessCollector.merge(metrics_folder.files())  # type: ignore[no-untyped-call]  # see above


class _State(Collector):
    """What is read at the moment of the scrape: the queue, receivers, and how long keys and former secrets last."""

    def __init__(self, queue: Queue, settings: Settings, spool: Spool | None, sites: Sites | None) -> None:
        self.queue = queue
        self.connected = Connected(queue.client)
        self.settings = settings
        self.spool = spool
        self.sites = sites

    def collect(self) -> Iterator[Metric]:
        yield from self._queue()
        if self.sites:
            yield _roles(self.sites)
        if self.spool:
            yield from _spool(self.spool)
        if self.settings.model:
            yield from _key_expiry(self.settings.model)
        yield _former_ends(self.settings)

    def _queue(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("clawdbot_redis_up", "1 if Redis answered this scrape.")
        receivers = GaugeMetricFamily(
            "clawdbot_receivers_connected",
            "Receivers that are connected to a platform, of all nodes; of platforms that send callbacks nothing.",
            labels=["platform"],
        )
        try:
            depth = self.queue.depth()
            # To count writes, and the Redis of a site that stands by takes none.
            for platform in self.settings.connected() if not self.sites or self.sites.role is Role.ACTIVE else ():
                receivers.add_metric([platform], self.connected.count(platform))
        except redis.RedisError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield receivers
        for name, text, value in (
            ("queue_depth", "Accepted messages that are not answered yet.", depth.messages),
            ("queue_oldest_age_seconds", "Age of the oldest of them.", depth.oldest_seconds),
            ("queue_delayed", "Conversations that wait for another attempt.", depth.delayed),
            ("dead_letters", "Messages that were given up.", depth.dead),
        ):
            yield GaugeMetricFamily(f"clawdbot_{name}", text, value=value)


def _roles(sites: Sites) -> Metric:
    role = GaugeMetricFamily(
        "clawdbot_site_role", "1 for what this site does: active, leaving, standby, unknown.", labels=["site", "role"]
    )
    for each in Role:
        role.add_metric([sites.config.name, each.value], float(each is sites.role))
    return role


def _spool(spool: Spool) -> Iterator[Metric]:
    try:
        held = spool.held()
    except SpoolError:
        # Unknown is not nothing. Refusals are counted.
        return
    for name, text, value in (
        ("messages", "Messages that wait on this node's disk until Redis takes them.", held.messages),
        ("oldest_age_seconds", "Seconds since the first of them came.", held.oldest_seconds),
        ("bytes", "What they take of the disk.", held.size),
        ("max_bytes", "What they may take of it.", spool.most_bytes),
    ):
        yield GaugeMetricFamily(f"clawdbot_spool_{name}", text, value=value)


def _key_expiry(model: ModelConfig) -> Iterator[Metric]:
    """The date if it is known. Unknown is said to be unknown: there is never a made-up date."""
    known = model.expires_at is not None
    unknown = GaugeMetricFamily(
        "clawdbot_api_key_expiry_unknown", "1 if nobody knows when the key ends.", labels=["provider"]
    )
    unknown.add_metric([model.name], 0 if known or model.preset.auth == "none" else 1)
    yield unknown
    if model.expires_at is not None:
        expiry = GaugeMetricFamily(
            "clawdbot_api_key_expiry_timestamp_seconds", "When the model's key ends.", labels=["provider"]
        )
        expiry.add_metric([model.name], model.expires_at)
        yield expiry


def _former_ends(settings: Settings) -> Metric:
    ends = GaugeMetricFamily(
        "clawdbot_former_secret_end_timestamp_seconds",
        "Up to when a secret that was replaced is accepted.",
        labels=["part", "secret"],
    )
    for part, former in settings.former().items():
        for name in former.values:
            ends.add_metric([part, name], former.until)
    return ends


def page(queue: Queue, settings: Settings, spool: Spool | None = None, sites: Sites | None = None) -> bytes:
    """Return all metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_State(queue, settings, spool, sites))
    if metrics_folder.files():
        registry.register(_Processes())
        return generate_latest(registry)
    return generate_latest(registry) + generate_latest(REGISTRY)


class Timer:
    """Seconds since it was made."""

    def __init__(self) -> None:
        """Start."""
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds so far."""
        return time.perf_counter() - self._start
