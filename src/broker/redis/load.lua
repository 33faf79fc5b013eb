-- The state of a room behind given offsets, and its beginning if there is none.
--
-- KEYS: 1 meta, 2 members, 3 signal log, 4 bulk log
-- ARGV: 1 epoch of a new life ('' for none), 2 now, 3 and 4 offsets had on signal and bulk,
--   5 ms an empty room is kept at the most
-- Returns epoch, last offsets, and the lines of both logs; nothing if there is no room.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  if ARGV[1] == '' then
    return false
  end
  epoch = ARGV[1]
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'empty', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
end

local function behind(lane, log, after)
  local last = redis.call('HGET', KEYS[1], lane) or '0'
  local first = tonumber(last) - redis.call('LLEN', log) + 1
  local from = math.max(tonumber(after) + 1 - first, 0)
  return last, redis.call('LRANGE', log, string.format('%.0f', from), -1)
end

local signal, signal_lines = behind('s', KEYS[3], ARGV[3])
local bulk, bulk_lines = behind('b', KEYS[4], ARGV[4])
return { epoch, signal, bulk, signal_lines, bulk_lines }
