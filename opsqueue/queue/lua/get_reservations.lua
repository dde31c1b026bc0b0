-- get_reservations: reading.
--
-- The reservations of these tokens, as long as they are valid, so that the API can serve consumers
-- that only keep a token.
--
-- KEYS[1]    base  prefix of the queue's keys
-- ARGV[1]    now   see _prelude
-- ARGV[2...] rest  tokens
--
-- With _entry.
--
-- Returns {"found", chunks, submissions}: those that are valid, in the order of the tokens. chunks
-- are {token, id, index, attempt, expires_at, held_ms, again} each, submissions {id, fields} each.
-- Inputs and metadata are left out: reports don't need them, and 1,000 chunks have too much of
-- them.
local reservations = base .. 'reservations'
local FIELDS = {'prefix', 'codec', 'chunks_total', 'chunk_size', 'operations_total', 'max_attempts',
  'trace_context', 'inline', 'again_below'}

local chunks, submissions, is_listed = {}, {}, {}
for i = 2, #ARGV do
  local token, entry = ARGV[i], entry_of(ARGV[i])
  local pending = entry
    and redis.pcall('XPENDING', reservations, 'workers', entry[1], entry[1], 1) or {}
  local f = not pending.err and pending[1] and entry[2]
  local values = f and redis.call('HMGET', sub_key(f[2]), unpack(FIELDS)) or {}
  if values[1] then
    local is_again = tonumber(f[4]) < tonumber(values[#FIELDS] or 0)
      or redis.call('HEXISTS', sub_key(f[2]) .. ':attempts', f[4]) == 1
    chunks[#chunks + 1] = {token, f[2], tonumber(f[4]), tonumber(f[6]), tonumber(f[10]),
      math.max(0, now - tonumber(f[8])), is_again and 1 or 0}
    if not is_listed[f[2]] then
      is_listed[f[2]] = true
      local fields = {}
      for n, name in ipairs(FIELDS) do
        if values[n] then
          fields[#fields + 1] = name
          fields[#fields + 1] = values[n]
        end
      end
      submissions[#submissions + 1] = {f[2], fields}
    end
  end
end
return {'found', chunks, submissions}
