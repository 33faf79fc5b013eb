-- Notes that a node lives, by Redis's own clock, and says which others do.
--
-- KEYS: 1 the nodes
-- ARGV: 1 this node, 2 microseconds of silence after which one is dead
-- Returns when this node was last heard ('' for never) and now, in microseconds, and the names of
-- those who live.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function text(number)
  return string.format('%.0f', number)
end
local before = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], text(now), ARGV[1])
-- By a clock that was set back, the dead may have been heard in what is the future.
local silent, ahead = text(now - ARGV[2]), text(now + ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. silent)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. ahead, '+inf')
return { before and text(before) or '', text(now), redis.call('ZRANGE', KEYS[1], 0, -1) }
