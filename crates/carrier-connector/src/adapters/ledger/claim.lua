-- Claims items, each with all its parts or not at all.
-- KEYS: ready, then the claims of each item's parts.
-- ARGV: token, lease in ms, number of items; for each item: parts, time to keep in ms, state to enter, its detail.
-- Returns the mark ('' when not ready), the time, and for each item '1' or '0' and what its claims were before.
local token, lease = ARGV[1], tonumber(ARGV[2])
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local mark = redis.call('GET', KEYS[1])
if not mark or string.sub(mark, 1, #run) ~= run then
  return {''}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local till = string.format('%.0f', now + lease)
local out = {mark, string.format('%.0f', now)}
local key, arg = 2, 4
for _ = 1, tonumber(ARGV[3]) do
  local parts, keep, state, detail = tonumber(ARGV[arg]), ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3]
  local before, free = {}, true
  for part = 0, parts - 1 do
    local value = redis.call('GET', KEYS[key + part])
    before[part + 1] = value or ''
    if value then
      -- Only what was never intended and whose owner's time is over is free.
      local held, ends = string.match(value, '^(%a)|[^|]*|(%-?%d+)|')
      if held ~= 'c' or tonumber(ends) > now then
        free = false
      end
    end
  end
  out[#out + 1] = free and '1' or '0'
  for part = 0, parts - 1 do
    if free then
      redis.call('SET', KEYS[key + part], state .. '|' .. token .. '|' .. till .. '|' .. detail, 'PX', keep)
    end
    out[#out + 1] = before[part + 1]
  end
  key, arg = key + parts, arg + 4
end
return out
