-- The time of Redis in ms: the hosts' clocks may differ.
local time = redis.call('TIME')
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
