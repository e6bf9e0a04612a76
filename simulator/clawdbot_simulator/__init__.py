"""DingTalk, Feishu and an OpenAI-compatible model on one port, and users who write to the bot."""
