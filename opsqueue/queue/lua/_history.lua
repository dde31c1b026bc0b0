-- History: whether this server is the one that had the last writes.
--
-- A server that starts again, or takes over from another, may lack the last writes. Then chunks
-- that were completed, and whose outputs are in the store, are reserved as if they were new. The
-- server's replication id detects this: each history of writes has its own.

-- Return the stamp (see _insert) up to which submissions may have such outputs; false if none may.
-- `history` and `suspect` are the present values.
local function last_suspect(history, suspect)
  local known, known_save, looked_at = string.match(history or '', '^(%x+) (%d+) (%d+)$')
  -- INFO costs more than all the rest of a small reserve. LASTSAVE is the start of a server until
  -- it saves, so it detects a restart; a fail-over takes longer than a second.
  local save = redis.pcall('LASTSAVE')
  if known and tonumber(known_save) == save and math.abs(now - looked_at) < 1000 then
    return suspect
  end
  -- An ACL user may lack it, as fakeredis does: then nothing is suspected.
  local info = redis.pcall('INFO', 'replication')
  local id = type(info) == 'string' and string.match(info, 'master_replid:(%x+)')
  if not id or type(save) ~= 'number' then
    return suspect
  end
  redis.call('SET', base .. 'history', string.format('%s %.0f %.0f', id, save, now))
  local last = known and known ~= id and redis.call('GET', base .. 'last_id')
  if not last then
    return suspect
  end
  redis.call('SET', base .. 'suspect', last)
  return last
end
