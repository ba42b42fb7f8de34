-- Ties ids to their parts, and finds receipts that came early.
-- KEYS: for each part: the carrier's id, the receipts parked under it.
-- ARGV: time to keep ids in ms; for each part: what its id stands for.
-- Returns for each part the number of early receipts and the receipts.
local out = {}
for index = 1, #KEYS / 2 do
  redis.call('SET', KEYS[2 * index - 1], ARGV[index + 1], 'PX', ARGV[1])
  local early = redis.call('SMEMBERS', KEYS[2 * index])
  out[#out + 1] = tostring(#early)
  for _, receipt in ipairs(early) do
    out[#out + 1] = receipt
  end
end
return out
