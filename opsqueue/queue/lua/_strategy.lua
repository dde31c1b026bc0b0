-- Strategy: orders and filters combined.
--
-- `pick(strategy, chance)` returns the submission from which the next chunk is taken. A strategy is
-- a list of alternatives, each tried if those before it find nothing; an alternative is a list of
-- layers that ends with "oldest", "newest" or "random":
--
-- {"select_only", key, value}      filter: only submissions with that pair
-- {"max", key, n}                  filter: values with fewer than n reserved chunks
-- {"rate", key, interval, burst, unit}  filter: values with a token in their bucket
-- {"prefer_distinct", key}         order: fewest reserved chunks of the same value first
-- {"highest", key}, {"lowest", key}  order: by value; without the key: last
--
-- One order over one index is exact and logarithmic. If there are several orders or filters, up to
-- LOOK candidates are compared (see _composed.lua); if none of these passes, the rest is walked in
-- pages.
--
-- A server creates every function again at each call, and three of them take as long as a command.
-- So functions that only some strategies need are created by functions that are called when needed:
-- otherwise reserve_chunks of one chunk with a basic order would take a quarter longer.
--
-- With _composed, _order, _ready.
local order, composed

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
  composed = composed or make_composed(order)
  return composed.pick(layers, chance, from)
end

-- Returns a submission, or nothing and where to continue the search ('' if there is nothing).
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

