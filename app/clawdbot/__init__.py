"""clawdbot: a chat bot for DingTalk and Feishu.

Where things are:

- ``web``        the HTTP side: callbacks in, health, readiness, metrics
- ``platforms``  one package per chat platform: verify and parse callbacks, send answers
- ``ingress``    where messages come in, whatever way they came; ``receiver`` connects to platforms that push them
- ``engine``     the durable queue in Redis and the worker that empties it
- ``chat``       what happens to one message: commands, model, history, answer
- ``models``     model services: presets as data, one OpenAI-compatible client, echo
- ``config``     configuration files and environment, with every problem named
- ``cache``, ``limits``, ``http``, ``logs``, ``metrics``  what the above share
- ``cli``        ``python -m clawdbot``
"""

__version__ = "0.1.0"
