-- count_cells: reading.
--
-- Counts of chunks in cells of equal size, for a part of a submission: how many of each cell are
-- done, and how many of these have operations that failed.
--
-- KEYS[1] base        prefix of the queue's keys
-- ARGV[1] now         see _prelude
-- ARGV[2] id
-- ARGV[3] chunks      in a cell: 1, or a multiple of 8, which are whole bytes of the bitmaps
-- ARGV[4] first_cell  of the part
-- ARGV[5] limit       the most cells
--
-- Returns {"counted", state, chunks_total, done, errors}, or {"unknown"}: done and errors have a
-- number for each cell; done is empty once the submission has completed (all are done then), errors
-- is empty if there are none.
local key, size, first = sub_key(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local row = redis.call('HMGET', key, 'state', 'chunks_total', 'operations_failed')
local state, total = row[1], tonumber(row[2])
if not state then
  return {'unknown'}
end
local last = math.min(first + tonumber(ARGV[5]), math.ceil(total / size)) - 1

local function counts_of(bitmap)
  local counts = {}
  for cell = first, last do
    local at = cell * size / 8
    counts[#counts + 1] = size == 1 and redis.call('GETBIT', bitmap, cell)
      or redis.call('BITCOUNT', bitmap, string.format('%.0f', at),
        string.format('%.0f', at + size / 8 - 1))
  end
  return counts
end
return {'counted', state, total,
  state == 'completed' and {} or counts_of(key .. ':done'),
  tonumber(row[3]) > 0 and counts_of(key .. ':errors') or {}}
