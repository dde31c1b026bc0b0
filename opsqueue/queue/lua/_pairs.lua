-- Pairs: a submission's strategic metadata, and the index of look-ups.

-- A submission's pairs of strategic metadata are in the index of look-ups until it is forgotten.
local function change_pairs(id, command)
  local pairs_flat = redis.call('HGETALL', sub_key(id) .. ':meta')
  work = work + 2 * #pairs_flat
  for i = 1, #pairs_flat, 2 do
    local set = base .. 'pairs:' .. pairs_flat[i] .. ':' .. pairs_flat[i + 1]
    if command == 'ZADD' then
      redis.call('ZADD', set, 0, id)
    else
      redis.call('ZREM', set, id)
    end
  end
end

-- Store the keys of a submission's strategic metadata, as in `ready:SIGNATURE`.
local function sign(id)
  local names = redis.call('HKEYS', sub_key(id) .. ':meta')
  if #names == 0 then
    redis.call('HDEL', sub_key(id), 'signature')
  else
    table.sort(names)
    local signature = table.concat(names, ',')
    redis.call('HSET', sub_key(id), 'signature', signature)
    -- Older programs would pass the encoded key to handlers.
    if format < 2 and string.find(signature, '%', 1, true) then
      redis.call('SET', base .. 'format', 2)
    end
  end
end
