-- Prefix: the form of object prefixes.

-- Return whether a prefix of objects has the form of this queue's inserts. Any other may be above,
-- below or equal to that of another submission or queue. names.py checks the same form.
local function is_own_prefix(prefix)
  local queue = string.match(base, '^oq:{([^/}]+)')
  local digits = string.sub(prefix, #queue + 2)
  return string.sub(prefix, 1, #queue + 1) == queue .. '/' and #digits == 32
    and not string.find(digits, '[^0-9a-f]')
end
