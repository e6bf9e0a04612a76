"""DingTalk: `crypto` signatures and encryption, `callback` what comes in, `client` what goes out."""
