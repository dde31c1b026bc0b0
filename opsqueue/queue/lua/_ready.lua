-- Ready: submissions with a chunk to reserve, and the best of them by a basic order.
--
-- Submissions without strategic metadata are in `ready`, those with it in `ready:SIGNATURE`. The
-- signature is their keys, so those that lack a key are found without reading each.
--
-- With _index.
local signatures
local sets_lacking = {}
-- Return the sets of ready submissions that lack the key; without a key, all sets.
local function ready_sets(lacking)
  local sets = sets_lacking[lacking or '']
  if sets then
    return sets
  end
  signatures = signatures or redis.call('SMEMBERS', base .. 'signatures')
  sets = {base .. 'ready'}
  sets_lacking[lacking or ''] = sets
  for _, signature in ipairs(signatures) do
    local has = lacking and string.find(',' .. signature .. ',', ',' .. lacking .. ',', 1, true)
    if not has then
      sets[#sets + 1] = base .. 'ready:' .. signature
    end
  end
  return sets
end

local function size_of(set)
  sizes[set] = sizes[set] or redis.call('ZCARD', set)
  return sizes[set]
end

-- The best of some sets by a basic order; exact. Random: all submissions have equal probability.
local function best_of(sets, basic, chance)
  local best
  if basic == 'random' then
    local total = 0
    for _, set in ipairs(sets) do
      total = total + size_of(set)
    end
    local at = total > 0 and chance % total or 0
    for _, set in ipairs(sets) do
      if at < size_of(set) then
        return redis.call('ZRANDMEMBER', set, 1)[1]
      end
      at = at - size_of(set)
    end
    return nil
  end
  for _, set in ipairs(sets) do
    local id = basic == 'oldest' and first_of(set) or basic == 'newest' and last_of(set)
    if id and (not best or (basic == 'oldest' and id < best) or (basic == 'newest' and id > best))
    then
      best = id
    end
  end
  return best
end
