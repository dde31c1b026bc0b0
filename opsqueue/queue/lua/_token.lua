-- Token: the name of a reservation.

-- A token is the entry's id and its chunk: "ENTRY:ID:INDEX". The entry's id alone would not be
-- enough: a server that lost its last writes (a crash, a fail-over to a replica that lagged) and
-- whose clock is behind uses the ids of lost entries a second time, for other chunks. What remains
-- possible is a late report of the same chunk, whose output is as good as the new one's.
local function token_of(entry)
  return entry[1] .. ':' .. entry[2][2] .. ':' .. entry[2][4]
end
