-- Partitions: the numbers of partitions that a queue has had, and their tags.

-- Return all numbers that the queue has had; the last is current. Only partition 0 has them.
local function partition_numbers()
  local numbers = {1}
  for _, number in ipairs(redis.call('LRANGE', base .. 'partitions', 0, -1)) do
    numbers[#numbers + 1] = tonumber(number)
  end
  return numbers
end

-- Return the tag of a partition for which none was chosen.
local function default_tag(number)
  return string.format('%02d', number)
end
