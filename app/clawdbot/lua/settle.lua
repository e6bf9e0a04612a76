#!lua flags=allow-oom
-- End the work on a conversation's head, fenced by the owner of the lease.
-- KEYS: ready stream, conversation list, attempts, waiting, delayed, dead, order of the dead, session, tries, answer
-- ARGV: group, consumer, entry id, conversation key, message key, verb, value, seconds, prefix of the sent marks,
--       names of the marks that are no numbers...
--   verb 'done':  value is the new session, '' to leave it, '-' to forget it; seconds is its life
--   verb 'defer': value is the time in ms to wait before the next attempt
--   verb 'wait':  the same, and this attempt did not fail
--   verb 'dead':  value is the dead letter; seconds is its life
-- Returns 1, or 0 if the lease is not ours any more.
-- include now
-- include ours
if not ours(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then return 0 end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[3])
if ARGV[6] == 'defer' or ARGV[6] == 'wait' then
  -- This attempt had a result. The field stays: it says that the head was begun.
  redis.call('HSET', KEYS[3], ARGV[4], 0)
  local head, failures = string.match(redis.call('HGET', KEYS[9], ARGV[4]) or '', '^(.*) (%d+)$')
  if head and ARGV[6] == 'defer' then redis.call('HSET', KEYS[9], ARGV[4], head .. ' ' .. failures + 1) end
  redis.call('ZADD', KEYS[5], string.format('%d', now + ARGV[7]), ARGV[4])
  return 1
end
redis.call('LPOP', KEYS[2])
redis.call('HDEL', KEYS[3], ARGV[4])
redis.call('HDEL', KEYS[9], ARGV[4])
redis.call('ZREM', KEYS[4], ARGV[5])
local dead = ARGV[6] == 'dead'
-- What was decided and sent is of no use any more; a dead letter may be tried again and then wants to know.
local function free(name)
  if dead then return redis.call('EXPIRE', name, ARGV[8]) end
  return redis.call('DEL', name)
end
free(KEYS[10])
for at = 10, #ARGV do free(ARGV[9] .. ARGV[at]) end
local part = 0
while free(ARGV[9] .. part) == 1 do part = part + 1 end
if dead then
  redis.call('HSET', KEYS[6], ARGV[5], ARGV[7])
  redis.call('ZADD', KEYS[7], now, ARGV[5])
elseif ARGV[7] == '-' then
  redis.call('DEL', KEYS[8])
elseif ARGV[7] ~= '' then
  redis.call('SET', KEYS[8], ARGV[7], 'EX', ARGV[8])
end
if redis.call('LLEN', KEYS[2]) > 0 then
  redis.call('XADD', KEYS[1], '*', 'conversation', ARGV[4])
end
return 1
