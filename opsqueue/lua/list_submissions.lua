-- list_submissions: reading.
--
-- KEYS[1] base   prefix of the queue's keys
-- ARGV[1] now    see _prelude
-- ARGV[2] state
-- ARGV[3] after  an id: only what comes after it; '' from the start
-- ARGV[4] order  "newest" or "oldest" first
-- ARGV[5] limit  submissions at most
--
-- Returns {"listed", submissions}: {fields, metadata, failure, id} each, flat lists but the id.
local state, after, limit = ARGV[2], ARGV[3], ARGV[5]
local submissions = base .. 'submissions:' .. state

local ids
if ARGV[4] == 'newest' then
  ids = redis.call('ZREVRANGEBYLEX', submissions, after == '' and '+' or '(' .. after, '-',
    'LIMIT', 0, limit)
else
  ids = redis.call('ZRANGEBYLEX', submissions, after == '' and '-' or '(' .. after, '+',
    'LIMIT', 0, limit)
end
local rows = {}
for _, id in ipairs(ids) do
  local key = sub_key(id)
  rows[#rows + 1] = {redis.call('HGETALL', key), redis.call('HGETALL', key .. ':meta'),
    redis.call('HGETALL', key .. ':failure'), id}
end
return {'listed', rows}
