#!lua flags=allow-oom
-- Set a key, also when memory is full. KEYS: key. ARGV: value, life in ms, 'NX' or nothing. Returns 1, or 0.
local set
if ARGV[3] then set = redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'NX')
else set = redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return set and 1 or 0
