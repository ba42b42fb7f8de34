-- Tells the submits to recipients that have no answer.
-- KEYS: since when the record is whole, then the entries to each recipient.
-- Returns that time ('' when it is not known), and for each recipient the number of its fields and these.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local since = redis.call('GET', KEYS[1])
local ours = since and string.sub(since, 1, #run + 1) == run .. '|'
local out = {ours and string.sub(since, #run + 2) or ''}
for index = 2, #KEYS do
  local fields = redis.call('HGETALL', KEYS[index])
  out[#out + 1] = tostring(#fields)
  for _, field in ipairs(fields) do
    out[#out + 1] = field
  end
end
return out
