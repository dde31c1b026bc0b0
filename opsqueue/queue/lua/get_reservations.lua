-- get_reservations: reading.
--
-- What the reservations of these tokens are for, as long as they hold: so that the API can serve
-- consumers that keep nothing but a token.
--
-- KEYS[1]    base  prefix of the queue's keys
-- ARGV[1]    now   see _prelude
-- ARGV[2...] rest  tokens
--
-- With _entry.
--
-- Returns {"found", chunks, submissions}: those that hold, in the order of the tokens; chunks
-- {token, id, index, attempt, expires_at, held_ms} each; submissions {id, fields} each. Inputs and
-- metadata are left out: reports need none, and 1,000 chunks have too much of them.
local reservations = base .. 'reservations'
local FIELDS = {'prefix', 'codec', 'chunks_total', 'chunk_size', 'operations_total', 'max_attempts',
  'trace_context', 'inline'}

local chunks, submissions, is_listed = {}, {}, {}
for i = 2, #ARGV do
  local token, entry = ARGV[i], entry_of(ARGV[i])
  local pending = entry
    and redis.pcall('XPENDING', reservations, 'workers', entry[1], entry[1], 1) or {}
  local f = not pending.err and pending[1] and entry[2]
  local values = f and redis.call('HMGET', sub_key(f[2]), unpack(FIELDS)) or {}
  if values[1] then
    chunks[#chunks + 1] = {token, f[2], tonumber(f[4]), tonumber(f[6]), tonumber(f[10]),
      math.max(0, now - tonumber(f[8]))}
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
