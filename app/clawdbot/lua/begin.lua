-- Begin work on a leased conversation: return its head and the number of this attempt.
-- KEYS: ready stream, conversation list, attempts
-- ARGV: group, consumer, entry id, conversation key
-- Returns {dumped message, attempt}, or nil if the lease is not ours or nothing waits.
local lease = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])
if #lease == 0 then return nil end
local head = redis.call('LINDEX', KEYS[2], 0)
if not head then
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
  redis.call('XDEL', KEYS[1], ARGV[3])
  return nil
end
return {head, redis.call('HINCRBY', KEYS[3], ARGV[4], 1)}
