#!lua
-- Accept a message once: deduplicate, queue it in its conversation, announce the conversation.
-- Refused as a whole when memory is full. What it remembers carries no time to live, which would let a full memory
-- evict it: `forget.lua` ends it.
-- KEYS: dedup, conversation list, ready stream, waiting, attempts, known, replay guard (or ''), replays
-- ARGV: message key, dumped message, conversation key, replay grace ms, name of the replay guard, ms since it arrived
-- Returns 'accepted', 'duplicate' or 'replay'.
-- include now
-- include place
if not redis.call('SET', KEYS[1], now, 'NX') then return 'duplicate' end
if KEYS[7] ~= '' then
  local arrived = string.format('%d', now - ARGV[6])
  local first = redis.call('SET', KEYS[7], arrived, 'NX', 'GET')
  if not first then
    redis.call('RPUSH', KEYS[8], ARGV[5])
  elseif tonumber(arrived) - tonumber(first) > tonumber(ARGV[4]) then
    redis.call('DEL', KEYS[1])
    return 'replay'
  end
end
redis.call('RPUSH', KEYS[6], ARGV[1])
redis.call('ZADD', KEYS[4], now, ARGV[1])
place(KEYS[2], KEYS[3], KEYS[5], ARGV[3], ARGV[2])
return 'accepted'
