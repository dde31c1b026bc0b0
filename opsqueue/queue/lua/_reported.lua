-- Reported: ends many reservations at once.
--
-- With _entries, _reservation.

-- End the reservations of tokens like end_reservation, all at once. An entry exists as long as it
-- is pending, since both end in one script. If none is pending, the group is gone or a new one. (If
-- an operator acknowledged some of several, their reports are accepted: nobody else can have their
-- chunks while the entries exist.) Returns the fields of the entries by token; a token without
-- fields is lost.
local function end_reservations(tokens)
  local reservations, ids, named, least, greatest = base .. 'reservations', {}, {}, nil, nil
  for n, token in ipairs(tokens) do
    local id = string.match(token, '^%d+%-%d+') or false
    ids[n], named[#named + 1] = id, id or nil
    if id and (not greatest or is_before(greatest, id)) then
      greatest = id
      least = least or id
    elseif id and is_before(id, least) then
      least = id
    end
  end
  local entries = read_entries(named, least, greatest)
  local held, fields, missing = {}, {}, {}
  for n, token in ipairs(tokens) do
    local id = ids[n]
    local entry = id and entries[id]
    if entry == nil then
      missing[#missing + 1] = id
    end
    -- An id with leading zeros would be a second name.
    if entry and id == entry[1] and is_reservation(entry)
      and (token == token_of(entry) or token == id) then
      held[#held + 1] = id
      fields[token] = entry[2]
      entries[id] = false  -- an entry ends once, whatever name is used
    end
  end
  if #missing > 0 then
    acknowledge_lost(missing)
  end
  if #held == 0 then
    return {}
  elseif redis.call('XACK', reservations, 'workers', unpack(held)) == 0 then
    for token, f in pairs(fields) do
      free_unheld(string.match(token, '^%d+%-%d+'), f)
    end
    return {}
  end
  redis.call('XDEL', reservations, unpack(held))
  return fields
end
