-- The state of a room behind given offsets, and its beginning if there is none.
--
-- KEYS: 1 to 5 as room.lua
-- ARGV: 1 to 11 as room.lua; 12 '1' if it is to begin, 13 and 14 offsets had on signal and bulk,
--   15 ms an empty room is kept at the most
-- Returns epoch, last offsets, and the lines of both logs; nothing if there is no room.
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

local function behind(lane, after)
  local first = tonumber(last(lane)) - redis.call('LLEN', log[lane]) + 1
  local from = math.max(tonumber(after) + 1 - first, 0)
  return redis.call('LRANGE', log[lane], text(from), -1)
end

be_held()
return { epoch, last('s'), last('b'), behind('s', ARGV[13]), behind('b', ARGV[14]) }
