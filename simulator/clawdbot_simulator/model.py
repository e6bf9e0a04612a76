"""An OpenAI-compatible model that repeats what it is asked, or says what it is told to say."""

import base64
import json
import re
import secrets
import time
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Response, jsonify, request

from clawdbot_simulator.faults import Fault
from clawdbot_simulator.simulation import Refusal, Simulation, Speech, json_body

# Longer texts of a conversation are cut in the records.
RECORDED_CHARACTERS = 10_000


def refuse(status: int, code: str, message: str, kind: str = "invalid_request_error") -> Refusal:
    """A refusal with OpenAI's error object."""
    return Refusal(status, {"error": {"message": message, "type": kind, "param": None, "code": code}})


def fault_answer(_endpoint: str, fault: Fault) -> Refusal | None:
    """How an OpenAI-compatible service words the fault; None when it does not exist there."""
    if fault.kind == "rate_limit":
        refusal = refuse(429, "rate_limit_exceeded", "Rate limit reached", "requests")
        refusal.headers["Retry-After"] = str(fault.retry_after)
        return refusal
    if fault.kind == "server_error":
        return refuse(500, "server_error", "The server had an error", "server_error")
    if fault.kind == "expired_token":
        return refuse(401, "invalid_api_key", "Incorrect API key provided")
    return None


def blueprint(sim: Simulation) -> Blueprint:
    """The routes under ``/v1``."""
    routes = Blueprint("model", __name__, url_prefix="/v1")

    def require_key() -> None:
        key = sim.config.model.api_key
        if key and request.headers.get("Authorization") != f"Bearer {key}":
            raise refuse(401, "invalid_api_key", "Incorrect API key provided")

    @routes.get("/models")
    def models() -> Response:
        require_key()
        return jsonify(
            object="list",
            data=[{"id": "sim-chat", "object": "model", "owned_by": "simulator"}],
        )

    @routes.post("/chat/completions")
    def chat() -> Response:
        require_key()
        body = json_body()
        name, messages = body.get("model"), body.get("messages")
        if not isinstance(name, str) or not name:
            raise refuse(404, "model_not_found", f"The model {name!r} does not exist")
        if not isinstance(messages, list) or not messages:
            raise refuse(400, "invalid_messages", "'messages' must be a non-empty array")
        question, images = _read(messages[-1])
        speech = sim.speech
        text = speech.answer
        if text is None:
            text = f"echo: {question}" + (f" [{len(images)} image(s)]" if images else "")
        sim.records.add("model", "model.chat", text=question, model=name, images=images, messages=_shortened(messages))
        asked, said = len(str(messages)) // 4, len(text) // 4
        usage = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
        head = {"id": "chatcmpl-" + secrets.token_hex(12), "created": int(time.time()), "model": name}
        if body.get("stream") and speech.streams:
            with_usage = (body.get("stream_options") or {}).get("include_usage")
            pieces = _pieces(head, speech, text, usage if with_usage else None)
            return Response(pieces, content_type="text/event-stream")
        time.sleep(speech.before + speech.pace * len(_words(text)))
        message = {"role": "assistant", "content": text}
        if speech.reasoning:
            message["reasoning_content"] = speech.reasoning
        choice = {"index": 0, "message": message, "finish_reason": speech.finish}
        return jsonify(**head, object="chat.completion", choices=[choice], usage=usage)

    return routes


def _words(text: str) -> list[str]:
    """The text in the pieces in which it is streamed."""
    return re.findall(r"\s*\S+\s*", text) or [text]


def _pieces(head: dict[str, Any], speech: Speech, text: str, usage: dict[str, int] | None) -> Iterator[str]:
    """The events of a stream; its end without ``[DONE]`` is a connection that breaks off."""

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        return f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', 'choices': choices, **more})}\n\n"

    def piece(finish: str | None = None, **delta: str) -> str:
        return event([{"index": 0, "delta": delta, "finish_reason": finish}])

    yield piece(role="assistant", content="")
    time.sleep(speech.before)
    said = [{"reasoning_content": word} for word in _words(speech.reasoning) if word]
    said += [{"content": word} for word in _words(text)]
    for number, delta in enumerate(said):
        if number == speech.words:
            return
        time.sleep(speech.pace if number else 0)
        yield piece(**delta)
    yield piece(speech.finish)
    if usage:
        yield event([], usage=usage)
    yield "data: [DONE]\n\n"


def _shortened(value: Any) -> Any:
    """A JSON value with its long strings cut."""
    if isinstance(value, str):
        return value[:RECORDED_CHARACTERS]
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    return value


def _read(message: Any) -> tuple[str, list[dict[str, object]]]:
    """Text of a chat message, and type and size in bytes of its images, which must be data URLs."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise refuse(400, "invalid_content", "'content' must be a string or an array of parts")
    text: list[str] = []
    images: list[dict[str, object]] = []
    for part in content:
        if part.get("type") == "text":
            text.append(str(part.get("text", "")))
        else:
            url = str(part.get("image_url", {}).get("url", ""))
            head, _, data = url.partition(";base64,")
            try:
                image = base64.b64decode(data, validate=True)
            except ValueError:
                image = b""
            if not image or not head.startswith("data:image/"):
                raise refuse(400, "invalid_image_url", "expected a base64 data URL of an image")
            images.append({"type": head.removeprefix("data:"), "bytes": len(image)})
    return "\n".join(text), images
