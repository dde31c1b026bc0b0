-- Ordered: strategies whose alternatives have no filter, and one order at most.
--
-- In place of _limit, _candidate and _strategy: see _basic.
local next_allowed, is_blocked, take_tokens, write_all_paces

-- Answers a submission and the number of its alternative, or nothing and ''.
local function pick(strategy, chance)
  for number, layers in ipairs(strategy) do
    local order = #layers > 1 and layers[1] or nil
    local id = pick_by_first({order}, layers[#layers][1], chance)
    if id then
      return id, number
    end
  end
  return nil, ''
end
