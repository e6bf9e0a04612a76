-- Accept a message once: deduplicate, queue it in its conversation, announce the conversation.
-- KEYS: dedup, conversation list, ready stream, waiting, replay guard (or '')
-- ARGV: message key, dumped message, conversation key, now ms, dedup seconds, replay grace ms, replay guard seconds
-- Returns 'accepted', 'duplicate' or 'replay'.
if not redis.call('SET', KEYS[1], ARGV[4], 'NX', 'EX', ARGV[5]) then return 'duplicate' end
if KEYS[5] ~= '' then
  local first = redis.call('SET', KEYS[5], ARGV[4], 'NX', 'GET', 'EX', ARGV[7])
  if first and tonumber(ARGV[4]) - tonumber(first) > tonumber(ARGV[6]) then
    redis.call('DEL', KEYS[1])
    return 'replay'
  end
end
redis.call('ZADD', KEYS[4], ARGV[4], ARGV[1])
local length = redis.call('RPUSH', KEYS[2], ARGV[2])
if length == 1 then
  redis.call('XADD', KEYS[3], '*', 'conversation', ARGV[3])
  return 'accepted'
end
-- A message that overtook an older one on the way here goes behind it, but never before the head:
-- the head may be in work. The first 15 characters are the creation time.
local created = string.sub(ARGV[2], 1, 15)
local at = length - 1
while at > 1 do
  local before = redis.call('LINDEX', KEYS[2], at - 1)
  if string.sub(before, 1, 15) <= created then break end
  redis.call('LSET', KEYS[2], at, before)
  redis.call('LSET', KEYS[2], at - 1, ARGV[2])
  at = at - 1
end
return 'accepted'
