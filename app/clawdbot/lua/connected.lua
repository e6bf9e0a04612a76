#!lua flags=allow-oom
-- Count who is connected to a platform.
-- KEYS: those who are, by when they said so last
-- ARGV: after how many ms one that says nothing is gone; name of one that says so now, or nothing to only look
-- include now
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1])
if ARGV[2] then
  redis.call('ZADD', KEYS[1], now, ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return redis.call('ZCARD', KEYS[1])
