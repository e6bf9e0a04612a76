"""Puts the parts together for the worker, the receiver and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis

from clawdbot.cache import Cache
from clawdbot.chat import Chat
from clawdbot.config import ModelConfig, Settings
from clawdbot.connected import Connected
from clawdbot.engine.queue import Queue
from clawdbot.engine.worker import Worker, consumer_name
from clawdbot.errors import ConfigError
from clawdbot.http import Http
from clawdbot.limits import Limiter
from clawdbot.models.client import ChatModel, EchoModel, Model
from clawdbot.models.credentials import credential
from clawdbot.models.dialects import DIALECTS, Conversations
from clawdbot.notes import SharedNotes
from clawdbot.platforms import lines, senders
from clawdbot.platforms.base import Services
from clawdbot.sites import sites_of
from clawdbot.store import connect

if TYPE_CHECKING:
    from clawdbot.receiver import Connections

# Longer than a blocking read; a worker has time.
WORKER_REDIS_SECONDS = 5.0
# For what is no message, as on the web side.
RECEIVER_REDIS_SECONDS = 1.0


def model(config: ModelConfig, client: redis.Redis, web: Http, ttl: int) -> Model:
    """Return a model; ``ttl`` is how long a conversation is remembered, in seconds."""
    if not config.base_url:
        return EchoModel()
    # The web application, which asks no model, has no use for another HTTP client.
    from clawdbot.models.wire import Service

    dialect = DIALECTS[config.preset.dialect]
    opening = dialect.opening(config)
    return ChatModel(
        config,
        Service(config.base_url + dialect.path(config), dialect),
        credential(config, client, web),
        conversations=Conversations(client, ttl) if dialect.remembers else None,
        opening=Service(config.base_url + opening, dialect) if opening else None,
    )


def cache(settings: Settings, client: redis.Redis) -> Cache:
    """Return the cache."""
    return Cache(client, enabled=settings.redis.enabled, ttl=settings.redis.ttl)


def receiver(settings: Settings) -> Connections:
    """Return what connects to the platforms whose events come so.

    Raises:
        ConfigError: there is none.
    """
    # Only the receiver speaks over websockets.
    from clawdbot.ingress import Ingress
    from clawdbot.receiver import LANES, Connections

    client = connect(settings.redis, timeout=RECEIVER_REDIS_SECONDS, connections=LANES + 8)
    connecting = lines(settings, Http(), SharedNotes(client))
    if not connecting:
        raise ConfigError(
            "no platform's intake is stream (DingTalk) or connection (Feishu), so there is none to receive"
        )
    ingress = Ingress(settings, client, [line.name for line in connecting], sites=sites_of(settings))
    return Connections(connecting, ingress, Connected(client), consumer_name())


def worker(settings: Settings) -> Worker:
    """Return a worker.

    Raises:
        ConfigError: there is no usable model.
    """
    if settings.model is None:
        raise ConfigError("the model is not usable; run: python -m clawdbot check")
    # A slot that sends holds one for the mark and needs another one, and so does its card; the rest is for dispatcher,
    # heart and notices.
    connections = 3 * settings.worker_concurrency + 8
    client = connect(settings.redis, timeout=WORKER_REDIS_SECONDS, connections=connections)
    web = Http()
    remembered = cache(settings, client)
    limiter = Limiter(client)
    queue = Queue(client, consumer_name())
    chat = Chat(
        settings,
        senders(settings, Services(SharedNotes(client), web, limiter, remembered)),
        model(settings.model, client, web, settings.redis.ttl),
        remembered,
        limiter,
        queue,
        make=lambda config: model(config, client, web, settings.redis.ttl),
    )
    return Worker(
        queue,
        chat,
        slots=settings.worker_concurrency,
        lease_seconds=settings.lease_seconds,
        give_up_seconds=settings.give_up_seconds,
        ttl=settings.redis.ttl,
        sites=sites_of(settings),
    )
