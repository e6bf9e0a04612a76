#!lua flags=allow-oom
-- Forget what was remembered long enough.
-- KEYS: list of names, oldest first
-- ARGV: prefix that makes a name a key, life in ms, most at once
-- Each key holds the time in ms at which it was set. Returns how many names were looked at.
-- include now
local count = 0
while count < tonumber(ARGV[3]) do
  local name = redis.call('LINDEX', KEYS[1], 0)
  if not name then break end
  local since = redis.call('GET', ARGV[1] .. name)
  if since and tonumber(since) and tonumber(since) + tonumber(ARGV[2]) > tonumber(now) then break end
  redis.call('DEL', ARGV[1] .. name)
  redis.call('LPOP', KEYS[1])
  count = count + 1
end
return count
