-- watch_submission: in_progress -> in_progress.
--
-- A client waits for news of a submission: for a while, each chunk that is done, and its end, adds
-- an entry to the news. An unwatched submission has no cost for this.
--
-- KEYS[1] base      prefix of the queue's keys
-- ARGV[1] now       see _prelude
-- ARGV[2] id
-- ARGV[3] watch_ms  for how long from now on; a longer watch of another client is kept
--
-- Returns {"watched", news_id}: reading the news after it misses nothing. Or {"ended", state}, or
-- {"unknown"}.
local key = sub_key(ARGV[2])
local news, until_ms = key .. ':news', now + tonumber(ARGV[3])

local row = redis.call('HMGET', key, 'state', 'watched_until')
if not row[1] then
  return {'unknown'}
elseif row[1] ~= 'in_progress' then
  return {'ended', row[1]}
end
if until_ms > tonumber(row[2] or 0) then
  redis.call('HSET', key, 'watched_until', string.format('%.0f', until_ms))
end
local last = redis.call('XREVRANGE', news, '+', '-', 'COUNT', 1)[1]
-- Only once, and not for each watch: it would wake all other watchers, which would watch again.
local id = last and last[1] or redis.call('XADD', news, '*', 'what', 'watched')
-- It outlives the watch, so that scripts that add an entry need no expiry: adding keeps it.
redis.call('PEXPIRE', news, 2 * (math.max(until_ms, tonumber(row[2] or 0)) - now))
return {'watched', id}
