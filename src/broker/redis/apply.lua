-- Applies changes of one room, one after another, and publishes every entry they append.
--
-- KEYS: 1 meta, 2 members, 3 signal log, 4 bulk log, 5 what sessions did here
-- ARGV: 1 now (microseconds), 2 channel, 3 this node, 4 a fresh epoch, 5 members at the most,
--   6-9 signal: entries, bytes, age, window; 10-13 bulk: the same;
--   14 ms an empty room is kept at the most
--   15-17 epoch and offsets that the room is known to have had, or three times ''
--   then 8 for each change: kind, peer, generation, event, bytes it counts for, x, y, z
-- Returns nothing, and changes nothing, if the room is not in the life it is known to be in; a
-- room that has lost what it is known to have had begins a new one. Otherwise a list with one
-- answer for each change, whose first item says what it is:
--   F fenced, R refused (code, expected), E entry, D duplicate, S snapshot, N nothing, C checked
--
-- A line of a log is `offset at bytes epoch peer event`. Counts stay below 2^53.
local meta, members, past = KEYS[1], KEYS[2], KEYS[5]
local log = { s = KEYS[3], b = KEYS[4] }
local now = tonumber(ARGV[1])
local keep = {
  s = { tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]) },
  b = { tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13]) },
}
local epoch = redis.call('HGET', meta, 'epoch')

local function text(number)
  return string.format('%.0f', number)
end

local function last(lane)
  return redis.call('HGET', meta, lane) or '0'
end

local function trim(lane)
  local most, bytes_most, age_most, window = unpack(keep[lane])
  local held = redis.call('LLEN', log[lane])
  local bytes = tonumber(redis.call('HGET', meta, lane .. ':bytes') or '0')
  while held > 0 do
    local at, cost = redis.call('LINDEX', log[lane], 0):match('^%d+ (%d+) (%d+) ')
    local age = math.max(now - tonumber(at), 0)
    local needless = age >= window and (held > most or age > age_most)
    if not needless and bytes <= bytes_most then
      break
    end
    redis.call('LPOP', log[lane])
    held = held - 1
    bytes = bytes - tonumber(cost)
    redis.call('HINCRBY', meta, lane .. ':bytes', '-' .. cost)
  end
end

local function append(lane, peer, event, cost)
  local offset = text(redis.call('HINCRBY', meta, lane, 1))
  local line = table.concat({ offset, ARGV[1], cost, epoch, peer, event }, ' ')
  redis.call('RPUSH', log[lane], line)
  redis.call('HINCRBY', meta, lane .. ':bytes', cost)
  trim(lane)
  redis.call('PUBLISH', ARGV[2], lane .. line)
  return line, offset
end

local function applied(peer, lane)
  local kept = redis.call('HGET', past, lane .. ':' .. peer)
  if kept then
    return kept:match('^(%d+) (%d+) (.*)$')
  end
  return '0'
end

local function snapshot(peer, line)
  local seq_signal = applied(peer, 's')
  local seq_bulk = applied(peer, 'b')
  local everybody = redis.call('HGETALL', members)
  return { 'S', line or '', epoch, last('s'), last('b'), seq_signal, seq_bulk, everybody }
end

local function refuse(code, expected)
  return { 'R', code, expected or '0' }
end

local function check(peer, to)
  if to == '' then
    return nil
  elseif to == peer then
    return refuse('oneself')
  elseif redis.call('HEXISTS', members, to) == 0 then
    return refuse('no_such_peer')
  end
  return nil
end

local change = {}

function change.J(peer, event, cost, user, metadata, seqs)
  -- What it was told of stays so, even if it is lost here.
  for lane, seq in seqs:gmatch('(%a)(%d+)') do
    if tonumber(seq) > tonumber((applied(peer, lane))) then
      redis.call('HSET', past, lane .. ':' .. peer, seq .. ' 0 ' .. epoch)
    end
  end
  if redis.call('HEXISTS', members, peer) == 1 then
    return snapshot(peer)
  end
  if redis.call('HLEN', members) >= tonumber(ARGV[5]) then
    return refuse('room_full')
  end
  local line, offset = append('s', peer, event, cost)
  redis.call('HSET', members, peer, offset .. ' 0 ' .. user .. '\n' .. metadata)
  redis.call('HSET', past, 'h:' .. peer, ARGV[3])
  for i = 1, 5 do
    redis.call('PERSIST', KEYS[i])
  end
  return snapshot(peer, line)
end

local function vacate()
  redis.call('HSET', meta, 'empty', ARGV[1])
  if redis.call('HLEN', members) == 0 then
    -- Should every node that could remove it in time be gone, it still goes.
    for i = 1, 4 do
      redis.call('PEXPIRE', KEYS[i], ARGV[14])
    end
  end
end

function change.L(peer, event, cost)
  if redis.call('HDEL', members, peer) == 0 then
    return { 'N', epoch, last('s'), last('b') }
  end
  redis.call('HDEL', past, 'h:' .. peer)
  local line = append('s', peer, event, cost)
  vacate()
  return { 'E', line, epoch, last('s'), last('b') }
end

function change.U(peer, event, cost, metadata)
  local since, away, user = redis.call('HGET', members, peer):match('^(%d+) (%d) ([^\n]*)\n')
  redis.call('HSET', members, peer, since .. ' ' .. away .. ' ' .. user .. '\n' .. metadata)
  return { 'E', (append('s', peer, event, cost)), epoch, last('s'), last('b') }
end

function change.A(peer, event, cost, mark)
  local member = redis.call('HGET', members, peer)
  local since, away, rest = member:match('^(%d+) (%d) (.*)$')
  if mark == '0' then
    redis.call('HSET', past, 'h:' .. peer, ARGV[3])
  end
  if away == mark then
    return { 'N', epoch, last('s'), last('b') }
  end
  redis.call('HSET', members, peer, since .. ' ' .. mark .. ' ' .. rest)
  return { 'E', (append('s', peer, event, cost)), epoch, last('s'), last('b') }
end

function change.M(peer, event, cost, lane, seq, to)
  local had, offset, of_epoch = applied(peer, lane)
  if tonumber(seq) <= tonumber(had) then
    return { 'D', had, offset, of_epoch }
  end
  local expected = text(tonumber(had) + 1)
  if seq ~= expected then
    return refuse('seq_gap', expected)
  end
  local refused = check(peer, to)
  if refused then
    return refused
  end
  local line, at = append(lane, peer, event, cost)
  redis.call('HSET', past, lane .. ':' .. peer, seq .. ' ' .. at .. ' ' .. epoch)
  return { 'E', line, epoch, last('s'), last('b') }
end

-- Housekeeping. A member's home is its node, or, once that has died, when it is too late to be
-- taken in by another one.
function change.O(_, away_event, cost, dead, expired_event, window)
  trim('s')
  trim('b')
  local due = redis.call('HGET', meta, 'orphans')
  local is_due = due and tonumber(due) <= now
  if is_due or dead ~= (redis.call('HGET', meta, 'swept') or '') then
    local is_dead = {}
    for node in dead:gmatch('%S+') do
      is_dead[node] = true
    end
    local soonest
    for _, peer in ipairs(redis.call('HKEYS', members)) do
      local home = redis.call('HGET', past, 'h:' .. peer) or ''
      if is_dead[home] then
        home = '!' .. text(now + tonumber(window))
        redis.call('HSET', past, 'h:' .. peer, home)
        local line = redis.call('HGET', members, peer)
        local since, away, rest = line:match('^(%d+) (%d) (.*)$')
        if away == '0' then
          redis.call('HSET', members, peer, since .. ' 1 ' .. rest)
          append('s', peer, away_event, cost)
        end
      end
      local ends = tonumber(home:match('^!(%d+)$'))
      if ends and ends <= now then
        redis.call('HDEL', members, peer)
        redis.call('HDEL', past, 'h:' .. peer, 'g:' .. peer, 's:' .. peer, 'b:' .. peer)
        append('s', peer, expired_event, cost)
        vacate()
      elseif ends and (not soonest or ends < soonest) then
        soonest = ends
      end
    end
    redis.call('HSET', meta, 'swept', dead)
    if soonest then
      redis.call('HSET', meta, 'orphans', text(soonest))
    else
      redis.call('HDEL', meta, 'orphans')
    end
  end
  return { 'N', epoch, last('s'), last('b') }
end

-- Passes something on to who is there now, past the log.
function change.P(peer, event, _, to)
  local refused = check(peer, to)
  if refused then
    return refused
  end
  if event ~= '' then
    redis.call('PUBLISH', ARGV[2], table.concat({ 'e' .. ARGV[3], peer, to, event }, ' '))
  end
  return { 'C' }
end

function change.S(peer)
  return snapshot(peer)
end

local function apply(kind, peer, generation, ...)
  if kind == 'O' then
    return epoch and change.O(peer, ...) or refuse('not_a_member')
  end
  local newest = redis.call('HGET', past, 'g:' .. peer) or '1'
  if kind == 'X' or tonumber(generation) < tonumber(newest) then
    return { 'F' }
  end
  if not epoch and kind == 'J' then
    epoch = ARGV[4]
    redis.call('DEL', meta, members, log.s, log.b)
    redis.call('HSET', meta, 'epoch', epoch, 'empty', ARGV[1])
  end
  if not epoch then
    return refuse('not_a_member')
  end
  if generation ~= newest then
    redis.call('HSET', past, 'g:' .. peer, generation)
  end
  if kind ~= 'J' and kind ~= 'L' and redis.call('HEXISTS', members, peer) == 0 then
    if kind == 'A' then
      return { 'N', epoch, last('s'), last('b') }
    end
    return refuse('not_a_member')
  end
  return change[kind](peer, ...)
end

if ARGV[15] ~= '' then
  local is_behind = epoch == ARGV[15]
    and (tonumber(last('s')) < tonumber(ARGV[16]) or tonumber(last('b')) < tonumber(ARGV[17]))
  if is_behind then
    -- No offset is used twice.
    redis.call('DEL', log.s, log.b)
    redis.call('HDEL', meta, 's', 'b', 's:bytes', 'b:bytes')
    redis.call('HSET', meta, 'epoch', ARGV[4])
    local everybody = redis.call('HGETALL', members)
    for i = 1, #everybody, 2 do
      redis.call('HSET', members, everybody[i], (everybody[i + 1]:gsub('^%d+', '0')))
    end
  end
  if is_behind or epoch ~= ARGV[15] then
    return false
  end
end
local answers = {}
for i = 18, #ARGV, 8 do
  answers[#answers + 1] = apply(unpack(ARGV, i, i + 7))
end
return answers
