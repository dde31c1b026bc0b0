-- list_delayed: reading.
--
-- The chunks of a submission that wait for the end of a back-off, in the order they are due, or as
-- suspects for a worker; and those that have used attempts, whether they wait or not.
--
-- KEYS[1] base   prefix of the queue's keys
-- ARGV[1] now    see _prelude
-- ARGV[2] id
-- ARGV[3] limit  the most delayed chunks of the queue to examine, and about as many retried ones
--
-- Returns {"listed", delayed, is_partial, retried, retried_total}: delayed {index, due_at,
-- attempts_used, is_suspect} each, retried {index, attempts_used} each; is_partial 1 if the queue
-- has more delayed chunks than were examined. retried_total includes chunks that were in hand
-- before without using an attempt, if they are not among those examined.
local id, limit = ARGV[2], tonumber(ARGV[3])
local attempts = sub_key(id) .. ':attempts'

local delayed, indexes, names = {}, {}, {}
local rows = redis.call('ZRANGE', base .. 'delayed', 0, limit - 1, 'WITHSCORES')
for i = 1, #rows, 2 do
  local of, index = string.match(rows[i], '^(%d+):(%d+)$')
  if of == id then
    indexes[#indexes + 1], names[#names + 1] = index, rows[i]
    delayed[#delayed + 1] = {tonumber(index), tonumber(rows[i + 1])}
  end
end
local PAGE = 1000  -- of one command's arguments
for first = 1, #names, PAGE do
  local last = math.min(first + PAGE - 1, #names)
  local used = redis.call('HMGET', attempts, unpack(indexes, first, last))
  local since = redis.call('ZMSCORE', base .. 'suspects', unpack(names, first, last))
  for i = first, last do
    delayed[i][3] = tonumber(used[i - first + 1] or 0)
    delayed[i][4] = since[i - first + 1] and 1 or 0
  end
end
local retried, retried_total = {}, redis.call('HLEN', attempts)
local scanned = redis.call('HSCAN', attempts, '0', 'COUNT', limit)[2]
for i = 1, #scanned, 2 do
  if scanned[i + 1] ~= '0' then
    retried[#retried + 1] = {tonumber(scanned[i]), tonumber(scanned[i + 1])}
  else
    retried_total = retried_total - 1
  end
end
return {'listed', delayed, redis.call('ZCARD', base .. 'delayed') > limit and 1 or 0, retried,
  retried_total}
