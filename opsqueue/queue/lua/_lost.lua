-- Lost: reservations of which one half was removed by something other than our scripts, or a crash.

-- Begin to look for chunks in no state; see repair.lua. A repair in progress examines once more
-- what it has already examined. (A hash without a phase is that of an older version.)
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

-- Reservations that this script found to be lost. A reservation has two halves, the entry in the
-- stream and its pending state for a worker; something other than our scripts has removed one.
local lost_now = 0
local function note_lost(number)
  lost_now = lost_now + number
  count('reservations_lost', number)
end
