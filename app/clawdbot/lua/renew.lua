#!lua flags=allow-oom
-- Renew leases that are still ours.
-- KEYS: ready stream
-- ARGV: group, consumer, entry ids...
-- Returns the entry ids that are not ours any more.
-- include ours
local lost = {}
for at = 3, #ARGV do
  if ours(KEYS[1], ARGV[1], ARGV[2], ARGV[at]) then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[at], 'JUSTID')
  else
    lost[#lost + 1] = ARGV[at]
  end
end
return lost
