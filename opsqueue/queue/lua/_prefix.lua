-- Prefix: what names of prefixes may look like.

-- Whether a prefix of objects is of the form that inserts into this queue take. Any other may lie
-- above, below or at the objects of another submission or queue. names.py checks the same form.
local function is_own_prefix(prefix)
  local queue = string.match(base, '^oq:{([^/}]+)')
  local digits = string.sub(prefix, #queue + 2)
  return string.sub(prefix, 1, #queue + 1) == queue .. '/' and #digits == 32
    and not string.find(digits, '[^0-9a-f]')
end
