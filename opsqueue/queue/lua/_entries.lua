-- Entries: reading many entries of the stream of reservations.

-- Read entries, by their ids; one that is not in the stream has none. Most of them are close
-- together, so that the range from the least to the greatest has most of them; the others are read
-- singly.
local function read_entries(ids, least, greatest)
  local entries = {}
  if #ids == 0 then
    return entries
  end
  local reservations = base .. 'reservations'
  for _, entry in ipairs(redis.call('XRANGE', reservations, least, greatest, 'COUNT', #ids)) do
    entries[entry[1]] = entry
  end
  for _, id in ipairs(ids) do
    entries[id] = entries[id] or redis.call('XRANGE', reservations, id, id)[1]
  end
  return entries
end
