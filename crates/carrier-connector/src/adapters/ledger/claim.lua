-- Claims items, each with all its parts or not at all.
-- KEYS: ready, then for each item the mark of its message and the claims of its parts.
-- ARGV: token, lease in ms, number of items; for each item: parts, time to keep in ms, state to enter, its detail.
-- Returns the mark ('' when not ready), the time, and for each item '1', '0' (somebody has it) or 'x' (cancelled) and
-- what its claims were before.
local token, lease = ARGV[1], tonumber(ARGV[2])
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local mark = redis.call('GET', KEYS[1])
if not mark or string.sub(mark, 1, #run) ~= run then
  return {''}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local till = string.format('%.0f', now + lease)
-- All that is to be read, in one question: values[n] is what stood at KEYS[n], written[key] what this script put there since.
local values, written = {}, {}
for from = 2, #KEYS, 4000 do
  local some = redis.call('MGET', unpack(KEYS, from, math.min(from + 3999, #KEYS)))
  for at = 1, #some do
    values[from + at - 1] = some[at]
  end
end
local function get(at)
  return written[KEYS[at]] or values[at]
end
local function set(at, value, keep)
  redis.call('SET', KEYS[at], value, 'PX', keep)
  written[KEYS[at]] = value
end
local out = {mark, string.format('%.0f', now)}
local key, arg = 2, 4
for _ = 1, tonumber(ARGV[3]) do
  local parts, keep, state, detail = tonumber(ARGV[arg]), ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3]
  local before, free = {}, true
  local cancelled = get(key) == 'x'
  for part = 1, parts do
    local value = get(key + part)
    before[part] = value or ''
    if value then
      -- Only what was never intended and whose owner's time is over is free.
      local held, ends = string.match(value, '^(%a)|[^|]*|(%-?%d+)|')
      if held ~= 'c' or tonumber(ends) > now then
        free = false
      end
    end
  end
  local ours = free and not cancelled
  out[#out + 1] = ours and '1' or (free and 'x' or '0')
  for part = 1, parts do
    if ours then
      set(key + part, state .. '|' .. token .. '|' .. till .. '|' .. detail, keep)
    end
    out[#out + 1] = before[part]
  end
  key, arg = key + parts + 1, arg + 4
end
return out
