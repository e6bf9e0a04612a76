-- Token bucket. KEYS: bucket. ARGV: tokens per second, greatest number of tokens, now ms.
-- Takes a token and returns 0, or returns the ms until there will be one.
local rate, most, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local state = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = math.min(most, (tonumber(state[1]) or most) + math.max(0, now - (tonumber(state[2]) or now)) * rate / 1000)
local wait = 0
if tokens >= 1 then tokens = tokens - 1 else wait = math.ceil((1 - tokens) * 1000 / rate) end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', now)
redis.call('PEXPIRE', KEYS[1], math.ceil(most * 1000 / rate) + 1000)
return wait
