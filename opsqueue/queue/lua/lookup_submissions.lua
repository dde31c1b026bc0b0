-- lookup_submissions: reading.
--
-- Submissions with all the given pairs of strategic metadata, in one of the given states: a page of
-- the smallest index that contains all of them, ascending.
--
-- KEYS[1]    base    prefix of the queue's keys
-- ARGV[1]    now     see _prelude
-- ARGV[2]    after   an id: only later ones; '' from the start
-- ARGV[3]    limit   the most submissions to examine; fewer if there are many pairs
-- ARGV[4]    states  separated by commas
-- ARGV[5...] rest    key and value of each pair; without pairs, `states` is one state
--
-- With _find.
--
-- Returns {"found", ids, next_after}; next_after '' after the last page.
local after, limit, states = ARGV[2], tonumber(ARGV[3]), ARGV[4]

local sets = sets_of_pairs({unpack(ARGV, 5)}, states)
local smallest = smallest_of(sets)
local page = redis.call('ZRANGEBYLEX', sets[smallest], after == '' and '-' or '(' .. after, '+',
  'LIMIT', 0, limit)
local ids, examined = {}, 0
for _, id in ipairs(page) do
  if work >= MOST_WORK then
    break
  end
  examined = examined + 1
  if is_in_all(id, sets, smallest, states) then
    ids[#ids + 1] = id
  end
end
local has_more = examined < #page or #page == limit
return {'found', ids, has_more and page[examined] or ''}
