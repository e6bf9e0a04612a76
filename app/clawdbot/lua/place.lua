-- Put a message into its conversation, in the order in which the user wrote, and announce the conversation.
-- One that overtook an older one on the way goes behind it, but never before a head that was begun.
-- The first 15 characters of a dumped message are its creation time.
local function place(list, ready, attempts, conversation, dumped)
  local length = redis.call('RPUSH', list, dumped)
  if length == 1 then
    redis.call('XADD', ready, '*', 'conversation', conversation)
    return
  end
  local first = redis.call('HEXISTS', attempts, conversation)
  local created, at = string.sub(dumped, 1, 15), length - 1
  while at > first do
    local before = redis.call('LINDEX', list, at - 1)
    if string.sub(before, 1, 15) <= created then return end
    redis.call('LSET', list, at, before)
    redis.call('LSET', list, at - 1, dumped)
    at = at - 1
  end
end
