-- Partitions: how many a queue has had.

-- All numbers of partitions that the queue has had; the last one holds. In partition 0 alone.
local function partition_numbers()
  local numbers = {1}
  for _, number in ipairs(redis.call('LRANGE', base .. 'partitions', 0, -1)) do
    numbers[#numbers + 1] = tonumber(number)
  end
  return numbers
end
