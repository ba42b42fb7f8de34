-- Ties ids to their parts, and finds receipts that came early. An id that stands for parts of the same attempt already
-- stands for all of them: they went in one submit.
-- KEYS: ready; for each part: the carrier's id, the receipts parked under it.
-- ARGV: time to keep ids in ms; for each part: what its id stands for, as far as its part number, and that.
-- Returns the mark ('' when not ready), and for each part the number of early receipts and the receipts.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local mark = redis.call('GET', KEYS[1])
local out = {mark and string.sub(mark, 1, #run) == run and mark or ''}
-- All that is to be read, in two questions; written[key] is what this script put there since.
local ids, parked, written = {}, {}, {}
for index = 1, (#KEYS - 1) / 2 do
  ids[index], parked[index] = KEYS[2 * index], KEYS[2 * index + 1]
end
local values, some_parked = {}, false
for from = 1, #ids, 4000 do
  local to = math.min(from + 3999, #ids)
  local some = redis.call('MGET', unpack(ids, from, to))
  for at = 1, #some do
    values[from + at - 1] = some[at]
  end
  some_parked = some_parked or redis.call('EXISTS', unpack(parked, from, to)) > 0
end
for index = 1, #ids do
  local of, part = ARGV[2 * index], ARGV[2 * index + 1]
  local before = written[ids[index]] or values[index]
  local parts = part
  if before and string.sub(before, 1, #of) == of then
    parts = string.sub(before, #of + 1)
    if not string.find(',' .. parts .. ',', ',' .. part .. ',', 1, true) then
      parts = parts .. ',' .. part
    end
  end
  redis.call('SET', ids[index], of .. parts, 'PX', ARGV[1])
  written[ids[index]] = of .. parts
  local early = some_parked and redis.call('SMEMBERS', parked[index]) or {}
  out[#out + 1] = tostring(#early)
  for _, receipt in ipairs(early) do
    out[#out + 1] = receipt
  end
end
return out
