-- Basic: strategies whose alternatives have no order, and no filter but one SelectOnly.
--
-- Nearest to the bare commands: what other strategies need is not there, since a server makes every
-- function anew at each call, and three of them take as long as a command.
local next_allowed, is_blocked, take_tokens, write_all_paces

-- Answers a submission and the number of its alternative, or nothing and ''.
local function pick(strategy, chance)
  for number, layers in ipairs(strategy) do
    local only = #layers > 1 and layers[1]
    local sets = only and {base .. 'meta:' .. only[2] .. ':' .. only[3]} or ready_sets()
    local id = best_of(sets, layers[#layers][1], chance)
    if id then
      return id, number
    end
  end
  return nil, ''
end
