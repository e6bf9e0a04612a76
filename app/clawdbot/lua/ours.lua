-- Whether a lease is ours. A Redis that came back empty knows of none.
local function ours(ready, group, consumer, entry)
  local lease = redis.pcall('XPENDING', ready, group, entry, entry, 1, consumer)
  return not lease.err and #lease > 0
end
