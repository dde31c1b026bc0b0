-- watch_submission: in_progress -> in_progress.
--
-- A client waits for news of a submission: for a while, each chunk that is done, and its end, are
-- published on the channel `sub:ID:news`. An unwatched submission has no cost for this. (Its end is
-- always published, on `sub:ID:end`.)
--
-- KEYS[1] base      prefix of the queue's keys
-- ARGV[1] now       see _prelude
-- ARGV[2] id
-- ARGV[3] watch_ms  for how long from now on; a longer watch of another client is kept
--
-- Returns {"watched"}, {"ended", state}, or {"unknown"}.
local key = sub_key(ARGV[2])
local until_ms = now + tonumber(ARGV[3])

local row = redis.call('HMGET', key, 'state', 'watched_until')
if not row[1] then
  return {'unknown'}
elseif row[1] ~= 'in_progress' then
  return {'ended', row[1]}
end
if until_ms > tonumber(row[2] or 0) then
  redis.call('HSET', key, 'watched_until', string.format('%.0f', until_ms))
end
return {'watched'}
