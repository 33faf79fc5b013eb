-- Changes a session's record, if the caller speaks for it under the newest generation.
--
-- KEYS: 1 record, 2 its rooms, 3 every room that may remember it
-- ARGV: 1 what, 2 generation, 3 ms it is kept, 4 to 6 what it is about; for revive its rooms
--   from 7 on
-- Returns 1 if it was done (retire: the rooms; resume: the new generation), 0 if not, 2 if the
-- session has been in too many rooms, 3 if there is nothing to retire.
local what = ARGV[1]
local by = tonumber(ARGV[2])
local done = 1
local recorded = tonumber(redis.call('HGET', KEYS[1], 'generation') or nil)
-- The generation that ended it: a newer one, whose record was lost meanwhile, has not ended. Gateways of
-- an earlier version do not say which it was.
local ended = redis.call('HEXISTS', KEYS[1], 'ended') == 1
local ended_by = tonumber(redis.call('HGET', KEYS[1], 'ended_by') or nil)
if what == 'end' then
  if math.max(recorded or by, ended_by or by) > by then
    return 0
  end
  -- Whoever has not heard of it yet cannot record it again.
  redis.call('DEL', unpack(KEYS))
  redis.call('HSET', KEYS[1], 'ended', '1', 'ended_by', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return 1
end
if what ~= 'open' and ended and not (ended_by and ended_by < by) then
  return 0
end
if what == 'retire' and not recorded then
  return 3
end
if what == 'open' or (what == 'revive' and not recorded) then
  local fields = { 'generation', ARGV[2], 'admission', ARGV[4], 'peer', ARGV[5], 'secret', ARGV[6] }
  -- Only where there is something: behind it a Redis that is full would take what is new.
  if redis.call('EXISTS', unpack(KEYS)) > 0 then
    redis.call('DEL', unpack(KEYS))
  end
  redis.call('HSET', KEYS[1], unpack(fields))
elseif what == 'revive' then
  -- Lost and revived by a node that did not know of the newest resume.
  if redis.call('HEXISTS', KEYS[1], 'secret') == 1 and recorded < by then
    redis.call('HSET', KEYS[1], 'generation', ARGV[2], 'admission', ARGV[4])
  end
end
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[2] then
  return 0
end
if what == 'resume' then
  if redis.call('HEXISTS', KEYS[1], 'retired') == 1 then
    return 0
  end
  -- By the clock, and not the next one: after a loss of what was raised, the same number would be
  -- given to two connections, and neither could be fenced out. Stays below 2^53 for 200 years.
  local time = redis.call('TIME')
  local raised = math.max(by + 1, time[1] * 1000000 + time[2])
  redis.call('HSET', KEYS[1], 'generation', string.format('%.0f', raised), 'admission', ARGV[4])
  done = raised
elseif what == 'readmit' then
  redis.call('HSET', KEYS[1], 'admission', ARGV[4])
elseif what == 'retire' then
  -- Also if Redis is full: behind what adds nothing a script may write.
  redis.call('HDEL', KEYS[1], '')
  redis.call('HSET', KEYS[1], 'retired', '1')
elseif what == 'revive' then
  for i = 7, #ARGV do
    redis.call('SADD', KEYS[2], ARGV[i])
    redis.call('SADD', KEYS[3], ARGV[i])
  end
elseif what == 'enter' then
  local known = redis.call('SISMEMBER', KEYS[3], ARGV[4]) == 1
  if not known and redis.call('SCARD', KEYS[3]) >= tonumber(ARGV[5]) then
    return 2
  end
  redis.call('SADD', KEYS[2], ARGV[4])
  redis.call('SADD', KEYS[3], ARGV[4])
elseif what == 'exit' then
  redis.call('SREM', KEYS[2], ARGV[4])
end
for i = 1, 3 do
  redis.call('PEXPIRE', KEYS[i], ARGV[3])
end
return what == 'retire' and redis.call('SMEMBERS', KEYS[2]) or done
