-- Finds the parts that receipts speak of, and parks the receipts of unknown ids.
-- KEYS: ready; for each receipt: the carrier's id, the receipts parked under it.
-- ARGV: time to keep parked receipts in ms, the most of them under one id; for each receipt: what it says.
-- Returns the mark ('' when not ready), and for each receipt what its id stands for ('' when parked).
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local mark = redis.call('GET', KEYS[1])
if not mark or string.sub(mark, 1, #run) ~= run then
  return {''}
end
local out = {mark}
local arg = 3
local ids = {}
for key = 2, #KEYS, 2 do
  ids[#ids + 1] = KEYS[key]
end
local values = {}
for from = 1, #ids, 4000 do
  local some = redis.call('MGET', unpack(ids, from, math.min(from + 3999, #ids)))
  for at = 1, #some do
    values[from + at - 1] = some[at]
  end
end
for key = 2, #KEYS, 2 do
  local found = values[key / 2]
  if not found and redis.call('SCARD', KEYS[key + 1]) < tonumber(ARGV[2]) then
    -- A set: a repeated receipt is one.
    redis.call('SADD', KEYS[key + 1], ARGV[arg])
    redis.call('PEXPIRE', KEYS[key + 1], ARGV[1])
  end
  out[#out + 1] = found or ''
  arg = arg + 1
end
return out
