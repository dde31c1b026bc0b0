-- watch_submission: in_progress -> in_progress.
--
-- Somebody waits for news of a submission: for a while each chunk of it that is done, and its end,
-- adds an entry to its news. An unwatched submission pays nothing for this.
--
-- KEYS[1] base      prefix of the queue's keys
-- ARGV[1] now       see _prelude
-- ARGV[2] id
-- ARGV[3] watch_ms  for how long from now on; a longer watch of somebody else's holds
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
-- Only once, and not at each watch: it would wake all others who watch, to watch again.
local id = last and last[1] or redis.call('XADD', news, '*', 'what', 'watched')
-- Outlives the watch, so that whoever adds an entry needs no expiry: adding keeps it.
redis.call('PEXPIRE', news, 2 * (math.max(until_ms, tonumber(row[2] or 0)) - now))
return {'watched', id}
