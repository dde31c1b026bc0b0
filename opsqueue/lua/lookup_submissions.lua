-- lookup_submissions: reading.
--
-- Submissions with all the given pairs of strategic metadata, in one of the given states; a page
-- of the smallest index that has them all, ascending.
--
-- KEYS[1]    base    prefix of the queue's keys
-- ARGV[1]    now     see _prelude
-- ARGV[2]    after   an id: only what comes after it; '' from the start
-- ARGV[3]    limit   submissions looked at, at most
-- ARGV[4]    states  comma between them
-- ARGV[5...] rest    key and value of each pair; without any, `states` is one state
--
-- Returns {"found", ids, next_after}; next_after '' after the last page.
local after, limit, states = ARGV[2], tonumber(ARGV[3]), ARGV[4]

local sets = {}
for i = 5, #ARGV, 2 do
  sets[#sets + 1] = base .. 'pairs:' .. ARGV[i] .. ':' .. ARGV[i + 1]
end
if #sets == 0 then
  sets[1] = base .. 'submissions:' .. states
end
local smallest, size
for i, set in ipairs(sets) do
  local has = redis.call('ZCARD', set)
  if not size or has < size then
    smallest, size = i, has
  end
end

local function matches(id)
  for i, set in ipairs(sets) do
    if i ~= smallest and not redis.call('ZSCORE', set, id) then
      return false
    end
  end
  local state = redis.call('HGET', sub_key(id), 'state')
  return state and string.find(',' .. states .. ',', ',' .. state .. ',', 1, true) ~= nil
end

local page = redis.call('ZRANGEBYLEX', sets[smallest], after == '' and '-' or '(' .. after, '+',
  'LIMIT', 0, limit)
local ids = {}
for _, id in ipairs(page) do
  if matches(id) then
    ids[#ids + 1] = id
  end
end
return {'found', ids, #page == limit and page[#page] or ''}
