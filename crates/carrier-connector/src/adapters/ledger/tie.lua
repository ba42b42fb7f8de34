-- Ties ids to their parts, and finds receipts that came early. An id that stands for parts of the same attempt already
-- stands for all of them: they went in one submit.
-- KEYS: ready; for each part: the carrier's id, the receipts parked under it.
-- ARGV: time to keep ids in ms; for each part: what its id stands for, as far as its part number, and that.
-- Returns the mark ('' when not ready), and for each part the number of early receipts and the receipts.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local mark = redis.call('GET', KEYS[1])
local out = {mark and string.sub(mark, 1, #run) == run and mark or ''}
local some_parked = false
local parked = {}
for index = 1, (#KEYS - 1) / 2 do
  parked[index] = KEYS[2 * index + 1]
end
for from = 1, #parked, 4000 do
  some_parked = some_parked or redis.call('EXISTS', unpack(parked, from, math.min(from + 3999, #parked))) > 0
end
for index = 1, #parked do
  local id, of, part = KEYS[2 * index], ARGV[2 * index], ARGV[2 * index + 1]
  -- Nearly every id is new: one question says so and ties it.
  local before = redis.call('SET', id, of .. part, 'PX', ARGV[1], 'NX', 'GET')
  if before then
    local parts = part
    if string.sub(before, 1, #of) == of then
      parts = string.sub(before, #of + 1)
      if not string.find(',' .. parts .. ',', ',' .. part .. ',', 1, true) then
        parts = parts .. ',' .. part
      end
    end
    redis.call('SET', id, of .. parts, 'PX', ARGV[1])
  end
  local early = some_parked and redis.call('SMEMBERS', parked[index]) or {}
  out[#out + 1] = tostring(#early)
  for _, receipt in ipairs(early) do
    out[#out + 1] = receipt
  end
end
return out
