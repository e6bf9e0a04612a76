-- Renew leases that are still ours.
-- KEYS: ready stream
-- ARGV: group, consumer, entry ids...
-- Returns the entry ids that are not ours any more.
local lost = {}
for at = 3, #ARGV do
  local lease = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[at], ARGV[at], 1, ARGV[2])
  if #lease == 0 then
    lost[#lost + 1] = ARGV[at]
  else
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[at], 'JUSTID')
  end
end
return lost
