-- Removes a room if nobody has been in it for long enough.
--
-- KEYS: 1 meta, 2 members, 3 signal log, 4 bulk log, 5 what sessions did here
-- ARGV: 1 now, 2 linger (microseconds), 3 ms that what sessions did is remembered after it
-- Returns 1 if there is no room (any more).
local empty = redis.call('HGET', KEYS[1], 'empty')
if not empty then
  return 1
end
if redis.call('HLEN', KEYS[2]) > 0 or tonumber(ARGV[1]) - tonumber(empty) < tonumber(ARGV[2]) then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('PEXPIRE', KEYS[5], ARGV[3])
return 1
