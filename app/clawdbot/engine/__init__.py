"""The durable queue in Redis (`queue`) and the process that empties it (`worker`)."""
