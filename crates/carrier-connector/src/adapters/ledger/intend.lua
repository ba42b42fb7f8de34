-- Passes claimed items to intent, if Redis is still the one that was claimed in. Nothing is written before.
-- KEYS: ready, then the claims of each item's parts.
-- ARGV: mark at claiming ('' after Redis was lost and restored since), token, lease in ms, number of items; for each
-- item: parts, time to keep in ms, its claims as they are restored from the record of this very intent.
-- Returns the mark ('' when it is not ready or another one), and for each item '1' or '0'.
local again, token = ARGV[1] == '', ARGV[2]
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local mark = redis.call('GET', KEYS[1])
if not mark or string.sub(mark, 1, #run) ~= run or not (again or mark == ARGV[1]) then
  return {''}
end
local time = redis.call('TIME')
local till = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3]))
local claimed, intended = 'c|' .. token .. '|', 'i|' .. token .. '|'
local function starts(value, with)
  return string.sub(value, 1, #with) == with
end
local out = {mark}
local key, arg = 2, 5
for _ = 1, tonumber(ARGV[4]) do
  local parts, keep, restored, ours = tonumber(ARGV[arg]), ARGV[arg + 1], ARGV[arg + 2], true
  for part = 0, parts - 1 do
    local value = redis.call('GET', KEYS[key + part])
    if value then
      -- Ours, or passed by us before and the answer was lost. Or restored from our record, which was not acted on.
      local mine = starts(value, claimed) or starts(value, intended)
      ours = ours and (mine or (again and value == restored))
    else
      ours = ours and again
    end
  end
  if ours then
    for part = 0, parts - 1 do
      redis.call('SET', KEYS[key + part], 'i|' .. token .. '|' .. till .. '|', 'PX', keep)
    end
  end
  out[#out + 1] = ours and '1' or '0'
  key, arg = key + parts, arg + 3
end
return out
