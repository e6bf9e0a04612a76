#!lua flags=allow-oom
-- Remove a consumer that holds no lease; removing one that does would lose its leases.
-- KEYS: ready stream
-- ARGV: group, consumer
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
return 0
