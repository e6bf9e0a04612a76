#!lua flags=allow-oom
-- Create the consumer group if it is not there yet. KEYS: ready stream. ARGV: group
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if made.err and string.sub(made.err, 1, 9) ~= 'BUSYGROUP' then return made end
return redis.status_reply('OK')
