#!lua flags=allow-oom
-- Put a dead letter back into its conversation.
-- KEYS: dead, order of the dead, conversation list, ready stream, waiting, attempts, marks to forget...
-- ARGV: message key, dumped message, conversation key
-- Returns 1, or 0 if there is no such dead letter.
-- include now
-- include place
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('DEL', unpack(KEYS, 7))
redis.call('ZADD', KEYS[5], now, ARGV[1])
place(KEYS[3], KEYS[4], KEYS[6], ARGV[3], ARGV[2])
return 1
