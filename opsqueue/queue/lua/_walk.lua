-- Walk: the last phase of a repair, over the submissions in the order of their ids, and in each
-- over the chunks below the cursor; see repair.lua.
--
-- With _in_hand, _reservation.
local PAGE_BYTES = 4096  -- of a bitmap, read at once
local SUBMISSION_COST = 3  -- as many commands as for this number of chunks
local DONE_COST = 1 / 32  -- for examining a done chunk, or eight of them: no command

-- Its position: a bound of the submissions' ids, and a chunk of the first of them. `left` may still
-- be examined in this call. Then what this repair examined, and what this call freed.
local walk = {from = '-', index = 0, left = 0, submissions = 0, chunks = 0, freed = 0}

local function next_submission()
  local first
  for _, state in ipairs({'in_progress', 'failed', 'cancelled'}) do
    local set = base .. 'submissions:' .. state
    local id = redis.call('ZRANGEBYLEX', set, walk.from, '+', 'LIMIT', 0, 1)[1]
    if id and (not first or id < first) then
      first = id
    end
  end
  return first
end

-- Examine chunks from `walk.index` on, at most a page of the bitmap; return the lost ones.
local function lost_chunks(id, cursor)
  local key, lost = sub_key(id), {}
  local page = math.floor(walk.index / 8)
  local bits = redis.call('GETRANGE', key .. ':done', page, page + PAGE_BYTES - 1)
  local page_end = math.min(cursor, (page + PAGE_BYTES) * 8)
  while walk.index < page_end and walk.left > 0 do
    local byte = string.byte(bits, math.floor(walk.index / 8) - page + 1) or 0
    local step = 1
    if byte == 255 and walk.index % 8 == 0 then
      step = math.min(8, page_end - walk.index)
      walk.left = walk.left - DONE_COST
    elseif math.floor(byte / 2 ^ (7 - walk.index % 8)) % 2 == 1 then
      walk.left = walk.left - DONE_COST
    else
      walk.left = walk.left - 1
      local name = id .. ':' .. string.format('%.0f', walk.index)
      if redis.call('SISMEMBER', base .. 'repair:held', name) == 0
        and not redis.call('ZSCORE', key .. ':redo', walk.index)
        and not redis.call('ZSCORE', base .. 'delayed', name) then
        lost[#lost + 1] = walk.index
      end
    end
    walk.index, walk.chunks = walk.index + step, walk.chunks + step
  end
  return lost
end

local function free(id, state, lost)
  for _, i in ipairs(lost) do
    redis.call('ZADD', sub_key(id) .. ':redo', i, i)
    mark_again(id, i, state)
  end
  count_in_hand(id, -#lost)
  if state == 'in_progress' then
    enter_ready(id)
  end
  walk.freed = walk.freed + #lost
end

-- Returns whether it reached the end of all submissions.
local function look_at_submissions()
  while walk.left > 0 do
    local id = next_submission()
    if not id then
      return true
    end
    if walk.from ~= '[' .. id then
      walk.from, walk.index = '[' .. id, 0
      walk.submissions = walk.submissions + 1
      walk.left = walk.left - SUBMISSION_COST
    end
    local row = redis.call('HMGET', sub_key(id), 'state', 'cursor')
    local cursor = tonumber(row[2])
    -- At least one chunk, or a walk with limit 1 would make no progress.
    walk.left = math.max(walk.left, DONE_COST)
    local lost = lost_chunks(id, cursor)
    if #lost > 0 then
      free(id, row[1], lost)
    end
    if walk.index >= cursor then
      walk.from, walk.index = '(' .. id, 0
    end
  end
  return false
end
