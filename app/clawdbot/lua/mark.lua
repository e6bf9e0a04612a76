#!lua flags=allow-oom
-- Note that a part of an answer went out. The mark goes when the message is settled; if somebody else may have
-- settled it already, it ends by itself.
-- KEYS: mark, ready stream
-- ARGV: value, group, consumer, entry id, seconds
-- include ours
redis.call('SET', KEYS[1], ARGV[1])
if not ours(KEYS[2], ARGV[2], ARGV[3], ARGV[4]) then redis.call('EXPIRE', KEYS[1], ARGV[5]) end
return 1
