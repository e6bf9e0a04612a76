"""Chat platforms. `base` says what the rest of the bot expects of one."""
