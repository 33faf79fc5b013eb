-- Notes that a node lives, by Redis's own clock, and says which others do.
--
-- KEYS: 1 the nodes, 2 what they go by
-- ARGV: 1 this node, 2 microseconds of silence after which one is dead, 3 what this node goes by
-- Returns when this node was last heard ('' for never) and now, in microseconds, the names of
-- those who live, and what each of those goes by that says so.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function text(number)
  return string.format('%.0f', number)
end
local before = redis.call('ZSCORE', KEYS[1], ARGV[1])
-- By a clock that was set back, the dead may have been heard in what is the future.
local silent, ahead = text(now - ARGV[2]), text(now + ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. silent)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. ahead, '+inf')
-- Behind those, a Redis that is full writes it, too.
redis.call('ZADD', KEYS[1], text(now), ARGV[1])
local living = redis.call('ZRANGE', KEYS[1], 0, -1)
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[3] then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
end
redis.call('PEXPIRE', KEYS[2], 60000)
local told = redis.call('HGETALL', KEYS[2])
local terms = {}
for i = 1, #told, 2 do
  if redis.call('ZSCORE', KEYS[1], told[i]) then
    terms[#terms + 1] = told[i + 1]
  else
    redis.call('HDEL', KEYS[2], told[i])
  end
end
return { before and text(before) or '', text(now), living, terms }
