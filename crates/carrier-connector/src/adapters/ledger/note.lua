-- Notes how parts ended, whatever their claims said.
-- KEYS: ready, the claims. ARGV: token, lease in ms; for each part: state, detail, time to keep in ms.
-- Returns the mark ('' when not ready).
local time = redis.call('TIME')
local till = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[2]))
for index = 2, #KEYS do
  local arg = 3 * index - 3
  redis.call('SET', KEYS[index], ARGV[arg] .. '|' .. ARGV[1] .. '|' .. till .. '|' .. ARGV[arg + 1], 'PX', ARGV[arg + 2])
end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local mark = redis.call('GET', KEYS[1])
return mark and string.sub(mark, 1, #run) == run and mark or ''
