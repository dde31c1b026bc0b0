-- Of a submission with strategic metadata: its pairs, and what its value gets.
redis.call('HGETALL', base .. 'sub:' .. id .. ':meta')
counts[#counts + 1] = id
counts[#counts + 1] = count
scores[#scores + 1] = count
scores[#scores + 1] = id .. ':' .. id
