-- Candidate: submissions that a strategy of several orders and filters compares one by one.
--
-- With _order, _limit.
local LOOK = 256

-- Its functions are made when it is called, see _strategy.lua.
local function make_comparison(order, limits)
  local in_hand_lacking, split_label, least_busy = order.in_hand_lacking, order.split_label,
    order.least_busy
  local passes, value_of, soonest_of = limits.passes, limits.value_of, limits.soonest_of

  -- Candidates share many values, and what is asked about one is asked for each: so once a pick.
  local function remembering(ask)
    local answers = {}
    return function(layer, value)
      local of_layer = answers[layer]
      if not of_layer then
        of_layer = {}
        answers[layer] = of_layer
      end
      local known = value or 'none'
      if of_layer[known] == nil then
        of_layer[known] = ask(layer, value)
      end
      return of_layer[known]
    end
  end

  local function passes_all(filters, id, ask)
    for _, layer in ipairs(filters) do
      if not ask(layer, value_of(id, layer[2])) then
        return false
      end
    end
    return true
  end

  -- Candidates, at most LOOK: the head of each group that the leading layer prefers, then the
  -- groups' others. Those that are equal in it are in the basic order.
  local function gather(filters, orders, basic)
    local candidates, is_there = {}, {}
    local function add(id)
      if id and not is_there[id] and #candidates < LOOK then
        is_there[id] = true
        candidates[#candidates + 1] = id
      end
    end
    local function add_members(set)
      local command = basic == 'newest' and 'ZREVRANGE' or 'ZRANGE'
      for _, id in ipairs(redis.call(command, set, 0, LOOK - 1)) do
        add(id)
      end
    end
    for _, layer in ipairs(filters) do
      if layer[1] == 'select_only' then
        add_members(base .. 'meta:' .. layer[2] .. ':' .. layer[3])
        return candidates
      end
    end
    local leading = orders[1] or filters[1]
    local key = leading[2]
    local values = {}
    if leading[1] == 'highest' or leading[1] == 'lowest' then
      local command = leading[1] == 'highest' and 'ZREVRANGE' or 'ZRANGE'
      for i, group in ipairs(redis.call(command, base .. 'value:' .. key, 0, LOOK - 1)) do
        values[i] = string.sub(group, 21)
      end
    elseif leading[1] == 'rate' then
      values = soonest_of(key, LOOK / 2)
    else
      local name = basic == 'newest' and 'newest' or 'oldest'
      score_groups(name, key)
      local index = base .. name .. ':' .. key
      for i, label in ipairs(redis.call('ZRANGE', index, 0, LOOK / 2 - 1)) do
        local head, value = split_label(label)
        values[i] = value
        add(head)
      end
      -- Submissions that lack the key are one group more.
      add(best_of(ready_sets(key), basic, 0))
    end
    for _, value in ipairs(values) do
      if #candidates < LOOK then
        add_members(base .. 'meta:' .. key .. ':' .. value)
      end
    end
    for _, set in ipairs(ready_sets(key)) do
      if #candidates < LOOK then
        add_members(set)
      end
    end
    if #values == 0 or leading[1] ~= 'highest' and leading[1] ~= 'lowest' then
      table.sort(candidates, basic == 'newest' and function(a, b) return a > b end or nil)
    end
    return candidates
  end

  -- The place that a value gives in an order, smaller first.
  local function rank_of(layer, value)
    if layer[1] == 'prefer_distinct' then
      return value and in_hand_of(layer[2], value) or in_hand_lacking(layer[2])
    elseif not value then
      return '~'  -- behind every digit
    elseif layer[1] == 'lowest' then
      return sortable(value)
    end
    return complement(sortable(value))
  end

  -- A place in each order that no ready submission is in front of.
  local function best_ranks_of(orders)
    local ranks = {}
    for i, layer in ipairs(orders) do
      local key = layer[2]
      if layer[1] == 'prefer_distinct' then
        local _, least = least_busy(key, 'oldest', 0, '-inf', 'inf')
        local lacking = best_of(ready_sets(key), 'oldest', 0) and in_hand_lacking(key)
        ranks[i] = math.min(least or lacking or 0, lacking or least or 0)
      else
        local index = base .. 'value:' .. key
        local group = layer[1] == 'highest' and last_of(index) or first_of(index)
        local digits = group and string.sub(group, 1, 20)
        ranks[i] = not digits and '~' or layer[1] == 'highest' and complement(digits) or digits
      end
    end
    return ranks
  end

  local function comes_before(a, ranks_a, b, ranks_b, basic)
    for i, rank in ipairs(ranks_a) do
      if rank ~= ranks_b[i] then
        return rank < ranks_b[i]
      end
    end
    return (basic == 'oldest' and a < b) or (basic == 'newest' and a > b)
  end

  -- The best candidate, and whether nothing can be in front of it: the first such one ends the
  -- comparison, since candidates that may be are in the basic order (see `gather`).
  local function best_candidate(candidates, top, filters, orders, basic, chance)
    local is_let_through, rank = remembering(passes), remembering(rank_of)
    local best, best_ranks
    for i = 1, #candidates do
      -- At random: from any of them on, since of equal ones the first is taken.
      local id = candidates[basic == 'random' and (i + chance) % #candidates + 1 or i]
      if passes_all(filters, id, is_let_through) then
        local ranks, is_top = {}, true
        for number, layer in ipairs(orders) do
          ranks[number] = rank(layer, value_of(id, layer[2]))
          is_top = is_top and ranks[number] == top[number]
        end
        if is_top then
          return id, true
        end
        if not best or comes_before(id, ranks, best, best_ranks, basic) then
          best, best_ranks = id, ranks
        end
      end
    end
    return best, false
  end

  -- The page of ready submissions after `from`, in the order of ids over all sets.
  local function walk(filters, from)
    local page = {}
    for _, set in ipairs(ready_sets()) do
      local start = from == '' and '-' or '(' .. from
      for _, id in ipairs(redis.call('ZRANGEBYLEX', set, start, '+', 'LIMIT', 0, LOOK)) do
        page[#page + 1] = id
      end
    end
    table.sort(page)
    local is_let_through = remembering(passes)
    for i = 1, math.min(#page, LOOK) do
      if passes_all(filters, page[i], is_let_through) then
        return page[i]
      end
    end
    return nil, page[LOOK] or ''
  end

  return {gather = gather, best_ranks_of = best_ranks_of, best_candidate = best_candidate,
    walk = walk}
end
