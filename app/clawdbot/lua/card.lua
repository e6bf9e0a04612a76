#!lua flags=allow-oom
-- Take a turn at the card that shows an answer, as long as the lease is ours.
-- KEYS: card, ready stream
-- ARGV: group, consumer, entry id, seconds that it is remembered, id of a card that was just made or '',
--       '1' once its user sees it or ''
-- Returns {id, turn, '1' if its user sees it}; nil if there is no card, or the lease is not ours.
-- include ours
if not ours(KEYS[2], ARGV[1], ARGV[2], ARGV[3]) then return nil end
if ARGV[5] ~= '' then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'id', ARGV[5])
end
local id = redis.call('HGET', KEYS[1], 'id')
if not id then return nil end
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'seen', ARGV[6]) end
local turn = redis.call('HINCRBY', KEYS[1], 'turn', 1)
redis.call('EXPIRE', KEYS[1], ARGV[4])
return {id, turn, redis.call('HGET', KEYS[1], 'seen') or ''}
