-- Ties ids to their parts, and finds receipts that came early. An id that stands for parts of the same attempt already
-- stands for all of them: they went in one submit.
-- KEYS: for each part: the carrier's id, the receipts parked under it.
-- ARGV: time to keep ids in ms; for each part: what its id stands for, as far as its part number, and that.
-- Returns for each part the number of early receipts and the receipts.
local out = {}
for index = 1, #KEYS / 2 do
  local of, part = ARGV[2 * index], ARGV[2 * index + 1]
  local before = redis.call('GET', KEYS[2 * index - 1])
  local parts = part
  if before and string.sub(before, 1, #of) == of then
    parts = string.sub(before, #of + 1)
    if not string.find(',' .. parts .. ',', ',' .. part .. ',', 1, true) then
      parts = parts .. ',' .. part
    end
  end
  redis.call('SET', KEYS[2 * index - 1], of .. parts, 'PX', ARGV[1])
  local early = redis.call('SMEMBERS', KEYS[2 * index])
  out[#out + 1] = tostring(#early)
  for _, receipt in ipairs(early) do
    out[#out + 1] = receipt
  end
end
return out
