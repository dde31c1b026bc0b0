-- Composed: strategies with limits, or with several orders and filters.
--
-- With _order.
local LOOK = 256  -- the most candidates that are compared
local TICKS_A_MS = 100000
local EPOCH_MS = 1735689600000  -- keeps ticks of 10 ns below 2^53
local BUCKETS_KEPT_MS = 10000  -- after the last one is full: a server's clock may be set back

-- The instant at which a bucket has a token again, and whether a limit of reserved chunks held back
-- work.
local next_allowed, is_blocked = nil, false

-- The functions are created when it is called, see _strategy.lua.
local function make_composed(order)
  local in_hand_lacking, split_label, least_busy = order.in_hand_lacking, order.split_label,
    order.least_busy
  local better, pick_by_first = order.better, order.pick_by_first

  local now_ticks = (now - EPOCH_MS) * TICKS_A_MS

  -- Filters. Each returns whether a submission with this value of its key may be worked on.

  local known_limits
  local function limit_of(kind, key, value)
    if known_limits == nil then
      -- Usually there are none, which is checked once in a script.
      known_limits = redis.call('EXISTS', base .. 'limits') == 1 and {}
    end
    if not known_limits then
      return false
    end
    local own, all = kind .. ':' .. key .. ':' .. value, kind .. ':' .. key
    if known_limits[own] == nil then
      local set = redis.call('HMGET', base .. 'limits', own, all)
      known_limits[own] = set[1] or set[2]
    end
    return known_limits[own]
  end

  local function bucket_of(layer, value)
    local interval, burst = tonumber(layer[3]), tonumber(layer[4])
    local own = limit_of('rate', layer[2], value)
    if own then
      interval, burst = string.match(own, '^(%d+),(%d+)$')
    end
    return tonumber(interval), tonumber(burst)
  end

  -- When buckets are full again, as it will be stored. Tokens taken by this script are stored
  -- before the index of the buckets is read, and at the end.
  local full_ats, unpaced = {}, {}
  local function full_at_of(key, value)
    local known = table_in(full_ats, key)
    known[value] = known[value]
      or tonumber(redis.call('HGET', base .. 'full_at:' .. key, value) or 0)
    return known[value]
  end

  -- A bucket that is full again is the same as none. Each write of a bucket examines some others
  -- and removes those that are full, so that a constant share of the stored ones is in use; all
  -- expire when the last one is full. Those without an expiry are from an earlier version.
  local function remove_full(key, written, latest)
    local buckets = base .. 'full_at:' .. key
    local some = redis.call('HRANDFIELD', buckets, 3 * written, 'WITHVALUES')
    local full = {}
    for i = 1, #some, 2 do
      if tonumber(some[i + 1]) <= now_ticks then
        full[#full + 1] = some[i]
      end
    end
    if #full > 0 then
      redis.call('HDEL', buckets, unpack(full))
    end
    local left_ms = redis.call('PTTL', buckets)
    if left_ms == -1 then
      if redis.call('HLEN', buckets) > LOOK then
        return
      end
      for _, full_at in ipairs(redis.call('HVALS', buckets)) do
        latest = math.max(latest, tonumber(full_at))
      end
    end
    local needed_ms = math.ceil((latest - now_ticks) / TICKS_A_MS) + BUCKETS_KEPT_MS
    if needed_ms > left_ms then
      redis.call('PEXPIRE', buckets, string.format('%.0f', needed_ms))
    end
  end

  local function write_paces(key)
    local written, latest = 0, 0
    for value in pairs(unpaced[key] or {}) do
      local full_at = full_ats[key][value]
      local text = string.format('%.0f', full_at)
      redis.call('HSET', base .. 'full_at:' .. key, value, text)
      redis.call('ZADD', base .. 'paced:' .. key, 'XX', text, value)
      written, latest = written + 1, math.max(latest, full_at)
    end
    unpaced[key] = nil
    if written > 0 then
      remove_full(key, written, latest)
    end
  end

  local function write_all_paces()
    for key in pairs(unpaced) do
      write_paces(key)
    end
  end

  -- The values whose buckets are the fullest.
  local function soonest_of(key, limit)
    write_paces(key)
    return redis.call('ZRANGE', base .. 'paced:' .. key, 0, limit - 1)
  end

  local function passes(layer, value)
    if layer[1] == 'select_only' then
      return value == layer[3]
    elseif not value then
      return true  -- no value, no limit
    elseif layer[1] == 'max' then
      local most = tonumber(limit_of('max', layer[2], value) or layer[3])
      if in_hand_of(layer[2], value) < most then
        return true
      end
      is_blocked = true
      return false
    end
    -- A bucket is stored as the tick at which it is full again. It has a token if taking one leaves
    -- it full no later than `burst` tokens from now.
    local interval, burst = bucket_of(layer, value)
    local wait_ticks = full_at_of(layer[2], value) + interval - now_ticks - burst * interval
    if wait_ticks <= 0 then
      return true
    end
    local at = now + math.ceil(wait_ticks / TICKS_A_MS)
    if not next_allowed or at < next_allowed then
      next_allowed = at
    end
    return false
  end

  local function value_of(id, key)
    local of_id = known_pairs[id]
    if not of_id then
      of_id = redis.call('HGETALL', sub_key(id) .. ':meta')
      known_pairs[id] = of_id
    end
    for i = 1, #of_id, 2 do
      if of_id[i] == key then
        return of_id[i + 1]
      end
    end
    return false
  end

  -- Return whether all filters of an alternative let a submission through.
  local function permits(layers, id)
    for i = 1, #layers - 1 do
      local kind = layers[i][1]
      if (kind == 'select_only' or kind == 'max' or kind == 'rate')
        and not passes(layers[i], value_of(id, layers[i][2])) then
        return false
      end
    end
    return true
  end

  -- Take tokens for a chunk that is reserved; one with more operations than tokens left borrows.
  local function take_tokens(layers, id, operations)
    for _, layer in ipairs(layers) do
      local key = layer[2]
      local value = layer[1] == 'rate' and value_of(id, key)
      if value then
        local interval = bucket_of(layer, value)
        local tokens = layer[5] == 'operations' and operations or 1
        local full_at = math.max(full_at_of(key, value), now_ticks) + tokens * interval
        full_ats[key][value] = full_at
        table_in(unpaced, key)[value] = true
      end
    end
  end

  -- Candidates: submissions that are compared one by one. The functions are created when it is
  -- called, since most reserves with a single limit don't need them.
  local function make_comparison()
    -- Candidates share many values, so each value's answer is remembered for the pick.
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

    -- Returns candidates, at most LOOK: the head of each group that the leading layer prefers, then
    -- the groups' others. Candidates that are equal in that layer are in the basic order.
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
        -- Submissions that lack the key are one more group.
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

    -- The rank that a value has in an order; smaller is first.
    local function rank_of(layer, value)
      if layer[1] == 'prefer_distinct' then
        return value and in_hand_of(layer[2], value) or in_hand_lacking(layer[2])
      elseif not value then
        return '~'  -- after every digit
      elseif layer[1] == 'lowest' then
        return sortable(value)
      end
      return complement(sortable(value))
    end

    -- For each order, a rank that no ready submission precedes.
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

    -- Returns the best candidate, and whether nothing can precede it. The first such candidate ends
    -- the comparison, since the candidates that can be such are in the basic order (see `gather`).
    local function best_candidate(candidates, top, filters, orders, basic, chance)
      local is_let_through, rank = remembering(passes), remembering(rank_of)
      local best, best_ranks
      for i = 1, #candidates do
        -- Random: start at any of them, since the first of equal ones is taken.
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

    -- Search a page of ready submissions after `from`, in the order of ids over all sets.
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

  -- A single rate limit: the best of all if its value has a token; else the best of the value whose
  -- bucket has had one for longest.
  local function pick_paced(layer, basic, chance)
    local best = best_of(ready_sets(), basic, chance)
    if not best or passes(layer, value_of(best, layer[2])) then
      return best
    end
    local lacking = best_of(ready_sets(layer[2]), basic, chance)
    for _, value in ipairs(soonest_of(layer[2], 16)) do
      if passes(layer, value) then
        local head = best_of({base .. 'meta:' .. layer[2] .. ':' .. value}, basic, chance)
        return better(lacking, head, basic, chance)
      end
    end
    return lacking
  end

  -- A single limit of chunks: the best of all if its value has fewer; else the best head of all the
  -- groups that the index shows below the limit.
  local function pick_limited(layer, basic, chance)
    local best_of_all = basic ~= 'random' and best_of(ready_sets(), basic, chance)
    if best_of_all and passes(layer, value_of(best_of_all, layer[2])) then
      return best_of_all
    end
    local best = best_of(ready_sets(layer[2]), basic, chance)
    local from, looked = '-inf', 0
    while looked < LOOK do
      local id, score = least_busy(layer[2], basic, chance, from, layer[3])
      if not id then
        break
      end
      if passes(layer, value_of(id, layer[2])) then
        best = better(best, id, basic, chance)
      end
      from = '(' .. score
      looked = looked + 1
    end
    return best
  end

  -- The parts of an alternative: filters, orders and the basic order; split once in a script.
  local parts = {}
  local function parts_of(layers)
    if not parts[layers] then
      local filters, orders = {}, {}
      for i = 1, #layers - 1 do
        local kind = layers[i][1]
        local is_filter = kind == 'select_only' or kind == 'max' or kind == 'rate'
        local list = is_filter and filters or orders
        list[#list + 1] = layers[i]
      end
      parts[layers] = {filters, orders, layers[#layers][1]}
    end
    return unpack(parts[layers])
  end

  -- If one filter alone lets nothing through, walking would not find anything either.
  local function lets_nothing_through(layer)
    local key = layer[2]
    if layer[1] == 'select_only' then
      return redis.call('EXISTS', base .. 'meta:' .. key .. ':' .. layer[3]) == 0
    end
    if best_of(ready_sets(key), 'oldest', 0) then
      return false
    end
    if layer[1] == 'max' then
      local most = tonumber(redis.call('HGET', base .. 'limits', 'most:' .. key) or 0)
      local default = tonumber(redis.call('HGET', base .. 'limits', 'max:' .. key) or layer[3])
      if least_busy(key, 'oldest', 0, '-inf', math.max(most, default)) then
        return false
      end
      is_blocked = true
      return true
    end
    for _, value in ipairs(soonest_of(key, LOOK)) do
      if passes(layer, value) then
        return false
      end
    end
    -- Values with their own rate may be allowed although their buckets are emptier.
    return redis.call('HEXISTS', base .. 'limits', 'own_rates:' .. key) == 0
      or redis.call('ZCARD', base .. 'paced:' .. key) <= LOOK
  end

  local comparison
  local function pick(layers, chance, from)
    local filters, orders, basic = parts_of(layers)
    local is_alone = #orders == 0 and #filters == 1
    if is_alone and from == '' then
      local alone = filters[1][1] == 'max' and pick_limited or pick_paced
      local id = alone(filters[1], basic, chance)
      if id then
        return id
      end
    end
    comparison = comparison or make_comparison()
    if from ~= '' then
      return comparison.walk(filters, from)
    end
    local top = comparison.best_ranks_of(orders)
    local best_candidate = comparison.best_candidate
    if not is_alone then
      -- The first order's choice is the best of all if it has the best possible rank in the other
      -- orders.
      local preferred = {pick_by_first(orders, basic, chance)}
      local id, is_top = best_candidate(preferred, top, filters, orders, basic, chance)
      if is_top then
        return id
      end
    end
    for _, layer in ipairs(filters) do
      if lets_nothing_through(layer) then
        return nil, ''
      end
    end
    local candidates = comparison.gather(filters, orders, basic)
    local best = best_candidate(candidates, top, filters, orders, basic, chance)
    if best or #filters == 0 then
      return best
    end
    return comparison.walk(filters, '')
  end

  return {permits = permits, pick = pick, take_tokens = take_tokens,
    write_all_paces = write_all_paces}
end
