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
-- Returns {"found", chunks, submissions}: those that are valid, in the order of the tokens; chunks
-- {token, id, index, attempt, expires_at, {input} or {}} each, with the input of a small
-- submission; submissions {id, fields, metadata} each.
local reservations = base .. 'reservations'

local chunks, submissions, is_listed = {}, {}, {}
for i = 2, #ARGV do
  local token, entry = ARGV[i], entry_of(ARGV[i])
  local pending = entry
    and redis.pcall('XPENDING', reservations, 'workers', entry[1], entry[1], 1) or {}
  local f = not pending.err and pending[1] and entry[2]
  local fields = f and redis.call('HGETALL', sub_key(f[2])) or {}
  if #fields > 0 then
    local input = redis.call('HGET', sub_key(f[2]) .. ':in', f[4])
    chunks[#chunks + 1] = {token, f[2], tonumber(f[4]), tonumber(f[6]), tonumber(f[10]),
      input and {input} or {}}
    if not is_listed[f[2]] then
      is_listed[f[2]] = true
      local metadata = redis.call('HGETALL', sub_key(f[2]) .. ':meta')
      submissions[#submissions + 1] = {f[2], fields, metadata}
    end
  end
end
return {'found', chunks, submissions}
