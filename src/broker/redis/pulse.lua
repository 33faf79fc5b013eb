-- Writes and publishes a beat of a node, the way of all changes. A Redis that is full has it, too:
-- what makes room there goes on only as long as the node takes it for one that answers.
--
-- KEYS: 1 the beat, whose channel is called the same
-- ARGV: 1 ms it is kept, 2 command to publish with, 3 'first' of a node that has none yet; 'noted' if
--   the node has heard that its beat was lost
-- Returns whether Redis takes nothing new, and whether it had no beat of this node any more; 1 or 0.
local before = redis.call('GET', KEYS[1])
-- Until the node has heard that its beat was lost there is an empty one: whoever asks before that sees
-- it by this, and it is said again if the answer does not arrive.
local is_known = before and (before ~= '' or ARGV[3] == 'noted') or ARGV[3] == 'first'
local was_lost = not is_known
local beat = was_lost and '' or '1'
local put = redis.pcall('SET', KEYS[1], beat, 'PX', ARGV[1])
local is_full = put.err and put.err:find('OOM', 1, true)
if put.err and not is_full then
  return put
end
if is_full then
  -- Behind what adds nothing a script may write.
  redis.call('DEL', KEYS[1])
  redis.call('SET', KEYS[1], beat, 'PX', ARGV[1])
end
redis.call(ARGV[2], KEYS[1], '')
return { is_full and 1 or 0, was_lost and 1 or 0 }
