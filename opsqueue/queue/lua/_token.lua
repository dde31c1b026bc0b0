-- Token: what names a reservation.

-- A token is the entry's id and what it is for: "ENTRY:ID:INDEX". The entry's id alone would not
-- do: a server that lost its last writes (a crash, a fail-over to a replica that lagged) and whose
-- clock is behind gives the ids of lost entries a second time, for other chunks. What is left is a
-- late report of the same chunk, whose output is as good as the new one's.
local function token_of(entry)
  return entry[1] .. ':' .. entry[2][2] .. ':' .. entry[2][4]
end
