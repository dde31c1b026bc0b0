-- Stream: the stream of reservations and its group, and creating them again when they are gone.
--
-- With _lost.

-- Replace the stream when it or its group is gone. No earlier reservation is valid any more. A
-- `repair` finds out which chunks were reserved, in bounded steps and from its start: what a repair
-- in progress has read of the old stream is no longer valid.
--
-- A new stream would start its ids again. Within a millisecond, or on a server whose clock is
-- behind, an earlier token would name some other chunk, and a late report would complete that one.
-- So the new ids begin after the fence: an entry added and removed moves the stream there.
-- `added`: the number of entries, if any, that the calling script has just added.
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
