-- Announce conversations whose wait is over.
-- KEYS: ready stream, delayed
-- ARGV: now ms
-- Returns how many.
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, 100)
for _, conversation in ipairs(due) do
  redis.call('ZREM', KEYS[2], conversation)
  redis.call('XADD', KEYS[1], '*', 'conversation', conversation)
end
return #due
