#!lua flags=allow-oom
-- Keep the dead letters within their bounds, and the count of what waits true.
-- KEYS: dead, their order, waiting, ready stream, delayed
-- ARGV: most letters, their life in ms
-- include now
local old = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%d', now - ARGV[2]), 'LIMIT', 0, 1000)
local over = redis.call('ZCARD', KEYS[2]) - #old - ARGV[1]
for _, name in ipairs(old) do
  redis.call('HDEL', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
end
if over > 0 then
  for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, math.min(over, 1000) - 1)) do
    redis.call('HDEL', KEYS[1], name)
    redis.call('ZREM', KEYS[2], name)
  end
end
-- A message that could not be read may not have said under which name it waits.
if redis.call('XLEN', KEYS[4]) == 0 and redis.call('ZCARD', KEYS[5]) == 0 then redis.call('DEL', KEYS[3]) end
return #old + math.max(over, 0)
