-- Fences out what a session's older connections still ask of a room.
--
-- KEYS: 1 what sessions did here
-- ARGV: 1 peer, 2 generation, 3 channel, 4 command to publish with, 5 ms that what sessions did is
--   remembered without the room
local newest = redis.call('HGET', KEYS[1], 'g:' .. ARGV[1]) or '1'
if tonumber(ARGV[2]) > tonumber(newest) then
  redis.call('HSET', KEYS[1], 'g:' .. ARGV[1], ARGV[2])
  if redis.call('PTTL', KEYS[1]) == -1 then
    -- There was nothing: the room may be gone for good.
    redis.call('PEXPIRE', KEYS[1], ARGV[5])
  end
  redis.call(ARGV[4], ARGV[3], 'f' .. ARGV[1] .. ' ' .. ARGV[2])
end
return 1
