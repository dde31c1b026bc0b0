-- Submission: a whole submission in the form that scripts return.

-- Return a submission: {id, fields, metadata, failure}, flat lists but the id; {} if unknown.
local function submission_row(id)
  local key = sub_key(id)
  local fields = redis.call('HGETALL', key)
  if #fields == 0 then
    return {}
  end
  return {id, fields, redis.call('HGETALL', key .. ':meta'),
    redis.call('HGETALL', key .. ':failure')}
end
