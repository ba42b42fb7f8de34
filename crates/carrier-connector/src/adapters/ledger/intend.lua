-- Passes claimed items to intent, if Redis is still the one that was claimed in. Nothing is written before.
-- KEYS: ready, then for each item the mark of its message and the claims of its parts.
-- ARGV: mark at claiming ('' after Redis was lost and restored since), token, lease in ms, number of items; for each
-- item: parts, time to keep its claims and its mark in ms, its attempt, its claims as they are restored from the record
-- of this very intent.
-- Returns the mark ('' when it is not ready or another one), and for each item '1', '0' or 'x' (cancelled).
local again, token = ARGV[1] == '', ARGV[2]
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local mark = redis.call('GET', KEYS[1])
if not mark or string.sub(mark, 1, #run) ~= run or not (again or mark == ARGV[1]) then
  return {''}
end
local time = redis.call('TIME')
local till = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3]))
local claimed, intended = 'c|' .. token .. '|', 'i|' .. token .. '|'
local word = intended .. till .. '|'
local function starts(value, with)
  return string.sub(value, 1, #with) == with
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
-- The claims of all items. One that stands in here twice is ours both times, or neither time.
local keys, key = {}, 2
for item = 1, tonumber(ARGV[4]) do
  local parts = tonumber(ARGV[5 * item])
  for part = 1, parts do
    keys[#keys + 1] = KEYS[key + part]
  end
  key = key + parts + 1
end
local claims = read(keys)
local out = {mark}
local arg, at = 5, 0
key = 2
for _ = 1, tonumber(ARGV[4]) do
  local parts, keep, keep_mark, attempt = tonumber(ARGV[arg]), ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3]
  local restored, ours = ARGV[arg + 4], true
  for part = 1, parts do
    local value = claims[at + part]
    if value then
      -- Ours, or passed by us before and the answer was lost. Or restored from our record, which was not acted on.
      local mine = starts(value, claimed) or starts(value, intended)
      ours = ours and (mine or (again and value == restored))
    else
      ours = ours and again
    end
  end
  local cancelled = false
  if ours then
    -- One question says what marks the message, and marks it where nothing does.
    local before = redis.call('SET', KEYS[key], attempt, 'PX', keep_mark, 'NX', 'GET')
    cancelled = before == 'x'
    if before and not cancelled then
      redis.call('SET', KEYS[key], attempt, 'PX', keep_mark)
    end
  end
  if ours and not cancelled then
    for part = 1, parts do
      redis.call('SET', KEYS[key + part], word, 'PX', keep)
    end
  end
  out[#out + 1] = cancelled and 'x' or (ours and '1' or '0')
  key, arg, at = key + parts + 1, arg + 5, at + parts
end
return out
