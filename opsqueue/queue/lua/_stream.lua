-- Stream: the stream of reservations and its group, made anew where they are gone.
--
-- With _lost.

-- The stream or its group is gone: no reservation made before holds any more, and which chunks were
-- in hand is found out by `repair`, bounded step by bounded step, from its start: what one under
-- way has read of the old stream holds no longer.
--
-- A new stream would begin its ids anew: within a millisecond, or on a server whose clock is
-- behind, a token from before would name some other chunk, and a late report would complete that
-- one. So the new ids begin after the fence: an entry added and removed moves the stream there.
-- Given the number of entries, if any, that the script that notices it has just added.
local function reset_reservations(added)
  local reservations, time = base .. 'reservations', redis.call('TIME')
  local last_fence = tonumber(redis.call('GET', base .. 'fence') or 0)
  local fence = string.format('%.0f', math.max(tonumber(time[1]) * 1000, last_fence) + 2000)
  redis.call('SET', base .. 'fence', fence)
  local left = redis.call('XLEN', reservations) - (added or 0)
  if left > 0 then
    note_lost(left)
  end
  redis.call('DEL', reservations, base .. 'repair')
  redis.call('UNLINK', base .. 'repair:held')
  redis.call('XADD', reservations, fence, 'tokens', 'after')
  redis.call('XDEL', reservations, fence .. '-0')
  redis.call('XGROUP', 'CREATE', reservations, 'workers', '0')
  begin_repair()
end

local function is_nogroup(answer)
  return type(answer) == 'table' and answer.err ~= nil
    and string.find(tostring(answer.err), 'NOGROUP', 1, true) ~= nil
end
