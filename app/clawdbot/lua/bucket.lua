#!lua flags=allow-oom
-- Token bucket with reservation.
-- KEYS: bucket. ARGV: tokens per second, greatest number of tokens, longest wait ms.
-- Takes a token, which may lie in the future: returns {1, ms to wait for it}; or takes none and returns {0, ms} if the
-- wait would be longer than allowed.
-- include now
local rate, most, longest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
now = tonumber(now)
local state = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local at = math.max(now, tonumber(state[2]) or now)
local tokens = math.min(most, (tonumber(state[1]) or most) + (at - (tonumber(state[2]) or at)) * rate / 1000) - 1
local wait = math.max(0, math.ceil(-tokens * 1000 / rate))
if wait > longest then return {0, wait} end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', string.format('%d', at))
redis.call('PEXPIRE', KEYS[1], math.ceil(most * 1000 / rate) + wait + 1000)
return {1, wait}
