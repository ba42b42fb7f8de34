-- Notes how parts ended, whatever their claims said.
-- KEYS: the claims. ARGV: token, lease in ms; for each part: state, detail, time to keep in ms.
local time = redis.call('TIME')
local till = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[2]))
for index, key in ipairs(KEYS) do
  local arg = 3 * index
  redis.call('SET', key, ARGV[arg] .. '|' .. ARGV[1] .. '|' .. till .. '|' .. ARGV[arg + 1], 'PX', ARGV[arg + 2])
end
return 1
