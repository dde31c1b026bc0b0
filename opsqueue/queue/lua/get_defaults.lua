-- get_defaults: reading.
--
-- KEYS[1] base  prefix of the queue's keys
-- ARGV[1] now   see _prelude
--
-- With _defaults.
--
-- Returns {"defaults", options}, '' for each that the queue has none of.
local options = queue_defaults()
for i = 1, 4 do
  options[i] = options[i] or ''
end
return {'defaults', options}
