-- Lost: reservations of which something other than our scripts, or a crash, removed a half.

-- Begin to look for chunks that are nowhere; see repair.lua. What a repair under way has looked at
-- already, it looks at once more. (A hash without a phase is that of an older version.)
local function begin_repair()
  local repair = base .. 'repair'
  local at = redis.call('HMGET', repair, 'phase', 'from')
  if not at[1] then
    redis.call('DEL', repair)
    redis.call('HSET', repair, 'phase', 'pending', 'from', '-')
  elseif at[1] ~= 'pending' or at[2] ~= '-' then
    redis.call('HSET', repair, 'again', 1)
  end
end

-- Reservations found by this script to be lost: of their two halves, the entry in the stream and
-- that it is pending for a worker, something other than our scripts has removed one.
local lost_now = 0
local function note_lost(number)
  lost_now = lost_now + number
  count('reservations_lost', number)
end
