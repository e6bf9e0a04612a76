-- End the work on a conversation's head, fenced by the owner of the lease.
-- KEYS: ready stream, conversation list, attempts, waiting, delayed, dead, session
-- ARGV: group, consumer, entry id, conversation key, message key, verb, value, session seconds
--   verb 'done':  value is the new session, '' to leave it, '-' to forget it
--   verb 'defer': value is the Unix time in ms at which to try again
--   verb 'wait':  the same, and this attempt does not count
--   verb 'dead':  value is the dead letter
-- Returns 1, or 0 if the lease is not ours any more.
local lease = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])
if #lease == 0 then return 0 end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[3])
if ARGV[6] == 'defer' or ARGV[6] == 'wait' then
  if ARGV[6] == 'wait' then redis.call('HINCRBY', KEYS[3], ARGV[4], -1) end
  redis.call('ZADD', KEYS[5], ARGV[7], ARGV[4])
  return 1
end
redis.call('LPOP', KEYS[2])
redis.call('HDEL', KEYS[3], ARGV[4])
redis.call('ZREM', KEYS[4], ARGV[5])
if ARGV[6] == 'dead' then
  redis.call('HSET', KEYS[6], ARGV[5], ARGV[7])
elseif ARGV[7] == '-' then
  redis.call('DEL', KEYS[7])
elseif ARGV[7] ~= '' then
  redis.call('SET', KEYS[7], ARGV[7], 'EX', ARGV[8])
end
if redis.call('LLEN', KEYS[2]) > 0 then
  redis.call('XADD', KEYS[1], '*', 'conversation', ARGV[4])
end
return 1
