-- For a submission with strategic metadata: reads its pairs and notes its value.
redis.call('HGETALL', base .. 'sub:' .. id .. ':meta')
counts[#counts + 1] = id
counts[#counts + 1] = count
scores[#scores + 1] = count
scores[#scores + 1] = id .. ':' .. id
