#!lua flags=allow-oom
-- Announce conversations whose wait is over.
-- KEYS: ready stream, delayed
-- Returns how many.
-- include now
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)
for _, conversation in ipairs(due) do
  redis.call('ZREM', KEYS[2], conversation)
  redis.call('XADD', KEYS[1], '*', 'conversation', conversation)
end
return #due
