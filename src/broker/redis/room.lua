-- What every script about a room's log begins with.
--
-- KEYS: 1 meta, 2 members, 3 signal log, 4 bulk log, 5 what sessions did here
-- ARGV: 1 now (microseconds), 2 channel, 3 command to publish with, 4 a fresh epoch,
--   5 the epoch the asking node knows ('' for none), 6 and 7 the last signal offset it has seen
--   and the mark of the entry there ('' if only the offset), 8 and 9 of bulk,
--   10 '1' if replicas are to be waited for, 11 microseconds that members have to be taken in
--   by a node after their own has died, or after they may have been lost; and the last two: the
--   process that runs this ('' if that is not known), and the processes after which it may go
--   on with what it has ('*' for any, or their names)
--
-- A line of a log is `offset at bytes epoch peer event`; its mark is `at peer`. Counts stay
-- below 2^53.
local meta, members, past = KEYS[1], KEYS[2], KEYS[5]
local log = { s = KEYS[3], b = KEYS[4] }
local now = tonumber(ARGV[1])
local process, forebears = ARGV[#ARGV - 1], ARGV[#ARGV]
-- Before this stands `heed`: after a loss, or when there may be one, those who know more of the room
-- have this long to say so, and those who have members in it to come back; in microseconds.
local epoch = redis.call('HGET', meta, 'epoch')

local function text(number)
  return string.format('%.0f', number)
end

local function last(lane)
  return redis.call('HGET', meta, lane) or '0'
end

local function publish(payload)
  return redis.call(ARGV[3], ARGV[2], payload)
end

-- What comes behind this in the same script is written by a Redis that is full, too: it refuses
-- what adds something as the first write alone. For what makes room, or has to be.
local function insist()
  redis.call('HDEL', meta, '')
end

-- WAIT is about what its connection wrote: without this, what is only read or said again would not
-- wait. Last, and adding nothing: a Redis that is full refuses what it would have refused.
local function be_held()
  if epoch and ARGV[10] == '1' then
    local left = redis.call('PTTL', meta)
    redis.call('PEXPIRE', meta, left < 0 and 86400000 or math.max(left, 1))
  end
end

-- Whether the log is not the one that the asking node has seen.
local function strayed(lane, offset, mark)
  local behind = tonumber(last(lane)) - tonumber(offset)
  if behind < 0 then
    return true
  end
  local line = mark ~= '' and redis.call('LINDEX', log[lane], text(-behind - 1))
  if not line then
    return false
  end
  local at, peer = line:match('^%d+ (%d+) %d+ %S+ (%S+) ')
  return at .. ' ' .. peer ~= mark
end

-- A new epoch: no position of it was ever used. The members are who they were, and came in the
-- order in which they came. Who of them had left, in what was lost, is found out: no node says in
-- time that it has him.
local function begin_anew()
  insist()
  local everybody, order = redis.call('HGETALL', members), {}
  for i = 1, #everybody, 2 do
    local since, rest = everybody[i + 1]:match('^(%d+)(.*)$')
    order[#order + 1] = { peer = everybody[i], since = tonumber(since), rest = rest }
  end
  table.sort(order, function(a, b)
    return a.since < b.since or (a.since == b.since and a.peer < b.peer)
  end)
  local ends = text(now + tonumber(ARGV[11]))
  for place, member in ipairs(order) do
    redis.call('HSET', members, member.peer, place .. member.rest)
    redis.call('HSET', past, 'h:' .. member.peer, '!' .. ends)
  end
  epoch = ARGV[4]
  redis.call('DEL', log.s, log.b)
  redis.call('HSET', meta, 'epoch', epoch, 's', #order, 'b', 0, 's:bytes', 0, 'b:bytes', 0)
  redis.call('HSET', meta, 'orphans', ends, 'calm', text(now + heed))
  redis.call('HDEL', meta, 'at', 'next', 'due', 'lost')
  publish('d')
end

-- Whether that is to be waited for: not for ever, should a clock be set back.
local function is_ahead(due)
  return due and now < tonumber(due) and tonumber(due) <= now + 2 * heed
end

-- Whether it is still to be found out what of the log is lost: nothing is added meanwhile.
local is_unsure = false

-- Another process than the one that the room was with may have less of it than was answered. One
-- that was started again with its file has everything, unless its machine had stopped: then some
-- node knows, and says so in time. So it is with a replica, where those are waited for: another one
-- may have taken over than had what was answered. Of any other nobody may know: the room begins anew
-- once all have read what there is.
local function recognise()
  local at, next, due, lost = unpack(redis.call('HMGET', meta, 'at', 'next', 'due', 'lost'))
  local before = next or at
  if before ~= process or next then
    insist()
  end
  if not before then
    redis.call('HSET', meta, 'at', process)
  elseif before ~= process then
    redis.call('HSET', meta, 'next', process, 'due', text(now + heed))
    local is_known = forebears == '*' or (' ' .. forebears .. ' '):find(' ' .. before .. ' ', 1, true)
    if not is_known then
      redis.call('HSET', meta, 'lost', '1')
    end
    is_unsure = true
  elseif next and is_ahead(due) then
    is_unsure = true
  elseif next and lost then
    begin_anew()
    redis.call('HSET', meta, 'at', process)
  elseif next then
    redis.call('HSET', meta, 'at', process)
    redis.call('HDEL', meta, 'next', 'due')
  end
end

if epoch and epoch == ARGV[5] then
  if strayed('s', ARGV[6], ARGV[7]) or strayed('b', ARGV[8], ARGV[9]) then
    begin_anew()
  end
end
if epoch and process ~= '' then
  recognise()
end
