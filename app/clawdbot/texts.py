"""Every text that the bot itself says to people, and nothing else.

The English text is its own key, as gettext has it: a failure carries the text that its reader shall get, and
`clawdbot.languages.Language.say` is the one place at which it is spoken. So a text with fields is formatted there and
nowhere before. The translations are in ``locale``.
"""

from __future__ import annotations

# What stands behind the slash of a command. A translation may be several words; HELP names the first.
COMMAND_HELP = "help"
COMMAND_RESET = "reset"
COMMAND_STATUS = "status"
COMMAND_USAGE = "usage"
COMMAND_MODEL = "model"

HELP = """I answer what you write; pictures are welcome if the model can see.
/reset - forget our conversation
/status - which model answers, how much is waiting
/usage - what you have used
/help - this text"""
HELP_MODEL = "/model - which models there are, and with a name behind it: which of them answers you"
RESET = "Forgotten. We start afresh."

STATUS_USER = "you: {name}"
STATUS_MODEL = "model: {name} ({model})"
STATUS_NO_MODEL = "model: none"
STATUS_TURNS = "turns remembered: {count}"
STATUS_WAITING = "messages waiting: {count}"
STATUS_CHAT = "id of this chat: {id}"

MODEL_FIXED = "Which model answers you here is for the person who runs the bot to say."
MODEL_UNKNOWN = "There is no model {name} here. Choose of: {names}"
MODEL_CHOSEN = "{name} answers you here. To choose of: {names}"

USAGE_TODAY = "today: {tokens} tokens, {cost}"
USAGE_MONTH = "this month: {tokens} tokens, {cost}"
USAGE_LIMIT = "limit {limit}: {share} used"
TOKENS = "tokens"
A_DAY = "a day"
A_MONTH = "a month"
GROUP = "the whole group"
LIMIT_REACHED = "The limit of {limit} is reached. Please ask the person who runs the bot."
LIMIT_NEAR = "(More than 80 % of the limit of {limit} are used.)"

# What the bot cannot do for this person, or not with this message.
NOT_ALLOWED = "You are not on the list of people who may use this bot. Please ask the person who runs it."
SLOW_DOWN = "That is a lot at once. Please wait a minute before you write again."
NOTHING = "I received an empty message. What would you like to know?"
UNSUPPORTED = "I can read text and pictures, but not this kind of message ({kind})."
# Such kinds, by the names that the platforms have for them; a name that is not here is said as it is.
KIND_AUDIO = "audio"
KIND_CARD = "interactive"
KIND_CONTACT = "share_user"
KIND_FILE = "file"
KIND_FOLDER = "folder"
KIND_FORWARDED = "merge_forward"
KIND_GROUP = "share_chat"
KIND_LOCATION = "location"
KIND_MEDIA = "media"
KIND_PICTURE = "picture"
KIND_STICKER = "sticker"
KIND_UNKNOWN = "unknown"
KIND_VIDEO = "video"
UNREADABLE_QUOTE = "I cannot read the message that you quote. Please copy what I should know into your message."
NO_VISION = "The model behind me cannot see pictures. Please describe it in words."
NO_DOWNLOAD = "I could not fetch the picture. Please send it again, or a smaller one."
NOT_A_PICTURE = "I cannot read this picture. PNG, JPEG, WebP and GIF work."
PICTURE_HEIC = (
    "I cannot read HEIC pictures. Please send a screenshot of it, or a JPEG (iPhone: Settings > Camera > Formats)."
)
PICTURE_TOO_BIG = "This picture is too large for me. Please send a smaller one."

# What the model service did.
BUSY = "The model is busy at the moment. Please try again in a minute."
MISCONFIGURED = "The model service refuses this bot's key. Please tell the person who runs the bot."
NO_QUOTA = "The model account is out of quota. Please tell the person who runs the bot."
NO_MODEL = "The configured model does not exist at the model service. Please tell the person who runs the bot."
BAD_REQUEST = "The model could not process this message. Try it shorter, or send /reset to start afresh."
EMPTY = "The model gave no answer to this. Please put it differently."
TOO_LONG = "Your message is too long for the model. Please send a shorter one."
FILTERED = "The model service did not let this question or its answer through. Please put it differently."
THOUGHT_TOO_LONG = "The model came to no answer within the length that it may use. Please ask something simpler."
TOO_SLOW = "The model did not finish within the time it has. Please ask something simpler."

# Put behind an answer that is not all of it.
CUT = '(The answer ends here because it has reached its greatest length. Write "continue" for the rest.)'
CUT_LATE = '(The answer ends here because it took too long. Write "continue" for the rest.)'
FILTERED_REST = "(The model service held the rest of the answer back.)"
# And behind one to a question that was more than the bot reads.
QUESTION_CUT = "(Your message is longer than {count} characters; I have read only its beginning.)"
PICTURES_LEFT_OUT = "(I have looked at the first {count} pictures only.)"

# Where an answer comes from, if it was taken from documents.
SOURCES = "(Sources: {names})"

# What a card shows before the answer, where the answer cannot be on it, and the title of the model's reasoning.
THINKING = "Thinking…"
BELOW = "(The answer is below.)"
THOUGHTS = "How I came to it"

# What the bot did.
STILL_WORKING = "I am still working on it. The answer takes a little longer this time."
GAVE_UP = "Sorry, I could not answer your last message. Please try again later."
UNEXPECTED = "Sorry, something went wrong on my side. The person who runs the bot has been told."

# Alerts.
ALERTS_FIRING = "Firing"
ALERTS_RESOLVED = "Resolved"
ALERTS_MORE = "and {count} more"
ALERT_SINCE = "since {time}"
ALERT_UNTIL = "until {time}"
ALERT_RUNBOOK = "runbook"
