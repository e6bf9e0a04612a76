-- Put a dead letter back at the end of its conversation.
-- KEYS: dead, conversation list, ready stream, waiting
-- ARGV: message key, dumped message, conversation key, now ms
-- Returns 1, or 0 if there is no such dead letter.
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZADD', KEYS[4], ARGV[4], ARGV[1])
if redis.call('RPUSH', KEYS[2], ARGV[2]) == 1 then
  redis.call('XADD', KEYS[3], '*', 'conversation', ARGV[3])
end
return 1
