-- Applies changes of one room, one after another, and publishes every entry they append.
--
-- KEYS: 1 to 5 as room.lua
-- ARGV: 1 to 11 as room.lua; 12 this node, 13 members at the most,
--   14-17 signal: entries, bytes, age, window; 18-21 bulk: the same;
--   22 ms an empty room is kept at the most, 23 one that has members and no node to look after
--   them; 24 the epoch the room has to have ('' for any); 25 ms that what sessions did is
--   remembered without them and without the room; 26 bytes of metadata that members may show together
--   then 8 for each change: kind, peer, generation, event, bytes it counts for, x, y, z
-- Returns nothing, and changes nothing, if the room is not in that life (any more); 'W', and
-- changes nothing, if that has to wait. Otherwise a
-- list with one answer for each change, whose first item says what it is:
--   F fenced, R refused (code, expected), E entry, D duplicate, S snapshot, O one's own place,
--   N nothing, C checked
-- The first snapshot has the members; those behind it differ by the entries between them.
--   And last the positions: epoch ('' for no room), signal, bulk
local keep = {
  s = { tonumber(ARGV[14]), tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17]) },
  b = { tonumber(ARGV[18]), tonumber(ARGV[19]), tonumber(ARGV[20]), tonumber(ARGV[21]) },
}

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
  if redis.call('RPUSH', log[lane], line) == 1 then
    -- A key that begins lasts for ever; see `look_after`.
    redis.call('PEXPIRE', log[lane], ARGV[23])
  end
  redis.call('HINCRBY', meta, lane .. ':bytes', cost)
  trim(lane)
  publish(lane .. line)
  return line, offset
end

local function applied(peer, lane)
  local kept = redis.call('HGET', past, lane .. ':' .. peer)
  if kept then
    return kept:match('^(%d+) (%d+) (.*)$')
  end
  return '0'
end

local is_told = false

local function snapshot(peer, line)
  local everybody = is_told and '' or redis.call('HGETALL', members)
  is_told = true
  local seq_signal, seq_bulk = applied(peer, 's'), applied(peer, 'b')
  return { 'S', line or '', epoch, last('s'), last('b'), seq_signal, seq_bulk, everybody }
end

local function place(peer, line)
  local metadata = redis.call('HGET', members, peer):match('^[^\n]*\n(.*)$')
  local seq_signal, seq_bulk = applied(peer, 's'), applied(peer, 'b')
  return { 'O', line or '', epoch, last('s'), last('b'), seq_signal, seq_bulk, metadata }
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

-- Should every node that has members of it be gone for good, the room still goes.
local function look_after()
  for i = 1, 4 do
    redis.call('PEXPIRE', KEYS[i], ARGV[23])
  end
  redis.call('PEXPIRE', past, ARGV[25])
end

-- This node has the member.
local function at_home(peer)
  redis.call('HSET', past, 'h:' .. peer, ARGV[12] .. ' ' .. ARGV[1])
end

-- Bytes of metadata that a member shows.
local function shown_by(member)
  return #member - member:find('\n', 1, true)
end

-- The sum of it is kept up by every change, and counted anew once a minute where it is needed:
-- gateways of an earlier version change members without it.
local function shown()
  local sum, counted = unpack(redis.call('HMGET', meta, 'shown', 'counted'))
  if sum and counted and math.abs(now - tonumber(counted)) < 60000000 then
    return tonumber(sum)
  end
  sum = 0
  for _, member in ipairs(redis.call('HVALS', members)) do
    sum = sum + shown_by(member)
  end
  redis.call('HSET', meta, 'shown', text(sum), 'counted', text(now))
  return sum
end

local function shows(more)
  if more ~= 0 then
    redis.call('HINCRBY', meta, 'shown', text(more))
  end
end

-- As `RoomLimits::refuses`: no more than an equal share is never refused.
local function is_too_much(had, wanted)
  local most = tonumber(ARGV[26])
  local share = math.max(math.floor(most / tonumber(ARGV[13])), #'{}')
  return wanted > had and wanted > share and shown() - had + wanted > most
end

-- Takes a member out. Says whether it was one.
local function take_out(peer)
  local member = redis.call('HGET', members, peer)
  if member then
    redis.call('HDEL', members, peer)
    shows(-shown_by(member))
  end
  return member
end

local change = {}

-- The entry, if it was no member; or a refusal.
local function enter(peer, event, cost, user, metadata, is_back)
  if redis.call('HEXISTS', members, peer) == 1 then
    return nil
  end
  if not is_back and redis.call('HLEN', members) >= tonumber(ARGV[13]) then
    return nil, refuse('room_full')
  end
  if not is_back and is_too_much(0, #metadata) then
    return nil, refuse('too_much_shown')
  end
  local line, offset = append('s', peer, event, cost)
  redis.call('HSET', members, peer, offset .. ' 0 ' .. user .. '\n' .. metadata)
  shows(#metadata)
  redis.call('HDEL', past, 'x:' .. peer)
  at_home(peer)
  local swept = redis.call('HGET', meta, 'swept')
  if swept and not (' ' .. swept .. ' '):find(' ' .. ARGV[12] .. ' ', 1, true) then
    -- Its node is new: dead by the next look, it would have been on no list that anybody saw.
    redis.call('HDEL', meta, 'swept')
  end
  look_after()
  return line
end

function change.J(peer, event, cost, user, metadata)
  local line, refused = enter(peer, event, cost, user, metadata)
  return refused or snapshot(peer, line)
end

function change.K(peer, event, cost, user, metadata, seqs)
  -- What it was told of stays so, even if it is lost here.
  for lane, seq in seqs:gmatch('(%a)(%d+)') do
    if tonumber(seq) > tonumber((applied(peer, lane))) then
      redis.call('HSET', past, lane .. ':' .. peer, seq .. ' 0 ' .. epoch)
    end
  end
  -- It has had its place, and has shown what it shows, before.
  local line, refused = enter(peer, event, cost, user, metadata, true)
  if not refused then
    at_home(peer)
  end
  return refused or place(peer, line)
end

local function vacate()
  redis.call('HSET', meta, 'empty', ARGV[1])
  if redis.call('HLEN', members) == 0 then
    -- Should every node that could remove it in time be gone, it still goes.
    for i = 1, 4 do
      redis.call('PEXPIRE', KEYS[i], ARGV[22])
    end
  end
end

-- Nobody may ever say that its session has ended.
local function forget_in_time(peer)
  local forgotten = text(now + tonumber(ARGV[25]) * 1000)
  redis.call('HSET', past, 'x:' .. peer, forgotten)
  redis.call('HSETNX', past, 'x', forgotten)
end

function change.L(peer, event, cost)
  if not take_out(peer) then
    return { 'N', epoch, last('s'), last('b') }
  end
  redis.call('HDEL', past, 'h:' .. peer)
  forget_in_time(peer)
  local line = append('s', peer, event, cost)
  vacate()
  return { 'E', line, epoch, last('s'), last('b') }
end

-- What is fixed by a token is shown, however much everybody else shows.
function change.U(peer, event, cost, metadata, is_fixed)
  local member = redis.call('HGET', members, peer)
  local since, away, user = member:match('^(%d+) (%d) ([^\n]*)\n')
  local had = shown_by(member)
  if is_fixed ~= '1' and is_too_much(had, #metadata) then
    return refuse('too_much_shown')
  end
  shows(#metadata - had)
  redis.call('HSET', members, peer, since .. ' ' .. away .. ' ' .. user .. '\n' .. metadata)
  return { 'E', (append('s', peer, event, cost)), epoch, last('s'), last('b') }
end

function change.A(peer, event, cost, mark)
  local member = redis.call('HGET', members, peer)
  local since, away, rest = member:match('^(%d+) (%d) (.*)$')
  if mark == '0' then
    at_home(peer)
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

-- What sessions did that no node had in time is remembered for long enough that none of them
-- lives any more: one whose node was cut off may, and says again what it was not answered.
local function forget()
  local due = redis.call('HGET', past, 'x')
  if not due or tonumber(due) > now then
    return
  end
  local soonest
  local fields = redis.call('HGETALL', past)
  for i = 1, #fields, 2 do
    local peer, at = fields[i]:match('^x:(.*)$'), tonumber(fields[i + 1])
    if peer and at <= now then
      redis.call('HDEL', past, fields[i], 'g:' .. peer, 's:' .. peer, 'b:' .. peer)
    elseif peer and (not soonest or at < soonest) then
      soonest = at
    end
  end
  if soonest then
    redis.call('HSET', past, 'x', text(soonest))
  else
    redis.call('HDEL', past, 'x')
  end
end

-- Between two looks of nodes at a room they have members in, in microseconds, at the most.
local looks = 15000000
-- Who has said so by then is on the list of those who live.
local enlisted = 5000000

-- When a member has to have another home whose node is dead since nobody knows when: if nobody had
-- the room at all for a while, then since then, but for a time in which nobody could have looked.
local function ends_at(before, back)
  local window = tonumber(ARGV[11])
  if now - before > looks then
    return math.max(math.max(before, back) + window, now + enlisted)
  end
  return now + window
end

-- Housekeeping. A member's home is its node and since when, or, once that is dead, when it is too
-- late to be taken in by another one. `living` are the nodes that live, and `listed` is since
-- when that is known; nothing if it is not. `back` is when Redis answered the asking node again, 0 if
-- it always has, and `met` since when it has answered it at all: others that it did not answer either,
-- as a node that is new cannot know, may come back a while later.
function change.O(back, met, away_event, cost, living, expired_event, listed)
  trim('s')
  trim('b')
  forget()
  if redis.call('HLEN', members) > 0 and redis.call('PTTL', meta) < tonumber(ARGV[23]) / 2 then
    look_after()
  end
  back = tonumber(back)
  local before = tonumber(redis.call('HGET', meta, 'looked') or ARGV[1])
  if living ~= '' and now - before > looks / 3 then
    redis.call('HSET', meta, 'looked', ARGV[1])
  end
  local due = redis.call('HGET', meta, 'orphans')
  local is_due = due and tonumber(due) <= now
  local is_news = living ~= '' and living ~= redis.call('HGET', meta, 'swept')
  if (is_due or is_news) and not is_unsure then
    local lives = {}
    for node in living:gmatch('%S+') do
      lives[node] = true
    end
    -- Who is not judged now is judged later.
    local soonest = living == '' and now + enlisted or math.huge
    for _, peer in ipairs(redis.call('HKEYS', members)) do
      local home = redis.call('HGET', past, 'h:' .. peer) or ''
      local ends = tonumber(home:match('^!(%d+)$'))
      local node, since = home:match('^(%S*) ?(%d*)$')
      if not ends and living ~= '' and not lives[node] then
        local known = (tonumber(since) or 0) + enlisted
        if known > tonumber(listed) then
          soonest = math.min(soonest, math.max(known, now) + enlisted)
        else
          ends = ends_at(before, back)
          redis.call('HSET', past, 'h:' .. peer, '!' .. text(ends))
          local line = redis.call('HGET', members, peer)
          local since, away, rest = line:match('^(%d+) (%d) (.*)$')
          if away == '0' then
            redis.call('HSET', members, peer, since .. ' 1 ' .. rest)
            append('s', peer, away_event, cost)
          end
        end
      end
      ends = ends and math.max(ends, tonumber(met) + looks)
      if ends and ends <= now then
        take_out(peer)
        redis.call('HDEL', past, 'h:' .. peer)
        forget_in_time(peer)
        append('s', peer, expired_event, cost)
        vacate()
      elseif ends then
        soonest = math.min(soonest, ends)
      end
    end
    if living ~= '' then
      redis.call('HSET', meta, 'swept', living)
    end
    if soonest < math.huge then
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
    publish(table.concat({ 'e' .. ARGV[12], peer, to, event }, ' '))
  end
  return { 'C' }
end

function change.S(peer)
  return snapshot(peer)
end

function change.W(peer)
  return place(peer)
end

local function apply(kind, peer, generation, ...)
  if kind == 'O' then
    insist()
    return epoch and change.O(peer, generation, ...) or refuse('not_a_member')
  end
  local newest = redis.call('HGET', past, 'g:' .. peer) or '1'
  if kind == 'X' or tonumber(generation) < tonumber(newest) then
    return { 'F' }
  end
  if not epoch then
    return refuse('not_a_member')
  end
  if kind == 'L' or (kind == 'A' and select(3, ...) == '1') then
    insist()
  end
  local is_member = redis.call('HEXISTS', members, peer) == 1
  -- Who leaves late may have ended: then nobody would forget it.
  if generation ~= newest and (is_member or kind ~= 'L') then
    redis.call('HSET', past, 'g:' .. peer, generation)
  end
  local is_for_members = kind ~= 'J' and kind ~= 'K' and kind ~= 'L'
  if is_for_members and not is_member then
    if kind == 'A' then
      return { 'N', epoch, last('s'), last('b') }
    end
    return refuse('not_a_member')
  end
  return change[kind](peer, ...)
end

if ARGV[24] ~= '' and epoch ~= ARGV[24] then
  return false
end
-- Nobody adds anything while it is unsure what the log holds. And once it is known to be lost,
-- messages come behind those who are members of its next life.
local is_calm = epoch and is_ahead(redis.call('HGET', meta, 'calm'))
if is_unsure or is_calm then
  for i = 27, #ARGV - 2, 8 do
    if ARGV[i] == 'M' or (is_unsure and ('JKLUA'):find(ARGV[i], 1, true)) then
      return 'W'
    end
  end
end
local answers = {}
for i = 27, #ARGV - 2, 8 do
  answers[#answers + 1] = apply(unpack(ARGV, i, i + 7))
end
answers[#answers + 1] = { epoch or '', last('s'), last('b') }
be_held()
return answers
