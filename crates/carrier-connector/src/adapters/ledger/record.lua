-- Notes how parts ended, before anything follows from it, and finds receipts that came early.
-- KEYS: for each part: its claim, the carrier's id, the receipts parked under that id.
-- ARGV: token, lease in ms; for each part: state, detail, time to keep in ms, what the id stands for ('' without an
-- id), time to keep that in ms.
-- Returns for each part the number of early receipts and the receipts.
local time = redis.call('TIME')
local till = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[2]))
local out = {}
local key, arg = 1, 3
while key <= #KEYS do
  local value = ARGV[arg] .. '|' .. ARGV[1] .. '|' .. till .. '|' .. ARGV[arg + 1]
  redis.call('SET', KEYS[key], value, 'PX', ARGV[arg + 2])
  local early = {}
  if ARGV[arg + 3] ~= '' then
    redis.call('SET', KEYS[key + 1], ARGV[arg + 3], 'PX', ARGV[arg + 4])
    early = redis.call('SMEMBERS', KEYS[key + 2])
  end
  out[#out + 1] = tostring(#early)
  for _, receipt in ipairs(early) do
    out[#out + 1] = receipt
  end
  key, arg = key + 3, arg + 5
end
return out
