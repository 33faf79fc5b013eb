-- The state of a room behind given offsets, and its beginning if there is none.
--
-- KEYS: 1 to 5 as room.lua
-- ARGV: 1 to 11 as room.lua; 12 '1' if it is to begin, 13 and 14 offsets had on signal and bulk,
--   15 ms an empty room is kept at the most, 16 bytes of lines that are enough
-- Returns epoch, last offsets, the lines of both logs, and 1 if there are more than these; nothing
-- if there is no room.
if not epoch then
  if ARGV[12] ~= '1' then
    return false
  end
  epoch = ARGV[4]
  redis.call('DEL', meta, members, log.s, log.b)
  redis.call('HSET', meta, 'epoch', epoch, 'empty', ARGV[1], 'looked', ARGV[1])
  if process ~= '' then
    redis.call('HSET', meta, 'at', process)
  end
  redis.call('PEXPIRE', meta, ARGV[15])
  if ARGV[5] ~= '' and publish('d') > 1 then
    -- It was lost, and others have members of it.
    redis.call('HSET', meta, 'calm', text(now + heed))
  end
end

local enough, some, is_more = tonumber(ARGV[16]), 16, 0

local function behind(lane, after)
  local held = redis.call('LLEN', log[lane])
  local first = tonumber(last(lane)) - held + 1
  local from = math.max(tonumber(after) + 1 - first, 0)
  local lines, read = {}, {}
  while enough > 0 do
    local at = #lines % some
    if at == 0 then
      read = redis.call('LRANGE', log[lane], text(from + #lines), text(from + #lines + some - 1))
    end
    local line = read[at + 1]
    if not line then
      break
    end
    lines[#lines + 1] = line
    enough = enough - #line
  end
  if from + #lines < held then
    is_more = 1
  end
  return lines
end

be_held()
local signal, bulk = behind('s', ARGV[13]), behind('b', ARGV[14])
return { epoch, last('s'), last('b'), signal, bulk, is_more }
