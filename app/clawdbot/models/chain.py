"""Several models in a row: the next one is asked when one cannot answer."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from clawdbot import metrics, texts
from clawdbot.config import ModelConfig
from clawdbot.config.voices import MAIN
from clawdbot.errors import Final, Retry
from clawdbot.models.client import Model, Question, Reply

log = logging.getLogger(__name__)

# What another model may do better: a key, a quota or a name that is wrong here, less room, or nothing to say. What the
# question itself is refused for, it is refused for everywhere.
ANOTHER_MAY = {texts.NO_QUOTA, texts.MISCONFIGURED, texts.NO_MODEL, texts.TOO_LONG, texts.TOO_SLOW, texts.EMPTY}


class Models:
    """All models, each made when it is asked first and again when its configuration changes."""

    def __init__(self, main: Model, make: Callable[[ModelConfig], Model]) -> None:
        """``main`` is the one of the environment, ``make`` makes the others."""
        self._main = main
        self._make = make
        self._made: dict[str, tuple[ModelConfig, Model]] = {}
        self._turn = threading.Lock()

    def ask(
        self, question: Question, names: Sequence[str], configs: Mapping[str, ModelConfig], *, next_after: float
    ) -> Reply:
        """Return the answer of the first of ``names`` that has one.

        Args:
            question: the question.
            names: names of models, at least one.
            configs: the models besides the main one.
            next_after: seconds without a first word after which the next one is asked.

        Raises:
            Retry: later one of them may answer.
            Final: none ever will; the apology is that of the first.
        """
        failures: list[Retry | Final] = []
        for number, name in enumerate(names, 1):
            last = number == len(names)
            asked = question if last else dataclasses.replace(question, next_after=next_after)
            try:
                return dataclasses.replace(self._model(name, configs).ask(asked), model=name)
            except (Retry, Final) as error:
                if isinstance(error, Final) and error.apology not in ANOTHER_MAY:
                    raise
                failures.append(error)
                if not last:
                    metrics.MODEL_FALLBACKS.labels(name, names[number]).inc()
                    fields = {"message": question.key, "of": name, "to": names[number], "reason": str(error)}
                    log.warning("another model is asked", extra={"fields": fields})
        raise next((error for error in failures if isinstance(error, Retry)), failures[0])

    def _model(self, name: str, configs: Mapping[str, ModelConfig]) -> Model:
        if name == MAIN:
            return self._main
        config = configs[name]
        with self._turn:
            known, model = self._made.get(name, (None, None))
            if model is None or known != config:
                model = self._make(config)
                self._made[name] = (config, model)
            return model
