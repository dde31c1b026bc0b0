-- Find: submissions by pairs of strategic metadata and by state.

-- Return the sets to which all must belong, from the key and value of each pair; without pairs it
-- is the index of a state.
local function sets_of_pairs(pairs_flat, state)
  local sets = {}
  for i = 1, #pairs_flat, 2 do
    sets[#sets + 1] = base .. 'pairs:' .. pairs_flat[i] .. ':' .. pairs_flat[i + 1]
  end
  if #sets == 0 then
    sets[1] = base .. 'submissions:' .. state
  end
  return sets
end

local function smallest_of(sets)
  local smallest, size
  for i, set in ipairs(sets) do
    local has = redis.call('ZCARD', set)
    if not size or has < size then
      smallest, size = i, has
    end
  end
  return smallest
end

-- Return whether a member of sets[known] is in all sets, and in one of the states (with commas).
local function is_in_all(id, sets, known, states)
  work = work + #sets
  for i, set in ipairs(sets) do
    if i ~= known and not redis.call('ZSCORE', set, id) then
      return false
    end
  end
  local state = redis.call('HGET', sub_key(id), 'state')
  return state and string.find(',' .. states .. ',', ',' .. state .. ',', 1, true) ~= nil
end
