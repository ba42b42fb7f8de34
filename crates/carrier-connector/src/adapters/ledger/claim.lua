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
-- Only what was never intended and whose owner's time is over is free.
local function is_free(value)
  if not value then
    return true
  end
  local held, ends = string.match(value, '^(%a)|[^|]*|(%-?%d+)|')
  return held == 'c' and tonumber(ends) <= now
end
-- What stands at keys, in one question for thousands.
local function read(keys)
  local values = {}
  for from = 1, #keys, 4000 do
    local some = redis.call('MGET', unpack(keys, from, math.min(from + 3999, #keys)))
    for at = 1, #some do
      values[from + at - 1] = some[at]
    end
  end
  return values
end
-- The marks of all items; this script writes none.
local keys, key = {}, 2
for item = 1, tonumber(ARGV[3]) do
  keys[item] = KEYS[key]
  key = key + tonumber(ARGV[4 * item]) + 1
end
local marks = read(keys)
local out = {mark, string.format('%.0f', now)}
local arg = 4
key = 2
for item = 1, tonumber(ARGV[3]) do
  local parts, keep = tonumber(ARGV[arg]), ARGV[arg + 1]
  local word = ARGV[arg + 2] .. '|' .. token .. '|' .. till .. '|' .. ARGV[arg + 3]
  local before, free = {}, true
  local cancelled = marks[item] == 'x'
  if parts == 1 and not cancelled then
    -- Nearly every item: one question says what is there and claims it where nothing is.
    local value = redis.call('SET', KEYS[key + 1], word, 'PX', keep, 'NX', 'GET')
    before[1], free = value or '', is_free(value)
    if value and free then
      redis.call('SET', KEYS[key + 1], word, 'PX', keep)
    end
  else
    for part = 1, parts do
      local value = redis.call('GET', KEYS[key + part])
      before[part], free = value or '', free and is_free(value)
    end
    for part = 1, parts do
      if free and not cancelled then
        redis.call('SET', KEYS[key + part], word, 'PX', keep)
      end
    end
  end
  out[#out + 1] = (free and not cancelled) and '1' or (free and 'x' or '0')
  for part = 1, parts do
    out[#out + 1] = before[part]
  end
  key, arg = key + parts + 1, arg + 4
end
return out
