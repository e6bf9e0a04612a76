#!lua flags=allow-oom
-- Delete a key if it holds the value. KEYS: key. ARGV: value. Returns how many were deleted.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
