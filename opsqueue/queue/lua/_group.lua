-- Group: the consumer group of the stream of reservations.

-- Return the numbers of pending entries and of consumers: nil if there is no stream or no group, -1
-- if an ACL does not permit the question yet. (XPENDING would also return each of thousands of
-- workers.)
local function size_of_group()
  local groups = redis.pcall('XINFO', 'GROUPS', base .. 'reservations')
  if groups.err and redis.call('EXISTS', base .. 'reservations') == 1 then
    return -1, -1
  end
  for _, group in ipairs(groups.err and {} or groups) do
    local of = {}
    for i = 1, #group, 2 do
      of[group[i]] = group[i + 1]
    end
    if of.name == 'workers' then
      return of.pending, of.consumers
    end
  end
  return nil
end
