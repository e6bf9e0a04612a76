#!lua flags=allow-oom
-- Begin work on a leased conversation.
-- KEYS: ready stream, conversation list, attempts, tries
-- ARGV: group, consumer, entry id, conversation key
-- Returns {dumped message, attempts without a result and this one, failures so far, ms since the first attempt}, or
-- nil if the lease is not ours or nothing waits.
-- include now
-- include ours
if not ours(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then return nil end
local head = redis.call('LINDEX', KEYS[2], 0)
if not head then
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
  redis.call('XDEL', KEYS[1], ARGV[3])
  return nil
end
-- What is known of another message is of no use: whoever settled that one did not know of this hash.
local digest = redis.sha1hex(head)
local known, since, failures = string.match(redis.call('HGET', KEYS[4], ARGV[4]) or '', '^(%x+) (%d+) (%d+)$')
if known ~= digest then
  since, failures = now, 0
  redis.call('HSET', KEYS[4], ARGV[4], digest .. ' ' .. now .. ' 0')
end
return {head, redis.call('HINCRBY', KEYS[3], ARGV[4], 1), tonumber(failures), math.max(0, now - since)}
