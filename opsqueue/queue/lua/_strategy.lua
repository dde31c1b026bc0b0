-- Strategy: orders and filters together.
--
-- `pick(strategy, chance)` answers the submission that the next chunk is taken from. A strategy is
-- a list of alternatives, each tried where the ones before it find nothing; an alternative is a
-- list of layers that ends in "oldest", "newest" or "random":
--
-- {"select_only", key, value}      filter: only submissions with that pair
-- {"max", key, n}                  filter: values with fewer than n chunks in hand
-- {"rate", key, interval, burst, unit}  filter: values with a token in their bucket
-- {"prefer_distinct", key}         order: fewest chunks in hand of the same value first
-- {"highest", key}, {"lowest", key}  order: by value; without the key: last
--
-- One order over one index is exact and logarithmic. Where several orders or filters meet, up to
-- LOOK candidates are compared (see _candidate.lua); where none of these passes, the rest is walked
-- in pages.
--
-- A server makes every function anew at each call, and three of them take as long as a command. So
-- what only some strategies need is made by functions that are called when it is needed:
-- reserve_chunks of one chunk with a basic order would take half as long again otherwise.
--
-- With _candidate, _limit, _order, _ready.
local order, limits, composed

local function make_composed()
  local least_busy, better, pick_by_first = order.least_busy, order.better, order.pick_by_first
  local passes, value_of, soonest_of = limits.passes, limits.value_of, limits.soonest_of

  -- A rate limit alone: the best of all, if its value has a token; else of the value that has had
  -- one for longest.
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

  -- A number of chunks alone: the best of all, if its value has fewer; else the best head of all
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

  -- The parts of an alternative: filters, orders, and the basic order; taken apart once a script.
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

  -- Where one filter alone lets nothing through, walking would find nothing, too.
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
    -- Values with a rate of their own may be allowed although their buckets are emptier.
    return redis.call('HEXISTS', base .. 'limits', 'own_rates:' .. key) == 0
      or redis.call('ZCARD', base .. 'paced:' .. key) <= LOOK
  end

  local comparison
  local function pick_composed(layers, chance, from)
    local filters, orders, basic = parts_of(layers)
    local is_alone = #orders == 0 and #filters == 1
    if is_alone and from == '' then
      local alone = filters[1][1] == 'max' and pick_limited or pick_paced
      local id = alone(filters[1], basic, chance)
      if id then
        return id
      end
    end
    comparison = comparison or make_comparison(order, limits)
    if from ~= '' then
      return comparison.walk(filters, from)
    end
    local top = comparison.best_ranks_of(orders)
    local best_candidate = comparison.best_candidate
    if not is_alone then
      -- What the first order prefers is the best of all where it is as good as can be in the
      -- others.
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

  return pick_composed
end

local function pick_one(layers, chance, from)
  local kind, basic = layers[1][1], layers[#layers][1]
  if #layers == 1 then
    return best_of(ready_sets(), basic, chance)
  elseif #layers == 2 and kind == 'select_only' then
    return best_of({base .. 'meta:' .. layers[1][2] .. ':' .. layers[1][3]}, basic, chance)
  end
  order = order or make_order()
  if #layers == 2 and kind ~= 'max' and kind ~= 'rate' then
    return order.pick_by_first(layers, basic, chance)
  end
  limits = limits or make_limits()
  composed = composed or make_composed()
  return composed(layers, chance, from)
end

-- Answers a submission, or nothing and where to go on looking ('' when there is nothing).
local function pick(strategy, chance, from)
  for number, layers in ipairs(strategy) do
    local own_from = ''
    if from ~= '' then
      local at, id = string.match(from, '^(%d+):(.*)$')
      if tonumber(at) == number then
        own_from = id
      elseif tonumber(at) > number then
        own_from = nil
      end
    end
    if own_from then
      local id, rest = pick_one(layers, chance, own_from)
      if id then
        return id, number
      elseif rest and rest ~= '' then
        return nil, number .. ':' .. rest
      end
    end
  end
  return nil, ''
end

