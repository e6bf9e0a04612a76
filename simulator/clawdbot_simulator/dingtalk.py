"""DingTalk's servers, as far as a bot uses them: api and oapi.dingtalk.com and the file store.

Where no page names an error code, the ones here begin with ``invalidParameter``.
"""

import hmac
import json
import secrets
from typing import Any

from flask import Blueprint, Response, jsonify, request

from clawdbot_simulator import identity
from clawdbot_simulator.cards import Card
from clawdbot_simulator.crypto import dingtalk_robot_sign
from clawdbot_simulator.faults import Fault
from clawdbot_simulator.simulation import Refusal, Simulation, json_body, readable

MAX_USERS = 20
MAX_PARAM_BYTES = 15_000
ROBOT_SIGN_WINDOW_MS = 3_600_000
MESSAGE_KEYS = {"sampleText", "sampleMarkdown", "sampleImageMsg", "sampleLink"}
MESSAGE_KEYS |= {"sampleActionCard", *(f"sampleActionCard{n}" for n in range(2, 7))}
WEBHOOK_TYPES = {"text", "link", "markdown", "actionCard", "feedCard"}
OAPI = {"dingtalk.session", "dingtalk.robot"}


def refuse(status: int, code: str, message: str) -> Refusal:
    """A refusal of api.dingtalk.com."""
    return Refusal(status, {"code": code, "message": message, "requestid": secrets.token_hex(8).upper()})


def refuse_oapi(errcode: int, errmsg: str) -> Refusal:
    """A refusal of oapi.dingtalk.com: HTTP 200 with an error code."""
    return Refusal(200, {"errcode": errcode, "errmsg": errmsg})


def fault_answer(endpoint: str, fault: Fault) -> Refusal | None:
    """How DingTalk words the fault; None when it does not exist there."""
    if fault.kind == "rate_limit":
        if endpoint in OAPI:
            return refuse_oapi(130101, "send too fast")
        return refuse(403, "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi", "the QPS limit is exceeded")
    if fault.kind == "server_error":
        return refuse(500, "ServiceUnavailable", "the service is unavailable")
    if fault.kind == "dead_session":
        return refuse_oapi(300001, "session 不存在")
    return None


def blueprint(sim: Simulation) -> Blueprint:
    """The routes of all three hosts; their paths do not collide."""
    app = sim.config.dingtalk
    routes = Blueprint("dingtalk", __name__)

    def require_token() -> None:
        if not sim.tokens["dingtalk"].valid(request.headers.get("x-acs-dingtalk-access-token", "")):
            raise refuse(401, "InvalidAuthentication", "不合法的access_token")

    def require_robot(body: dict[str, Any]) -> None:
        if body.get("robotCode") != app.app_key:
            raise refuse(400, "invalidParameter.robotCode", "robotCode is not this app's robot")

    def message_text(body: dict[str, Any]) -> str:
        """Check msgKey and msgParam; the text a user would read."""
        key, param = body.get("msgKey"), body.get("msgParam")
        if key not in MESSAGE_KEYS:
            raise refuse(400, "invalidParameter.msgKey", f"unknown msgKey {key!r}")
        if not isinstance(param, str):
            raise refuse(400, "invalidParameter.msgParam", "msgParam must be a JSON string")
        if len(param.encode()) > MAX_PARAM_BYTES:
            raise refuse(400, "invalidParameter.msgParam", "msgParam is over 15000 bytes")
        try:
            content = json.loads(param)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise refuse(400, "invalidParameter.msgParam", "msgParam must be a JSON string")
        text = content.get("content" if key == "sampleText" else "text") or readable(content)
        if not text:
            raise refuse(400, "invalidParameter.msgParam", "the message is empty")
        return str(text)

    @routes.post("/v1.0/oauth2/accessToken")
    def token() -> Response:
        body = json_body()
        if (body.get("appKey"), body.get("appSecret")) != (app.app_key, app.app_secret):
            raise refuse(400, "invalidClientIdOrSecret", "无效的clientId或者clientSecret")
        value, expires_in = sim.tokens["dingtalk"].issue()
        sim.records.add("token", "dingtalk.token")
        return jsonify(accessToken=value, expireIn=expires_in)

    @routes.post("/v1.0/robot/oToMessages/batchSend")
    def batch_send() -> Response:
        require_token()
        body = json_body()
        require_robot(body)
        users = body.get("userIds")
        if not isinstance(users, list) or not 1 <= len(users) <= MAX_USERS:
            raise refuse(400, "invalidParameter.userIds", "userIds must name 1 to 20 users")
        text = message_text(body)
        known = [user for user in users if str(user).startswith("staff_")]
        for user in known:
            sim.records.add(
                "message",
                "dingtalk.batch_send",
                conversation=identity.dingtalk_single(user),
                text=text,
                msg_type=body["msgKey"],
            )
        return jsonify(
            processQueryKey=secrets.token_hex(16),
            invalidStaffIdList=[user for user in users if user not in known],
            flowControlledStaffIdList=[],
            filteredStaffIdList=[],
        )

    @routes.post("/v1.0/robot/groupMessages/send")
    def group_send() -> Response:
        require_token()
        body = json_body()
        require_robot(body)
        group = body.get("openConversationId")
        if not isinstance(group, str) or not group.startswith("cidgroup_"):
            raise refuse(400, "invalidParameter.openConversationId", "no such group conversation")
        sim.records.add(
            "message",
            "dingtalk.group_send",
            conversation=group,
            text=message_text(body),
            msg_type=body["msgKey"],
        )
        return jsonify(processQueryKey=secrets.token_hex(16))

    @routes.post("/v1.0/card/instances/createAndDeliver")
    def deliver_card() -> Response:
        require_token()
        body = json_body()
        card_id, template = body.get("outTrackId"), body.get("cardTemplateId")
        parameters = (body.get("cardData") or {}).get("cardParamMap")
        if not isinstance(card_id, str) or not card_id or not isinstance(template, str) or not template:
            raise refuse(400, "invalidParameter.outTrackId", "outTrackId and cardTemplateId are needed")
        if not isinstance(parameters, dict) or not all(isinstance(each, str) for each in parameters.values()):
            raise refuse(400, "invalidParameter.cardParamMap", "the values of cardParamMap are texts")
        scheme, _, space = str(body.get("openSpaceId")).partition("//")
        kind, _, target = space.partition(".")
        model = body.get({"IM_GROUP": "imGroupOpenDeliverModel", "IM_ROBOT": "imRobotOpenDeliverModel"}.get(kind, ""))
        if scheme != "dtv1.card" or not target or not isinstance(model, dict):
            raise refuse(400, "invalidParameter.openSpaceId", "no such space, or no model of its delivery")
        if kind == "IM_GROUP":
            require_robot(model)
        known = target.startswith("cidgroup_" if kind == "IM_GROUP" else "staff_")
        carrier = secrets.token_hex(16) if known else ""
        if known:
            # Nowhere is said what a second delivery does; the bot must not need it.
            if sim.cards.find(card_id):
                raise refuse(400, "invalidParameter.outTrackId", "there is such a card already")
            asker = " ".join(model.get("atUserIds") or {})
            card = Card(card_id, "dingtalk", parameters.get("content", ""), asker=asker)
            sim.cards.add(card)
            place = target if kind == "IM_GROUP" else identity.dingtalk_single(target)
            sim.cards.show(card, place, "", carrier)
        result = {"spaceType": kind, "spaceId": target, "success": known, "errorMsg": "" if known else "no such user"}
        result["carrierId"] = carrier
        return jsonify(success=True, result={"outTrackId": card_id, "deliverResults": [result]})

    @routes.put("/v1.0/card/streaming")
    def stream_card() -> Response:
        require_token()
        body = json_body()
        if any(not isinstance(body.get(name), str) or not body[name] for name in ("outTrackId", "guid", "key")):
            raise refuse(400, "invalidParameter", "outTrackId, guid and key are needed")
        if not isinstance(body.get("content"), str):
            raise refuse(400, "invalidParameter.content", "content is needed")
        with sim.cards.lock:
            card = sim.cards.find(body["outTrackId"])
            if card is None:
                raise refuse(400, "invalidParameter.outTrackId", "there is no such card")
            text = body["content"] if body.get("isFull") else card.text + body["content"]
            sim.cards.change(card, text, growing=not body.get("isFinalize"))
        return jsonify(success=True, result=True)

    def emotion(endpoint: str, *, taken: bool) -> Response:
        """Put a text emotion on a user's message, or take it away: the body is the same."""
        require_token()
        body = json_body()
        require_robot(body)
        words = body.get("textEmotion")
        names = ("openMsgId", "openConversationId", "emotionName")
        if any(not isinstance(body.get(name), str) or not body[name] for name in names):
            raise refuse(400, "invalidParameter", "openMsgId, openConversationId and emotionName are needed")
        if body.get("emotionType") != 2 or not isinstance(words, dict) or not words.get("emotionId"):
            raise refuse(400, "invalidParameter.textEmotion", "an emotion of type 2 needs textEmotion")
        place = {"conversation": body["openConversationId"], "answers": body["openMsgId"]}
        sim.records.add("sign", endpoint, text="" if taken else body["emotionName"], **place)
        return jsonify(success=True)

    @routes.post("/v1.0/robot/emotion/reply")
    def react() -> Response:
        return emotion("dingtalk.react", taken=False)

    @routes.post("/v1.0/robot/emotion/recall")
    def unreact() -> Response:
        return emotion("dingtalk.unreact", taken=True)

    @routes.post("/v1.0/robot/messageFiles/download")
    def download() -> Response:
        require_token()
        body = json_body()
        require_robot(body)
        code = body.get("downloadCode")
        if not isinstance(code, str) or not code:
            raise refuse(400, "invalidParameter.downloadCode", "downloadCode is missing")
        return jsonify(downloadUrl=f"{sim.config.public_url}/files/{code}")

    @routes.get("/files/<path:code>")
    def file(code: str) -> Response:
        # A file store of another company: the bot's token has no business there.
        if "x-acs-dingtalk-access-token" in request.headers or "Authorization" in request.headers:
            raise Refusal(403, {"code": "AccessDenied", "message": "send no credentials here"})
        sim.records.add("download", "dingtalk.file", key=code)
        return Response(sim.file(code), mimetype="image/png")

    def webhook_message(endpoint: str, conversation: str, answers: str) -> Response:
        """Check and record a message posted to a webhook."""
        body = json_body()
        kind = body.get("msgtype")
        content = body.get(kind) if kind in WEBHOOK_TYPES else None
        if not isinstance(content, dict):
            raise refuse_oapi(40035, f"invalid parameter: msgtype {kind!r}")
        text = content.get("content" if kind == "text" else "text") or readable(content)
        if not text:
            raise refuse_oapi(40035, "invalid parameter: the message is empty")
        sim.records.add(
            "message",
            endpoint,
            conversation=conversation,
            answers=answers,
            text=str(text),
            msg_type=kind,
        )
        return jsonify(errcode=0, errmsg="ok")

    @routes.post("/robot/sendBySession")
    def session() -> Response:
        found = identity.Session.parse(sim.config, request.args.get("session", ""))
        if found is None or found.expires_ms < identity.now_ms():
            raise refuse_oapi(300001, "session 不存在")
        return webhook_message("dingtalk.session", found.conversation, found.message_id)

    @routes.post("/robot/send")
    def robot() -> Response:
        query = request.args
        if not query.get("access_token"):
            raise refuse_oapi(40035, "缺少参数 access_token")
        if not app.access_token or query["access_token"] != app.access_token:
            raise refuse_oapi(300005, "token is not exist")
        if app.robot_secret:
            stamp = query.get("timestamp", "")
            fresh = stamp.isdigit() and abs(identity.now_ms() - int(stamp)) <= ROBOT_SIGN_WINDOW_MS
            wanted = dingtalk_robot_sign(app.robot_secret, stamp)
            if not fresh or not hmac.compare_digest(query.get("sign", "").encode(), wanted.encode()):
                raise refuse_oapi(310000, "sign not match")
        return webhook_message("dingtalk.robot", "group robot", "")

    return routes
