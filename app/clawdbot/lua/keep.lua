#!lua flags=allow-oom
-- Keep a decision until the message is settled, as long as the lease is ours.
-- KEYS: answer, ready stream
-- ARGV: decision, group, consumer, entry id
-- Returns 1, or 0 if the lease is not ours any more.
-- include ours
if not ours(KEYS[2], ARGV[2], ARGV[3], ARGV[4]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
