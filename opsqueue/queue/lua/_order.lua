-- Order: what a strategy prefers among ready submissions; exact and logarithmic, by indexes.
--
-- Indexes by key hold groups; a group is the ready submissions with one value:
--
-- meta:KEY:VALUE  zset  the group's submissions; score 0, by id
-- oldest:KEY      zset  "FIRST_ID:VALUE" of each group, scored by reserved chunks
-- newest:KEY      zset  "LAST_ID:VALUE" likewise
-- value:KEY       zset  sortable value and VALUE of each group; score 0
-- paced:KEY       zset  VALUE of each group -> tick at which its bucket is full again
--
-- With _handout, _in_hand, _ready.

-- The functions are created when it is called, see _strategy.lua.
local function make_order()
  -- Reserved chunks of submissions that lack the key: all, less those of submissions that have it.
  -- The stream does not have this call's chunks yet.
  local reserved_before
  local having_before = {}
  local function in_hand_lacking(key)
    reserved_before = reserved_before or redis.call('XLEN', base .. 'reservations')
    having_before[key] = having_before[key]
      or tonumber(redis.call('HGET', base .. 'inhand', key) or 0)
    return reserved_before + taken - having_before[key] - (in_hand_changes[key] or 0)
  end

  local function split_label(label)
    return string.match(label, '^(%d+):(.*)$')
  end

  -- Remember what an index says about a group, which would have to be read otherwise.
  local function learn_group(order, key, label, score)
    local id, value = split_label(label)
    local known, members = table_in(in_hand, key), base .. 'meta:' .. key .. ':' .. value
    known[value] = known[value] or score
    if order == 'oldest' then
      firsts[members] = id
    else
      lasts[members] = id
    end
    return {id = id, value = value, members = members}
  end

  -- The groups with the fewest reserved chunks, all the same number, as far as this call may need
  -- them. A group of which a chunk is taken has more than the others from then on. So the groups
  -- follow one another, and neither their index nor its scores are needed in between.
  local equals = {}
  local function first_of_equals(order, key)
    local index, heads = base .. order .. ':' .. key, order == 'oldest' and firsts or lasts
    local level = equals[index]
    while level and level[level.at] do
      local group = level[level.at]
      if heads[group.members] ~= group.id then
        break  -- its head is no longer in the group
      elseif in_hand[key][group.value] == level.score then
        return group.id, level.score
      end
      level.at = level.at + 1
    end
    score_groups(order, key)
    local wanted = math.min(100, math.max(1, asked - taken))
    local last = order == 'oldest' and wanted - 1 or 0
    local found = redis.call('ZRANGE', index, 0, last, 'WITHSCORES')
    if not found[1] then
      return nil
    end
    level = {score = tonumber(found[2]), at = 1}
    equals[index] = level
    if order == 'newest' then
      local labels = redis.call('ZREVRANGEBYSCORE', index, found[2], found[2], 'LIMIT', 0, wanted)
      for i, label in ipairs(labels) do
        level[i] = learn_group(order, key, label, level.score)
      end
    else
      for i = 1, #found, 2 do
        if found[i + 1] ~= found[2] then
          break
        end
        level[#level + 1] = learn_group(order, key, found[i], level.score)
      end
    end
    return level[1].id, level.score
  end

  -- The group with the fewest reserved chunks (at least `from`, fewer than `below`), ties in the
  -- basic order; returns the submission and its count.
  local function least_busy(key, basic, chance, from, below)
    local order = basic == 'newest' and 'newest' or 'oldest'
    if basic ~= 'random' and from == '-inf' and below == 'inf' then
      return first_of_equals(order, key)
    end
    score_groups(order, key)
    local index = base .. order .. ':' .. key
    local low = redis.call('ZRANGEBYSCORE', index, from, '(' .. below, 'WITHSCORES', 'LIMIT', 0, 1)
    if not low[1] then
      return nil
    end
    local label, score = low[1], tonumber(low[2])
    if basic == 'newest' then
      label = redis.call('ZREVRANGEBYSCORE', index, score, score, 'LIMIT', 0, 1)[1]
    elseif basic == 'random' then
      local before = redis.call('ZCOUNT', index, '-inf', '(' .. low[2])
      local at = before + chance % redis.call('ZCOUNT', index, score, score)
      label = redis.call('ZRANGE', index, at, at)[1]
    end
    local group = learn_group(order, key, label, score)
    if basic == 'random' then
      return redis.call('ZRANDMEMBER', group.members, 1)[1], score
    end
    return group.id, score
  end

  local function better(a, b, basic, chance)
    if not a or not b then
      return a or b
    end
    if basic == 'random' then
      return chance % 2 == 0 and a or b
    end
    if basic == 'oldest' then
      return a < b and a or b
    end
    return a > b and a or b
  end

  local function pick_distinct(key, basic, chance)
    local keyed, count_keyed = least_busy(key, basic, chance, '-inf', 'inf')
    local lacking = best_of(ready_sets(key), basic, chance)
    if keyed and lacking then
      local count_lacking = in_hand_lacking(key)
      if count_keyed ~= count_lacking then
        return count_keyed < count_lacking and keyed or lacking
      end
    end
    return better(keyed, lacking, basic, chance)
  end

  local function pick_by_value(key, is_highest, basic, chance)
    local index = base .. 'value:' .. key
    local group = is_highest and last_of(index) or not is_highest and first_of(index)
    if not group then
      return best_of(ready_sets(key), basic, chance)
    end
    local value = string.sub(group, 21)
    return best_of({base .. 'meta:' .. key .. ':' .. value}, basic, chance)
  end

  -- The exact choice of the first order, or of the basic one if there is no other.
  local function pick_by_first(orders, basic, chance)
    local layer = orders[1]
    if not layer then
      return best_of(ready_sets(), basic, chance)
    elseif layer[1] == 'prefer_distinct' then
      return pick_distinct(layer[2], basic, chance)
    end
    return pick_by_value(layer[2], layer[1] == 'highest', basic, chance)
  end

  return {in_hand_lacking = in_hand_lacking, split_label = split_label, least_busy = least_busy,
    better = better, pick_by_first = pick_by_first}
end
