-- Fences out what a session's older connections still ask of a room.
--
-- KEYS: 1 what sessions did here, 2 meta
-- ARGV: 1 peer, 2 generation, 3 channel, 4 command to publish with, 5 ms that what sessions did is
--   remembered without the room, 6 when it is too late for a node to take the member in
local newest = redis.call('HGET', KEYS[1], 'g:' .. ARGV[1]) or '1'
if tonumber(ARGV[2]) > tonumber(newest) then
  redis.call('HSET', KEYS[1], 'g:' .. ARGV[1], ARGV[2])
  if redis.call('PTTL', KEYS[1]) == -1 then
    -- There was nothing: the room may be gone for good.
    redis.call('PEXPIRE', KEYS[1], ARGV[5])
  end
  if redis.call('HEXISTS', KEYS[1], 'h:' .. ARGV[1]) == 1 then
    -- The node it was on will not speak for it any more. The one it comes to may never get to.
    redis.call('HSET', KEYS[1], 'h:' .. ARGV[1], '!' .. ARGV[6])
    local due = redis.call('HGET', KEYS[2], 'orphans')
    if redis.call('EXISTS', KEYS[2]) == 1 and (not due or tonumber(due) > tonumber(ARGV[6])) then
      redis.call('HSET', KEYS[2], 'orphans', ARGV[6])
    end
  end
  redis.call(ARGV[4], ARGV[3], 'f' .. ARGV[1] .. ' ' .. ARGV[2])
end
return 1
