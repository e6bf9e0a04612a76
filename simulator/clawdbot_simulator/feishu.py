"""Feishu's open platform (``/open-apis``), as far as a bot uses it."""

import json
import re
import secrets
import time
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, jsonify, request

from clawdbot_simulator import identity
from clawdbot_simulator.cards import Card
from clawdbot_simulator.faults import Fault
from clawdbot_simulator.simulation import Refusal, Simulation, json_body, readable

RECEIVE_ID_PREFIX = {
    "open_id": "ou_",
    "union_id": "on_",
    "chat_id": "oc_",
    "user_id": "",
    "email": "",
}
MAX_CONTENT_BYTES = {"text": 150_000, "post": 30_000, "interactive": 30_000}
MAX_UUID = 50
# Some of the emojis of its page.
EMOJIS = {"Typing", "THINKING", "OK", "THUMBSUP", "OneSecond", "Get", "DONE"}
MAX_CARD_BYTES = 30_000
UUID_LIFETIME = 3600  # seconds
MENTION = re.compile(r"<at id=(\w+)></at>")
# What a card of version 2 is to who does not ask for it as it was written.
UPDATE_CLIENT = {"title": None, "elements": [[{"tag": "text", "text": "请升级至最新版本客户端，以查看内容"}]]}


def refuse(code: int, msg: str, status: int = 400, **more: Any) -> Refusal:
    """A refusal: most come as HTTP 400, some as HTTP 200, all with a code that is not 0."""
    return Refusal(status, {"code": code, "msg": msg, **more})


def missing(field: str) -> Refusal:
    """The refusal of a request without a required field."""
    return refuse(
        99992402,
        "field validation failed",
        error={"field_violations": [{"field": field, "description": f"{field} is required"}]},
    )


def fault_answer(_endpoint: str, fault: Fault) -> Refusal | None:
    """How Feishu words the fault; None when it does not exist there."""
    if fault.kind == "rate_limit":
        return Refusal(
            429,
            {"code": 99991400, "msg": "request trigger frequency limit"},
            {"x-ogw-ratelimit-reset": str(fault.retry_after)},
        )
    if fault.kind == "server_error":
        return refuse(1500, "internal error", 500)
    return None


def blueprint(sim: Simulation) -> Blueprint:
    """The routes under ``/open-apis``."""
    app = sim.config.feishu
    routes = Blueprint("feishu", __name__, url_prefix="/open-apis")

    def require_token() -> None:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not value:
            raise refuse(99991661, "Missing access token for authorization")
        if not sim.tokens["feishu"].valid(value):
            raise refuse(99991663, "Invalid access token for authorization")

    def chat_of(message_id: str) -> str:
        chat = identity.feishu_chat_of(message_id)
        if chat is None:
            raise refuse(230001, "invalid request parameter, ext=invalid message_id")
        return chat

    def success(**data: Any) -> Response:
        return jsonify(code=0, msg="success", data=data)

    def deliver(endpoint: str, chat: Callable[[dict[str, Any]], str], answers: str) -> Response:
        """Check and record a message; a ``uuid`` is delivered once an hour.

        A repeated uuid gets the first answer again, as the platform's clients observe.
        """
        require_token()
        body = json_body()
        for field in ("msg_type", "content"):
            if not isinstance(body.get(field), str):
                raise missing(field)
        conversation = chat(body)
        kind, content, uuid = body["msg_type"], body["content"], body.get("uuid", "")
        if not isinstance(uuid, str) or len(uuid) > MAX_UUID:
            raise refuse(99992402, "field validation failed: uuid has at most 50 characters")
        if kind not in MAX_CONTENT_BYTES:
            raise refuse(230001, f"invalid request parameter, ext=msg_type {kind!r}")
        if len(content.encode()) > MAX_CONTENT_BYTES[kind]:
            raise refuse(230025, "the length of the message content reaches its limit")
        try:
            parsed = json.loads(content)
        except ValueError:
            parsed = None
        card = card_of(parsed) if kind == "interactive" else None
        text = card.text if card else readable(parsed) if isinstance(parsed, dict) else ""
        if not text:
            raise refuse(230001, "invalid request parameter, ext=content is not valid")
        with sim.lock:
            delivered_at, first = sim.delivered_uuids.get(uuid, (0.0, {}))
            if uuid and time.time() - delivered_at < UUID_LIFETIME:
                return success(**first)
            stamp = str(identity.now_ms())
            data = {
                "message_id": identity.feishu_message(conversation),
                "chat_id": conversation,
                "msg_type": kind,
                "create_time": stamp,
                "update_time": stamp,
                "deleted": False,
                "updated": False,
                "sender": {"id": app.app_id, "id_type": "app_id", "sender_type": "app"},
                "body": {"content": content},
            }
            if answers:
                data |= {"root_id": answers, "parent_id": answers}
            if uuid:
                sim.delivered_uuids[uuid] = (time.time(), data)
            name = data["message_id"]
            sim.messages[name] = data
            if card:
                sim.cards.show(card, conversation, answers, name)
                return success(**data)
            sim.records.add(
                "message",
                endpoint,
                conversation=conversation,
                answers=answers,
                text=text,
                msg_type=kind,
                uuid=uuid,
                name=name,
            )
        return success(**data)

    def card_of(content: Any) -> Card | None:
        """The card that a message's content names by its id; None when it is no such content."""
        if not isinstance(content, dict) or content.get("type") != "card":
            if isinstance(content, dict) and "card_id" in content:
                raise refuse(230099, "Failed to create card content, ext=ErrCode: 200621; parse card json err")
            return None
        data = content.get("data")
        card = sim.cards.find(str(data.get("card_id"))) if isinstance(data, dict) else None
        if card is None:
            raise refuse(230099, "Failed to create card content, ext=ErrCode: 200740; the card entity does not exist")
        return card

    def card_json(data: Any) -> dict[str, Any]:
        """A card's JSON, checked as far as growing needs it."""
        if not isinstance(data, str) or not data:
            raise missing("data")
        if len(data.encode()) > MAX_CARD_BYTES:
            raise refuse(200860, "Card content exceeds limit.")
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise refuse(200220, "Failed to generate card content")
        if found.get("schema") != "2.0":
            raise refuse(200610, "body is nil")
        if (found.get("config") or {}).get("update_multi") is not True:
            raise refuse(300302, "update_multi property is false")
        return found

    def turned(card_id: str, body: dict[str, Any]) -> Card:
        """The card, if it is this request's turn to change it."""
        card = sim.cards.find(card_id)
        if card is None:
            raise refuse(200740, "The card entity does not exist")
        sequence = body.get("sequence")
        if not isinstance(sequence, int) or not 1 <= sequence <= 2147483647:
            raise refuse(99992402, "field validation failed: sequence")
        if sequence <= card.sequence:
            raise refuse(300317, "sequence number compare failed")
        card.sequence = sequence
        return card

    @routes.post("/cardkit/v1/cards")
    def make_card() -> Response:
        require_token()
        body = json_body()
        if body.get("type") != "card_json":
            raise missing("type")
        found = card_json(body.get("data"))
        elements, words, _, asker = _elements(found)
        card = Card(str(secrets.randbelow(10**19)), "feishu", words, elements=elements, asker=asker)
        card.growing = bool(found["config"].get("streaming_mode"))
        sim.cards.add(card)
        return success(card_id=card.id)

    @routes.put("/cardkit/v1/cards/<card_id>/elements/<element_id>/content")
    def update_card(card_id: str, element_id: str) -> Response:
        require_token()
        body = json_body()
        content = body.get("content")
        if not isinstance(content, str) or not content:
            raise missing("content")
        with sim.cards.lock:
            card = turned(card_id, body)
            if not card.growing:
                raise refuse(300309, "streaming mode is closed")
            if element_id not in card.elements:
                raise refuse(300313, "Failed to update element properties")
            sim.cards.change(card, content)
        return success()

    @routes.put("/cardkit/v1/cards/<card_id>")
    def replace_card(card_id: str) -> Response:
        require_token()
        body = json_body()
        given = body.get("card")
        found = card_json(given.get("data") if isinstance(given, dict) else None)
        elements, words, folded, asker = _elements(found)
        with sim.cards.lock:
            card = turned(card_id, body)
            card.elements, card.asker = elements, asker
            sim.cards.change(card, words, growing=bool(found["config"].get("streaming_mode")), folded=folded)
        return success()

    @routes.post("/auth/v3/tenant_access_token/internal")
    def token() -> Response:
        body = json_body()
        if (body.get("app_id"), body.get("app_secret")) != (app.app_id, app.app_secret):
            raise refuse(10015, "app secret invalid", 200)
        value, expire = sim.tokens["feishu"].issue()
        sim.records.add("token", "feishu.token")
        return jsonify(code=0, msg="ok", tenant_access_token=value, expire=expire)

    @routes.post("/im/v1/messages/<message_id>/reply")
    def reply(message_id: str) -> Response:
        return deliver("feishu.reply", lambda _: chat_of(message_id), answers=message_id)

    @routes.post("/im/v1/messages")
    def send() -> Response:
        def chat(body: dict[str, Any]) -> str:
            kind = request.args.get("receive_id_type")
            if kind is None:
                raise missing("receive_id_type")
            receiver = body.get("receive_id")
            if not isinstance(receiver, str) or not receiver:
                raise missing("receive_id")
            prefix = RECEIVE_ID_PREFIX.get(kind)
            if prefix is None or not receiver.startswith(prefix):
                raise refuse(230001, "invalid request parameter, ext=invalid receive_id")
            return receiver if kind == "chat_id" else identity.feishu_single(receiver)

        return deliver("feishu.send", chat, answers="")

    @routes.get("/im/v1/messages/<message_id>")
    def message(message_id: str) -> Response:
        """A message that is looked up.

        Cards come as their app wrote them only where it asks for that; else there is the advice to update the client
        (NousResearch/hermes-agent#82926, #49001).
        """
        require_token()
        found = sim.messages.get(message_id)
        if found is None:
            raise refuse(230001, "invalid request parameter, ext=invalid message_id")
        sim.records.add("lookup", "feishu.message", conversation=found["chat_id"], name=message_id)
        if found["msg_type"] == "interactive":
            written = request.args.get("card_msg_content_type") == "user_card_content"
            found = {**found, "body": {"content": as_written(found) if written else json.dumps(UPDATE_CLIENT)}}
        return success(items=[found])

    def as_written(found: dict[str, Any]) -> str:
        """A card's JSON; one that is shown by its id has no other than its words here."""
        content = str(found["body"]["content"])
        if (card := card_of(json.loads(content))) is None:
            return content
        return json.dumps({"schema": "2.0", "body": {"elements": [{"tag": "markdown", "content": card.text}]}})

    @routes.post("/im/v1/messages/<message_id>/reactions")
    def react(message_id: str) -> Response:
        require_token()
        chat, emoji = chat_of(message_id), (json_body().get("reaction_type") or {}).get("emoji_type")
        if emoji not in EMOJIS:
            raise refuse(231001, "reaction type is invalid.")
        sim.records.add("sign", "feishu.react", conversation=chat, answers=message_id, text=emoji)
        return success(reaction_id=f"{message_id}-{emoji}", reaction_type={"emoji_type": emoji})

    @routes.delete("/im/v1/messages/<message_id>/reactions/<reaction_id>")
    def unreact(message_id: str, reaction_id: str) -> Response:
        require_token()
        chat = chat_of(message_id)
        if reaction_id not in {f"{message_id}-{emoji}" for emoji in EMOJIS}:
            raise refuse(231007, "The operator has no permission to delete the reaction.")
        sim.records.add("sign", "feishu.unreact", conversation=chat, answers=message_id)
        return success(reaction_id=reaction_id)

    @routes.get("/im/v1/messages/<message_id>/resources/<file_key>")
    def resource(message_id: str, file_key: str) -> Response:
        require_token()
        chat = chat_of(message_id)
        if request.args.get("type") not in ("image", "file"):
            raise missing("type")
        sim.records.add("download", "feishu.resource", conversation=chat, key=file_key)
        return Response(sim.file(file_key), mimetype="image/png")

    @routes.get("/bot/v3/info")
    def bot_info() -> Response:
        require_token()
        sim.records.add("lookup", "feishu.bot_info")
        bot = {
            "activate_status": 2,
            "app_name": "clawdbot",
            "avatar_url": "",
            "ip_white_list": [],
            "open_id": identity.feishu_bot(sim.config),
        }
        return jsonify(code=0, msg="ok", bot=bot)

    @routes.get("/contact/v3/users/<user_id>")
    def user(user_id: str) -> Response:
        require_token()
        kind = request.args.get("user_id_type", "open_id")
        if not user_id.startswith(RECEIVE_ID_PREFIX.get(kind, "ou_")):
            raise refuse(41050, "no user authority error")
        sim.records.add("lookup", "feishu.user", user=user_id)
        name = identity.name_of(user_id)
        return success(user={"name": name, "en_name": name, "open_id": user_id, "user_id": user_id})

    return routes


def _elements(card: dict[str, Any]) -> tuple[set[str], str, str, str]:
    """The ids of a card's elements, what it says, what is folded away in it, and who is mentioned above it."""
    elements = [each for each in (card.get("body") or {}).get("elements") or [] if isinstance(each, dict)]
    shown = [each for each in elements if each.get("tag") == "markdown"]
    folded = [each.get("elements") for each in elements if each.get("tag") == "collapsible_panel"]
    ids = {str(each["element_id"]) for each in shown if each.get("element_id")}
    texts = [str(each.get("content", "")) for each in shown]
    askers = [found[1] for text in texts if (found := MENTION.fullmatch(text))]
    words = "\n".join(text for text in texts if not MENTION.fullmatch(text))
    return ids, words, readable(folded), " ".join(askers)
