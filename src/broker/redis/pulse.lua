-- Writes and publishes a beat of a node, the way of all changes. A Redis that is full has it, too:
-- what makes room there goes on only as long as the node takes it for one that answers.
--
-- KEYS: 1 the beat, whose channel is called the same
-- ARGV: 1 ms it is kept, 2 command to publish with
-- Returns 1 if Redis takes nothing new, 0 otherwise.
local put = redis.pcall('SET', KEYS[1], '', 'PX', ARGV[1])
local is_full = put.err and put.err:find('OOM', 1, true)
if put.err and not is_full then
  return put
end
if is_full then
  -- Behind what adds nothing a script may write.
  redis.call('DEL', KEYS[1])
  redis.call('SET', KEYS[1], '', 'PX', ARGV[1])
end
redis.call(ARGV[2], KEYS[1], '')
return is_full and 1 or 0
